"""Mixtures of Student's t distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Key, Target
from ._mixture import check_means, check_weights, mixture
from ._particle import default_float, particle


def student_mixture(
    means: ArrayLike = ((-5.0, 0.0), (5.0, 0.0)), degrees: float = 2.0, weights: ArrayLike | None = None
) -> Target:
    """A mixture of K products of Student's t distributions of unit scale, one a coordinate; normalized.

    log_density(x) = log sum_k weights_k prod_i t(x_i - means_ki; degrees);   log_z = 0.

    `means` (K, d); `degrees` of freedom, the same everywhere; `weights` (K,), equal if None. Coordinates are independent
    given the component: this is not the multivariate t, whose coordinates share one chi-square. With degrees = 2 the
    variance is infinite: a transport distance between two sets of draws is ruled by a few of them.
    `mode(x)` is the component most likely to have made x, `mode_weights` are the mixture's.

    Raises ValueError for shapes that disagree, degrees or weights that are not positive, weights that do not sum to 1.
    """
    means_ = check_means(means)
    num_modes, d = means_.shape
    if not (math.isfinite(degrees) and degrees > 0):
        raise ValueError(f"got degrees={degrees}, expected positive degrees of freedom: gmm(means) is the limit of many")
    weights_ = check_weights(weights, num_modes)
    peak = math.lgamma(0.5 * (degrees + 1)) - math.lgamma(0.5 * degrees) - 0.5 * math.log(degrees * math.pi)
    power = 0.5 * (degrees + 1)

    def log_joint(x: Array) -> Array:
        x = particle(x, (d,))
        z = x[:, None] - jnp.asarray(means_.T, x.dtype)  # (d, K): the long axis last
        return jnp.asarray(np.log(weights_) + d * peak, x.dtype) - power * jnp.sum(jnp.log1p(z * z / degrees), 0)

    def draw(key: Key, k: Array) -> Array:
        return jnp.asarray(means_, default_float())[k] + _draw_t(key, degrees, (k.size, d))

    return mixture(log_joint, d, weights_, draw)


def _draw_t(key: Key, degrees: float, shape: tuple[int, ...]) -> Array:
    """Student's t without a gamma draw's rejections: sqrt(nu (u^(-2/nu) - 1)) cos(2 pi v) (Bailey 1994, Math. Comp. 62)."""
    key_radius, key_angle = jax.random.split(key)
    exponential = jax.random.exponential(key_radius, shape, default_float())
    angle = jax.random.uniform(key_angle, shape, default_float(), 0.0, 2 * math.pi)
    return jnp.sqrt(degrees * jnp.expm1(2.0 / degrees * exponential)) * jnp.cos(angle)
