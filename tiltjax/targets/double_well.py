"""Particles that attract and repel by a double well in their distance."""

import jax.numpy as jnp
from jax import Array

from ..types import Target
from ._pairs import checked, limited, pair_sum
from ._particle import particle


def double_well(num_particles: int = 4, dim: int = 2, *, clip: float | None = None) -> Target:
    """log_density(x) = -sum_{i<j} 0.9 (d_ij - 4)^4 - 4 (d_ij - 4)^2,   d_ij = |x_i - x_j|; DW-4 by default.

    Shape (num_particles, dim), centred. clip: a bound on the norm of each particle's gradient (None: exact gradients, which are
    finite). Some papers print the offset as 1; their code has 4. log_z is not known; nor are exact draws.

    Raises ValueError for fewer than two particles. Source: Köhler, Klein, Noé (2020), arXiv 2006.02425.
    """
    shape = checked(num_particles, dim, clip)

    def log_density(x: Array) -> Array:
        return -pair_sum(_energy, limited(particle(x, shape), clip))

    return Target(log_density, shape, centred=True)


def _energy(distance: Array) -> Array:
    beyond = jnp.square(distance - 4.0)
    return (0.9 * beyond - 4.0) * beyond
