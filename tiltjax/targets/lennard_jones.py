"""Clusters of Lennard-Jones particles, held together by an oscillator."""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array

from ..types import Target
from ._pairs import checked, limited, pair_sum
from ._particle import particle


def lennard_jones(num_particles: int = 13, dim: int = 3, *, core: float = 0.7, clip: float | None = None) -> Target:
    """-log_density(x) = sum_{i != j} (d_ij^-12 - 2 d_ij^-6) + sum_i |x_i - mean x|^2 / 2, over ORDERED pairs; LJ-13 by default.

    Shape (num_particles, dim), centred: the oscillator sees the centre of mass of x itself. Each unordered pair has its
    minimum -2 at d = 1.

    core: below this distance the pair energy goes on along its tangent, so that energies and gradients are finite in float32
    wherever particles lie; 0 for the singular form. At 0.7 a pair's energy is 110 kT: the mass touched is of order exp(-110).
    clip: a bound on the norm of each particle's gradient, which is 2186 a pair within the core (None: no bound).

    Raises ValueError for fewer than two particles, or a core that is not in [0, 1). log_z is not known; nor are exact draws.
    Source: Köhler, Klein, Noé (2020), arXiv 2006.02425.
    """
    shape = checked(num_particles, dim, clip)
    if not 0 <= core < 1:
        raise ValueError(f"got core={core}, expected a distance in [0, 1), below that of the minimum; 0 for the singular form")

    def energy(distance: Array) -> Array:
        if core == 0:
            return _pair(distance)
        within = distance < core
        tangent = _pair(core) + _slope(core) * (distance - core)
        return jnp.where(within, tangent, _pair(jnp.where(within, 1.0, distance)))

    def log_density(x: Array) -> Array:
        x = limited(particle(x, shape), clip)
        return -pair_sum(energy, x) - 0.5 * jnp.sum(jnp.square(x - jnp.mean(x, axis=0, keepdims=True)))

    return Target(log_density, shape, centred=True)


def _pair(distance: Any) -> Any:
    """Of both orders of a pair."""
    inverse6 = distance**-6
    return 2 * inverse6 * (inverse6 - 2)


def _slope(distance: float) -> float:
    return -24 * (math.pow(distance, -13) - math.pow(distance, -7))
