"""The cases as one table of data, the methods, the budgets.

What a case changes of a method's defaults stands here and nowhere else.
"""

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


class Case(NamedTuple):
    """target() -> Target; components() of a Gaussian mixture, else None.

    overrides: arguments of `fit` by method, "all" for every one.
    """

    target: Callable[[], tj.Target]
    components: Callable[[], Components] | None = None
    overrides: Mapping[str, Mapping[str, Any]] = {}


class Budget(NamedTuple):
    """fit: arguments of `fit` (none: its defaults); num_draws: particles judged; floor_pairs: reference pairs of a floor."""

    fit: Mapping[str, Any]
    num_draws: int
    floor_pairs: int = 20


BUDGETS: dict[str, Budget] = {
    "smoke": Budget({"num_updates": 1500}, num_draws=4000, floor_pairs=5),
    "small": Budget({}, num_draws=10_000),
    "full": Budget({"num_updates": 60_000}, num_draws=50_000),
}


def _gmm40(name: str, scale: float) -> Callable[[], Components]:
    return lambda: Components(jnp.asarray(gmm40_means(name), float), scale**2)


CASES: dict[str, Case] = {
    "gmm40": Case(tj.targets.gmm40, _gmm40("fab", math.log1p(math.e))),
    "gmm40_be2": Case(lambda: tj.targets.gmm40_be(2), _gmm40("be2", 1.0)),
    "gmm40_be50": Case(lambda: tj.targets.gmm40_be(50), _gmm40("be50", 1.0)),
    "funnel10": Case(lambda: tj.targets.funnel(10)),
    "many_well32": Case(lambda: tj.targets.many_well(32)),
    "many_well64": Case(lambda: tj.targets.many_well(64)),
    "mw5": Case(lambda: tj.targets.delta_many_well(5)),
    "wells32_d5": Case(lambda: tj.targets.delta_many_well(5)),
    "wells32_d50": Case(lambda: tj.targets.delta_many_well(50)),
    "wells32_d100": Case(lambda: tj.targets.delta_many_well(100)),
    "wells32_d200": Case(lambda: tj.targets.delta_many_well(200)),
}

METHODS: tuple[str, ...] = ("default", *tj.losses.__all__)


class Suite(NamedTuple):
    """Every case with every method and seed, at one budget."""

    cases: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: str


SUITES: dict[str, Suite] = {
    "smoke": Suite(("gmm40",), ("default",), (0,), "smoke"),
    "quick": Suite(
        ("gmm40", "gmm40_be2", "funnel10", "mw5", "many_well32", "wells32_d50"),
        ("default", "adjoint_sampling"),
        (0, 1, 2),
        "small",
    ),
}

# what `coverage` is about: cases with separated modes of known weight
COVERAGE: dict[str, tuple[str, ...]] = {
    "cases": ("wells32_d50", "wells32_d5", "gmm40"),
    "losses": ("adjoint_sampling", "minimum_variance", "adjoint_matching", "log_variance"),
    "recipes": ("plain", "tempered", "annealed", "trust_region"),
}


def fit_arguments(case: str, method: str, budget: str) -> dict[str, Any]:
    """What `fit` is called with: the budget's, the method's loss, the case's overrides; a later one wins."""
    overrides = CASES[case].overrides
    loss = {} if method == "default" else {"loss": getattr(tj.losses, method)}
    return {**BUDGETS[budget].fit, **loss, **overrides.get("all", {}), **overrides.get(method, {})}
