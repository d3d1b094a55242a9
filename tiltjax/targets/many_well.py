"""The many-well of uneven pairs."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Key, Target
from ._modes import binary_modes
from ._particle import default_float, particle
from ._tabulate import Table, draw, tabulate


def many_well(dim: int = 32) -> Target:
    """Pairs of a double well and a Gaussian: 2^(dim/2) modes of uneven mass.

    log_density(x) = sum_{i < dim/2} f(x_{2i}) - x_{2i+1}^2 / 2,   f(a) = -a^4 + 6 a^2 + a / 2.

    Shape (dim,); log_z = 10.29348 dim / 2, by quadrature of exp(f); `sample` inverts its tabulated CDF.
    A pair is in its right well with probability `right_well_mass()` = 0.84431. `mode` and `mode_weights` are
    there up to dim = 20; above, use `wells(x)`: 2^16 weights say less than 16 probabilities.

    Raises ValueError for a dim that is odd or not positive.
    Source: Noé, Olsson, Köhler, Wu 2019, arXiv 1812.01729 (the pair); Midgley et al. 2022, arXiv 2208.01893.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"got dim={dim}, expected an even number of coordinates: pass dim={max(dim + dim % 2, 2)}")
    pairs = dim // 2

    def log_density(x: Array) -> Array:
        x = particle(x, (dim,))
        a, b = x[0::2], x[1::2]
        return jnp.sum(_log_well(a)) - 0.5 * jnp.sum(b**2)

    def sample(key: Key, n: int) -> Array:
        key_well, key_normal = jax.random.split(key)
        a = draw(_table(), key_well, (n, pairs))
        b = jax.random.normal(key_normal, (n, pairs), default_float())
        return jnp.stack([a, b], 2).reshape(n, dim)

    mode, mode_weights = binary_modes(wells, np.full(pairs, right_well_mass()))
    log_z = pairs * (_table().log_z + 0.5 * math.log(2 * math.pi))
    return Target(log_density, (dim,), log_z, sample, mode, mode_weights)


def wells(x: Array) -> Array:
    """(dim,) -> (dim/2,) int32: 1 for every pair in its right well, split at the saddle."""
    return (x[0::2] > _saddle()).astype(jnp.int32)


def right_well_mass() -> float:
    """The probability that a pair is in its right well: 0.84431."""
    table = _table()
    return 1.0 - float(np.interp(_saddle(), table.x, table.cdf))


def _log_well(a: Any) -> Any:
    return -(a**4) + 6.0 * a**2 + 0.5 * a


def _saddle() -> float:
    """The root of f'(a) = -4 a^3 + 12 a + 1/2 between the wells."""
    return 2.0 * math.cos(math.acos(0.0625) / 3.0 - 2.0 * math.pi / 3.0)


@functools.cache
def _table() -> Table:
    return tabulate(_log_well, 5.0)
