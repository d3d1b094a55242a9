"""`fit_bridge`: a Schroedinger bridge from a source to a density, two objectives that take turns on the common loop."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax import Array

from tiltjax import identity, networks, plans, preparing, train, turns, validate
from tiltjax.losses import bridge
from tiltjax.types import Key, Network, Problem, Replay, Trainer


def fit_bridge(
    key: Key,
    problem: Problem,
    *,
    network: Callable[[Problem], Network] | Network = networks.mlp,
    corrector: Callable[[Problem], Network] | Network = networks.corrector,
    num_stages: int = 10,
    num_updates: int = 10_000,
    learning_rate: float = 4e-3,
    num_steps: int = 60,
    sampling_steps: int = 200,
    replay: Replay = bridge.REPLAY,
    checkpoint: str | pathlib.Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool = True,
) -> Any:
    """The bridge from the process's source to p*, as a sampler: `num_stages` times the adjoint match, then the corrector's.

    process = processes.gaussian(paths.brownian(sigma, source), shape); problem = problems.sampling(target, process).
    The corrector starts as the base's score, that is phi_hat = the base's marginals, as in iterative proportional fitting
    that starts from the base: with a narrow source it is nearly right at once. (The paper starts h at 0: phi_hat constant.)
    num_updates: of the control, in all stages together; the corrector gets as many. A stage starts with the averaged parameters
    of its last and a new buffer; Adam goes on, its learning rate a cosine over all stages. key: one, or keys (S,) for a list of
    S samplers that are trained as one program. checkpoint: as in `fit`. A source that is not Gaussian
    (`process._replace(initial=..., log_density=...)`, the density that of the base's end) can be learned with the two
    objectives, but the weights here are wrong for it.

    Draws weigh as those of `bridges.dynamics`: E[w] = Z for any number of steps and stages, and no spread at the bridge but for
    the grid. `Sampler.params` are the control's, `Sampler.extra` the corrector's. When not to use it: where a source of width
    0 will do (`fit`, which holds on to modes by weights: this is on-policy and may forget one).
    Raises TypeError or ValueError at once for arguments that cannot work, FloatingPointError when nothing finite is left to
    learn from. Source: Liu et al. (2025), arXiv 2506.22565.
    """
    _bridge_gate(key, problem, (num_stages, num_updates, num_steps, sampling_steps), learning_rate, replay)
    of = _Bridge(problem, network, corrector, preparing.default_grid(problem), num_steps, replay)
    rounds = -(-num_updates // (num_stages * replay.gradient_steps))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_stages * rounds * replay.gradient_steps))
    settings = (num_stages, num_updates, learning_rate, num_steps, replay)
    named = (None if checkpoint is None else identity.probe(problem), *map(identity.told, (network, corrector)))
    plan = _plan(of, optimizer, num_stages, rounds)._replace(sampling_steps=sampling_steps)
    plan = plan._replace(settings=(plan.record, *named, *settings))
    made = plans.trained(key, plan, plans.Storage(checkpoint, checkpoint_seconds, progress), _chunk(plan.trainer, rounds))
    return made if key.ndim else made[0]


class _Bridge(NamedTuple):
    """What both objectives of a bridge are made of."""

    problem: Problem
    network: Any
    corrector: Any
    grid: Callable[[int], Array]
    num_steps: int
    replay: Replay


def _plan(of: _Bridge, optimizer: optax.GradientTransformation, stages: int, rounds: int) -> plans.Plan:
    """`stages` times the two turns of `rounds` rounds each."""
    problem, times, replay = of.problem, of.grid(of.num_steps), of.replay
    control, other = preparing.made(of.network, problem), preparing.made(of.corrector, problem)
    adjoint = bridge.adjoint_bridge_matching(problem, control, times, corrector=other, replay=replay)
    correction = bridge.corrector_matching(problem, other, times, control=control, replay=replay)
    loss = functools.partial(bridge.schroedinger, corrector=other)
    objective = loss(problem, control, times, replay=replay)
    return plans.Plan(
        problem=problem,
        network=control,
        objective=objective,
        trainer=turns.alternate(
            train.trainer(adjoint, control, optimizer), train.trainer(correction, other, optimizer), rounds
        ),
        num_rounds=2 * stages * rounds,
        grid=of.grid,
        num_steps=of.num_steps,
        sampling_steps=of.num_steps,
        record=plans.record_of(problem, None, of.network, loss, objective),
        settings=(),
        particles=stages * (rounds * replay.num_particles + replay.capacity),
        informed_calls=0,
    )


def _chunk(trainer: Trainer, rounds: int) -> int:
    """Rounds of a chunk that divide a turn: none is made beyond the last turn, and a turn that learns nothing is seen."""
    most = plans.chunk_of(trainer)
    return max(size for size in range(1, most + 1) if rounds % size == 0)


def _bridge_gate(key: Any, problem: Any, counts: tuple[int, ...], learning_rate: float, replay: Any) -> None:
    findings = validate.Findings("fit_bridge")
    if getattr(key, "ndim", 0):
        findings.within(validate.keys, key)
    else:
        findings.within(validate.key, key, "fit_bridge(key, problem)")
    for name, count in zip(("num_stages", "num_updates", "num_steps", "sampling_steps"), counts, strict=True):
        findings.within(validate.positive_int, name, count)
    findings.within(validate.positive, "learning_rate", "where the schedule starts", learning_rate)
    validate.replay(replay, findings)
    if isinstance(problem, Problem):
        findings.within(validate.bridge, problem)
    else:
        findings.unless(
            False,
            f"fit_bridge needs a problem, whose process says where the source is; got {type(problem).__name__}. Use "
            "problems.sampling(target, processes.gaussian(paths.brownian(sigma, source), target.shape)).",
            TypeError,
        )
    findings.stop()
