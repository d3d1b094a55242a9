"""Modes of a product of two-sided wells, numbered in binary."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from ._particle import default_float

_MOST = 10


def binary_modes(
    sides: Callable[[Array], Array], right_mass: np.ndarray
) -> tuple[Callable[[Array], Array], Array] | tuple[None, None]:
    """(mode, mode_weights) of k = len(right_mass) independent wells; (None, None) above k = 10.

    mode(x) = sum_i 2^i sides(x)_i,  sides(x) (k,) of 0 and 1, 1 with probability right_mass_i;
    mode_weights (2^k,).
    """
    k = len(right_mass)
    if k > _MOST:
        return None, None
    bits = (np.arange(2**k)[:, None] >> np.arange(k)[None, :]) & 1
    weights = np.where(bits == 1, right_mass[None, :], 1.0 - right_mass[None, :]).prod(1)
    powers = 2 ** np.arange(k, dtype=np.int32)

    def mode(x: Array) -> Array:
        return jnp.sum(sides(x) * jnp.asarray(powers, jnp.int32), dtype=jnp.int32)

    return mode, jnp.asarray(weights, default_float())
