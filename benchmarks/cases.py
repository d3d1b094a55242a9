"""The cases as one table of data, the budgets, the suites.

What a case changes of a method's defaults stands here and nowhere else: a method that has overrides is run twice, with them and
without, and the report shows both rows.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

import tiltjax as tj
from tiltjax.targets.gmm40 import gmm40_means


class Components(NamedTuple):
    """An equally weighted Gaussian mixture, for its exact control: means (K, d), one variance."""

    means: Array
    variance: float


class Published(NamedTuple):
    """A figure of the literature, of raw draws: the key of the result line it compares with, its value, whose.

    mark "p": read in the paper or its authors' code; "n": in a secondary source, to be checked before it is quoted.
    """

    metric: str
    value: float
    source: str
    mark: str


class Case(NamedTuple):
    """target() -> Target; published figures; the suites it is in; components() of a Gaussian mixture, else None.

    overrides: arguments of a method's run by method, "all" for every one.
    """

    target: Callable[[], tj.Target]
    published: tuple[Published, ...] = ()
    suites: tuple[str, ...] = ()
    components: Callable[[], Components] | None = None
    overrides: Mapping[str, Mapping[str, Any]] = {}


class Budget(NamedTuple):
    """fit: arguments of `fit` (none: its defaults); num_draws: particles judged; floor_pairs: reference pairs of a floor.

    evaluations: of density and gradient together, after the pilot, that the default spends on training and draws. It is what
    a classical method gets.
    """

    fit: Mapping[str, Any]
    num_draws: int
    floor_pairs: int = 20
    evaluations: int = 850_000


BUDGETS: dict[str, Budget] = {
    "smoke": Budget({"num_updates": 1500}, num_draws=4000, floor_pairs=5, evaluations=104_000),
    "quick": Budget({"num_updates": 2000}, num_draws=4000, floor_pairs=3, evaluations=124_000),
    "medium": Budget({"num_updates": 6000}, num_draws=10_000, evaluations=290_000),
    "small": Budget({}, num_draws=10_000, evaluations=850_000),
    "full": Budget({"num_updates": 60_000}, num_draws=50_000, evaluations=2_490_000),
}


def _gmm40(name: str, scale: float) -> Callable[[], Components]:
    return lambda: Components(jnp.asarray(gmm40_means(name), float), scale**2)


def _wells(best: float, collapsed: float) -> tuple[Published, ...]:
    return (
        Published("log_z_error", best, "trust-region log-variance, 2508.12511", "p"),
        Published("log_z_error", collapsed, "adjoint matching, collapsed, in 2508.12511", "n"),
    )


_GMM40 = (
    Published("ess", 0.98, "NETS, 2410.02711 (0.95 to 0.98)", "n"),
    Published("ess", 0.734, "iDEM", "n"),
    Published("ess", 0.655, "CMCD-LV", "n"),
)
_GMM40_BE50 = (
    Published("sinkhorn", 328.0, "PDNS", "n"),
    Published("sinkhorn", 496.0, "NAAS, 2506.18165", "n"),
    Published("sinkhorn", 3579.0, "Reinforced SMC", "n"),
    Published("sinkhorn", 3787.0, "SCLD", "n"),
    Published("sinkhorn", 4258.0, "CMCD-LV", "n"),
)
_MW5 = (
    Published("sinkhorn", 0.08, "PDNS", "n"),
    Published("sinkhorn", 0.15, "ASBS", "p"),
    Published("sinkhorn", 0.32, "Adjoint Sampling", "p"),
)
_FUNNEL = (Published("sinkhorn", 133.0, "NAAS, 2506.18165, and SCLD (132 to 134)", "n"),)
_MANY_WELL64 = (Published("mmd", 0.043, "Reinforced SMC", "n"),)

_MOS50 = (
    Published("sinkhorn", 353.0, "PDNS", "n"),
    Published("sinkhorn", 395.0, "NAAS, 2506.18165", "n"),
    Published("sinkhorn", 656.0, "SCLD", "n"),
)

_DW4 = (
    Published("energy_w2", 0.11, "Flow Sampling, 2605.03984", "n"),
    Published("energy_w2", 0.20, "ASBS", "p"),
    Published("energy_w2", 0.55, "Adjoint Sampling", "p"),
    Published("geometric_w2", 0.36, "best found", "n"),
    Published("geometric_w2", 0.62, "Adjoint Sampling", "p"),
)
_LJ13 = (
    Published("energy_w2", 0.97, "Flow Sampling, 2605.03984", "n"),
    Published("energy_w2", 1.01, "PDNS", "n"),
    Published("energy_w2", 1.99, "ASBS", "p"),
    Published("energy_w2", 2.40, "Adjoint Sampling", "p"),
    Published("geometric_w2", 1.59, "ASBS", "p"),
    Published("geometric_w2", 1.67, "Adjoint Sampling", "p"),
)
_LJ55 = (
    Published("energy_w2", 0.9, "MCMC at equal energy calls", "p"),
    Published("energy_w2", 21.3, "Flow Sampling, 2605.03984", "n"),
    Published("energy_w2", 28.1, "ASBS", "p"),
    Published("energy_w2", 30.8, "Adjoint Sampling", "p"),
    Published("geometric_w2", 4.00, "ASBS", "p"),
    Published("geometric_w2", 4.04, "Adjoint Sampling", "p"),
)


# draws of particles that stray have absurd energies, and no weight: a share of the buffer shows the control where they are
def _shown(share: float) -> tj.Replay:
    weighting = tj.weights.defensive(tj.weights.tempered(0.2), share)
    return tj.losses.score_matching.REPLAY._replace(num_particles=1000, capacity=10_000, weighting=weighting)


_PARTICLES = tj.Training(optimizer=tj.train.muon, learning_rate=8e-3, sampling_steps=400)
_DW4_TUNED = _PARTICLES._replace(replay=_shown(0.03))
_TUNED_DW4 = {
    "default": {"training": _DW4_TUNED._replace(sampling_steps=1000)},
    "learned_variance": {"training": _DW4_TUNED},
}
_MOVED, _MOVED_NARROW = (
    functools.partial(loss, rejuvenation=tj.losses.Rejuvenation())
    for loss in (tj.losses.minimum_variance, tj.losses.learned_variance)
)
_LJ13_TUNED = _PARTICLES._replace(replay=_shown(0.15))
_TUNED_LJ13 = {
    "default": {"training": _LJ13_TUNED, "loss": _MOVED},
    "learned_variance": {"training": _LJ13_TUNED, "loss": _MOVED_NARROW},
}

CASES: dict[str, Case] = {
    "gmm40": Case(tj.targets.gmm40, _GMM40, ("smoke", "quick"), _gmm40("fab", math.log1p(math.e))),
    "gmm40_be2": Case(lambda: tj.targets.gmm40_be(2), (), ("quick",), _gmm40("be2", 1.0)),
    "gmm40_be50": Case(lambda: tj.targets.gmm40_be(50), _GMM40_BE50, (), _gmm40("be50", 1.0)),
    "mos50": Case(tj.targets.mos, _MOS50),
    "funnel10": Case(lambda: tj.targets.funnel(10), _FUNNEL, ("quick",)),
    "many_well32": Case(lambda: tj.targets.many_well(32), (), ("quick",)),
    "many_well64": Case(lambda: tj.targets.many_well(64), _MANY_WELL64),
    "mw5": Case(lambda: tj.targets.delta_many_well(5), _MW5, ("quick",)),
    "wells32_d5": Case(lambda: tj.targets.delta_many_well(5)),
    "wells32_d50": Case(lambda: tj.targets.delta_many_well(50), _wells(0.000, 3.43), ("quick",)),
    "wells32_d100": Case(lambda: tj.targets.delta_many_well(100), _wells(0.002, 3.46)),
    "wells32_d200": Case(lambda: tj.targets.delta_many_well(200), _wells(0.002, 3.32)),
    "dw4": Case(tj.targets.double_well, _DW4, ("quick",), overrides=_TUNED_DW4),
    "lj13": Case(tj.targets.lennard_jones, _LJ13, overrides=_TUNED_LJ13),
    "lj55": Case(lambda: tj.targets.lennard_jones(55), _LJ55),
    "phi4_8x8": Case(tj.targets.phi4, (), ("quick",)),
    "phi4_16x8": Case(lambda: tj.targets.phi4((16, 8))),
    "cox1600": Case(tj.targets.log_gaussian_cox_simulated),
    "eight_schools": Case(tj.targets.eight_schools, (), ("quick",)),
    "brownian32": Case(tj.targets.brownian_motion, (), ("quick",)),
    "logistic_breast_cancer": Case(tj.targets.logistic_breast_cancer, (), ("quick",)),
    "logistic_digits": Case(tj.targets.logistic_digits),
    "logistic_iris": Case(tj.targets.logistic_iris),
    "seeds26": Case(tj.targets.seeds),
}


class Suite(NamedTuple):
    """Every case with every method and seed, at one budget; then the methods `at_equal_seconds`, with the default's time."""

    cases: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: str
    at_equal_seconds: tuple[str, ...] = ()


def _cases(suite: str) -> tuple[str, ...]:
    return tuple(name for name, case in CASES.items() if suite in case.suites)


_CLASSICAL = ("smc", "parallel_tempering", "nuts")

SUITES: dict[str, Suite] = {
    "smoke": Suite(_cases("smoke"), ("default", "smc"), (0,), "smoke"),
    "quick": Suite(_cases("quick"), ("default", "adjoint_sampling", "smc"), (0, 1, 2), "quick", ("smc",)),
    "classical": Suite(_cases("quick"), _CLASSICAL, (0, 1, 2), "quick", _CLASSICAL),
}

# what `coverage` is about: cases with separated modes of known weight
COVERAGE: dict[str, tuple[str, ...]] = {
    "cases": ("wells32_d50", "wells32_d5", "gmm40"),
    "losses": ("adjoint_sampling", "minimum_variance", "adjoint_matching", "log_variance"),
    "recipes": ("plain", "tempered", "annealed", "trust_region"),
}


def overrides(case: str, method: str) -> dict[str, Any]:
    """What a case changes of a method's defaults; of one method wins over "all"."""
    given = CASES[case].overrides
    return {**given.get("all", {}), **given.get(method, {})}
