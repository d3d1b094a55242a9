"""The last step of `fit` and `fit_bridge`: samplers of what was learned, with a record for `load` and a report of costs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import checkpoints, identity, problems, run, sampling
from tiltjax.types import Family, Key, Network, Objective, Problem, Target

UNCHANGED = Objective._field_defaults["problem"]


class Fitted(NamedTuple):
    """What a sampler and its report hold beside what was learned.

    particles: that were collected in all; informed_calls: of the network, in all.
    """

    problem: Problem | Family
    network: Network
    objective: Objective
    grid: Callable[[int], Array]
    num_steps: int
    record: dict[str, Any]
    particles: int
    informed_calls: int = 0
    pilot_evaluations: int = 0
    pilot_seconds: float = 0.0


def samplers(key: Key, done: run.Run, of: Fitted) -> Any:
    """A sampler; for keys (S,) a list of S."""
    sampler = sampling.sampler(
        of.problem,
        of.network,
        done.learned.control,
        of.grid,
        num_steps=of.num_steps,
        record=of.record,
        report=_report(done, of),
        remade=of.objective.problem,
    )
    sampler = sampler._replace(extra=done.learned.extra if remakes(of.objective) else None)
    return [_of_seed(sampler, i, key.size) for i in range(key.size)] if key.ndim else sampler


def _of_seed(sampler: sampling.Sampler, i: int, num_seeds: int) -> sampling.Sampler:
    """The i-th of samplers that were trained together. Their program is compiled once."""
    report = sampler.report
    history = jax.tree.map(lambda leaf: leaf[:, i], report.history)
    share = report._replace(
        history=history,
        compile_seconds=report.compile_seconds / num_seeds,
        train_seconds=report.train_seconds / num_seeds,
        pilot_seconds=report.pilot_seconds / num_seeds,
        nonfinite_updates=int(jnp.sum(history.nonfinite_updates)),
    )
    params, extra = jax.tree.map(lambda leaf: leaf[i], (sampler.params, sampler.extra))
    return sampler._replace(params=params, extra=extra, report=share)


def remakes(objective: Objective) -> bool:
    """Whether the dynamics of draws are made of what was learned."""
    return objective.problem is not UNCHANGED


def shape_of(problem: Target | Problem | Family) -> tuple[int, ...]:
    """Of one draw."""
    return tuple(problem.shape if isinstance(problem, Target) else problems.user_shape(problem))


def record_of(
    problem: Problem | Family, coordinates: dict[str, Any], network: Any, loss: Any, objective: Objective
) -> dict[str, Any]:
    """What `load` reads; coordinates: of a target, those that the pilot found."""
    return {
        "format": checkpoints.FORMAT,
        "shape": list(problems.user_shape(problem)),
        "resolution": problem.resolution,
        "network": identity.name_of(network),
        "loss": identity.name_of(loss) if remakes(objective) else None,
        **coordinates,
    }


def _report(done: run.Run, of: Fitted) -> sampling.Report:
    objective = of.objective
    informed = of.network.gradient_evaluations * of.informed_calls
    return sampling.Report(
        history=done.history,
        compile_seconds=done.compile_seconds,
        train_seconds=done.train_seconds,
        pilot_seconds=of.pilot_seconds,
        energy_evaluations=of.particles * objective.energy_evaluations,
        gradient_evaluations=of.particles * objective.gradient_evaluations + informed + of.pilot_evaluations,
        nonfinite_updates=int(jnp.sum(done.history.nonfinite_updates)),
    )
