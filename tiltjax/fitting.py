"""`fit`: from a density to a sampler, with defaults that need no tuning; `fit_bridge`; `load`: back from disk."""

import functools
import inspect
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import checkpoints, identity, losses, networks, pilot, preparing, problems, run, sampling, train, validate
from tiltjax.coordinates import Coordinates
from tiltjax.losses import bridge
from tiltjax.types import Key, Network, Objective, Problem, Replay, Target, Trainer

CHUNK_UPDATES = 100


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


class Plan(NamedTuple):
    """All that is decided before training: what is trained, for how long, and what its sampler and its report hold."""

    problem: Problem
    network: Network
    objective: Objective
    trainer: Trainer
    num_rounds: int
    updates: int  # a round
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

    Raises ValueError or TypeError at once for arguments that cannot work, all that is wrong together, before the density is
    evaluated; FloatingPointError when nothing finite is left to learn from.
    When not to use it: a log-concave posterior of a few dozen dimensions, where NUTS is cheaper.
    """
    given = locals()
    validate.key(key, "fit(key, target)")
    return _fitted(key, problem, Arguments(**{name: given[name] for name in Arguments._fields}))[0]


def fit_seeds(keys: Key, problem: Target | Problem, **arguments: Any) -> list[sampling.Sampler]:
    """`fit` for S keys (S,) at once, as one vmapped program: a sampler for each, with the arguments of `fit`.

    All share the pilot, that of the first key, so their spread is that of training. Each report has a share, 1 / S, of the
    seconds. Memory is S times that of one fit. It pays on an accelerator that one fit does not fill; when not to use it: on a
    CPU, where one after another is as fast.

    Raises what `fit` raises, FloatingPointError as soon as one seed finds nothing finite to learn from.
    """
    validate.keys(keys)
    given = inspect.signature(fit).bind(keys[0], problem, **arguments)
    given.apply_defaults()
    return _fitted(keys, problem, Arguments(**given.kwargs))


def _fitted(key: Key, problem: Target | Problem, a: Arguments) -> list[sampling.Sampler]:
    """A sampler for each key: of shape () for one, (S,) for S in one program."""
    _gate(problem, a)
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
    return _trained(key_train, plan, Storage(a.checkpoint, a.checkpoint_seconds, a.progress))


def _gate(problem: Target | Problem, a: Arguments) -> None:
    """Raises for all that cannot work, before any of it is evaluated."""
    findings = validate.Findings("fit")
    for name in ("num_updates", "num_steps", "sampling_steps"):
        findings.within(validate.positive_int, name, getattr(a, name))
    if a.learning_rate is not None:
        findings.within(validate.positive, "learning_rate", "where the schedule starts", a.learning_rate)
    validate.averaging(a.average, a.max_norm, findings)
    if a.replay is not None:
        validate.replay(a.replay, findings)
    validate.storage(a.checkpoint, a.checkpoint_seconds, findings)
    validate.recipes(a.loss, a.network, a.optimizer, findings)
    if not isinstance(problem, Problem):
        findings.within(validate.target, problem)
        findings.within(validate.positive, "scale", "the pilot's idea of the target's width", a.scale)
    if not findings.found:
        stand_in = preparing.stand_in(problem) if isinstance(problem, Target) else problem
        needed = validate.needs_of(a.loss)
        made = preparing.made(a.network, problem, stand_in) if "potential" in needed else None
        validate.lacking(findings, needed, identity.name_of(a.loss), stand_in, made)
        if a.grid is not None:
            findings.within(validate.times, a.grid, a.num_steps)
    findings.stop()


def _plan(problem: Problem, network: Any, found: pilot.Pilot | None, a: Arguments) -> Plan:
    net = network if isinstance(network, Network) else network(problem)
    times_of = a.grid or preparing.default_grid(problem)
    objective = a.loss(problem, net, times_of(a.num_steps))
    replay = objective.replay if a.replay is None else a.replay
    learning_rate = objective.learning_rate if a.learning_rate is None else a.learning_rate
    ready = isinstance(a.optimizer, optax.GradientTransformation)
    optimizer = a.optimizer if ready else a.optimizer(optax.cosine_decay_schedule(learning_rate, a.num_updates))
    trainer = train.trainer(objective, net, optimizer, replay=replay, average=a.average, max_norm=a.max_norm)
    rounds = -(-a.num_updates // replay.gradient_steps)
    record = _record(problem, found, network, a.loss, objective)
    settings = (
        record,
        None if a.checkpoint is None else identity.probe(problem),
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
    return Plan(
        problem=problem,
        network=net,
        objective=objective,
        trainer=trainer,
        num_rounds=rounds,
        updates=replay.gradient_steps,
        grid=times_of,
        num_steps=a.num_steps,
        sampling_steps=a.sampling_steps,
        record=record,
        settings=settings,
        particles=particles,
        informed_calls=particles * a.num_steps + updated,
        pilot_evaluations=0 if found is None else found.gradient_evaluations,
    )


def _trained(key: Key, plan: Plan, storage: Storage, chunk: int | None = None) -> list[sampling.Sampler]:
    """Runs the plan, and makes a sampler for each key."""
    done = run.run(
        train.together(plan.trainer) if key.ndim else plan.trainer,
        key,
        plan.num_rounds,
        chunk=max(1, CHUNK_UPDATES // plan.updates) if chunk is None else chunk,
        checkpoint=storage.checkpoint,
        checkpoint_seconds=storage.checkpoint_seconds,
        fingerprint=str(plan.settings),
        progress=storage.progress,
        updates=plan.updates,
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
        extra=learned.extra if _remakes(plan.objective) else None,
        remade=plan.objective.problem,
    )
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
    control = network if isinstance(network, Network) else network(problem)
    other = corrector if isinstance(corrector, Network) else corrector(problem)
    grid = preparing.default_grid(problem)
    adjoint = bridge.adjoint_bridge_matching(problem, control, grid(num_steps), corrector=other, replay=replay)
    correction = bridge.corrector_matching(problem, other, grid(num_steps), control=control, replay=replay)
    rounds = -(-num_updates // (num_stages * replay.gradient_steps))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_stages * rounds * replay.gradient_steps))
    turns = train.alternate(train.trainer(adjoint, control, optimizer), train.trainer(correction, other, optimizer), rounds)
    loss = functools.partial(bridge.schroedinger, corrector=corrector)
    objective = loss(problem, control, grid(num_steps), replay=replay)
    record = _record(problem, None, network, loss, objective)
    plan = Plan(
        problem=problem,
        network=control,
        objective=objective,
        trainer=turns,
        num_rounds=2 * num_stages * rounds,
        updates=replay.gradient_steps,
        grid=grid,
        num_steps=num_steps,
        sampling_steps=sampling_steps,
        record=record,
        settings=(
            record,
            None if checkpoint is None else identity.probe(problem),
            *map(identity.told, (network, corrector)),
            num_stages,
            num_updates,
            learning_rate,
            num_steps,
            replay,
        ),
        particles=num_stages * (rounds * replay.num_particles + replay.capacity),
        informed_calls=0,
    )
    made = _trained(key, plan, Storage(checkpoint, checkpoint_seconds, progress), _chunk(plan))
    return made if key.ndim else made[0]


def _chunk(plan: Plan) -> int:
    """Rounds of a chunk that divide all rounds: none is made beyond the last turn."""
    most = max(1, CHUNK_UPDATES // plan.updates)
    return max(size for size in range(1, most + 1) if plan.num_rounds % size == 0)


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


def load(
    directory: str | pathlib.Path,
    problem: Target | Problem,
    *,
    network: Callable[[Problem], Network] | Network | None = None,
    grid: Callable[[int], Array] | None = None,
    loss: Callable[..., Objective] | None = None,
) -> sampling.Sampler:
    """A sampler that `Sampler.save` wrote, for the target or problem that it was fitted to.

    Densities, networks and losses are code and are not saved: pass those of the fit. loss: only where the dynamics were learned
    (`losses.learned_variance`, or your own) and it was not the plain constructor; of a bridge with a corrector of your own
    functools.partial(losses.bridge.schroedinger, corrector=...). Raises FileNotFoundError for a directory that holds no
    sampler, ValueError when problem, network or loss do not fit what was saved.
    """
    record = checkpoints.load_record(directory)
    got = tuple(problem.shape if isinstance(problem, Target) else problems.user_shape(problem))
    if got != tuple(record["shape"]):
        raise ValueError(f"the saved sampler has particles of shape {tuple(record['shape'])}; got a problem of shape {got}.")
    if isinstance(problem, Target):
        if "location" not in record:
            raise ValueError("this sampler was fitted to a problem, not to a target; pass load the same problem.")
        problem = preparing.whitened(problem, _recorded(record), record["resolution"])
    network = preparing.default_network(problem) if network is None else network
    net = network if isinstance(network, Network) else network(problem)
    if grid is None:
        grid = sampling.refined_grid(record["grid"]) if "grid" in record else preparing.default_grid(problem)
    objective = None if record["loss"] is None else _loss_of(record["loss"], loss)(problem, net, grid(record["num_steps"]))
    like = {
        "control": jax.eval_shape(net.init, jax.random.key(0)),
        "extra": None if objective is None else jax.eval_shape(objective.init),
    }
    saved = checkpoints.load_arrays(directory, like, identity.same_network(record.get("network", ""), network))
    return sampling.sampler(
        problem,
        net,
        saved["control"],
        grid,
        num_steps=record["num_steps"],
        record=record,
        extra=saved["extra"],
        remade=_unchanged if objective is None else objective.problem,
    )


_unchanged = Objective._field_defaults["problem"]


def _remakes(objective: Objective) -> bool:
    """Whether the dynamics of draws are made of what was learned."""
    return objective.problem is not _unchanged


def _loss_of(name: str, loss: Callable[..., Objective] | None) -> Callable[..., Objective]:
    """The loss that a sampler's dynamics were learned by."""
    named = {**{known: getattr(losses, known) for known in losses.__all__}, "schroedinger": bridge.schroedinger}
    if loss is not None:
        return loss
    if name not in named:
        raise ValueError(
            f"the dynamics of this sampler were learned by the loss {name}, which tiltjax does not have. Pass load(..., loss=) "
            "that of the fit."
        )
    return named[name]


def _record(problem: Problem, found: pilot.Pilot | None, network: Any, loss: Any, objective: Objective) -> dict[str, Any]:
    """What `load` reads: of a target, the pilot's coordinates too."""
    coordinates = {} if found is None else found.coordinates._asdict()
    return {
        "format": checkpoints.FORMAT,
        "shape": list(problems.user_shape(problem)),
        "resolution": problem.resolution,
        "network": identity.name_of(network),
        "loss": identity.name_of(loss) if _remakes(objective) else None,
        **{name: part.tolist() for name, part in coordinates.items() if part is not None},
    }


def _recorded(record: dict[str, Any]) -> Coordinates:
    """The pilot's coordinates, from a record."""
    return Coordinates(**{name: jnp.asarray(record[name]) for name in Coordinates._fields if name in record})


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
