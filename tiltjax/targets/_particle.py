"""What every target does to its particle: check its shape, settle its dtype."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike


def particle(x: ArrayLike, shape: tuple[int, ...]) -> Array:
    """x as one floating particle of `shape`; its float dtype is kept.

    Raises ValueError for another shape (a batch, most often).
    """
    x = jnp.asarray(x)
    if x.shape != shape:
        raise ValueError(f"got x of shape {x.shape}, expected one particle of shape {shape}: jax.vmap over a batch")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(default_float())


def exp_then_tangent(x: Array, far: float = 30.0) -> Array:
    """exp(x), which beyond `far` goes on as its tangent: a rate that no data allow, but finite in float32."""
    return jnp.exp(jnp.minimum(x, far)) * (1 + jnp.maximum(x - far, 0))


def default_float() -> DTypeLike:
    """float64 where x64 is enabled, float32 elsewhere: the dtype of samples, which follow no input."""
    return jnp.result_type(float)
