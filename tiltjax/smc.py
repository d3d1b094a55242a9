"""Sequential Monte Carlo on annealed dynamics: walkers with weights, resampled when the weights are spent.

With a zero drift this is annealed importance sampling with resampling, that is tempered SMC; with a learned drift the same
algorithm needs fewer steps. With a base that has a density E[exp(log_z)] = Z at any number of steps and particles, as long as
the moves' step size is not adapted (adaptation costs a bias that vanishes with the number of particles).
Sources: Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68; Albergo & Vanden-Eijnden (2024), arXiv 2410.02711.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import annealing, dynamics, hamiltonian, weights
from tiltjax.dynamics import Walker
from tiltjax.sde import ControlFn
from tiltjax.types import Anneal, Key, Problem

Scheme = Callable[[Key, Array, int], Array]


class Moves(NamedTuple):
    """Rejuvenation at every step: `num` Hamiltonian moves of `leapfrog` steps (1: MALA), leaving rho_t invariant."""

    num: int = 1
    leapfrog: int = 1
    step_size: float = 0.5


class Ensemble(NamedTuple):
    """Weighted particles of p* and the estimate of log Z of one run.

    x (n, *shape) in the user's coordinates, log_weight (n,) since the last resampling with log mean exp(log_weight) = log_z.
    Along the path, one a step: ess (N,) before resampling, resampled (N,), acceptance (N,) of the moves, and log_z_path (N,)
    of rho_t. The draws are correlated by resampling: for the error of log_z repeat runs (`vmap` over keys).
    """

    x: Array
    log_weight: Array
    log_z: Array
    ess: Array
    resampled: Array
    acceptance: Array
    log_z_path: Array


class _State(NamedTuple):
    walkers: Walker
    log_z: Array  # of what was resampled away
    step_size: Array


def run(
    problem: Problem,
    control: ControlFn,
    times: Array,
    key: Key,
    num_particles: int,
    *,
    ess_floor: float = 0.5,
    scheme: Scheme = weights.resample,
    moves: Moves | None = None,
) -> Ensemble:
    """`num_particles` walkers of an annealed problem through the grid, under the drift control(t, x).

    They are resampled by `scheme` when the ESS of their weights falls below ess_floor (0: never, plain AIS; 1: at every step).
    Costs num_particles (N + 1) gradients of the density, and (leapfrog + 1) more for a move. jit and vmap it over keys.
    Raises ValueError for a problem that is not annealed, a floor outside [0, 1], or moves on a base without a density.
    """
    anneal = _check(problem, ess_floor, moves)
    key_start, key_steps = jax.random.split(key)
    begin = jax.vmap(lambda k: dynamics.start(anneal, control, times[0], problem.process.initial(k)))
    walkers = begin(jax.random.split(key_start, num_particles))
    zero = jnp.zeros((), walkers.log_weight.dtype)
    state = _State(walkers, zero, zero + (0.5 if moves is None else moves.step_size))

    def step(state: _State, k: Array) -> tuple[_State, tuple[Array, ...]]:
        t, t1 = times[k], times[k + 1]
        key_noise, key_resample, key_move = jax.random.split(jax.random.fold_in(key_steps, k), 3)
        xi = jax.random.normal(key_noise, state.walkers.x.shape, state.walkers.x.dtype)
        walkers = jax.vmap(lambda w, z: dynamics.move(anneal, control, t, t1, w, z))(state.walkers, xi)
        log_w = jnp.where(jnp.isfinite(walkers.log_weight), walkers.log_weight, -jnp.inf)
        walkers, ess = walkers._replace(log_weight=log_w), weights.ess(log_w)
        spent = ess < ess_floor
        arrived = state._replace(walkers=walkers)
        state = jax.lax.cond(spent, lambda: _resampled(key_resample, arrived, scheme), lambda: arrived)
        log_z = state.log_z + _log_mean(state.walkers.log_weight)
        state, acceptance = (state, zero) if moves is None else _moved(key_move, anneal, control, t1, state, moves)
        return state, (ess, spent, acceptance, log_z)

    state, (ess, spent, acceptance, log_z) = jax.lax.scan(step, state, jnp.arange(len(times) - 1))
    log_weight = state.walkers.log_weight + state.log_z
    x = jax.vmap(problem.decode)(state.walkers.x)
    return Ensemble(x, log_weight, _log_mean(log_weight), ess, spent, acceptance, log_z)


class Tuned(NamedTuple):
    """An annealed problem with its noise, and a drift, as `tune` found them best; `score` is of all (noises, strengths)."""

    problem: Problem
    control: ControlFn
    noise: float
    strength: float
    score: Array


def tune(
    problem: Problem,
    control: ControlFn,
    times: Array,
    key: Key,
    num_particles: int = 512,
    *,
    noises: Sequence[float] = (0.1, 0.3, 1.0, 2.0),
    strengths: Sequence[float] = (0.0, 0.5, 1.0),
) -> Tuned:
    """The factor of the noise and the strength of the drift that lose the least ESS along the path: sigma_t and g are free.

    score = sum over steps of log ESS, resampled at every step. Strength 0 is tempered SMC, so a drift that does harm is left
    out: what is tuned is not worse than the classical method, up to the scatter of num_particles. One program for all pairs.
    """
    anneal = _check(problem, 1.0, None)

    def score(key: Key, noise: Array, strength: Array) -> Array:
        sigma = lambda t: noise * anneal.noise(t)  # noqa: E731
        changed = annealed_with(problem, sigma)
        out = run(changed, lambda t, x: strength * control(t, x), times, key, num_particles, ess_floor=1.0)
        value = jnp.sum(jnp.log(out.ess))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    grid = jnp.stack(jnp.meshgrid(jnp.asarray(noises), jnp.asarray(strengths), indexing="ij"), -1).reshape(-1, 2)
    found = jax.jit(lambda key: jax.lax.map(lambda pair: score(key, pair[0], pair[1]), grid))(key)
    noise, strength = (float(value) for value in grid[int(jnp.argmax(found))])
    best = annealed_with(problem, lambda t: noise * anneal.noise(t))
    return Tuned(best, lambda t, x: strength * control(t, x), noise, strength, found.reshape(len(noises), len(strengths)))


def annealed_with(problem: Problem, noise: Callable[[Array], Array]) -> Problem:
    """The same annealed problem with other noise; nothing that was learned depends on it."""
    anneal = _check(problem, 1.0, None)
    made = annealing.anneal(anneal.base, anneal.tilt, noise)
    return problem._replace(process=annealing.process(made), anneal=made)


def _resampled(key: Key, state: _State, scheme: Scheme) -> _State:
    log_weight = state.walkers.log_weight
    index = scheme(key, log_weight, log_weight.size)
    picked = jax.tree.map(lambda leaf: leaf[index], state.walkers)
    return state._replace(
        walkers=picked._replace(log_weight=jnp.zeros_like(log_weight)), log_z=state.log_z + _log_mean(log_weight)
    )


def _moved(key: Key, anneal: Anneal, control: ControlFn, t: Array, state: _State, moves: Moves) -> tuple[_State, Array]:
    """Moves that leave rho_t invariant leave the weights as they are."""
    shape, n = state.walkers.x.shape, state.walkers.log_weight.size

    def log_rho(x: Array) -> Array:
        return anneal.log_rho(t, x.reshape(shape[1:]))

    out = hamiltonian.moves(key, log_rho, state.walkers.x.reshape(n, -1), state.step_size, moves.num, moves.leapfrog)
    x = out.x.reshape(shape)
    walkers = jax.vmap(lambda y: dynamics.start(anneal, control, t, y))(x)._replace(log_weight=state.walkers.log_weight)
    return _State(walkers, state.log_z, out.step_size), out.acceptance


def _log_mean(log_weight: Array) -> Array:
    return jax.nn.logsumexp(log_weight) - jnp.log(log_weight.size)


def _check(problem: Problem, ess_floor: float, moves: Moves | None) -> Anneal:
    if problem.anneal is None:
        raise ValueError("smc needs an annealed problem; got a memoryless one. Use problems.annealed(problem).")
    if not 0 <= ess_floor <= 1:
        raise ValueError(f"ess_floor is the ESS below which walkers are resampled, a fraction in [0, 1]; got {ess_floor}.")
    if moves is not None and problem.anneal.base.log_density is None:
        raise ValueError(
            "moves need the density of rho_t; this base has none (it is known by its velocity or score). Pass moves=None."
        )
    return problem.anneal
