"""Hamiltonian moves of a whole population, in the units of its own covariance.

Sources: Neal (2011), arXiv 1206.1901; the adaptation to the population is that of Fearnhead & Taylor (2013), arXiv 1005.1193.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Key, LogDensity


class Moved(NamedTuple):
    """Particles (n, d), the adapted step size, the mean acceptance."""

    x: Array
    step_size: Array
    acceptance: Array


def moves(
    key: Key, density: LogDensity, x: Array, step_size: Array, num_moves: int, leapfrog: int, others: Array | None = None
) -> Moved:
    """`num_moves` moves of all particles x (n, d), each of `leapfrog` steps (1: MALA), that leave exp(density) invariant.

    Momenta are in the metric of the particles' covariance, step sizes jittered by particle; the common factor follows the
    acceptance. A move costs leapfrog + 1 gradients a particle.

    others (m, d): the metric is that of these particles, and the factor changes only after the last move. The moves are then
    exact whatever the others are. Without them the metric depends on what is moved, and a population that starts from
    exp(density) leaves it by a share of some d / n: enough to explore, not for weights. When not to use it: as a chain on its
    own (the adaptation never stops).
    """

    def move(carry: tuple[Array, Array], key: Key) -> tuple[tuple[Array, Array], Array]:
        x, step_size = carry
        root = _root(x if others is None else others)
        key_p, key_size, key_accept = jax.random.split(key, 3)
        momentum = jax.random.normal(key_p, x.shape, x.dtype)
        size = step_size * jnp.exp(jax.random.uniform(key_size, (x.shape[0], 1), x.dtype, minval=-1.5, maxval=0.5))
        gradient = jax.vmap(jax.value_and_grad(density))

        def leap(_: Array | int, s: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            y, p, _, g = s
            p = p + 0.5 * size * (g @ root)
            y = y + size * (p @ root.T)
            value, g = gradient(y)
            return y, p + 0.5 * size * (g @ root), value, g

        value, g = gradient(x)
        y, p, new, _ = jax.lax.fori_loop(0, leapfrog, leap, (x, momentum, value, g))
        change = new - value + 0.5 * jnp.sum(jnp.square(momentum), 1) - 0.5 * jnp.sum(jnp.square(p), 1)
        accept = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(change, 0.0)), 0.0)
        taken = jax.random.uniform(key_accept, accept.shape, x.dtype) < accept
        step_size = step_size if others is not None else _adapted(step_size, jnp.mean(accept))
        return (jnp.where(taken[:, None], y, x), step_size), jnp.mean(accept)

    (x, step_size), acceptance = jax.lax.scan(move, (x, step_size), jax.random.split(key, num_moves))
    mean = jnp.mean(acceptance)
    return Moved(x, step_size if others is None else _adapted(step_size, mean), mean)


def _adapted(step_size: Array, acceptance: Array) -> Array:
    return jnp.clip(step_size * jnp.exp(acceptance - 0.7), 1e-6, 2.0)


def _root(x: Array) -> Array:
    """A square root of the particles' covariance, shrunk towards its diagonal as their number demands."""
    n, dim = x.shape
    covariance = jnp.cov(x, rowvar=False).reshape(dim, dim)
    sd = jnp.sqrt(jnp.diagonal(covariance)) + 1e-30
    if dim > n // 10:
        return jnp.diag(sd)
    correlation = 0.95 * covariance / (sd[:, None] * sd[None, :]) + 0.05 * jnp.eye(dim)
    return sd[:, None] * jnp.linalg.cholesky(correlation)
