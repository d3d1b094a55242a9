"""Where the modes are known: how much of each the draws have."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

import tiltjax as tj


def mode_total_variation(target: tj.Target, x: ArrayLike, log_weight: Array | None = None) -> float:
    """sum_k |fraction of draws in mode k - true weight| / 2, of raw draws or of weighted ones."""
    assert target.mode_weights is not None
    histogram = tj.diagnostics.mode_histogram(target, jnp.asarray(x), log_weight)
    return float(tj.diagnostics.total_variation(histogram, target.mode_weights))


def mode_entropy(target: tj.Target, x: ArrayLike) -> float:
    """Entropy of the histogram over modes by log(number of modes): 1 where the draws are equally many in each."""
    return float(tj.diagnostics.mode_entropy(tj.diagnostics.mode_histogram(target, jnp.asarray(x))))
