"""`fit_bridge`: a Schroedinger bridge from a source to a density, two objectives that take turns on the common loop."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from tiltjax import fitted, identity, networks, preparing, train, turns, validate
from tiltjax.losses import bridge
from tiltjax.training import chunk_of, optimizer_of, through
from tiltjax.types import Key, Network, Objective, Problem, Replay, Trainer, Training


def fit_bridge(
    key: Key,
    problem: Problem,
    *,
    network: Callable[[Problem], Network] | Network = networks.mlp,
    corrector: Callable[[Problem], Network] | Network = networks.corrector,
    num_stages: int = 10,
    num_updates: int = 10_000,
    num_steps: int = 60,
    training: Training = Training(),
    checkpoint: str | pathlib.Path | None = None,
    progress: bool = True,
) -> Any:
    """The bridge from the process's source to p*, as a sampler: `num_stages` times the adjoint match, then the corrector's.

    process = processes.gaussian(paths.brownian(sigma, source), shape); problem = problems.sampling(target, process).
    The corrector starts as the base's score, that is phi_hat = the base's marginals, as in iterative proportional fitting
    that starts from the base: with a narrow source it is nearly right at once. (The paper starts h at 0: phi_hat constant.)
    num_updates: of the control, in all stages together; the corrector gets as many. A stage starts with the averaged parameters
    of its last and a new buffer; the optimizer goes on, its learning rate a cosine over all stages. key, training and
    checkpoint: as in `fit`, but for a pilot, which there is none. A source that is not Gaussian
    (`process._replace(initial=..., log_density=...)`, the density that of the base's end) can be learned with the two
    objectives, but the weights here are wrong for it.

    Draws weigh as those of `bridges.dynamics`: E[w] = Z for any number of steps and stages, and no spread at the bridge but for
    the grid. `Sampler.params` are the control's, `Sampler.extra` the corrector's. When not to use it: where a source of width
    0 will do (`fit`, which holds on to modes by weights: this is on-policy and may forget one).
    Raises TypeError or ValueError at once for arguments that cannot work, FloatingPointError when nothing finite is left to
    learn from. Source: Liu et al. (2025), arXiv 2506.22565.
    """
    _bridge_gate(key, problem, (num_stages, num_updates, num_steps), training, checkpoint)
    replay = training.replay or bridge.REPLAY
    grid = training.grid or preparing.default_grid(problem)
    rounds = -(-num_updates // (num_stages * replay.gradient_steps))
    of = _of(problem, grid(num_steps), network, corrector, replay)
    trainer = _trainer(of, training, num_stages, rounds)
    record = fitted.record_of(problem, {}, network, of.loss, of.objective)
    named = (None if checkpoint is None else identity.probe(problem), *map(identity.told, (network, corrector)))
    settings = (record, *named, num_stages, num_updates, num_steps, grid(num_steps).tolist(), replay, training.learning_rate)
    done = through(
        key,
        trainer,
        2 * num_stages * rounds,
        training,
        chunk=_chunk(trainer, rounds),
        checkpoint=checkpoint,
        fingerprint=str((*settings, training.average, training.max_norm, identity.told(training.optimizer))),
        progress=progress,
    )
    particles = num_stages * (rounds * replay.num_particles + replay.capacity)
    made = fitted.Fitted(problem, of.control, of.objective, grid, training.sampling_steps, record, particles)
    return fitted.samplers(key, done, made)


class _Bridge(NamedTuple):
    """Both networks of a bridge, what each is trained by, and the objective of the sampler, with its constructor."""

    control: Network
    corrector: Network
    adjoint: Objective
    correction: Objective
    objective: Objective
    loss: Any


def _of(problem: Problem, times: Array, network: Any, corrector: Any, replay: Replay) -> _Bridge:
    control, other = preparing.made(network, problem), preparing.made(corrector, problem)
    adjoint = bridge.adjoint_bridge_matching(problem, control, times, corrector=other, replay=replay)
    correction = bridge.corrector_matching(problem, other, times, control=control, replay=replay)
    loss = functools.partial(bridge.schroedinger, corrector=other)
    return _Bridge(control, other, adjoint, correction, loss(problem, control, times, replay=replay), loss)


def _trainer(of: _Bridge, training: Training, stages: int, rounds: int) -> Trainer:
    """`stages` times two turns of `rounds` rounds each."""
    optimizer = optimizer_of(of.adjoint, training, stages * rounds * of.adjoint.replay.gradient_steps)
    first, second = (
        train.trainer(objective, network, optimizer, average=training.average, max_norm=training.max_norm)
        for objective, network in ((of.adjoint, of.control), (of.correction, of.corrector))
    )
    return turns.alternate(first, second, rounds)


def _chunk(trainer: Trainer, rounds: int) -> int:
    """Rounds of a chunk that divide a turn: none is made beyond the last turn, and a turn that learns nothing is seen."""
    return max(size for size in range(1, chunk_of(trainer) + 1) if rounds % size == 0)


def _bridge_gate(key: Any, problem: Any, counts: tuple[int, ...], training: Any, checkpoint: Any) -> None:
    findings = validate.Findings("fit_bridge")
    findings.within(validate.one_or_more_keys, key, "fit_bridge(key, problem)")
    for name, count in zip(("num_stages", "num_updates", "num_steps"), counts, strict=True):
        findings.within(validate.positive_int, name, count)
    validate.training(training, findings)
    validate.checkpoint(checkpoint, findings)
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
