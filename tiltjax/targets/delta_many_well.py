"""The many-well of even coordinates."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Key, Target
from ._modes import binary_modes
from ._particle import default_float, particle
from ._tabulate import Table, draw, tabulate


def delta_many_well(dim: int = 5, wells: int = 5, delta: float = 4.0) -> Target:
    """`wells` symmetric double-well coordinates and a standard normal rest: 2^wells equal modes.

    log_density(x) = -sum_{i < wells} (x_i^2 - delta)^2 - sum_{i >= wells} x_i^2 / 2;   shape (dim,).

    The wells are at +-sqrt(delta), the barrier between them delta^2 kT high. log_z by quadrature: -0.54106
    for dim = wells = 5 ("MW-5"). With dim > 5: the 32-mode many-well, where mode collapse costs log 32.
    `sample` inverts the tabulated CDF. mode(x) = sum_i 2^i [x_i > 0], of weights 2^-wells, up to wells = 10.

    Raises ValueError unless 1 <= wells <= dim, and for a delta that is not positive.
    Source: Richter, Berner 2023, arXiv 2307.01198.
    """
    if not 1 <= wells <= dim:
        raise ValueError(f"got wells={wells}, dim={dim}, expected 1 <= wells <= dim: wells counts the first coordinates")
    if not (math.isfinite(delta) and delta > 0):
        raise ValueError(f"got delta={delta}, expected a positive square of the wells' position: pass delta=4.0, say")
    table = _table(float(delta))
    rest = dim - wells

    def log_density(x: Array) -> Array:
        x = particle(x, (dim,))
        return -jnp.sum((x[:wells] ** 2 - delta) ** 2) - 0.5 * jnp.sum(x[wells:] ** 2)

    def sample(key: Key, n: int) -> Array:
        key_well, key_normal = jax.random.split(key)
        normal = jax.random.normal(key_normal, (n, rest), default_float())
        return jnp.concatenate([draw(table, key_well, (n, wells)), normal], 1)

    def sides(x: Array) -> Array:
        return (x[:wells] > 0).astype(jnp.int32)

    mode, mode_weights = binary_modes(sides, np.full(wells, 0.5))
    log_z = wells * table.log_z + 0.5 * rest * math.log(2 * math.pi)
    return Target(log_density, (dim,), log_z, sample, mode, mode_weights)


@functools.cache
def _table(delta: float) -> Table:
    # exp(-81) at the ends
    return tabulate(lambda x: -((x**2 - delta) ** 2), math.sqrt(delta + 9.0))
