"""Mixtures of normal distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Key, Target
from ._mixture import check_means, check_weights, mixture
from ._particle import default_float, particle


def gmm(means: ArrayLike = ((-3.0, 0.0), (3.0, 0.0)), scale: ArrayLike = 1.0, weights: ArrayLike | None = None) -> Target:
    """A mixture of K normal distributions with diagonal covariances, normalized.

    log_density(x) = log sum_k weights_k N(x; means_k, diag(scale_k^2));   log_z = 0.

    `means` (K, d); `scale`, standard deviations, (), (K,) or (K, d); `weights` (K,), equal if None.
    `mode(x)` is the component most likely to have made x and `mode_weights` are the mixture's: the true
    masses of the modes as far as the components are apart (a few standard deviations).

    Raises ValueError for shapes that disagree, scales or weights that are not positive, weights that do not
    sum to 1. Parameters are constants. Not for full covariances: write a density of your own.
    """
    means_ = check_means(means)
    num_modes, d = means_.shape
    scale_ = _scales(scale, num_modes, d)
    weights_ = check_weights(weights, num_modes)
    constant = np.log(weights_) - np.log(scale_).sum(1) - 0.5 * d * math.log(2 * math.pi)

    def log_joint(x: Array) -> Array:
        x = particle(x, (d,))
        # (d, K): the long axis last, which is how a vector unit wants it
        z = (x[:, None] - jnp.asarray(means_.T, x.dtype)) * jnp.asarray(1 / scale_.T, x.dtype)
        return jnp.asarray(constant, x.dtype) - 0.5 * jnp.sum(z**2, 0)

    def draw(key: Key, k: Array) -> Array:
        dtype = default_float()
        xi = jax.random.normal(key, (k.size, d), dtype)
        return jnp.asarray(means_, dtype)[k] + jnp.asarray(scale_, dtype)[k] * xi

    return mixture(log_joint, d, weights_, draw)


def _scales(scale: ArrayLike, num_modes: int, d: int) -> np.ndarray:
    array = np.asarray(scale, np.float64)
    if array.shape not in ((), (num_modes,), (num_modes, d)):
        raise ValueError(
            f"got scale of shape {array.shape}, expected (), ({num_modes},) or ({num_modes}, {d}): "
            "one standard deviation for all, for each component, or for each component and coordinate"
        )
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"got scale with minimum {array.min()}, expected positive standard deviations: pass scale > 0")
    return np.broadcast_to(array[:, None] if array.ndim == 1 else array, (num_modes, d))
