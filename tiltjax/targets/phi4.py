"""The phi^4 lattice field theory."""

import math

import jax.numpy as jnp
from jax import Array

from ..types import Target
from ._particle import default_float, particle


def phi4(shape: tuple[int, int] = (8, 8), hopping: float = 0.3, quartic: float = 0.022) -> Target:
    """A scalar field with a double-well potential on a periodic lattice, in two phases where the hopping is large.

    log_density(phi) = sum_x [2 k phi_x (phi_{x+e1} + phi_{x+e2}) - (1 - 2 l) phi_x^2 - l phi_x^4],   k = hopping, l = quartic.

    A particle is the field itself, of `shape` (L0, L1); its minus log density is the action. The sum is over sites: on an
    axis of length 2 the two neighbours are one, and their bond counts twice; on one of length 1 a site is its own neighbour.
    log_z is not known and `sample` is None: what is compared is the mean of |`magnetization`| and the two modes, the sign of
    the magnetization, each of weight 1/2 by the symmetry phi -> -phi (a barrier between them only in the ordered phase:
    k = 0.3 is in it for l = 0.022). Not the form with m^2 phi^2 / 2 + lambda phi^4: the constants are others.

    Raises ValueError for a shape that is not two positive lengths, or a quartic that is not positive.
    Source: Nicoli et al. 2021, arXiv 2007.07115 (the action and its two phases).
    """
    shape = _lattice(shape)
    if not (math.isfinite(quartic) and quartic > 0 and math.isfinite(hopping)):
        raise ValueError(f"got hopping={hopping}, quartic={quartic}, expected finite ones and quartic > 0: pass quartic=0.022")

    def log_density(phi: Array) -> Array:
        phi = particle(phi, shape)
        neighbours = jnp.roll(phi, -1, 0) + jnp.roll(phi, -1, 1)
        square = phi**2
        return jnp.sum(2 * hopping * phi * neighbours - (1 - 2 * quartic) * square - quartic * square**2)

    def mode(phi: Array) -> Array:
        return (magnetization(particle(phi, shape)) > 0).astype(jnp.int32)

    return Target(log_density, shape, mode=mode, mode_weights=jnp.full(2, 0.5, default_float()))


def magnetization(phi: Array) -> Array:
    """The mean of the field over its lattice, () for one particle (L0, L1)."""
    return jnp.mean(phi)


def _lattice(shape: tuple[int, int]) -> tuple[int, int]:
    lengths = tuple(int(length) for length in shape)
    if len(lengths) != 2 or min(lengths) < 1 or lengths != tuple(shape):
        raise ValueError(f"got shape={shape}, expected two positive lengths: pass shape=(8, 8), say")
    return lengths[0], lengths[1]
