"""Which metric applies to which target, and all of them for raw draws, resampled draws and floors."""

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

import tiltjax as tj
from benchmarks.metrics.geometric import ENUMERATED, geometric_w2
from benchmarks.metrics.kernel import mmd
from benchmarks.metrics.modes import mode_entropy, mode_total_variation
from benchmarks.metrics.one_dimensional import energy_w2, pair_distance_w2
from benchmarks.metrics.transport import sinkhorn, w2
from tiltjax.types import Key

Sampler = Callable[[Key, int], ArrayLike]

NUM_DRAWS = 2000  # what the published figures use; distances between sets depend on their size


def always(target: tj.Target) -> bool:
    return True


def equal_particles(target: tj.Target) -> bool:
    """Configurations (particles, d) of equal particles, free of their centre: the target says so."""
    return target.centred and len(target.shape) == 2


def known_modes(target: tj.Target) -> bool:
    return target.mode is not None and target.mode_weights is not None


def all_draws(target: tj.Target, n: int) -> int:
    return n


def as_published(target: tj.Target, n: int) -> int:
    return min(n, NUM_DRAWS)


def assignable(target: tj.Target, n: int) -> int:
    """As published where permutations are enumerated; with one assignment problem a pair, as many as take half a minute."""
    particles = target.shape[0]
    return min(n, NUM_DRAWS if particles <= ENUMERATED else 17_000 // particles)


class Metric(NamedTuple):
    """distance(target, a, b) of draws a from reference draws b; `applies` to targets that have what it needs.

    num_draws(target, n): the size of both sets where n draws are at hand. floor_pairs: at most so many for the floor: its cost.
    needs_reference: False where it compares with what the target knows of itself.
    """

    distance: Callable[[tj.Target, ArrayLike, ArrayLike], float]
    applies: Callable[[tj.Target], bool] = always
    num_draws: Callable[[tj.Target, int], int] = as_published
    floor_pairs: int = 20
    needs_reference: bool = True


METRICS: Mapping[str, Metric] = {
    "mode_total_variation": Metric(lambda target, a, b: mode_total_variation(target, a), known_modes, all_draws, 20, False),
    "energy_w2": Metric(energy_w2),
    "pair_distance_w2": Metric(lambda target, a, b: pair_distance_w2(a, b), equal_particles),
    "geometric_w2": Metric(lambda target, a, b: geometric_w2(a, b), equal_particles, assignable, floor_pairs=3),
    "sinkhorn": Metric(lambda target, a, b: sinkhorn(a, b), floor_pairs=5),
    "w2": Metric(lambda target, a, b: w2(a, b), floor_pairs=5),
    "mmd": Metric(lambda target, a, b: mmd(a, b), floor_pairs=5),
}

DISTANCES = ("mode_entropy", *(name + suffix for name in METRICS for suffix in ("", "_resampled", "_floor")))


def floors(key: Key, distance: Callable[[ArrayLike, ArrayLike], float], sample: Sampler, n: int, pairs: int) -> np.ndarray:
    """distance(n reference draws, n others), (pairs,): what exact draws would score, and how that scatters.

    A pair is drawn in one call and halved: reference draws that are kept, not made, do not meet themselves.
    """
    both = (np.asarray(sample(one, 2 * n)) for one in jax.random.split(key, pairs))
    return np.asarray([distance(x[:n], x[n:]) for x in both])


def floor(key: Key, distance: Callable[[ArrayLike, ArrayLike], float], sample: Sampler, n: int, pairs: int) -> float:
    """The median of `floors`."""
    return float(np.median(floors(key, distance, sample, n, pairs)))


def distances(
    target: tj.Target, draws: tj.Samples, resampled: ArrayLike, key: Key, pairs: int, kept: Path | None = None
) -> dict[str, float | None]:
    """All distances that the target allows, for raw draws and for draws resampled by their weights, beside their floors.

    A metric of m = num_draws(target, n) draws takes the first m of the raw ones, which are independent, m evenly spread of the
    resampled ones, and m reference draws: the target's `sample` (`benchmarks.reference.equip` gives one to a target without).
    Without it only modes can be counted. What the target does not allow is None, as is a distance of draws that are not finite.
    Floors know nothing of the draws but their number: a folder `kept` is where methods of one key and target share them.
    """
    out: dict[str, float | None] = dict.fromkeys(DISTANCES)
    if known_modes(target):
        out["mode_entropy"] = mode_entropy(target, draws.x)
    key_reference, key_floor = jax.random.split(key)
    n, sample = draws.x.shape[0], target.sample
    # on the host, where a slice of another length is no program to compile
    raw, resampled = np.asarray(draws.x), np.asarray(resampled)
    reference = None if sample is None else np.asarray(sample(key_reference, as_published(target, n)))
    of = None if reference is None else f"{zlib.crc32(reference.tobytes()):08x}"  # tells keys and targets apart
    for name, metric in METRICS.items():
        if not metric.applies(target) or (reference is None and metric.needs_reference):
            continue
        m = metric.num_draws(target, n)
        against = reference[:m] if reference is not None and metric.needs_reference else raw
        for suffix, x in (("", raw[:m]), ("_resampled", _thin(resampled, m))):
            out[name + suffix] = metric.distance(target, x, against) if np.isfinite(x).all() else None
        if sample is not None:
            # one key for all metrics: the same pairs of sets, so that floors go with one another
            arguments = (key_floor, _of(metric, target), sample, m, min(pairs, metric.floor_pairs))
            out[name + "_floor"] = floor(*arguments) if kept is None else _once(kept / f"{name}-{m}-{pairs}-{of}", arguments)
    return out


def _once(file: Path, arguments: tuple[Any, ...]) -> float:
    """floor(*arguments), read from the file or written there: whole, whatever else is writing it."""
    if file.is_file():
        return float(json.loads(file.read_text()))
    value = floor(*arguments)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value))
    part.replace(file)
    return value


def _of(metric: Metric, target: tj.Target) -> Callable[[ArrayLike, ArrayLike], float]:
    return lambda a, b: metric.distance(target, a, b)


def _thin(x: np.ndarray, m: int) -> np.ndarray:
    """m rows evenly spread: systematic resampling leaves copies of a draw side by side, so a head would not do."""
    return x[np.linspace(0, x.shape[0] - 1, m).astype(int)]
