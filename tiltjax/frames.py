"""The frame of a process: the Gaussian N(0, scale^2 I) on a path, and the units that it gives.

With S = alpha^2 s^2 + beta^2 the variance of X_t, in the coordinate m = Phi_t x of the expected end:
    Phi = alpha s^2 / S (response),   R = s^2 beta^2 / S = Var[X_1 | X_t] (residual),   gain = sigma Phi = sqrt(-dR/dt).
A base is this Gaussian tilted by g_base(t, x) = (E[X_1 | X_t = x] - Phi_t x) / R_t; its score, velocity and drift are functions
of the frame and of the value g of g_base at (t, x). A frame is static: nothing of it is ever a traced array.
Source: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229.
"""

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.paths import START
from tiltjax.types import Frame, GaussianPath, Scalar

GAIN_FLOOR = 1e-3


def frame(path: GaussianPath, shape: tuple[int, ...], scale: float) -> Frame:
    """The frame of standard deviation `scale`. No check: see `processes.gaussian` for one with checks.

    gain vanishes at the ends of the linear and trigonometric paths, where it is floored at sqrt(GAIN_FLOOR) scale: a change of
    the unit in which u is measured there, not of the sampler.
    """
    s, s2 = scale, scale * scale

    def spread(t: Scalar) -> Array:  # S less the factor that alpha^2 and beta^2 share
        return path.signal2(t) * s2 + path.noise2(t)

    def variance(t: Scalar) -> Array:
        return jnp.square(path.alpha(t)) * s2 + jnp.square(path.beta(t))

    def response(t: Scalar) -> Array:
        return s2 * path.lift(t) / spread(t)

    def fall(t: Scalar, t1: Scalar) -> Array:
        return s2 * s2 * path.rise(t, t1) / (spread(t) * spread(t1))

    def gain(t: Scalar) -> Array:
        return s * jnp.sqrt(jnp.maximum(s2 * path.speed(t) / jnp.square(spread(t)), GAIN_FLOOR))

    def log_variance(t: Array) -> Array:  # of X_t, without the limit 0 / 0: the factor that spread lacks is alpha / lift
        return jnp.log(spread(t)) + jnp.log(path.alpha(t) / path.lift(t))

    return Frame(
        path=path,
        shape=tuple(shape),
        scale=scale,
        response=response,
        residual=lambda t: s2 * path.noise2(t) / spread(t),
        gain=gain,
        fall=fall,
        variance=variance,
        widening=lambda t: jax.grad(log_variance)(jnp.maximum(t, START)),
    )


def score(frame: Frame, t: Array, x: Array, g: Array) -> Array:
    """s(t, x) = Phi g - x / S, the score of the base, for g = g_base(t, x)."""
    t = jnp.maximum(t, START)  # where kappa and eta begin
    return frame.response(t) * g - x / frame.variance(t)


def velocity(frame: Frame, t: Array, x: Array, g: Array) -> Array:
    """v(t, x) = kappa x + eta s = x d/dt log sqrt(S) + eta Phi g, without a difference of large numbers at t = 0."""
    return 0.5 * frame.widening(t) * x + frame.path.eta(t) * frame.response(t) * g


def drift(frame: Frame, t: Array, x: Array, g: Array) -> Array:
    """b(t, x) = kappa x + 2 eta s, of dX = b dt + sigma dB."""
    return frame.path.kappa(t) * x + 2 * frame.path.eta(t) * score(frame, t, x, g)


def backward_drift(frame: Frame, t: Array, x: Array) -> Array:
    """kappa x, of the noising kernel: the same for every base."""
    return frame.path.kappa(t) * x


def diffusion(frame: Frame, t: Array) -> Array:
    """sigma_t = sqrt(2 eta), the memoryless noise."""
    return jnp.sqrt(2 * frame.path.eta(t))


def denoiser(frame: Frame, t: Array, x: Array, g: Array) -> Array:
    """D(t, x) = E[X_1 | X_t = x] = Phi x + R g."""
    return frame.response(t) * x + frame.residual(t) * g


def noised(frame: Frame, t: Scalar, x1: Array, xi: Array) -> Array:
    """X_t | X_1 = x1 from the noising kernel: alpha_t x1 + beta_t xi. Tilts keep it."""
    return frame.path.alpha(t) * x1 + frame.path.beta(t) * xi


def log_marginal(frame: Frame, t: Array, x: Array) -> Array:
    """log p_t(x), normalized, of the Gaussian itself: N(0, S)."""
    variance = jnp.square(frame.path.alpha(t)) * frame.scale**2 + jnp.square(frame.path.beta(t))
    return -0.5 * jnp.sum(jnp.square(x)) / variance - 0.5 * x.size * jnp.log(2 * jnp.pi * variance)
