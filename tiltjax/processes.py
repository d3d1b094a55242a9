"""Reference processes: the base of the tilt as a diffusion that ends in it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.paths import START
from tiltjax.types import GaussianPath, Process, Scalar

GAIN_FLOOR = 1e-3


def gaussian(path: GaussianPath, shape: tuple[int, ...], scale: float | None = None) -> Process:
    """The process of a Gaussian base N(0, scale^2 I) on any path, with exact transitions.

    With S = alpha^2 s^2 + beta^2, Phi = alpha s^2 / S, R = s^2 beta^2 / S (so E[X_1 | X_t] = Phi X_t, Var[X_1 | X_t] = R):
        score -x / S,   X_t' | X_t ~ N(Phi X_t / Phi', (R - R') / Phi'^2 I)   for t < t', exact for any step.
    Phi X_t is a martingale that gathers variance R_0 - R_t: in these coordinates all Gaussian processes are the same one,
    which is why PIS (`paths.brownian`), OU/DDS (`paths.vp`) and flow-matching priors (`paths.linear`) are cases of this
    function.

    The control of theory is u = sigma grad log h = gain * g with g = grad_m log h(m = Phi x), gain = sigma Phi = sqrt(-dR/dt).
    gain vanishes at the ends of the linear and trigonometric paths, where it is floored at sqrt(GAIN_FLOOR) scale: a change
    of the unit in which u is measured there, not of the sampler. A step adds c = sqrt((R - R') / gain^2) u to the noise.

    scale: standard deviation of the base; by default what the path implies (Brownian), else 1. Densities normalized.
    Raises ValueError unless scale > 0. Source: Domingo-Enrich, Du, Albergo, arXiv 2605.00229; Vargas et al., arXiv 2302.13834.
    """
    s = path.scale if scale is None else scale
    s = 1.0 if s is None else float(s)
    if not (s > 0 and math.isfinite(s)):
        raise ValueError(f"scale is the standard deviation of the base and must be positive and finite; got {scale}.")
    s2, dim = s * s, math.prod(shape)

    def spread(t: Scalar) -> Array:  # S less the factor that alpha^2 and beta^2 share
        return path.signal2(t) * s2 + path.noise2(t)

    def variance(t: Scalar) -> Array:
        return jnp.square(path.alpha(t)) * s2 + jnp.square(path.beta(t))

    def response(t: Scalar) -> Array:
        return s2 * path.lift(t) / spread(t)

    def fall(t: Scalar, t1: Scalar) -> Array:  # R - R'
        return s2 * s2 * path.rise(t, t1) / (spread(t) * spread(t1))

    def gain(t: Scalar) -> Array:
        return s * jnp.sqrt(jnp.maximum(s2 * path.speed(t) / jnp.square(spread(t)), GAIN_FLOOR))

    def transition(t: Array, t1: Array, x: Array) -> tuple[Array, Array]:
        after = response(t1)
        return response(t) / after * x, jnp.sqrt(fall(t, t1)) / after

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        shared = jnp.square(path.beta(t)) / path.noise2(t)
        return path.alpha(t) / path.alpha(t1) * x1, jnp.sqrt(shared * path.rise(t, t1) / path.signal2(t1))

    def score(t: Array, x: Array) -> Array:
        return -x / variance(jnp.maximum(t, START))  # where kappa and eta begin

    def velocity(t: Array, x: Array) -> Array:
        return path.kappa(t) * x + path.eta(t) * score(t, x)

    return Process(
        path=path,
        shape=tuple(shape),
        initial=lambda key: jnp.sqrt(variance(0.0)) * jax.random.normal(key, shape),
        drift=lambda t, x: path.kappa(t) * x + 2 * path.eta(t) * score(t, x),
        backward_drift=lambda t, x: path.kappa(t) * x,
        diffusion=lambda t: jnp.sqrt(2 * path.eta(t)),
        velocity=velocity,
        score=score,
        transition=transition,
        reverse=reverse,
        clock=lambda t, t1: fall(t, t1) / jnp.square(gain(t)),
        log_density=lambda x: -0.5 * jnp.sum(jnp.square(x)) / s2 - 0.5 * dim * math.log(2 * math.pi * s2),
        scale=s,
        response=response,
        residual=lambda t: s2 * path.noise2(t) / spread(t),
        gain=gain,
    )


def euler(process: Process) -> Process:
    """The same process stepped by Euler-Maruyama, X' = X + b dt + sigma sqrt(dt) (c + xi): weak order 1.

    Schedules are evaluated at max(t, dt): the first step from t = 0, where kappa and eta may be infinite, then has an error
    that the process forgets to second order. The relative path weight is biased by O(dt); the full Crooks weight is not
    (`weights.crooks_full`). When not to use it: a Gaussian process has exact transitions, which cost the same.
    """

    def start(t: Array, t1: Array) -> Array:
        return jnp.maximum(t, t1 - t)

    def transition(t: Array, t1: Array, x: Array) -> tuple[Array, Array]:
        dt, at = t1 - t, start(t, t1)
        return x + process.drift(at, x) * dt, process.diffusion(at) * jnp.sqrt(dt)

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        dt, at = t1 - t, start(t, t1)
        return x1 - process.backward_drift(at, x1) * dt, process.diffusion(at) * jnp.sqrt(dt)

    return process._replace(transition=transition, reverse=reverse, clock=lambda t, t1: t1 - t)


def noise(process: Process, t: Scalar, x1: Array, xi: Array) -> Array:
    """X_t | X_1 = x1 from the noising kernel: alpha_t x1 + beta_t xi. Tilts keep it."""
    return process.path.alpha(t) * x1 + process.path.beta(t) * xi


def bridge(process: Process, t: Array, x0: Array, x1: Array, xi: Array) -> Array:
    """X_t | X_0 = x0, X_1 = x1 of the base, for xi ~ N(0, I): a Brownian bridge in the coordinate m = Phi_t x,

        m_t = m_0 + f (x1 - m_0) + sqrt(f R_t) xi,   f = (R_0 - R_t) / R_0,   m_0 = Phi_0 x0.

    Without a source m_0 = 0, and this is `noise`. A Schroedinger bridge keeps it, whatever its control. Only for Gaussian
    processes. Raises ValueError for others.
    """
    response, residual = _coordinates(process)
    start, rest = residual(jnp.zeros_like(t)), residual(t)
    fraction = jnp.maximum(1 - rest / start, 0.0)
    m0 = response(jnp.zeros_like(t)) * x0
    m = m0 + fraction * (x1 - m0) + jnp.sqrt(fraction * rest) * xi
    return m / jnp.maximum(response(t), 1e-12)


def backward_controlled(process: Process, corrector: Callable[[Array, Array], Array]) -> Process:
    """The process with another reverse kernel, that of a Schroedinger bridge whose grad_m log phi_hat is corrector(t, x):

        X_t | X_t' ~ N((m' + (R - R') h(t', X_t')) / Phi, std^2),   std that of the base's reversal.

    The mean is E[m_t | m_t'] of the bridge (Tweedie's formula) for the exact h; with h = -m / (s^2 - R), the base's own score,
    it is `process.reverse`. Whatever h, the kernel is normalized, so `weights.crooks_full` is unbiased with it; its variance
    goes to 0 with the steps when control and h are those of the bridge. When not to use it: for `weights.girsanov` and
    `weights.crooks_relative`, which take the reverse kernel to be the base's. Raises ValueError for a process that is not
    Gaussian. Source: Liu et al. (2025), arXiv 2506.22565, for h; Vargas et al. (2024), arXiv 2307.01050, for the weight.
    """
    response, _ = _coordinates(process)
    gain = process.gain
    assert gain is not None

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        fall = process.clock(t, t1) * jnp.square(gain(t))
        return (response(t1) * x1 + fall * corrector(t1, x1)) / response(t), process.reverse(t, t1, x1)[1]

    return process._replace(reverse=reverse)


def _coordinates(process: Process) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    if process.response is None or process.residual is None:
        raise ValueError("a Schroedinger bridge needs a Gaussian process; got one known by its velocity or score.")
    return process.response, process.residual
