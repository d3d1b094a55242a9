"""Distances of draws from reference draws, each with its floor: the same between two independent sets of reference draws."""

import functools
from collections.abc import Callable, Hashable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import tiltjax as tj
from tiltjax.types import Key

ENERGY_DRAWS = 2000


def wasserstein_1d(a: np.ndarray, b: np.ndarray) -> float:
    """W2 of two sets of n numbers, (mean (a_(i) - b_(i))^2)^(1/2) of both sorted: optimal in one dimension. In their units."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"wasserstein_1d compares two vectors of one length; got shapes {a.shape} and {b.shape}.")
    return float(np.sqrt(np.mean(np.square(np.sort(a) - np.sort(b)))))


def energies(target: tj.Target, x: Array) -> np.ndarray:
    """-log gamma(x), (n,), in kT."""
    return -np.asarray(_vectorized(cast(Hashable, target.log_density))(x), np.float64)


@functools.lru_cache(maxsize=8)
def _vectorized(log_density: Hashable) -> Callable[[Array], Array]:
    return jax.jit(jax.vmap(cast(Callable[[Array], Array], log_density)))


def energy_w2(target: tj.Target, x: Array, reference: Array) -> float:
    """W2 of the energies of x and of as many reference draws, in kT."""
    return wasserstein_1d(energies(target, x), energies(target, reference))


def mode_total_variation(target: tj.Target, x: Array, log_weight: Array | None = None) -> float:
    """sum_k |fraction of draws in mode k - true weight| / 2, of raw draws or of weighted ones."""
    assert target.mode_weights is not None
    histogram = tj.diagnostics.mode_histogram(target, x, log_weight)
    return float(tj.diagnostics.total_variation(histogram, target.mode_weights))


def floor(
    key: Key, distance: Callable[[Array, Array], float], sample: Callable[[Key, int], Array], n: int, pairs: int
) -> float:
    """Median over `pairs` of distance(n reference draws, n others): what exact draws would score."""
    values = []
    for one in jax.random.split(key, pairs):
        first, second = jax.random.split(one)
        values.append(distance(sample(first, n), sample(second, n)))
    return float(np.median(values))


def distances(target: tj.Target, draws: tj.Samples, resampled: Array, key: Key, pairs: int) -> dict[str, float | None]:
    """All distances that the target allows, for raw draws and for draws resampled by their weights, beside their floors.

    Energies use the first 2000 draws, modes all of them; a metric that needs what the target lacks is None.
    """
    out: dict[str, float | None] = dict.fromkeys(DISTANCES)
    key_reference, key_energy, key_mode = jax.random.split(key, 3)
    n, sample = draws.x.shape[0], target.sample
    if target.mode is not None and target.mode_weights is not None:
        out["mode_entropy"] = float(tj.diagnostics.mode_entropy(tj.diagnostics.mode_histogram(target, draws.x)))
        out["mode_total_variation"] = mode_total_variation(target, draws.x)
        out["mode_total_variation_resampled"] = mode_total_variation(target, resampled)
        if sample is not None:
            tv = floor(key_mode, lambda a, b: mode_total_variation(target, a), sample, n, pairs)
            out["mode_total_variation_floor"] = tv
    if sample is not None:
        m = min(n, ENERGY_DRAWS)
        reference = sample(key_reference, m)
        out["energy_w2"] = energy_w2(target, draws.x[:m], reference)
        out["energy_w2_resampled"] = energy_w2(target, _thin(resampled, m), reference)
        out["energy_w2_floor"] = floor(key_energy, lambda a, b: energy_w2(target, a, b), sample, m, pairs)
    return out


DISTANCES = (
    "mode_entropy",
    "mode_total_variation",
    "mode_total_variation_resampled",
    "mode_total_variation_floor",
    "energy_w2",
    "energy_w2_resampled",
    "energy_w2_floor",
)


def _thin(x: Array, m: int) -> Array:
    """m rows evenly spread: systematic resampling leaves copies of a draw side by side, so a head would not do."""
    return x[jnp.linspace(0, x.shape[0] - 1, m).astype(int)]
