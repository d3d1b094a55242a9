"""What is decided before training, and how it becomes samplers: for `fit` and `fit_bridge` alike."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import checkpoints, identity, pilot, problems, run, sampling, turns
from tiltjax.types import Family, Key, Network, Objective, Problem, Trainer

CHUNK_UPDATES = 100


class Plan(NamedTuple):
    """All that is decided before training: what is trained, for how long, and what its sampler and its report hold."""

    problem: Problem | Family
    network: Network
    objective: Objective
    trainer: Trainer
    num_rounds: int
    grid: Callable[[int], Array]
    num_steps: int
    sampling_steps: int
    record: dict[str, Any]
    settings: tuple[Any, ...]
    particles: int  # that are collected in all
    informed_calls: int  # of the network, in all
    pilot_evaluations: int = 0
    pilot_seconds: float = 0.0


class Storage(NamedTuple):
    """Where a run is saved, how often, and whether it shows a progress bar."""

    checkpoint: str | pathlib.Path | None
    checkpoint_seconds: float
    progress: bool


def trained(key: Key, plan: Plan, storage: Storage, chunk: int | None = None) -> list[sampling.Sampler]:
    """Runs the plan, and makes a sampler for each key."""
    done = run.run(
        turns.together(plan.trainer) if key.ndim else plan.trainer,
        key,
        plan.num_rounds,
        chunk=chunk_of(plan.trainer) if chunk is None else chunk,
        checkpoint=storage.checkpoint,
        checkpoint_seconds=storage.checkpoint_seconds,
        fingerprint=str(plan.settings),
        progress=storage.progress,
    )
    learned = plan.trainer.learned(done.state)
    sampler = sampling.sampler(
        plan.problem,
        plan.network,
        learned.control,
        plan.grid,
        num_steps=plan.sampling_steps,
        record=plan.record,
        report=_report(done, plan),
        remade=plan.objective.problem,
    )
    sampler = sampler._replace(extra=learned.extra if remakes(plan.objective) else None)
    return [sampler] if not key.ndim else [_of_seed(sampler, i, key.size) for i in range(key.size)]


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


def chunk_of(trainer: Trainer) -> int:
    """Rounds of about CHUNK_UPDATES updates."""
    return max(1, CHUNK_UPDATES // trainer.updates)


UNCHANGED = Objective._field_defaults["problem"]


def remakes(objective: Objective) -> bool:
    """Whether the dynamics of draws are made of what was learned."""
    return objective.problem is not UNCHANGED


def record_of(
    problem: Problem | Family, found: pilot.Pilot | None, network: Any, loss: Any, objective: Objective
) -> dict[str, Any]:
    """What `load` reads: of a target, the pilot's coordinates too."""
    coordinates = {} if found is None else found.coordinates._asdict()
    return {
        "format": checkpoints.FORMAT,
        "shape": list(problems.user_shape(problem)),
        "resolution": problem.resolution,
        "network": identity.name_of(network),
        "loss": identity.name_of(loss) if remakes(objective) else None,
        **{name: part.tolist() for name, part in coordinates.items() if part is not None},
    }


def _report(done: run.Run, plan: Plan) -> sampling.Report:
    objective = plan.objective
    informed = plan.network.gradient_evaluations * plan.informed_calls
    return sampling.Report(
        history=done.history,
        compile_seconds=done.compile_seconds,
        train_seconds=done.train_seconds,
        pilot_seconds=plan.pilot_seconds,
        energy_evaluations=plan.particles * objective.energy_evaluations,
        gradient_evaluations=plan.particles * objective.gradient_evaluations + informed + plan.pilot_evaluations,
        nonfinite_updates=int(jnp.sum(done.history.nonfinite_updates)),
    )
