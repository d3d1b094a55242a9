"""Reference processes: the base of the tilt as a diffusion that ends in it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import frames, validate
from tiltjax.paths import START, time_at
from tiltjax.types import Frame, GaussianPath, Process

Field = Callable[[Array, Array], Array]  # (t, x) -> an array of x's shape

EARLY = 1e-3
LATE = 1e-4


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
    return make_gaussian(frames.frame(path, shape, _scale(path, scale)))


def make_gaussian(frame: Frame) -> Process:
    """`gaussian` without checks, to be called inside `jit` too."""
    s, dim = frame.scale, math.prod(frame.shape)

    def log_density(x: Array) -> Array:
        return -0.5 * jnp.sum(jnp.square(x)) / s**2 - 0.5 * dim * math.log(2 * math.pi * s**2)

    def marginal_change(t: Array, t1: Array, x: Array, x1: Array, by_kernels: Array) -> Array:
        return frames.log_marginal(frame, t1, x1) - frames.log_marginal(frame, t, x)

    made = _memoryless(frame, lambda t, x: (), lambda t, x, seen: jnp.zeros_like(x))
    return made._replace(log_density=log_density, marginal_change=marginal_change)


def pretrained(
    path: GaussianPath,
    shape: tuple[int, ...],
    *,
    velocity: Field | None = None,
    score: Field | None = None,
    noise: Field | None = None,
    denoiser: Field | None = None,
    scale: float | None = None,
) -> Process:
    """The process of a base known by one function (t, x) of a trained model: any one of

        denoiser D = E[X_1 | X_t = x],   velocity v = kappa x + eta s,   score s = grad log p_t,   noise eps = -beta s.

    It is the Gaussian process of standard deviation `scale` (that of the model's data: it sets the steps' noise and the units
    of the networks) with a control of its own, g_base = (D - m) / R, m = Phi x:
        X_t' = [m + (R - R') g_base(t, X_t)] / Phi' + sqrt(R - R') / Phi' xi,
    exact when the model is that Gaussian, of weak order 1 in the step else, without singular ends. p_base is what these steps
    generate *on the grid in use*: it is this base that the path weights tilt. Velocity, score and noise are called at
    t >= EARLY; g_base is held below the level R = LATE scale^2, where (D - m) / R is all rounding.

    When not to use it: a base with a density and no model (`gaussian`); a model that is only an ODE sampler with other
    marginals. Raises ValueError unless exactly one function is given and keeps the shape of a particle.
    Source: Domingo-Enrich, Du, Albergo, arXiv 2605.00229; Albergo et al., arXiv 2303.08797 (conversions).
    """
    given = {"velocity": velocity, "score": score, "noise": noise, "denoiser": denoiser}
    models = {name: model for name, model in given.items() if model is not None}
    if len(models) != 1:
        raise ValueError(
            f"pretrained needs exactly one of {', '.join(given)}; got {', '.join(models) or 'none'}. Any one gives the others."
        )
    ((name, model),) = models.items()
    check_field(model, shape, name)
    return make_pretrained(frames.frame(path, shape, _scale(path, scale)), name, model)


def make_pretrained(frame: Frame, name: str, model: Field) -> Process:
    """`pretrained` without checks, to be called inside `jit` too, where the model may hold traced weights."""
    mean = _to_denoiser(frame.path, name, model)
    with jax.ensure_compile_time_eval():
        latest = float(time_at(frame, LATE))

    def g_base(t: Array, x: Array) -> Array:
        at = jnp.minimum(t, latest)
        return (mean(at, x) - frame.response(at) * x) / frame.residual(at)

    return _memoryless(frame, g_base, lambda t, x, seen: seen)


def _scale(path: GaussianPath, scale: float | None) -> float:
    """The base's standard deviation: by default what the path implies, else 1. ValueError unless it is positive."""
    s = path.scale if scale is None else scale
    s = 1.0 if s is None else float(s)
    if not (s > 0 and math.isfinite(s)):
        raise ValueError(f"scale is the standard deviation of the base and must be positive and finite; got {scale}.")
    return s


def check_field(field: Any, shape: tuple[int, ...], name: str) -> None:
    """Raises ValueError unless field(t, x) maps one particle of `shape` to an array of that shape. It is traced, not run."""
    real = jax.dtypes.canonicalize_dtype(float)
    try:
        out = jax.eval_shape(field, jax.ShapeDtypeStruct((), real), jax.ShapeDtypeStruct(tuple(shape), real))
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{name}(t, x) failed on one particle of shape {tuple(shape)}: {error}. It must take a scalar t and ONE particle "
            "(the library vmaps)."
        ) from error
    got = getattr(out, "shape", type(out).__name__)
    if got != tuple(shape):
        raise ValueError(f"{name}(t, x) must return the shape of the particle, {tuple(shape)}; got {got}.")


def _to_denoiser(path: GaussianPath, name: str, model: Field) -> Field:
    """D from any parametrization: alpha D = x - beta eps = x + beta^2 s, and v = alpha' D + beta' eps."""

    def from_velocity(t: Array, x: Array) -> Array:
        at = jnp.clip(t, EARLY, 1 - START)  # where both schedules have slopes
        alpha, alpha_slope = jax.value_and_grad(path.alpha)(at)
        beta, beta_slope = jax.value_and_grad(path.beta)(at)
        return (beta * model(at, x) - beta_slope * x) / (alpha_slope * beta - alpha * beta_slope)

    def from_score(t: Array, x: Array) -> Array:
        at = jnp.maximum(t, EARLY)
        return (x + jnp.square(path.beta(at)) * model(at, x)) / path.alpha(at)

    def from_noise(t: Array, x: Array) -> Array:
        at = jnp.maximum(t, EARLY)
        return (x - path.beta(at) * model(at, x)) / path.alpha(at)

    return {"denoiser": model, "velocity": from_velocity, "score": from_score, "noise": from_noise}[name]


def _memoryless(frame: Frame, see: Callable[[Array, Array], Any], g_of: Callable[[Array, Array, Any], Array]) -> Process:
    """The frame's Gaussian with the control g_base, in the units of m = Phi x."""
    path, response, fall = frame.path, frame.response, frame.fall

    def move(t: Array, t1: Array, x: Array, seen: Any) -> tuple[Array, Array]:
        after, gathered = response(t1), fall(t, t1)
        return (response(t) * x + gathered * g_of(t, x, seen)) / after, jnp.sqrt(gathered) / after

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        shared = jnp.square(path.beta(t)) / path.noise2(t)
        return path.alpha(t) / path.alpha(t1) * x1, jnp.sqrt(shared * path.rise(t, t1) / path.signal2(t1))

    return Process(
        frame=frame,
        initial=lambda key: jnp.sqrt(frame.variance(0.0)) * jax.random.normal(key, frame.shape),
        see=see,
        g_of=g_of,
        move=move,
        clock=lambda t, t1: fall(t, t1) / jnp.square(frame.gain(t)),
        width=lambda t, t1: jnp.ones((), jnp.result_type(t)),
        log_ratio=log_ratio,
        reverse=reverse,
        marginal_change=lambda t, t1, x, x1, by_kernels: by_kernels,
    )


def log_ratio(width: Array, c: Array, xi: Array) -> tuple[Array, Array]:
    """log N(z; c, 1) - log N(z; 0, 1) = a + b / 2 at z = c + xi: a = c xi, b = c^2, for steps of width 1."""
    del width
    return c * xi, jnp.square(c)


def narrow_log_ratio(width: Array, c: Array, xi: Array) -> tuple[Array, Array]:
    """log N(z; c, w^2) - log N(z; 0, 1) = a + b / 2 at z = c + w xi: a = w c xi, b = c^2 - (1 - w^2) xi^2 - 2 log w."""
    return width * c * xi, jnp.square(c) - (1 - jnp.square(width)) * jnp.square(xi) - 2 * jnp.log(width)


def euler(process: Process) -> Process:
    """The same process stepped by Euler-Maruyama, X' = X + b dt + sigma sqrt(dt) (c + xi): weak order 1.

    Schedules are evaluated at max(t, dt): the first step from t = 0, where kappa and eta may be infinite, then has an error
    that the process forgets to second order. The relative path weight is biased by O(dt); the full Crooks weight is not
    (`weights.crooks_full`). When not to use it: a Gaussian process has exact transitions, which cost the same.
    """

    frame = process.frame

    def start(t: Array, t1: Array) -> Array:
        return jnp.maximum(t, t1 - t)

    def move(t: Array, t1: Array, x: Array, seen: Any) -> tuple[Array, Array]:
        dt, at = t1 - t, start(t, t1)
        g = process.g_base(jnp.maximum(at, START), x)
        return x + frames.drift(frame, at, x, g) * dt, frames.diffusion(frame, at) * jnp.sqrt(dt)

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        dt, at = t1 - t, start(t, t1)
        return x1 - frames.backward_drift(frame, at, x1) * dt, frames.diffusion(frame, at) * jnp.sqrt(dt)

    return process._replace(
        see=lambda t, x: (),  # the model is asked where the step is, not where the state is
        g_of=lambda t, x, seen: process.g_base(t, x),
        move=move,
        reverse=reverse,
        clock=lambda t, t1: t1 - t,
    )


def narrowed(process: Process, ratio: Callable[[Array], Array]) -> Process:
    """The process whose controlled steps vary by what is left to know of the end, not by what the base leaves open:

        X' = mean + std (c + sqrt(rho) xi),   rho = 1 - f (1 - ratio(t)),   f = (R - R') / R,

    with ratio(t) = Var*[X_1 | X_t] / R_t under the tilt, () or of the particle's shape, above 0 (1: the base's own steps). The
    base steps from m to m' with the variance R - R'; a tilt that knows X_1 better, with less: 1 - f is that of a bridge to a
    known X_1, and f times the ratio is added for what is not known. Within a Gaussian mode this is its exact transition, at any
    step, and the weights do not scatter; any ratio leaves E[w] = Z.
    When not to use it: ratios that differ much between the states of one time (they are averages). Source: Bao et al. (2022),
    arXiv 2201.06503 (the variance of least KL divergence for the reverse steps of a diffusion model).
    """

    frame = process.frame

    def width(t: Array, t1: Array) -> Array:
        return jnp.sqrt(1 - frame.fall(t, t1) / frame.residual(t) * (1 - ratio(t)))

    return process._replace(width=width, log_ratio=narrow_log_ratio)


def score(process: Process, t: Array, x: Array) -> Array:
    """s(t, x) = grad log p_t(x) of the base."""
    return frames.score(process.frame, t, x, process.g_base(t, x))


def velocity(process: Process, t: Array, x: Array) -> Array:
    """v(t, x) of the base's probability flow."""
    return frames.velocity(process.frame, t, x, process.g_base(t, x))


def drift(process: Process, t: Array, x: Array) -> Array:
    """b(t, x) of dX = b dt + sigma dB."""
    return frames.drift(process.frame, t, x, process.g_base(t, x))


def denoise(process: Process, t: Array, x: Array) -> Array:
    """D(x, t) = E[X_1 | X_t = x] = m + R g_base of the base."""
    return frames.denoiser(process.frame, t, x, process.g_base(t, x))


def bridge(process: Process, t: Array, x0: Array, x1: Array, xi: Array) -> Array:
    """X_t | X_0 = x0, X_1 = x1 of the base, for xi ~ N(0, I): a Brownian bridge in the coordinate m = Phi_t x,

        m_t = m_0 + f (x1 - m_0) + sqrt(f R_t) xi,   f = (R_0 - R_t) / R_0,   m_0 = Phi_0 x0.

    Without a source m_0 = 0, and this is `frames.noised`. A Schroedinger bridge keeps it, whatever its control. Only for
    Gaussian processes. Raises ValueError for others.
    """
    validate.density(process, "the kernel of a Schroedinger bridge")
    response, residual = process.frame.response, process.frame.residual
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
    validate.density(process, "a Schroedinger bridge")
    frame = process.frame

    def reverse(t: Array, t1: Array, x1: Array) -> tuple[Array, Array]:
        m1 = frame.response(t1) * x1 + frame.fall(t, t1) * corrector(t1, x1)
        return m1 / frame.response(t), process.reverse(t, t1, x1)[1]

    return process._replace(reverse=reverse)
