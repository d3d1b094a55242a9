"""Tilts with closed-form answers, for tests, notebooks and the benchmark's sanity row.

Everything is for one particle of shape (d,). `control` is the optimal u*, a `(t, x) -> u`, to be used where a network would be.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import problems, processes, validate
from tiltjax.types import Problem, Process


class Exact(NamedTuple):
    """The problem, its log Z, and its optimal control u*(t, x)."""

    problem: Problem
    log_z: Array
    control: Callable[[Array, Array], Array]


class Bridge(NamedTuple):
    """The problem, its log Z, control u*(t, x) and corrector h*(t, x) of its Schroedinger bridge, and Cov(m_0, X_1), (d,)."""

    problem: Problem
    log_z: Array
    control: Callable[[Array, Array], Array]
    corrector: Callable[[Array, Array], Array]
    covariance: Array


def linear_tilt(process: Process, slope: Array) -> Exact:
    """r(x) = slope.x: g = slope at every (t, x), log Z = s^2 |slope|^2 / 2. Exact steps have weights without any spread."""
    gain, s = _of(process)
    problem = problems.make_tilt(process, lambda x: jnp.sum(slope * x), 1e-2 * s**2)
    return Exact(problem, 0.5 * s**2 * jnp.sum(jnp.square(slope)), lambda t, x: gain(t) * slope)


def gaussian_target(process: Process, mean: Array, variance: Array) -> Exact:
    """p* = N(mean, diag(variance)), normalized (log Z = 0): a mixture of one."""
    return mixture_target(process, mean[None], variance, jnp.ones(1))


def mixture_target(process: Process, means: Array, variance: Array | float, weights: Array) -> Exact:
    """p* = sum_k weights_k N(means_k, C), normalized (log Z = 0).

    `variance` is (), (d,) for C = diag(variance), or C itself, (d, d).
    h_t(x) = E[exp r(X_1) | X_t = x] = int gamma(y) / p_base(y) N(y; m, R) dy with m = Phi_t x. For one Gaussian,
    with 1/q' = 1/v - 1/s^2 and c = mean s^2 / (s^2 - v), log h = log N(m; c, R + q') up to a constant of the component;
    mixtures add. A full C is diagonal in its own axes, and the base is the same in all.
    Raises ValueError unless every variance is below the base's (else the formula has another sign).
    """
    gain, s = _of(process)
    residual, response = process.frame.residual, process.frame.response
    means, variance, weights = (jnp.asarray(v, jax.dtypes.canonicalize_dtype(float)) for v in (means, variance, weights))
    axes = None
    if variance.ndim == 2:
        variance, axes = jnp.linalg.eigh(variance)
        means = jnp.matmul(means, axes, precision="highest")
    v = jnp.broadcast_to(variance, means.shape[1:])[None]  # beside means (K, d)
    if not bool(jnp.all(v < s**2)):
        raise ValueError(f"every variance must be below the base's {s**2}; got {v[0]}.")
    excess = v * s**2 / (s**2 - v)  # q'
    centre = means * s**2 / (s**2 - v)
    # the ratio N(y; mean, v) / N(y; 0, s^2) = constant_k N(y; centre, q')
    constant = jnp.sum(
        0.5 * jnp.square(means) / (s**2 - v) + 0.5 * jnp.log(s**2 * excess / v) + 0.5 * jnp.log(2 * jnp.pi), axis=-1
    )

    def log_h(m: Array, rest: Array) -> Array:
        m = m if axes is None else jnp.matmul(m, axes, precision="highest")
        var = rest + excess
        parts = -0.5 * jnp.square(m[None] - centre) / var - 0.5 * jnp.log(2 * jnp.pi * var)
        return jax.nn.logsumexp(jnp.sum(parts, axis=-1) + constant + jnp.log(weights))

    def control(t: Array, x: Array) -> Array:
        return gain(t) * jax.grad(log_h)(response(t) * x, residual(t))

    def reward(x: Array) -> Array:
        return log_h(x, jnp.zeros((), x.dtype))

    return Exact(problems.make_tilt(process, reward, float(jnp.min(v))), jnp.zeros(()), control)


class Mixture(NamedTuple):
    """sum_k weights_k N(means_k, C): means (K, d), variance (), (d,) or C itself (d, d), weights (K,)."""

    means: Array
    variance: Array | float
    weights: Array


def mixture_base(process: Process, base: Mixture) -> Process:
    """The process of a mixture on the path and scale of a Gaussian one, known only by its denoiser (`processes.pretrained`)."""
    tilt = mixture_target(process, *base)

    def denoiser(t: Array, x: Array) -> Array:
        return process.frame.response(t) * x + process.frame.residual(t) / process.frame.gain(t) * tilt.control(t, x)

    return processes.pretrained(process.frame.path, process.shape, denoiser=denoiser, scale=process.frame.scale)


def mixture_tilt(process: Process, base: Mixture, target: Mixture) -> Exact:
    """The tilt of one mixture into another, r = log p* - log p_base (log Z = 0), on `mixture_base`.

    Both are tilts of the Gaussian of `process`, so u* = gain (g_target - g_base). It is the control of the continuous process:
    on a grid the weights spread by O(step).
    """
    of_base, of_target = mixture_target(process, *base), mixture_target(process, *target)
    return Exact(
        problems.make_tilt(
            mixture_base(process, base),
            lambda x: of_target.problem.reward(x) - of_base.problem.reward(x),
            of_target.problem.resolution,
        ),
        jnp.zeros(()),
        lambda t, x: of_target.control(t, x) - of_base.control(t, x),
    )


def gaussian_bridge(process: Process, mean: Array, variance: Array) -> Bridge:
    """The Schroedinger bridge from the process's source to p* = N(mean, diag(variance)), normalized (log Z = 0).

    In m = Phi_t x the source is N(0, a^2), a^2 = s^2 - R_0, and the base moves by n = R_0. With b^2 = variance the joint law of
    (m_0, X_1) is Gaussian with covariance c = (sqrt(4 a^2 b^2 + n^2) - n) / 2, the precision between the two being -1/n. Hence
        grad log phi_t     = (mean / n - P (m - mean)) / (1 + P R_t),          P = (a^2 - c) / (n c)
        grad log phi_hat_t = -(mean / n + Q m) / (1 + Q (R_0 - R_t)),          Q = (b^2 - c) / (n c).
    Raises ValueError for a process without a source. Source: Janati et al. (2020), arXiv 2006.02572, theorem 1.
    """
    gain, s = _of(process)
    residual, response, base = process.frame.residual, process.frame.response, validate.density(process, "a bridge")
    moved = residual(jnp.zeros(()))
    start = s**2 - moved
    if not float(start) > 1e-9 * s**2:
        raise ValueError("a bridge needs a source of positive width; this process has none. Use gaussian_target.")
    c = 0.5 * (jnp.sqrt(4 * start * variance + jnp.square(moved)) - moved)
    ahead, behind = (start - c) / (moved * c), (variance - c) / (moved * c)

    def control(t: Array, x: Array) -> Array:
        m = response(t) * x
        return gain(t) * (mean / moved - ahead * (m - mean)) / (1 + ahead * residual(t))

    def corrector(t: Array, x: Array) -> Array:
        return -(mean / moved + behind * (response(t) * x)) / (1 + behind * (moved - residual(t)))

    def reward(x: Array) -> Array:
        parts = -0.5 * jnp.square(x - mean) / variance - 0.5 * jnp.log(2 * jnp.pi * variance)
        return jnp.sum(parts) - base(x)

    return Bridge(problems.make_tilt(process, reward, float(jnp.min(variance))), jnp.zeros(()), control, corrector, c)


def _of(process: Process) -> tuple[Callable[[Array], Array], float]:
    validate.density(process, "a closed form")
    return process.frame.gain, process.frame.scale
