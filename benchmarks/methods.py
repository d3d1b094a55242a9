"""Every method, learned or classical, as one callable: the runner knows no other difference between them.

Equal evaluations: a classical method gets those of density and gradient that the default spends after the pilot (both sides run
the same pilot, which is counted in the line). A call that gives the value and the gradient counts as one of each.
Equal seconds: it runs once at equal evaluations, and again with more, or fewer, until the seconds fit.
"""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import tiltjax as tj
from benchmarks import accelerator, baselines
from benchmarks.cases import Budget
from benchmarks.outcome import Outcome
from tiltjax.types import Key

CHIP = ("precision", "batch")
SECONDS_OFF = 0.2  # of those asked for
MOST_RUNS = 4


class Method(NamedTuple):
    """run(key, target, num_draws=, progress=, **arguments) -> Outcome; its arguments(budget), its defaults for the record.

    checkpoint=, a directory or None, is for what takes long enough to be killed: the classical ones leave it alone.
    together: the same for keys (S,), a list of outcomes, where the method has one program for several seeds.
    """

    run: Callable[..., Outcome]
    arguments: Callable[[Budget], dict[str, Any]]
    defaults: Mapping[str, Any]
    timed: bool = False  # takes seconds=
    together: Callable[..., list[Outcome]] | None = None


def learned(loss: Callable[..., tj.Objective] | None) -> Method:
    """`fit` with a loss (None: its default), then draws. Takes precision= and batch= of `accelerator.arguments` too."""
    given = {"loss": _defaults(tj.fit, ())["loss"] if loss is None else loss}

    def run(key: Key, target: tj.Target, *, num_draws: int, **arguments: Any) -> Outcome:
        return of_sampler(tj.fit(key, target, **accelerator.arguments(target, **arguments)))

    def together(keys: Key, target: tj.Target, *, num_draws: int, **arguments: Any) -> list[Outcome]:
        return [of_sampler(sampler) for sampler in tj.fit(keys, target, **accelerator.arguments(target, **arguments))]

    left_out = ("progress", "checkpoint", "start")  # no part of the result, or never given
    return Method(run, lambda budget: {**budget.fit, **given}, _defaults(tj.fit, left_out), together=together)


def learned_drift(loss: Callable[..., tj.Objective], network: Callable[..., tj.Network]) -> Method:
    """`fit` of a loss that needs an annealed problem: the target's in the pilot's units, r_t = t^2 r on a base at rest."""

    def run(key: Key, target: tj.Target, *, num_draws: int, **arguments: Any) -> Outcome:
        key_pilot, key_fit = jax.random.split(key)
        began = time.perf_counter()
        target, found = tj.preparing.piloted(key_pilot, target)
        seconds = time.perf_counter() - began
        problem = tj.preparing.on_unit_base(target, found, tj.paths.trigonometric())
        annealed = tj.problems.annealed(problem, tj.annealing.scaled(problem.reward, jnp.square))
        outcome = of_sampler(tj.fit(key_fit, annealed, **accelerator.arguments(target, **arguments)))
        outcome.costs["pilot_seconds"] = seconds
        outcome.costs["gradient_evaluations"] += found.gradient_evaluations
        return outcome

    given = {"loss": loss, "network": network}
    return Method(run, lambda budget: {**budget.fit, **given}, learned(None).defaults)


def of_sampler(sampler: tj.Sampler) -> Outcome:
    """A fitted sampler's."""
    report = sampler.report
    costs = {
        "pilot_seconds": report.pilot_seconds,
        "compile_seconds": report.compile_seconds,
        "train_seconds": report.train_seconds,
        "energy_evaluations": report.energy_evaluations,
        "gradient_evaluations": report.gradient_evaluations,
        "network_evaluations": sampler.num_steps,
        "flops_of_a_draw": accelerator.flops_of_a_draw(sampler),
        "nonfinite_updates": report.nonfinite_updates,
    }
    return Outcome(lambda key, n: sampler.sample(key, n), costs, sampler=sampler)


def classical(baseline: Callable[..., Outcome]) -> Method:
    """A baseline with a number of evaluations, or with as many as take `seconds`, to a fifth.

    A short run is mostly overhead, and a long one may leave the cache: evaluations change by what the runs took until one fits.
    All start where the first one's pilot ended.
    """

    def run(
        key: Key,
        target: tj.Target,
        *,
        progress: bool,
        checkpoint: Path | None = None,
        evaluations: int,
        seconds: float | None = None,
        **arguments: Any,
    ) -> Outcome:
        outcome = baseline(key, target, evaluations=evaluations, **arguments)
        if seconds is None:
            return outcome
        took = dict[int, float]()
        for _ in range(MOST_RUNS):
            took[evaluations] = outcome.costs["sample_seconds"]
            if abs(took[evaluations] / seconds - 1) <= SECONDS_OFF:
                break
            evaluations = _that_take(seconds, took, evaluations)
            outcome = baseline(key, target, evaluations=evaluations, begun=outcome.begun, **arguments)
        return outcome

    left_out = ("evaluations", "num_draws", "begun")
    return Method(run, lambda budget: {"evaluations": budget.evaluations}, _defaults(baseline, left_out), timed=True)


def _that_take(seconds: float, took: dict[int, float], last: int) -> int:
    """Evaluations, by what runs took: on the power law between the nearest shorter and longer one, else in proportion."""
    least = max((n for n in took if took[n] < seconds), default=0)
    most = min((n for n in took if took[n] > seconds), default=0)
    if not 0 < least < most:
        return int(last * seconds / took[last])
    share = math.log(seconds / took[least]) / math.log(took[most] / took[least])
    return int(least * (most / least) ** share)


def _defaults(function: Any, left_out: tuple[str, ...]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in left_out}


METHODS: dict[str, Method] = {
    "default": learned(None),
    **{name: learned(getattr(tj.losses, name)) for name in tj.losses.__all__},
    "nets": learned_drift(tj.losses.nets, tj.networks.drift),
    "action_matching": learned_drift(tj.losses.action_matching, tj.networks.potential),
    **{name: classical(getattr(baselines, name)) for name in baselines.__all__},
}
