"""`fit_bridge`: a Schroedinger bridge from a source to a density, by alternating two objectives of the one trainer."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import networks, processes, run, sampling, sde, train, weights
from tiltjax.losses import bridge
from tiltjax.preparing import default_grid
from tiltjax.types import Key, Learned, Metrics, Network, Objective, Params, Problem, Process, Replay, Samples, is_key

MEMORYLESS = 1e-3  # the part of Var X_1 that X_0 explains, below which the tilt is the bridge


class _Stage(NamedTuple):
    """A compiled stage: (own params, the other's params, updates done, key) -> (own params, metrics)."""

    train: Callable[[Params, Params, Array, Key], tuple[Params, Metrics]]
    updates: int


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
    progress: bool = True,
) -> sampling.Sampler:
    """The bridge from the process's source to p*, as a sampler: `num_stages` times the adjoint match, then the corrector's.

    process = processes.gaussian(paths.brownian(sigma, source), shape); problem = problems.sampling(target, process).
    The corrector starts as the base's score, that is phi_hat = the base's marginals, as in iterative proportional fitting
    that starts from the base: with a narrow source it is nearly right at once. (The paper starts h at 0: phi_hat constant.)
    num_updates: of the control, in all stages together; the corrector gets as many. A stage starts with the parameters
    of the last, a new buffer and a new Adam; the learning rate falls as a cosine over all stages. A source that is not Gaussian
    (`process._replace(initial=..., log_density=...)`, the density that of the base's end) can be learned with the two
    objectives, but the weights here are wrong for it.

    Draws carry `weights.crooks_full` with the corrector's reverse kernels (`backward`): E[w] = Z for any number of steps and
    stages, and no spread at the bridge but for the grid. `Sampler.params` is Learned(control, corrector); `tiltjax.load` does
    not rebuild a saved one. When not to use it: where a source of width 0 will do (`fit`, which holds on to modes by
    weights: this is on-policy and may forget one).
    Raises TypeError or ValueError at once for arguments that cannot work, FloatingPointError when a stage made no finite
    update. Source: Liu et al. (2025), arXiv 2506.22565.
    """
    _check(key, problem, num_stages, num_updates, num_steps)
    control = network if isinstance(network, Network) else network(problem)
    corrector = corrector if isinstance(corrector, Network) else corrector(problem)
    grid = default_grid(problem)
    times = grid(num_steps)
    adjoint = bridge.adjoint_bridge_matching(problem, control, times, corrector=corrector, replay=replay)
    correction = bridge.corrector_matching(problem, corrector, times, control=control, replay=replay)
    rounds = -(-num_updates // (num_stages * replay.gradient_steps))
    schedule = optax.cosine_decay_schedule(learning_rate, num_stages * rounds * replay.gradient_steps)
    keys = jax.random.split(key, 2 * num_stages + 2)
    params = Learned(control.init(keys[0]), corrector.init(keys[1]))
    began = time.perf_counter()
    with run.stage(progress, "compiling"):
        stages = [_stage(adjoint, control, schedule, rounds), _stage(correction, corrector, schedule, rounds)]
        stages = [_compiled(stages[0], params.control, params.extra), _compiled(stages[1], params.extra, params.control)]
    started = time.perf_counter()
    history = []
    for i, (one, two) in enumerate(zip(keys[2::2], keys[3::2], strict=True)):
        with run.stage(progress, f"stage {i + 1} of {num_stages}"):
            moved, metrics = _run(stages[0], params.control, params.extra, i, one)
            history.append(metrics)
            params = Learned(moved, _run(stages[1], params.extra, moved, i, two)[0])
    seen = num_stages * (rounds * replay.num_particles + replay.capacity)
    report = sampling.Report(
        history=jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *history),
        compile_seconds=started - began,
        train_seconds=time.perf_counter() - started,
        energy_evaluations=seen,
        gradient_evaluations=seen,
        nonfinite_updates=int(sum(jnp.sum(part.nonfinite_updates) for part in history)),
    )
    return _sampler(problem, control, corrector, params, grid, sampling_steps, report)


def backward(problem: Problem, corrector: Network, params: Params) -> Process:
    """The problem's process with the corrector's reverse kernels (`processes.backward_controlled`)."""
    return processes.backward_controlled(problem.process, lambda t, x: corrector.apply(params, t, x))


def _stage(objective: Objective, network: Network, schedule: optax.Schedule, rounds: int) -> _Stage:
    """Rounds of the trainer that start from given parameters: these are what `init` returns there."""
    updates = rounds * objective.replay.gradient_steps

    def stage(own: Params, other: Params, done: Array, key: Key) -> tuple[Params, Metrics]:
        optimizer = optax.adam(lambda count: schedule(count + done))
        warm = network._replace(init=lambda key: own)
        trainer = train.trainer(objective._replace(init=lambda: other), warm, optimizer)
        state, metrics = jax.lax.scan(lambda s, _: trainer.step(s), trainer.init(key), length=rounds)
        return state.average.control, metrics

    return _Stage(jax.jit(stage), updates)


def _compiled(stage: _Stage, own: Params, other: Params) -> _Stage:
    lowered: Any = stage.train
    return stage._replace(train=lowered.lower(own, other, jnp.zeros((), jnp.int32), jax.random.key(0)).compile())


def _run(stage: _Stage, own: Params, other: Params, index: int, key: Key) -> tuple[Params, Metrics]:
    params, metrics = stage.train(own, other, jnp.asarray(index * stage.updates, jnp.int32), key)
    if int(jnp.sum(metrics.nonfinite_updates)) == stage.updates:
        raise FloatingPointError(
            f"every update of stage {index + 1} was non-finite and was skipped. Check the density at draws of the base, "
            "lower the learning rate, or raise the problem's resolution."
        )
    return params, metrics


def _sampler(
    problem: Problem,
    control: Network,
    corrector: Network,
    params: Learned,
    grid: Callable[[int], Array],
    num_steps: int,
    report: sampling.Report,
) -> sampling.Sampler:
    def one(params: Learned, key: Key, times: Array) -> Samples:
        process = backward(problem, corrector, params.extra)
        path = sde.simulate_path(process, lambda t, x: control.apply(params.control, t, x), times, key)
        log_weight = weights.crooks_full(process, problem.reward, path)
        return Samples(problem.decode(path.x[-1]), jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf))

    def back(params: Learned, key: Key, times: Array, x: Array) -> Samples:
        process = backward(problem, corrector, params.extra)
        noised = sde.simulate_backward(process, lambda t, y: control.apply(params.control, t, y), times, key, problem.encode(x))
        return Samples(x, weights.crooks_full(process, problem.reward, noised))

    made = sampling.sampler(problem, control, params, grid, num_steps=num_steps, report=report)
    return made._replace(
        forward=jax.jit(lambda params, keys, times: jax.vmap(lambda k: one(params, k, times))(keys)),
        back=jax.jit(lambda params, keys, times, x: jax.vmap(lambda k, y: back(params, k, times, y))(keys, x)),
    )


def _check(key: Any, problem: Any, num_stages: int, num_updates: int, num_steps: int) -> None:
    if not is_key(key):
        raise TypeError(f"key must be a typed PRNG key, jax.random.key(0); got {type(key).__name__}. It comes first.")
    if not isinstance(problem, Problem):
        raise TypeError(
            f"fit_bridge needs a problem, whose process says where the source is; got {type(problem).__name__}. Use "
            "problems.sampling(target, processes.gaussian(paths.brownian(sigma, source), target.shape))."
        )
    if min(num_stages, num_updates, num_steps) < 1:
        raise ValueError(
            f"num_stages, num_updates and num_steps must be positive; got {num_stages}, {num_updates} and {num_steps}."
        )
    process = problem.process
    if process.log_density is None:
        raise ValueError("fit_bridge needs a Gaussian process; got one known by its velocity or score. Use adjoint_matching.")
    if float(process.residual(jnp.zeros(()))) > (1 - MEMORYLESS) * process.scale**2:
        raise ValueError(
            "the process is memoryless: X_0 says nothing of X_1, so the tilt is the bridge already. Use fit, or a source: "
            "paths.brownian(sigma, source)."
        )
