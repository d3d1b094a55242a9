"""Normalizer and draws of a density in one or two dimensions, from a table in float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Key
from ._particle import default_float

_NODES = 2**14 + 1


class Table(NamedTuple):
    """log_z = log int exp(log_f), and the CDF of exp(log_f - log_z) at `x`, both (n,) in float64."""

    log_z: float
    x: np.ndarray
    cdf: np.ndarray


def tabulate(log_f: Callable[[np.ndarray], np.ndarray], half_width: float) -> Table:
    """Table of exp(log_f) on [-half_width, half_width], outside of which it must be negligible.

    The trapezoid rule converges exponentially for an analytic function that vanishes at both ends.
    """
    x = np.linspace(-half_width, half_width, _NODES)
    log_density = log_f(x)
    peak = log_density.max()
    density = np.exp(log_density - peak)
    cells = 0.5 * (density[1:] + density[:-1]) * (x[1] - x[0])
    cdf = np.concatenate([np.zeros(1), np.cumsum(cells)])
    return Table(float(peak + np.log(cdf[-1])), x, cdf / cdf[-1])


def draw(table: Table, key: Key, shape: tuple[int, ...]) -> Array:
    """Draws of `shape` by inverse CDF, exact but for the linear interpolation of the table."""
    dtype = default_float()
    # uniform() returns multiples of eps, 0 among them, and the quantile at 0 is the far end of the table
    u = jax.random.uniform(key, (int(np.prod(shape)),), dtype) + 0.5 * float(jnp.finfo(dtype).eps)
    return jnp.interp(u, jnp.asarray(table.cdf, dtype), jnp.asarray(table.x, dtype)).reshape(shape)


class Plane(NamedTuple):
    """log_z = log int exp(log_f) over a rectangle, and the CDF (n m,) of its nodes in the order of `x` (n,) and `y` (m,)."""

    log_z: float
    x: np.ndarray
    y: np.ndarray
    cdf: np.ndarray


def tabulate_plane(log_f: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> Plane:
    """Table of exp(log_f(x, y)) on even nodes; it must be negligible at the edges. log_f broadcasts (n, 1) with (1, m)."""
    log_density = log_f(x[:, None], y[None, :])
    peak = log_density.max()
    cdf = np.cumsum(np.exp(log_density - peak))
    area = (x[1] - x[0]) * (y[1] - y[0])
    return Plane(float(peak + np.log(cdf[-1] * area)), x, y, cdf / cdf[-1])


def draw_plane(table: Plane, key: Key, n: int) -> Array:
    """Draws (n, 2) of the bilinear interpolant, exactly: a node by its weight, and triangular noise as wide as a cell."""
    dtype = default_float()
    key_node, key_noise = jax.random.split(key)
    node = jnp.searchsorted(jnp.asarray(table.cdf, dtype), jax.random.uniform(key_node, (n,), dtype), side="right")
    row, column = jnp.divmod(jnp.minimum(node, table.cdf.size - 1), table.y.size)
    noise = jnp.sum(jax.random.uniform(key_noise, (2, n, 2), dtype), 0) - 1.0
    step = jnp.asarray([[table.x[1] - table.x[0], table.y[1] - table.y[0]]], dtype)
    return jnp.stack([jnp.asarray(table.x, dtype)[row], jnp.asarray(table.y, dtype)[column]], 1) + step * noise
