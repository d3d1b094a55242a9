"""Sequential Monte Carlo on the dynamics of any problem: walkers with weights, resampled when the weights are spent.

Walkers are resampled by their weight times psi_t, a potential of the dynamics, and go on with the weight 1 / psi_t: whatever
psi_t is, E[exp(log_z)] = Z, at any number of particles, where the dynamics' weights have the mean Z (`Dynamics.unbiased`).
Annealed, with a zero drift, this is tempered SMC (psi = 1: the weight is that of rho_t already); memoryless, the potential
looks ahead to the reward. With a learned control the same algorithm needs fewer steps. Moves adapt their metric and step size
to the other half of the walkers: what is left of a bias vanishes with the number of particles.
Sources: Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68; Albergo & Vanden-Eijnden (2024), arXiv 2410.02711; for the
potentials Chopin & Papaspiliopoulos (2020), An Introduction to Sequential Monte Carlo, chapter 10.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import hamiltonian, sde, validate, weights
from tiltjax.types import ControlFn, Dynamics, Key, Problem, Walker

Scheme = Callable[[Key, Array, int], Array]


class Moves(NamedTuple):
    """Rejuvenation at every step: `num` Hamiltonian moves of `leapfrog` steps (1: MALA), leaving rho_t invariant."""

    num: int = 1
    leapfrog: int = 1
    step_size: float = 0.5


class Ensemble(NamedTuple):
    """Weighted particles of p* and the estimate of log Z of one run.

    x (n, *shape) in the user's coordinates, log_weight (n,) since the last resampling with log mean exp(log_weight) = log_z.
    Along the path, one a step: ess (N,) before resampling, resampled (N,), acceptance (N,) of the moves, and log_z_path (N,),
    the mean weight so far (log Z_t of rho_t where the dynamics follow one). The draws are correlated by resampling: for the
    error of log_z repeat runs (`vmap` over keys).
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
    """`num_particles` walkers of a problem through the grid, under the control (or drift) control(t, x).

    They are resampled by `scheme` when the ESS of weight times potential falls below ess_floor (0: never; 1: at every step).
    Costs num_particles (N + 1) gradients of the density where the problem is annealed, N + 1 values where it is memoryless, and
    (leapfrog + 1) gradients more for a move. jit and vmap it over keys.
    Raises ValueError for a floor outside [0, 1], or moves where the density of the walkers is not known.
    """
    findings = validate.Findings("smc.run")
    findings.within(validate.between, "ess_floor", "the ESS below which walkers are resampled, a fraction", ess_floor, 0, 1)
    findings.within(validate.positive_int, "num_particles", num_particles)
    findings.unless(
        moves is None or num_particles >= 4,
        f"moves adapt to the other half of the walkers, which takes 4 or more of them; got num_particles={num_particles}.",
    )
    log_rho = None if moves is None else findings.within(validate.log_rho, problem, "moves")
    findings.stop()
    of = problem.dynamics
    key_start, key_steps = jax.random.split(key)
    begin = jax.vmap(lambda k: of.start(control, times[0], of.initial(k)))
    walkers = begin(jax.random.split(key_start, num_particles))
    zero = jnp.zeros((), walkers.log_weight.dtype)
    state = _State(walkers, zero, zero + (0.5 if moves is None else moves.step_size))

    def step(state: _State, k: Array, t: Array, t1: Array) -> tuple[_State, tuple[Array, ...]]:
        key_noise, key_resample, key_move = jax.random.split(jax.random.fold_in(key_steps, k), 3)
        xi = jax.random.normal(key_noise, state.walkers.x.shape, state.walkers.x.dtype)
        walkers, _ = jax.vmap(lambda w, z: of.step(control, t, t1, w, z))(state.walkers, xi)
        ahead = jax.vmap(lambda w: of.potential(t1, w))(walkers)
        ahead = jnp.where(jnp.isfinite(ahead), ahead, 0.0)  # any potential will do
        log_w = jnp.where(jnp.isfinite(walkers.log_weight), walkers.log_weight, -jnp.inf)
        ess = weights.ess(log_w + ahead)
        spent = ess < ess_floor
        arrived = state._replace(walkers=walkers._replace(log_weight=log_w))
        state = jax.lax.cond(spent, lambda: _resampled(key_resample, arrived, ahead, scheme), lambda: arrived)
        log_z = state.log_z + _log_mean(state.walkers.log_weight)
        if moves is None or log_rho is None:
            return state, (ess, spent, zero, log_z)
        state, acceptance = _moved(key_move, of, lambda x: log_rho(t1, x), control, t1, state, moves)
        return state, (ess, spent, acceptance, log_z)

    state, (ess, spent, acceptance, log_z) = sde.travel(step, state, times)
    log_weight = jax.vmap(of.finish)(state.walkers) + state.log_z
    log_weight = jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)
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
    rescaled = validate.rescaled(problem, "smc.tune")

    def louder(factor: Array) -> Problem:  # nothing that was learned depends on the noise
        return problem._replace(motion=lambda process, reward, resolution: rescaled(factor))

    def score(key: Key, noise: Array, strength: Array) -> Array:
        changed = louder(noise)
        out = run(changed, lambda t, x: strength * control(t, x), times, key, num_particles, ess_floor=1.0)
        value = jnp.sum(jnp.log(out.ess))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    grid = jnp.stack(jnp.meshgrid(jnp.asarray(noises), jnp.asarray(strengths), indexing="ij"), -1).reshape(-1, 2)
    found = jax.jit(lambda key: jax.lax.map(lambda pair: score(key, pair[0], pair[1]), grid))(key)
    noise, strength = (float(value) for value in grid[int(jnp.argmax(found))])
    return Tuned(
        louder(jnp.asarray(noise)),
        lambda t, x: strength * control(t, x),
        noise,
        strength,
        found.reshape(len(noises), len(strengths)),
    )


def _resampled(key: Key, state: _State, ahead: Array, scheme: Scheme) -> _State:
    """Walkers drawn by weight times potential, with the weight 1 / potential; the mean weight goes to log_z."""
    total = state.walkers.log_weight + ahead
    index = scheme(key, total, total.size)
    picked = jax.tree.map(lambda leaf: leaf[index], state.walkers)
    return state._replace(walkers=picked._replace(log_weight=-ahead[index]), log_z=state.log_z + _log_mean(total))


def _moved(
    key: Key, of: Dynamics, log_rho: Callable[[Array], Array], control: ControlFn, t: Array, state: _State, moves: Moves
) -> tuple[_State, Array]:
    """Moves that leave rho_t invariant leave the weights as they are.

    One half of the walkers moves in the metric of the other, then the other way round: a metric that depends on the walker
    that it moves is not that of a reversible move, and E[exp(log_z)] would be off by some d / n at all numbers of steps.
    """
    shape, n = state.walkers.x.shape, state.walkers.log_weight.size
    flat, half = state.walkers.x.reshape(n, -1), n // 2
    key_first, key_second = jax.random.split(key)
    how = moves.num, moves.leapfrog

    def density(x: Array) -> Array:
        return log_rho(x.reshape(shape[1:]))

    first = hamiltonian.moves(key_first, density, flat[:half], state.step_size, *how, others=flat[half:])
    second = hamiltonian.moves(key_second, density, flat[half:], first.step_size, *how, others=first.x)
    x = jnp.concatenate([first.x, second.x])
    walkers = jax.vmap(lambda y: of.start(control, t, y))(x.reshape(shape))
    state = _State(walkers._replace(log_weight=state.walkers.log_weight), state.log_z, second.step_size)
    return state, 0.5 * (first.acceptance + second.acceptance)


def _log_mean(log_weight: Array) -> Array:
    return jax.nn.logsumexp(log_weight) - jnp.log(log_weight.size)
