"""`fit`: from a density to a sampler, with defaults that need no tuning; `load`: back from disk."""

import inspect
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import checkpoints, checks, losses, pilot, preparing, problems, run, sampling, train
from tiltjax.coordinates import Coordinates
from tiltjax.types import Key, Network, Objective, Problem, Replay, Target, is_key

CHUNK_UPDATES = 100


def fit(
    key: Key,
    problem: Target | Problem,
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

    Raises ValueError or TypeError at once for arguments that cannot work, FloatingPointError when nothing finite is left to
    learn from. When not to use it: a log-concave posterior of a few dozen dimensions, where NUTS is cheaper.
    """
    checks.check_key(key)
    return _fit(
        key,
        problem,
        loss=loss,
        network=network,
        optimizer=optimizer,
        num_updates=num_updates,
        learning_rate=learning_rate,
        num_steps=num_steps,
        grid=grid,
        sampling_steps=sampling_steps,
        replay=replay,
        average=average,
        max_norm=max_norm,
        location=location,
        scale=scale,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
    )[0]


def fit_seeds(keys: Key, problem: Target | Problem, **arguments: Any) -> list[sampling.Sampler]:
    """`fit` for S keys (S,) at once, as one vmapped program: a sampler for each, with the arguments of `fit`.

    All share the pilot, that of the first key, so their spread is that of training. Each report has a share, 1 / S, of the
    seconds. Memory is S times that of one fit. It pays on an accelerator that one fit does not fill; when not to use it: on a
    CPU, where one after another is as fast.

    Raises what `fit` raises, FloatingPointError as soon as one seed finds nothing finite to learn from.
    """
    if not is_key(keys) or keys.ndim != 1 or not keys.size:
        got = f"shape {keys.shape}" if is_key(keys) else checks.type_name(keys)
        raise TypeError(f"keys must be typed PRNG keys of shape (S,), jax.random.split(key, S); got {got}.")
    given = inspect.signature(fit).bind(keys[0], problem, **arguments)
    given.apply_defaults()
    return _fit(keys, *given.args[1:], **given.kwargs)


def _fit(
    key: Key,
    problem: Target | Problem,
    *,
    loss: Callable[..., Objective],
    network: Callable[[Problem], Network] | Network | None,
    optimizer: Any,
    num_updates: int,
    learning_rate: float | None,
    num_steps: int,
    grid: Callable[[int], Array] | None,
    sampling_steps: int,
    replay: Replay | None,
    average: float,
    max_norm: float,
    location: Array | float,
    scale: float,
    checkpoint: str | pathlib.Path | None,
    checkpoint_seconds: float,
    progress: bool,
) -> list[sampling.Sampler]:
    """A sampler for each key: of shape () for one, (S,) for S in one program."""
    checks.check_counts(num_updates, num_steps, sampling_steps, learning_rate)
    if not isinstance(problem, Problem):
        problems.check_target(problem)
    network = preparing.default_network(problem) if network is None else network
    checks.check_recipes(loss, network, optimizer)
    split = jax.vmap(jax.random.split)(jnp.atleast_1d(key))
    key_pilot, key_train = split[0, 0], split[:, 1].reshape(key.shape)
    began = time.perf_counter()
    with run.stage(progress, "pilot: where the target is, and how wide"):
        found = None
        if isinstance(problem, Target):
            target, found = preparing.piloted(key_pilot, problem, location, scale)
            problem = preparing.whitened(target, found.coordinates, found.resolution)
    pilot_seconds = time.perf_counter() - began

    net = network if isinstance(network, Network) else network(problem)
    times_of = grid or preparing.default_grid(problem)
    objective = loss(problem, net, times_of(num_steps))
    replay = objective.replay if replay is None else replay
    learning_rate = objective.learning_rate if learning_rate is None else learning_rate
    schedule = optax.cosine_decay_schedule(learning_rate, num_updates)
    trainer = train.trainer(objective, net, _made(optimizer, schedule), replay=replay, average=average, max_norm=max_norm)

    num_rounds = -(-num_updates // replay.gradient_steps)
    chunk = max(1, CHUNK_UPDATES // replay.gradient_steps)
    record = _record(problem, found, network)
    settings = (
        record,
        checks.probe(problem),
        checks.told(network),
        checks.told(loss),
        objective.gradient_evaluations,
        num_updates,
        num_steps,
        learning_rate,
        average,
        max_norm,
        "" if isinstance(optimizer, optax.GradientTransformation) else checks.told(optimizer),
    )
    done = run.run(
        train.together(trainer) if key.ndim else trainer,
        key_train,
        num_rounds,
        chunk=chunk,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=f"{settings} {replay._replace(weighting=None)} {checks.name_of(replay.weighting)}",
        progress=progress,
        updates=replay.gradient_steps,
    )
    learned = done.state.average
    evaluations = 0 if found is None else found.gradient_evaluations
    report = _report(done, objective, net, replay, num_rounds, num_steps, evaluations, pilot_seconds)

    def sampler_of(ratio: Array | None) -> sampling.Sampler:
        told = record if ratio is None else {**record, "ratio": ratio.tolist()}
        own = problem if ratio is None else problems.narrowed(problem, ratio)
        return sampling.sampler(own, net, learned.control, times_of, num_steps=sampling_steps, record=told, report=report)

    ratio = None if objective.ratio is None else objective.ratio(learned.extra)
    if not key.ndim:
        return [sampler_of(ratio)]
    shared = [sampler_of(None)] * key.size if ratio is None else [sampler_of(own) for own in ratio]
    return [_of_seed(sampler, i, key.size) for i, sampler in enumerate(shared)]


def _of_seed(sampler: sampling.Sampler, i: int, num_seeds: int) -> sampling.Sampler:
    """The i-th of samplers that were trained together. Where their steps are the base's, their program is compiled once."""
    report = sampler.report
    history = jax.tree.map(lambda leaf: leaf[:, i], report.history)
    share = report._replace(
        history=history,
        compile_seconds=report.compile_seconds / num_seeds,
        train_seconds=report.train_seconds / num_seeds,
        pilot_seconds=report.pilot_seconds / num_seeds,
        nonfinite_updates=int(jnp.sum(history.nonfinite_updates)),
    )
    return sampler._replace(params=jax.tree.map(lambda leaf: leaf[i], sampler.params), report=share)


def load(
    directory: str | pathlib.Path,
    problem: Target | Problem,
    *,
    network: Callable[[Problem], Network] | Network | None = None,
    grid: Callable[[int], Array] | None = None,
) -> sampling.Sampler:
    """A sampler that `Sampler.save` wrote, for the target or problem that it was fitted to.

    Densities and networks are code and are not saved: pass those of the fit. Raises FileNotFoundError for a directory that
    holds no sampler, ValueError when problem or network do not fit what was saved.
    """
    record = checkpoints.load_record(directory)
    got = tuple(problem.shape if isinstance(problem, Target) else problems.user_shape(problem))
    if got != tuple(record["shape"]):
        raise ValueError(f"the saved sampler has particles of shape {tuple(record['shape'])}; got a problem of shape {got}.")
    if isinstance(problem, Target):
        if "location" not in record:
            raise ValueError("this sampler was fitted to a problem, not to a target; pass load the same problem.")
        problem = preparing.whitened(problem, _recorded(record), record["resolution"])
    if "ratio" in record:
        problem = problems.narrowed(problem, jnp.asarray(record["ratio"]))
    network = preparing.default_network(problem) if network is None else network
    net = network if isinstance(network, Network) else network(problem)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = checkpoints.load_arrays(directory, shapes, checks.same_network(record.get("network", ""), network))
    if grid is None:
        grid = sampling.refined_grid(record["grid"]) if "grid" in record else preparing.default_grid(problem)
    return sampling.sampler(problem, net, params, grid, num_steps=record["num_steps"], record=record)


def _record(problem: Problem, found: pilot.Pilot | None, network: Any) -> dict[str, Any]:
    """What `load` reads: of a target, the pilot's coordinates too."""
    coordinates = {} if found is None else found.coordinates._asdict()
    return {
        "format": 1,
        "shape": list(problems.user_shape(problem)),
        "resolution": problem.resolution,
        "network": checks.name_of(network),
        **{name: part.tolist() for name, part in coordinates.items() if part is not None},
    }


def _recorded(record: dict[str, Any]) -> Coordinates:
    """The pilot's coordinates, from a record."""
    return Coordinates(**{name: jnp.asarray(record[name]) for name in Coordinates._fields if name in record})


def _report(
    done: run.Run,
    objective: Objective,
    net: Network,
    replay: Replay,
    rounds: int,
    steps: int,
    pilot_evaluations: int,
    pilot_seconds: float,
) -> sampling.Report:
    particles = rounds * replay.num_particles + replay.capacity
    informed = net.gradient_evaluations * (
        particles * steps + rounds * replay.gradient_steps * (replay.batch_size or replay.num_particles)
    )
    return sampling.Report(
        history=done.history,
        compile_seconds=done.compile_seconds,
        train_seconds=done.train_seconds,
        pilot_seconds=pilot_seconds,
        energy_evaluations=particles * objective.energy_evaluations,
        gradient_evaluations=particles * objective.gradient_evaluations + informed + pilot_evaluations,
        nonfinite_updates=int(jnp.sum(done.history.nonfinite_updates)),
    )


def _made(optimizer: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(schedule)
