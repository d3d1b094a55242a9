"""Annealed dynamics: a tilt path r_t from r_0 = 0 to r_1 = r, and a diffusion that follows rho_t proportional to p_t exp(r_t).

    forward   dX = [v + g + sigma^2/2 (s + grad r_t)] dt + sigma dB,   X_0 ~ rho_0
    backward  drift v + g - sigma^2/2 (s + grad r_t), from rho_1 = p*
with v, s the base's velocity and score, g a learned drift and ANY sigma_t > 0. Along every path dP_backward / dP_forward =
exp(A) / Z with A the Jarzynski work: g = 0 is annealed importance sampling, the exact g has no work fluctuations at all.
Sources: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; Albergo & Vanden-Eijnden (2024), arXiv 2410.02711; Vargas et
al. (2024), arXiv 2307.01050.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import processes
from tiltjax.types import Anneal, Fields, Process

Tilt = Callable[[Array, Array], Array]  # (t, x) -> r_t(x)


def scaled(reward: Callable[[Array], Array], schedule: Callable[[Array], Array] = lambda t: t) -> Tilt:
    """r_t = lambda(t) r, lambda from 0 to 1. With a static base (`paths.trigonometric`, scale 1) the geometric path of AIS."""
    return lambda t, x: schedule(t) * reward(x)


def denoised(process: Process, reward: Callable[[Array], Array], schedule: Callable[[Array], Array] = lambda t: t) -> Tilt:
    """r_t = lambda(t) r(D(x, t)), D = E[X_1 | X_t = x] of the base: the reward of what x will become."""

    def tilt(t: Array, x: Array) -> Array:
        return schedule(t) * reward(processes.denoise(process, t, x))

    return tilt


def anneal(base: Process, tilt: Tilt, noise: Callable[[Array], Array]) -> Anneal:
    """The kernels of both directions on a grid, Euler-Maruyama, both with sigma at the middle of the step.

    With a base that has a density, log w = log rho_1(X_N) - log rho_0(X_0) + sum log B - sum log F (full Crooks): E[w] = Z at
    any number of steps. Without one, B and F are relative to the base's own kernels (g = 0, r_t = 0): exact as the step goes
    to 0.
    """
    dense = base.log_density is not None

    def marginal(t: Array, x: Array) -> Array:
        return processes.log_marginal(base, t, x) if dense else jnp.zeros((), x.dtype)

    def fields(t: Array, x: Array) -> Fields:
        tilted, slope = jax.value_and_grad(tilt, argnums=1)(t, x)
        return Fields(base.velocity(t, x), base.score(t, x), slope, tilted + marginal(t, x))

    def increment(t: Array, t1: Array, x: Array, x1: Array, f: Fields, f1: Fields, g: Array, g1: Array) -> Array:
        dt, sigma = t1 - t, noise(0.5 * (t + t1))

        def ratio(tilts: float) -> Array:  # log B(x | x1) - log F(x1 | x), of the base for tilts = 0
            half = 0.5 * jnp.square(sigma)
            ahead = f.velocity + half * (f.score + tilts * f.slope) + tilts * g
            back = f1.velocity - half * (f1.score + tilts * f1.slope) + tilts * g1
            # |x1 - x - a dt|^2 - |x - x1 + b dt|^2 = (b - a).(2 (x1 - x) - (a + b) dt) dt
            return jnp.sum((back - ahead) * (2 * (x1 - x) - (ahead + back) * dt)) / (2 * jnp.square(sigma))

        work = ratio(1.0) if dense else ratio(1.0) - ratio(0.0)
        return f1.log_rho - f.log_rho + work

    return Anneal(base, tilt, noise, lambda t, x: tilt(t, x) + marginal(t, x), fields, increment)


def process(given: Anneal) -> Process:
    """The steps X' = X + [v + sigma^2/2 (s + grad r_t) + g] dt + sigma sqrt(dt) xi as a `Process` whose control is g.

    clock = dt / sigma^2 turns g into the shift c of the noise.
    """
    base, noise = given.base, given.noise

    def middle(t: Array, t1: Array) -> Array:
        return noise(0.5 * (t + t1))

    def score(t: Array, x: Array) -> Array:
        return base.score(t, x) + jax.grad(given.tilt, argnums=1)(t, x)

    def transition(t: Array, t1: Array, x: Array) -> tuple[Array, Array]:
        dt, sigma = t1 - t, middle(t, t1)
        return x + (base.velocity(t, x) + 0.5 * jnp.square(sigma) * score(t, x)) * dt, sigma * jnp.sqrt(dt)

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        dt, sigma = t1 - t, middle(t, t1)
        return x1 - (base.velocity(t1, x1) - 0.5 * jnp.square(sigma) * score(t1, x1)) * dt, sigma * jnp.sqrt(dt)

    return base._replace(
        drift=lambda t, x: base.velocity(t, x) + 0.5 * jnp.square(noise(t)) * score(t, x),
        backward_drift=lambda t, x: base.velocity(t, x) - 0.5 * jnp.square(noise(t)) * score(t, x),
        diffusion=noise,
        score=score,
        slope=lambda t, x: jnp.zeros_like(x),
        transition=transition,
        reverse=reverse,
        clock=lambda t, t1: (t1 - t) / jnp.square(middle(t, t1)),
        log_density=None,
    )
