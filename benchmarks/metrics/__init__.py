"""Distances of draws from reference draws, each with its floor: the same between two independent sets of reference draws."""

from benchmarks.metrics.geometric import aligned_squared_distances, geometric_w2
from benchmarks.metrics.kernel import mmd
from benchmarks.metrics.modes import mode_entropy, mode_total_variation
from benchmarks.metrics.one_dimensional import energies, energy_w2, pair_distance_w2, pair_distances, wasserstein_1d
from benchmarks.metrics.table import DISTANCES, METRICS, Metric, distances, floor, floors
from benchmarks.metrics.transport import sinkhorn, squared_distances, w2

__all__ = [
    "DISTANCES",
    "METRICS",
    "Metric",
    "aligned_squared_distances",
    "distances",
    "energies",
    "energy_w2",
    "floor",
    "floors",
    "geometric_w2",
    "mmd",
    "mode_entropy",
    "mode_total_variation",
    "pair_distance_w2",
    "pair_distances",
    "sinkhorn",
    "squared_distances",
    "w2",
    "wasserstein_1d",
]
