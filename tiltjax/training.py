"""The third step of `fit`: from an objective to what was learned."""

import pathlib
from typing import Any

import optax

from tiltjax import identity, run, turns
from tiltjax import train as trainers
from tiltjax.types import Key, Learned, Network, Objective, Replay, Trainer, Training

CHUNK_UPDATES = 100


def train(
    key: Key,
    objective: Objective,
    network: Network,
    num_updates: int = 20_000,
    *,
    training: Training = Training(),
    start: Learned | None = None,
    checkpoint: str | pathlib.Path | None = None,
    progress: bool = True,
) -> run.Run:
    """`num_updates` updates on an objective, as `fit` makes them; `Run.learned` is what to draw with.

    key: one, or keys (S,) for S runs as one program; what was learned then has an axis S in front. start: parameters to begin
    from (`Run.learned`, `Sampler.learned`). checkpoint: a directory, as in `fit`; where densities or networks of one shape
    could be mistaken for each other, give the objective an `identity`. Raises ValueError for settings that cannot work,
    FloatingPointError when nothing finite is left to learn from.
    """
    replay, optimizer = replay_of(objective, training), optimizer_of(objective, training, num_updates)
    made = trainers.trainer(
        objective, network, optimizer, replay=replay, average=training.average, max_norm=training.max_norm
    )._replace(start=start)
    named = _named(objective, training, num_updates)
    known = None if checkpoint is None else identity.bytes_of((start, made.given))
    return through(
        key,
        made,
        num_rounds(objective, training, num_updates),
        training,
        checkpoint=checkpoint,
        fingerprint=str((*named, known)),
        progress=progress,
    )


def through(
    key: Key,
    trainer: Trainer,
    rounds: int,
    training: Training,
    *,
    chunk: int | None = None,
    checkpoint: str | pathlib.Path | None = None,
    fingerprint: str = "",
    progress: bool = True,
) -> run.Run:
    """`run.run` in chunks of about CHUNK_UPDATES updates; for keys (S,) one program for all."""
    return run.run(
        turns.together(trainer) if key.ndim else trainer,
        key,
        rounds,
        chunk=chunk_of(trainer) if chunk is None else chunk,
        checkpoint=checkpoint,
        checkpoint_seconds=training.checkpoint_seconds,
        fingerprint=fingerprint,
        progress=progress,
    )


def chunk_of(trainer: Trainer) -> int:
    """Rounds of about CHUNK_UPDATES updates."""
    return max(1, CHUNK_UPDATES // trainer.updates)


def replay_of(objective: Objective, training: Training) -> Replay:
    """The one asked for, else the loss's own."""
    return objective.replay if training.replay is None else training.replay


def rate_of(objective: Objective, training: Training) -> float:
    """Where the schedule starts: what was asked for, else the loss's own."""
    return objective.learning_rate if training.learning_rate is None else training.learning_rate


def num_rounds(objective: Objective, training: Training, num_updates: int) -> int:
    """Rounds that make at least `num_updates` updates."""
    return -(-num_updates // replay_of(objective, training).gradient_steps)


def optimizer_of(objective: Objective, training: Training, num_updates: int) -> optax.GradientTransformation:
    """As it was given, or made with a cosine from the learning rate to 0."""
    if isinstance(training.optimizer, optax.GradientTransformation):
        return training.optimizer
    return training.optimizer(optax.cosine_decay_schedule(rate_of(objective, training), num_updates))


def _named(objective: Objective, training: Training, num_updates: int) -> tuple[Any, ...]:
    """What a checkpoint is told of the settings."""
    ready, replay = isinstance(training.optimizer, optax.GradientTransformation), replay_of(objective, training)
    return (
        objective.identity,
        num_updates,
        rate_of(objective, training),
        training.average,
        training.max_norm,
        "" if ready else identity.told(training.optimizer),
        replay._replace(weighting=None),
        identity.name_of(replay.weighting),
    )
