"""Annealed dynamics: a tilt path r_t from r_0 = 0 to r_1 = r, and a diffusion that follows rho_t proportional to p_t exp(r_t).

    forward   dX = [v + g + sigma^2/2 (s + grad r_t)] dt + sigma dB,   X_0 ~ rho_0
    backward  drift v + g - sigma^2/2 (s + grad r_t), from rho_1 = p*
with v, s the base's velocity and score, g a learned drift and ANY sigma_t > 0. Along every path dP_backward / dP_forward =
exp(A) / Z with A the Jarzynski work: g = 0 is annealed importance sampling, the exact g has no work fluctuations at all.
Sources: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; Albergo & Vanden-Eijnden (2024), arXiv 2410.02711; Vargas et
al. (2024), arXiv 2307.01050.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import frames, networks, paths, processes, sde, validate, weights
from tiltjax.types import ControlFn, Dynamics, LogDensity, Path, Process, Rates, Walker

Tilt = Callable[[Array, Array], Array]  # (t, x) -> r_t(x)


class Fields(NamedTuple):
    """At one state: the base's velocity v and score s, grad r_t, and r_t itself."""

    velocity: Array
    score: Array
    slope: Array
    tilt: Array


class Ends(NamedTuple):
    """Where a step starts and ends; fields and drift of both states."""

    x: Array
    x1: Array
    fields: Fields
    fields1: Fields
    drift: Array
    drift1: Array


def scaled(reward: Callable[[Array], Array], schedule: Callable[[Array], Array] = lambda t: t) -> Tilt:
    """r_t = lambda(t) r, lambda from 0 to 1. With a static base (`paths.trigonometric`, scale 1) the geometric path of AIS."""
    return lambda t, x: schedule(t) * reward(x)


def denoised(process: Process, reward: Callable[[Array], Array], schedule: Callable[[Array], Array] = lambda t: t) -> Tilt:
    """r_t = lambda(t) r(D(x, t)), D = E[X_1 | X_t = x] of the base: the reward of what x will become."""

    def tilt(t: Array, x: Array) -> Array:
        return schedule(t) * reward(processes.denoise(process, t, x))

    return tilt


class Anneal(NamedTuple):
    """A tilt path r_t with r_0 constant and r_1 = r, and sigma_t > 0, any: what the dynamics on a base are made of."""

    base: Process
    tilt: Tilt
    noise: Callable[[Array], Array]


def motion(tilt: Tilt, noise: Callable[[Array], Array]) -> Callable[[Process, LogDensity, float], Dynamics]:
    """The `Problem.motion` of a tilt path. r_1 is the problem's reward: the two are given together (`problems.annealed`)."""
    return lambda process, reward, resolution: dynamics(Anneal(process, tilt, noise))


def dynamics(a: Anneal) -> Dynamics:
    """Euler-Maruyama kernels F and B of both directions, both with sigma at the middle of the step. A control is a drift g.

    With a base that has a density, log w = log rho_1(X_N) - log rho_0(X_0) + sum log B - sum log F (full Crooks): E[w] = Z at
    any number of steps. Without one, B and F are relative to the base's own kernels (g = 0, r_t = 0): exact as the step goes
    to 0. Fields and drift are evaluated once a state.
    """
    base, frame = a.base, a.base.frame

    def known(path: Path) -> Fields:
        return jax.vmap(lambda t, x: see(a, t, x))(path.times, path.x)

    def start(control: ControlFn, t: Array, x: Array) -> Walker:
        fields = see(a, t, x)
        return Walker(x, fields, control(t, x), fields.tilt)

    return Dynamics(
        shape=base.shape,
        initial=base.initial,
        start=start,
        step=functools.partial(_step, a),
        finish=lambda walker: walker.log_weight,
        potential=lambda t, walker: jnp.zeros((), walker.x.dtype),  # the weight is that of rho_t already
        back=functools.partial(_back, a),
        known=known,
        recontrolled=functools.partial(_recontrolled, a),
        increments=functools.partial(_increments, a),
        boundary=lambda path, known: known.tilt[0],
        fluctuations=lambda control, path: _increments(a, control, path, known(path)),
        evaluations=lambda num_steps: (num_steps + 1, 2 * num_steps + 1),
        grid=lambda resolution, num_steps: paths.uniform(num_steps),
        network=lambda centred: networks.drift,
        memoryless=False,
        unbiased=validate.has_density(base),
        log_rho=validate.where_dense(base, lambda t, x: a.tilt(t, x) + frames.log_marginal(frame, t, x)),
        rates=functools.partial(_rates, a),
        rescaled=lambda factor: dynamics(a._replace(noise=lambda t: factor * a.noise(t))),
    )


def see(a: Anneal, t: Array, x: Array) -> Fields:
    """All that the two kernels of a step and its weight need at a state."""
    frame, g = a.base.frame, a.base.g_base(t, x)
    tilted, slope = jax.value_and_grad(a.tilt, argnums=1)(t, x)
    return Fields(frames.velocity(frame, t, x, g), frames.score(frame, t, x, g), slope, tilted)


def _rates(a: Anneal, t: Array, x: Array) -> Rates:
    frame, g = a.base.frame, a.base.g_base(t, x)
    rise, slope = jax.grad(a.tilt, argnums=(0, 1))(t, x)
    work = rise + jnp.sum(frames.velocity(frame, t, x, g) * slope)
    return Rates(work, frames.score(frame, t, x, g) + slope)


def _middle(a: Anneal, t: Array, t1: Array) -> Array:
    return a.noise(0.5 * (t + t1))


def _clock(a: Anneal, t: Array, t1: Array) -> Array:
    """What turns a drift g into the shift c = sqrt(clock) g of the noise."""
    return (t1 - t) / jnp.square(_middle(a, t, t1))


def _step(a: Anneal, control: ControlFn, t: Array, t1: Array, walker: Walker, xi: Array) -> tuple[Walker, Array]:
    x, fields, drift, log_weight = walker
    mean, std = _kernel(t1 - t, _middle(a, t, t1), x, fields)
    x1 = sde.kernel_step(x, mean, std, jnp.sqrt(_clock(a, t, t1)) * drift, jnp.ones((), x.dtype), xi)
    fields1, drift1 = see(a, t1, x1), control(t1, x1)
    change = _work(a, t, t1, Ends(x, x1, fields, fields1, drift, drift1))
    return Walker(x1, fields1, drift1, log_weight + change), drift


def _back(a: Anneal, control: ControlFn, t: Array, t1: Array, x1: Array, xi: Array) -> tuple[Array, Array, Array]:
    dt, sigma, f1 = t1 - t, _middle(a, t, t1), see(a, t1, x1)
    drift1 = f1.velocity - 0.5 * jnp.square(sigma) * (f1.score + f1.slope) + control(t1, x1)
    x = x1 - drift1 * dt + sigma * jnp.sqrt(dt) * xi
    u = control(t, x)
    mean, std = _kernel(dt, sigma, x, see(a, t, x))
    return x, u, (x1 - mean) / std - jnp.sqrt(_clock(a, t, t1)) * u


def _recontrolled(a: Anneal, control: ControlFn, path: Path) -> Path:
    u = jax.vmap(control)(path.times[:-1], path.x[:-1])
    clock = jax.vmap(functools.partial(_clock, a))(path.times[:-1], path.times[1:])
    return path._replace(control=u, noise=path.noise + weights.column(jnp.sqrt(clock), u) * (path.control - u))


def _increments(a: Anneal, control: ControlFn, path: Path, known: Fields) -> Array:
    """Their cumulative sums weigh X_k as a draw of rho_{t_k}. The path's own drift is evaluated anew at its end alone."""
    drift = jnp.concatenate([path.control, control(path.times[-1], path.x[-1])[None]])
    states = (path.x, known, drift)
    (x, f, g), (x1, f1, g1) = (jax.tree.map(lambda leaf, of=of: leaf[of], states) for of in (slice(-1), slice(1, None)))
    ends = Ends(x, x1, f, f1, g, g1)
    return jax.vmap(functools.partial(_work, a))(path.times[:-1], path.times[1:], ends)


def _work(a: Anneal, t: Array, t1: Array, ends: Ends) -> Array:
    """The step's share of log w under the drift."""
    dt, sigma = t1 - t, _middle(a, t, t1)
    change = a.base.marginal_change(t, t1, ends.x, ends.x1, -_kernel_ratio(dt, sigma, ends, 0.0))
    return ends.fields1.tilt - ends.fields.tilt + change + _kernel_ratio(dt, sigma, ends, 1.0)


def _kernel(dt: Array, sigma: Array, x: Array, f: Fields) -> tuple[Array, Array]:
    """Mean and standard deviation of a step without a drift of its own."""
    return x + (f.velocity + 0.5 * jnp.square(sigma) * (f.score + f.slope)) * dt, sigma * jnp.sqrt(dt)


def _kernel_ratio(dt: Array, sigma: Array, ends: Ends, tilts: float) -> Array:
    """log B(x | x1) - log F(x1 | x); of the base's own kernels for tilts = 0."""
    x, x1, f, f1, g, g1 = ends
    half = 0.5 * jnp.square(sigma)
    ahead = f.velocity + half * (f.score + tilts * f.slope) + tilts * g
    back = f1.velocity - half * (f1.score + tilts * f1.slope) + tilts * g1
    # |x1 - x - a dt|^2 - |x - x1 + b dt|^2 = (b - a).(2 (x1 - x) - (a + b) dt) dt
    return jnp.sum((back - ahead) * (2 * (x1 - x) - (ahead + back) * dt)) / (2 * jnp.square(sigma))
