"""Neal's funnel."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from ..types import Key, Target
from ._particle import default_float, particle

# exp(60) x^2 stays finite in float32; x_0 < -60 is 20 standard deviations out (mass 1e-88)
_FLOOR = -60.0


def funnel(dim: int = 10, scale: float = 3.0) -> Target:
    """Neal's funnel: a scale that is itself random, hence a narrow neck and heavy tails.

    x_0 ~ N(0, scale^2),   x_i | x_0 ~ N(0, exp(v)),  v = max(x_0, -60);   shape (dim,);   log_z = 0.

    The maximum keeps gradients finite in float32, and log_z at 0; with scale 3 it acts on a mass of 1e-88.
    `sample` is not clipped: with scale 3 some |x_i| exceed 30, and they rule a W2 between two sets of draws.

    Raises ValueError for dim < 2 or a scale that is not positive.
    Source: Neal 2003, Annals of Statistics 31 (3).
    """
    if dim < 2:
        raise ValueError(f"got dim={dim}, expected at least 2: one coordinate for the scale and one that is scaled")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"got scale={scale}, expected the positive standard deviation of x_0: pass scale=3.0, say")
    constant = -math.log(scale) - 0.5 * dim * math.log(2 * math.pi)

    def log_density(x: Array) -> Array:
        x = particle(x, (dim,))
        v = jnp.maximum(x[0], _FLOOR)
        return constant - 0.5 * ((x[0] / scale) ** 2 + (dim - 1) * v + jnp.exp(-v) * jnp.sum(x[1:] ** 2))

    def sample(key: Key, n: int) -> Array:
        xi = jax.random.normal(key, (n, dim), default_float())
        x0 = scale * xi[:, :1]
        return jnp.concatenate([x0, jnp.exp(0.5 * jnp.maximum(x0, _FLOOR)) * xi[:, 1:]], 1)

    return Target(log_density, (dim,), 0.0, sample)
