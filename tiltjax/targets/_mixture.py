"""What mixtures share: their checks, the sum over components, the choice of one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Key, Target
from ._particle import default_float


def check_means(means: ArrayLike) -> np.ndarray:
    """The means as (K, d) in float64; raises ValueError for another rank, none, or any that is not finite."""
    means_ = np.asarray(means, np.float64)
    if means_.ndim != 2 or means_.size == 0 or not np.isfinite(means_).all():
        raise ValueError(f"got means of shape {means_.shape}, expected finite (K, d): one row a component")
    return means_


def check_weights(weights: ArrayLike | None, num_modes: int) -> np.ndarray:
    """The K weights, normalized; equal if None. Raises ValueError unless they are positive and sum to 1."""
    if weights is None:
        return np.full(num_modes, 1.0 / num_modes)
    array = np.asarray(weights, np.float64)
    if array.shape != (num_modes,):
        raise ValueError(f"got weights of shape {array.shape}, expected ({num_modes},): one for each row of means")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"got weights with minimum {array.min()}, expected positive ones: leave empty components out")
    if abs(array.sum() - 1.0) > 1e-5:
        raise ValueError(f"got weights that sum to {array.sum():.6g}, expected 1: pass weights / weights.sum()")
    return array / array.sum()


def mixture(log_joint: Callable[[Array], Array], dim: int, weights: np.ndarray, draw: Callable[[Key, Array], Array]) -> Target:
    """Of log_joint(x) (K,) = log weights_k + log p_k(x), normalized; draw(key, k) is one of p_k for each of k (n,)."""

    def sample(key: Key, n: int) -> Array:
        key_mode, key_draw = jax.random.split(key)
        k = jax.random.categorical(key_mode, jnp.asarray(np.log(weights), default_float()), shape=(n,))
        return draw(key_draw, k)

    def mode(x: Array) -> Array:
        return jnp.argmax(log_joint(x)).astype(jnp.int32)

    return Target(lambda x: logsumexp(log_joint(x)), (dim,), 0.0, sample, mode, jnp.asarray(weights, default_float()))


def logsumexp(a: Array) -> Array:
    """log sum exp(a). Without the signs and weights of jax.nn.logsumexp, its second derivatives take a quarter of the time."""
    # the bound keeps -inf - (-inf) away when every entry is -inf
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(a), jnp.finfo(a.dtype).min))
    return top + jnp.log(jnp.sum(jnp.exp(a - top)))
