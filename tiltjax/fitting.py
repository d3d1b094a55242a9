"""`fit`: from a density to a sampler, with defaults that need no tuning."""

import inspect
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import families, identity, losses, pilot, plans, preparing, run, sampling, train, validate
from tiltjax.types import Family, Key, Network, Objective, Problem, Replay, Target


class Arguments(NamedTuple):
    """Those of `fit`, as they were given."""

    loss: Any
    network: Any
    optimizer: Any
    num_updates: int
    learning_rate: float | None
    num_steps: int
    grid: Callable[[int], Array] | None
    sampling_steps: int
    replay: Replay | None
    average: float
    max_norm: float
    location: Array | float
    scale: float
    checkpoint: str | pathlib.Path | None
    checkpoint_seconds: float
    progress: bool


def fit(
    key: Key,
    problem: Target | Problem | Family,
    *,
    loss: Callable[..., Objective] = losses.minimum_variance,
    network: Callable[[Problem], Network] | Network | None = None,
    optimizer: optax.GradientTransformation | Callable[[optax.Schedule], optax.GradientTransformation] = optax.adam,
    num_updates: int = 20_000,
    learning_rate: float | None = None,
    num_steps: int = 60,
    grid: Callable[[int], Array] | None = None,
    sampling_steps: int = 200,
    replay: Replay | None = None,
    average: float = 0.998,
    max_norm: float = 1.0,
    location: Array | float = 0.0,
    scale: float = 1.0,
    checkpoint: str | pathlib.Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool = True,
) -> sampling.Sampler:
    """Trains a control for a target or a problem, and returns the sampler.

    For a target, a short pilot (`pilot.pilot`) sets the map to the base's units and the resolution, so that the units
    of the density do not matter; `location` and `scale` say where to look if the target is more than 100 scales away from 0.
    A problem is taken as it stands.

    loss: a constructor of `tiltjax.losses`, or your own `(problem, network, times) -> Objective` (options: functools.partial).
    network: a constructor `problem -> Network`, or a Network (default `default_network`). optimizer: a constructor of optax's,
    called with the schedule, a cosine from learning_rate (default the loss's own) to 0; or one made already, as it stands.
    num_updates: gradient updates. num_steps, grid(num_steps) -> times: the time grid in training (default log-SNR);
    sampling_steps: the default number of steps of draws. replay: overrides the loss's own. checkpoint: a directory, written
    every checkpoint_seconds; a killed run that is started again with the same arguments goes on from it, to bitwise the same
    parameters.

    Raises ValueError or TypeError at once for arguments that cannot work, all that is wrong together, before the density is
    evaluated; FloatingPointError when nothing finite is left to learn from.
    When not to use it: a log-concave posterior of a few dozen dimensions, where NUTS is cheaper.
    """
    given = locals()
    return _fitted(key, problem, Arguments(**{name: given[name] for name in Arguments._fields}))[0]


def fit_seeds(keys: Key, problem: Target | Problem | Family, **arguments: Any) -> list[sampling.Sampler]:
    """`fit` for S keys (S,) at once, as one vmapped program: a sampler for each, with the arguments of `fit`.

    All share the pilot, that of the first key, so their spread is that of training. Each report has a share, 1 / S, of the
    seconds. Memory is S times that of one fit. It pays on an accelerator that one fit does not fill; when not to use it: on a
    CPU, where one after another is as fast.

    Raises what `fit` raises, FloatingPointError as soon as one seed finds nothing finite to learn from.
    """
    given = inspect.signature(fit).bind(keys, problem, **arguments)
    given.apply_defaults()
    return _fitted(keys, problem, Arguments(**given.kwargs), several=True)


def _fitted(key: Key, problem: Target | Problem | Family, a: Arguments, several: bool = False) -> list[sampling.Sampler]:
    """A sampler for each key: of shape () for one, (S,) for S in one program."""
    _gate(key, problem, a, several)
    network = preparing.default_network(problem) if a.network is None else a.network
    split = jax.vmap(jax.random.split)(jnp.atleast_1d(key))
    key_pilot, key_train = split[0, 0], split[:, 1].reshape(key.shape)
    began = time.perf_counter()
    with run.stage(a.progress, "pilot: where the target is, and how wide"):
        found = None
        if isinstance(problem, Target):
            target, found = preparing.piloted(key_pilot, problem, a.location, a.scale)
            problem = preparing.whitened(target, found.coordinates, found.resolution)
    plan = _plan(problem, network, found, a)._replace(pilot_seconds=time.perf_counter() - began)
    return plans.trained(key_train, plan, plans.Storage(a.checkpoint, a.checkpoint_seconds, a.progress))


def _gate(key: Any, problem: Any, a: Arguments, several: bool) -> None:
    """Raises for all that cannot work, before any of it is evaluated."""
    findings = validate.Findings("fit_seeds" if several else "fit")
    findings.within(*((validate.keys, key) if several else (validate.key, key, "fit(key, target)")))
    for name in ("num_updates", "num_steps", "sampling_steps"):
        findings.within(validate.positive_int, name, getattr(a, name))
    if a.learning_rate is not None:
        findings.within(validate.positive, "learning_rate", "where the schedule starts", a.learning_rate)
    validate.averaging(a.average, a.max_norm, findings)
    if a.replay is not None:
        validate.replay(a.replay, findings)
    validate.storage(a.checkpoint, a.checkpoint_seconds, findings)
    validate.recipes(a.loss, a.network, a.optimizer, findings)
    validate.wrong_options(findings, validate.options_of(a.loss))
    if not isinstance(problem, Problem | Family):
        findings.within(validate.target, problem)
        findings.within(validate.positive, "scale", "the pilot's idea of the target's width", a.scale)
        if isinstance(problem, Target):
            findings.within(validate.location, a.location, problem.shape, problem.centred)
    if not findings.found:
        stand_in = preparing.stand_in(problem) if isinstance(problem, Target) else problem
        needed = validate.needs_of(a.loss)
        made = preparing.made(a.network, stand_in) if "potential" in needed else None
        validate.lacking(findings, needed, identity.name_of(a.loss), stand_in, made)
        if a.grid is not None:
            findings.within(validate.times, a.grid, a.num_steps)
    findings.stop()


def _plan(problem: Problem | Family, network: Any, found: pilot.Pilot | None, a: Arguments) -> plans.Plan:
    net = preparing.made(network, problem)
    times_of = a.grid or preparing.default_grid(problem)
    objective = a.loss(problem, net, times_of(a.num_steps))
    replay = objective.replay if a.replay is None else a.replay
    learning_rate = objective.learning_rate if a.learning_rate is None else a.learning_rate
    ready = isinstance(a.optimizer, optax.GradientTransformation)
    optimizer = a.optimizer if ready else a.optimizer(optax.cosine_decay_schedule(learning_rate, a.num_updates))
    trainer = train.trainer(objective, net, optimizer, replay=replay, average=a.average, max_norm=a.max_norm)
    rounds = -(-a.num_updates // replay.gradient_steps)
    record = plans.record_of(problem, found, network, a.loss, objective)
    settings = (
        record,
        None if a.checkpoint is None else (identity.probe(problem), identity.bytes_of(families.of(problem).given)),
        identity.told(network),
        identity.told(a.loss),
        objective.gradient_evaluations,
        a.num_updates,
        a.num_steps,
        learning_rate,
        a.average,
        a.max_norm,
        "" if ready else identity.told(a.optimizer),
        replay._replace(weighting=None),
        identity.name_of(replay.weighting),
    )
    particles = rounds * replay.num_particles + replay.capacity
    updated = rounds * replay.gradient_steps * (replay.batch_size or replay.num_particles)
    return plans.Plan(
        problem=problem,
        network=net,
        objective=objective,
        trainer=trainer,
        num_rounds=rounds,
        grid=times_of,
        num_steps=a.num_steps,
        sampling_steps=a.sampling_steps,
        record=record,
        settings=settings,
        particles=particles,
        informed_calls=particles * a.num_steps + updated,
        pilot_evaluations=0 if found is None else found.gradient_evaluations,
    )
