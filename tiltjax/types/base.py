"""Names for arrays and functions that all recipes use."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax import Array

Key = Array
Params = Any
Scalar = Array | float


class LogDensity(Protocol):
    """x -> log gamma(x), unnormalized: a scalar for one particle of shape `shape`."""

    def __call__(self, x: Array, /) -> Array: ...


ControlFn = Callable[[Array, Array], Array]  # (t, x) -> u: a control with its parameters


def is_key(x: Any) -> bool:
    """True for a typed PRNG key, as `jax.random.key(0)` makes it."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
