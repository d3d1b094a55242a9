"""Distances between numbers made of the draws: energies, distances between particles."""

import functools
from collections.abc import Callable, Hashable
from typing import cast

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

import tiltjax as tj


def wasserstein_1d(a: ArrayLike, b: ArrayLike) -> float:
    """W2 of two sets of n numbers, (mean (a_(i) - b_(i))^2)^(1/2) of both sorted: optimal in one dimension. In their units."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"wasserstein_1d compares two vectors of one length; got shapes {a.shape} and {b.shape}.")
    return float(np.sqrt(np.mean(np.square(np.sort(a) - np.sort(b)))))


def energies(target: tj.Target, x: ArrayLike) -> np.ndarray:
    """-log gamma(x), (n,), in kT."""
    return -np.asarray(_vectorized(cast(Hashable, target.log_density))(x), np.float64)


@functools.lru_cache(maxsize=8)
def _vectorized(log_density: Hashable) -> Callable[[ArrayLike], Array]:
    return jax.jit(jax.vmap(cast(Callable[[Array], Array], log_density)))


def energy_w2(target: tj.Target, x: ArrayLike, reference: ArrayLike) -> float:
    """W2 of the energies of x and of as many reference draws, in kT."""
    return wasserstein_1d(energies(target, x), energies(target, reference))


def pair_distances(x: ArrayLike) -> np.ndarray:
    """|x_i - x_j| for i < j of configurations (n, particles, d), all in one vector: (n particles (particles - 1) / 2,)."""
    x = configurations(x)
    first, second = np.triu_indices(x.shape[1], 1)
    return np.linalg.norm(x[:, first] - x[:, second], axis=-1).ravel()


def pair_distance_w2(a: ArrayLike, b: ArrayLike) -> float:
    """W2 of the pooled distances between particles, squared cost, with the root; in the unit of length.

    Pooled: pairs of all draws are one set, so correlations between the pairs of one draw do not count.
    """
    return wasserstein_1d(pair_distances(a), pair_distances(b))


def configurations(x: ArrayLike) -> np.ndarray:
    """x in float64. Raises ValueError unless it is (n, particles, d) with two particles or more."""
    x = np.asarray(x, np.float64)
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"got draws of shape {x.shape}, expected (n, particles, d): reshape flat vectors of coordinates")
    return x
