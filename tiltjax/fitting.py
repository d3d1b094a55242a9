"""`fit`: from a density to a sampler, with defaults that need no tuning."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tiltjax import fitted, identity, losses, preparing, sampling, validate
from tiltjax.training import num_rounds, replay_of, train
from tiltjax.types import Family, Key, Network, Objective, Problem, Target, Training


def fit(
    key: Key,
    problem: Target | Problem | Family,
    *,
    loss: Callable[..., Objective] = losses.minimum_variance,
    network: Callable[[Problem], Network] | Network | None = None,
    num_updates: int = 20_000,
    num_steps: int = 60,
    start: sampling.Sampler | None = None,
    training: Training = Training(),
    checkpoint: str | pathlib.Path | None = None,
    progress: bool = True,
) -> Any:
    """Trains a control for a target, a problem or a family, and returns the `Sampler`; for keys (S,), a list of S samplers.

    For a target, a short pilot (`pilot.pilot`) sets the map to the base's units and the resolution, so that the units
    of the density do not matter. A problem is taken as it stands.

    loss: a constructor of `tiltjax.losses`, or your own `(problem, network, times) -> Objective` (options: functools.partial).
    network: a constructor `problem -> Network`, or a Network (default `default_network`). num_updates: gradient updates.
    num_steps: of the time grid in training. training: all that is seldom changed, `Training(learning_rate=..., replay=...)`.
    start: a sampler to go on from, fitted or loaded. Its averaged parameters are the first ones here, and for a target its
    coordinates are kept, without a pilot; pass the network of its fit. The optimizer, its schedule and the buffer are new.
    checkpoint: a directory, written every training.checkpoint_seconds; a killed run that is started again with the same
    arguments goes on from it, to bitwise the same parameters.
    key: keys (S,) train S seeds as one vmapped program. They share the pilot, that of the first key, so their spread is that
    of training; each report has a share, 1 / S, of the seconds. Memory is S times that of one fit. It pays on an accelerator
    that one fit does not fill; on a CPU one after another is as fast.

    Raises ValueError or TypeError at once for arguments that cannot work, all that is wrong together, before the density is
    evaluated; FloatingPointError when nothing finite is left to learn from, in one seed or in one of several.
    When not to use it: a log-concave posterior of a few dozen dimensions, where NUTS is cheaper.
    """
    _gate(key, problem, loss, network, (num_updates, num_steps), start, training, checkpoint)
    key_pilot, key_train = _split(key)
    ready = preparing.ready(key_pilot, problem, network, training, None if start is None else start.record, progress)
    objective = loss(ready.problem, ready.network, ready.grid(num_steps))
    record = fitted.record_of(ready.problem, ready.coordinates, ready.named, loss, objective)
    objective = objective._replace(identity=_identity(ready, objective, loss, num_steps, record, checkpoint is not None))
    first = None if start is None else start.learned
    if start is not None and first is not None and start.record.get("loss") != record["loss"]:
        first = first._replace(extra=None)  # it is what another loss learned
    done = train(
        key_train,
        objective,
        ready.network,
        num_updates,
        training=training,
        start=first,
        checkpoint=checkpoint,
        progress=progress,
    )
    return fitted.samplers(key, done, _fitted(ready, objective, num_updates, num_steps, training, record))


def _split(key: Key) -> tuple[Key, Key]:
    """The key of the pilot, one for all, and the key or keys of training."""
    split = jax.vmap(jax.random.split)(jnp.atleast_1d(key))
    return split[0, 0], split[:, 1].reshape(key.shape)


def _identity(
    ready: preparing.Ready, objective: Objective, loss: Any, num_steps: int, record: dict[str, Any], kept: bool
) -> str:
    """What tells this run's recipes from others'; the density is evaluated only where a checkpoint is kept."""
    density = identity.probe(ready.problem) if kept else None
    told = identity.told(ready.named), identity.told(loss)
    return str((record, density, *told, objective.gradient_evaluations, num_steps, ready.grid(num_steps).tolist()))


def _fitted(
    ready: preparing.Ready, objective: Objective, num_updates: int, num_steps: int, training: Training, record: dict[str, Any]
) -> fitted.Fitted:
    replay, rounds = replay_of(objective, training), num_rounds(objective, training, num_updates)
    particles = rounds * replay.num_particles + replay.capacity
    updated = rounds * replay.gradient_steps * (replay.batch_size or replay.num_particles)
    return fitted.Fitted(
        problem=ready.problem,
        network=ready.network,
        objective=objective,
        grid=ready.grid,
        num_steps=training.sampling_steps,
        record=record,
        particles=particles,
        informed_calls=particles * num_steps + updated,
        pilot_evaluations=ready.gradient_evaluations,
        pilot_seconds=ready.seconds,
    )


def _gate(
    key: Any, problem: Any, loss: Any, network: Any, counts: tuple[int, int], start: Any, training: Any, checkpoint: Any
) -> None:
    """Raises for all that cannot work, before any of it is evaluated."""
    findings = validate.Findings("fit")
    findings.within(validate.one_or_more_keys, key, "fit(key, target)")
    for name, count in zip(("num_updates", "num_steps"), counts, strict=True):
        findings.within(validate.positive_int, name, count)
    validate.training(training, findings)
    validate.checkpoint(checkpoint, findings)
    validate.recipes(loss, network, findings)
    validate.wrong_options(findings, validate.options_of(loss))
    if not isinstance(problem, Problem | Family):
        findings.within(validate.target, problem)
        if isinstance(problem, Target) and isinstance(training, Training):
            findings.within(validate.location, training.location, problem.shape, problem.centred)
    if not findings.found:
        stand_in = preparing.stand_in(problem) if isinstance(problem, Target) else problem
        needed = validate.needs_of(loss)
        made = preparing.made(network, stand_in) if "potential" in needed or start is not None else None
        validate.lacking(findings, needed, identity.name_of(loss), stand_in, made)
        if training.grid is not None:
            findings.within(validate.times, training.grid, counts[1])
        if start is not None:
            named = preparing.default_network(problem) if network is None else network
            findings.within(_goes_on, start, problem, made, named)
    findings.stop()


def _goes_on(start: Any, problem: Target | Problem | Family, made: Network, named: Any) -> None:
    """Raises unless training can begin at a sampler's parameters."""
    if not isinstance(start, sampling.Sampler):
        raise TypeError(
            f"start must be a sampler that `fit` returned or `load` read; got {type(start).__name__}. For parameters alone: "
            "tiltjax.training.train(..., start=)."
        )
    shape = fitted.shape_of(problem)
    if tuple(start.record["shape"]) != shape:
        raise ValueError(f"start draws particles of shape {tuple(start.record['shape'])}; got a problem of shape {shape}.")
    if isinstance(problem, Target) and "location" not in start.record:
        raise ValueError("start was fitted to a problem, not to a target: pass the same problem.")
    trees = jax.eval_shape(made.init, jax.random.key(0)), start.params
    expected, got = ([str(jax.tree.structure(tree)), *map(jnp.shape, jax.tree.leaves(tree))] for tree in trees)
    if expected != got:
        raise ValueError(
            "start has parameters of another shape than the network. "
            + identity.same_network("fit", start.record.get("network", ""), named)
        )
