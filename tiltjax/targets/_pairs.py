"""Energies that are sums over pairs of particles, and what keeps their gradients finite."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def pair_sum(u: Callable[[Array], Array], x: Array) -> Array:
    """sum_{i<j} u(d_ij) of one configuration x (n, d); u acts on any array of distances.

    The gradient of d_ij is 0 where two particles coincide: by symmetry no direction is better than another.
    """
    n = x.shape[0]
    first, second = jnp.triu_indices(n, 1)
    # differences first: |x_i|^2 + |x_j|^2 - 2 x_i.x_j loses all digits in float32 where particles are close
    squared = jnp.sum(jnp.square(x[:, None, :] - x[None, :, :]), axis=-1)[first, second]
    apart = squared > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return jnp.sum(u(distance))


def limited(x: Array, clip: float | None) -> Array:
    """x (n, d), whose gradient will be cut: of each particle's, the norm at `clip`, keeping its direction. None: never.

    A value does not change by it. The cut commutes with rotations and permutations.
    """
    return x if clip is None else _limited(x, clip)


@jax.custom_vjp
def _limited(x: Array, clip: float) -> Array:
    return x


def _forward(x: Array, clip: float) -> tuple[Array, float]:
    return x, clip


def _backward(clip: float, force: Array) -> tuple[Array, None]:
    squared = jnp.sum(jnp.square(force), axis=-1, keepdims=True)
    return force * jnp.minimum(1.0, clip * jax.lax.rsqrt(squared + 1e-30)), None


_limited.defvjp(_forward, _backward)


def checked(num_particles: int, dim: int, clip: float | None) -> tuple[int, int]:
    """The shape of a configuration. Raises ValueError for fewer than two particles, no dimension, a clip that is no bound."""
    if num_particles < 2 or dim < 1:
        raise ValueError(f"got num_particles={num_particles}, dim={dim}, expected at least 2 particles in 1 dimension or more")
    if clip is not None and not clip > 0:
        raise ValueError(f"got clip={clip}, expected a positive bound on each particle's gradient, or None for no bound")
    return num_particles, dim
