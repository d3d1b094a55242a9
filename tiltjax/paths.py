"""Gaussian paths X_t = alpha_t X_1 + beta_t X_0 and time grids.

Every difference of schedules that a step needs has a form without cancellation, so that the last steps of a fine grid
keep their variance in float32. A time within 1/2 of 1 has an exact `1 - t`, so functions of `1 - t` are safe there.
kappa and eta are singular at t = 0 on the linear and trigonometric paths: they are evaluated no nearer to it than
`START`. Exact transitions (`processes.gaussian`) use neither and need no such care.

Source: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; the Brownian path is the reference of Zhang & Chen (2022),
arXiv 2111.15141, the linear-beta one that of Song et al. (2021), arXiv 2011.13456.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tiltjax.types import Frame, GaussianPath, Scalar

START = 1e-5


def linear() -> GaussianPath:
    """alpha = t, beta = 1 - t: flow matching, rectified flow (Lipman et al. 2023, arXiv 2210.02747)."""
    return GaussianPath(
        alpha=lambda t: jnp.asarray(t),
        beta=lambda t: jnp.asarray(1 - t),
        kappa=lambda t: 1 / _inside(t),
        eta=lambda t: (1 - t) / _inside(t),
        signal2=lambda t: jnp.square(t),
        noise2=lambda t: jnp.square(1 - t),
        lift=lambda t: jnp.asarray(t),
        rise=lambda t, t1: jnp.asarray((t1 - t) * (t1 * (1 - t) + t * (1 - t1))),
        speed=lambda t: jnp.asarray(2 * t * (1 - t)),
        time=lambda snr: 1 - 1 / (1 + jnp.sqrt(snr)),
    )


def trigonometric() -> GaussianPath:
    """alpha = sin(pi t / 2), beta = cos(pi t / 2): variance preserving, alpha^2 + beta^2 = 1."""
    half_pi = math.pi / 2

    def alpha(t: Scalar) -> Array:
        return jnp.sin(half_pi * t)

    def beta(t: Scalar) -> Array:
        return jnp.sin(half_pi * (1 - t))  # cos(half_pi) is not 0 in floating point

    return GaussianPath(
        alpha=alpha,
        beta=beta,
        kappa=lambda t: half_pi * beta(t) / alpha(_inside(t)),
        eta=lambda t: half_pi * beta(t) / alpha(_inside(t)),
        signal2=lambda t: jnp.square(alpha(t)),
        noise2=lambda t: jnp.square(beta(t)),
        lift=alpha,
        rise=lambda t, t1: alpha(t1 - t) * (alpha(t1) * beta(t) + alpha(t) * beta(t1)),
        speed=lambda t: math.pi * alpha(t) * beta(t),
        time=lambda snr: 1 - jnp.arctan(1 / jnp.sqrt(snr)) / half_pi,
    )


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> GaussianPath:
    """Variance preserving with a linear noise rate: alpha = exp(-B/2), beta^2 = 1 - exp(-B), B = int_t^1 rate.

    The rate falls from beta_max at t = 0 to beta_min at t = 1 (DDPM, DDS). alpha_0 = exp(-B_0 / 2) is small, not 0: path
    weights stay unbiased, but X_0 and X_1 are not quite independent, so no control brings their variance to exactly 0.
    Raises ValueError unless 0 < beta_min <= beta_max.
    """
    if not 0 < beta_min <= beta_max:
        raise ValueError(
            f"vp needs positive noise, 0 < beta_min <= beta_max; got beta_min={beta_min}, beta_max={beta_max}. "
            "The usual values are 0.1 and 20."
        )
    slope = beta_max - beta_min

    def rate(t: Scalar) -> Array:
        return jnp.asarray(beta_min + slope * (1 - t))

    def integral(t: Scalar) -> Array:
        return jnp.asarray((1 - t) * (beta_min + 0.5 * slope * (1 - t)))

    def rise(t: Scalar, t1: Scalar) -> Array:
        between = (t1 - t) * (beta_min + 0.5 * slope * (2 - t - t1))
        return -jnp.exp(-integral(t1)) * jnp.expm1(-between)

    def time(snr: Scalar) -> Array:
        area = jnp.log1p(1 / jnp.asarray(snr))
        return jnp.maximum(1 - 2 * area / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * area)), 0.0)

    def alpha(t: Scalar) -> Array:
        return jnp.exp(-0.5 * integral(t))

    return GaussianPath(
        alpha=alpha,
        beta=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        kappa=lambda t: 0.5 * rate(t),
        eta=lambda t: 0.5 * rate(t),
        signal2=lambda t: jnp.exp(-integral(t)),
        noise2=lambda t: -jnp.expm1(-integral(t)),
        lift=alpha,
        rise=rise,
        speed=lambda t: rate(t) * jnp.exp(-integral(t)),
        time=time,
    )


def brownian(sigma: float = 1.0, source: float = 0.0) -> GaussianPath:
    """Brownian motion with constant noise from X_0 ~ N(0, source^2 I): nu_t = sigma^2 t.

    Without a source X_0 = 0 (PIS), alpha = nu_t / nu_1, and the base N(0, nu_1 I) has standard deviation sigma.
    With one, S_t = source^2 + nu_t is the variance of X_t, alpha = S_t / S_1, beta^2 = S_t (nu_1 - nu_t) / S_1 (the motion
    reversed), and the base is N(0, S_1 I). X_0 and X_1 then depend on one another: path weights stay unbiased, but grad log h,
    which the losses for tilts learn, does not end in the target. Such a path is for Schroedinger bridges (`fit_bridge`).
    Raises ValueError unless sigma > 0 and source >= 0.
    """
    _check_noise(sigma=sigma)
    s2 = float(sigma) ** 2
    return _brownian(
        span=lambda t, t1: jnp.asarray(s2 * (t1 - t)),
        sigma2=lambda t: s2 * jnp.ones_like(jnp.asarray(t, dtype=float)),
        time=lambda fraction: jnp.asarray(fraction),
        nu1=s2,
        source=source,
    )


def geometric(sigma_max: float, sigma_min: float, source: float = 0.0) -> GaussianPath:
    """Brownian motion with noise sigma_t = sigma_max (sigma_min / sigma_max)^t, from X_0 ~ N(0, source^2 I).

    About the source, see `brownian`.
    nu_1 = (sigma_max^2 - sigma_min^2) / (2 log(sigma_max / sigma_min)), and the base is N(0, (source^2 + nu_1) I).
    Raises ValueError unless sigma_max > sigma_min > 0 and source >= 0.
    """
    _check_noise(sigma_max=sigma_max, sigma_min=sigma_min)
    if sigma_max <= sigma_min:
        raise ValueError(
            f"geometric noise falls: sigma_max > sigma_min is needed; got sigma_max={sigma_max}, sigma_min={sigma_min}. "
            "For constant noise use paths.brownian(sigma)."
        )
    decay = 2 * math.log(sigma_max / sigma_min)
    top = sigma_max**2 / decay

    def span(t: Scalar, t1: Scalar) -> Array:
        return -top * jnp.exp(-decay * jnp.asarray(t)) * jnp.expm1(-decay * (jnp.asarray(t1) - t))

    return _brownian(
        span=span,
        sigma2=lambda t: sigma_max**2 * jnp.exp(-decay * jnp.asarray(t)),
        time=lambda fraction: -jnp.log1p(fraction * math.expm1(-decay)) / decay,
        nu1=-top * math.expm1(-decay),
        source=source,
    )


def _brownian(
    span: Callable[[Scalar, Scalar], Array],
    sigma2: Callable[[Scalar], Array],
    time: Callable[[Array], Array],
    nu1: float,
    source: float,
) -> GaussianPath:
    """From span(t, t') = nu_t' - nu_t without cancellation, its slope sigma2, and the inverse of nu_t / nu_1."""
    if not (source >= 0 and math.isfinite(source)):
        raise ValueError(f"source is the standard deviation of X_0 and must be finite and not negative; got {source}.")
    start = float(source) ** 2
    total = start + nu1

    def variance(t: Scalar) -> Array:  # S_t
        return start + span(0.0, t)

    def rest(t: Scalar) -> Array:
        return span(t, 1.0)

    def from_snr(snr: Scalar) -> Array:
        scaled = total * jnp.asarray(snr)
        return time(jnp.maximum(1 - total / nu1 / (1 + scaled), 0.0))

    return GaussianPath(
        alpha=lambda t: variance(t) / total,
        beta=lambda t: jnp.sqrt(variance(t) * rest(t) / total),
        kappa=lambda t: sigma2(t) / variance(_inside(t)),
        eta=lambda t: 0.5 * sigma2(t),
        signal2=lambda t: variance(t) / total,
        noise2=rest,
        lift=lambda t: jnp.ones_like(variance(t)),
        rise=span,
        speed=sigma2,
        time=from_snr,
        scale=math.sqrt(total),
    )


def _inside(t: Scalar) -> Array:
    return jnp.maximum(t, START)


def _check_noise(**noise: float) -> None:
    for name, value in noise.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is the noise of the path and must be positive and finite; got {value}.")


# ------------------------------------------------------------------------------------------------ time grids


def uniform(num_steps: int) -> Array:
    """t_k = k / N, k = 0..N."""
    return power(num_steps, 1.0)


def power(num_steps: int, exponent: float = 2.0) -> Array:
    """t_k = 1 - (1 - k / N)^exponent: steps shrink towards the data for exponent > 1."""
    _check_steps(num_steps)
    return _times(1 - (1 - np.arange(num_steps + 1) / num_steps) ** exponent)


def log_snr(frame: Frame, num_steps: int, resolution: float, overshoot: float = 0.1) -> Array:
    """Uniform in log R_t, R_t = Var[X_1 | X_t] of the base, from R_0 down to overshoot * resolution; then one step to t = 1.

    `resolution` is the smallest variance at which the target has structure. Below it log h is all but linear in one
    step, so nothing is lost by the jump at the end. R is that of the frame's Gaussian.
    """
    _check_steps(num_steps)
    last = overshoot * resolution / frame.scale**2
    with jax.ensure_compile_time_eval():  # a grid is a constant, also where it is made inside `jit`
        first = float(top_level(frame))
        levels = np.exp(np.linspace(math.log(first), math.log(min(last, 0.5 * first)), num_steps))[1:]
        inner = np.asarray(time_at(frame, jnp.asarray(levels)), dtype=np.float64)
    return _times(np.concatenate([[0.0], inner, [1.0]]))


def equal_dissipation(times: Array, dissipation: Array, num_steps: int) -> Array:
    """The grid of `num_steps` steps on which each step adds the same variance to log w.

    dissipation (N,): the variance that each step of `times` (N+1,) added (`dynamics.dissipation`). Over a step dt it grows as
    c(t) dt^2, so the best density of steps is sqrt(c): the edges are equal parts of the sum of sqrt(dissipation). Steps between
    two given times are laid out in proportion there; give a `times` finer than the grid wanted.
    Raises ValueError unless dissipation is finite, not negative, and somewhere positive.
    """
    _check_steps(num_steps)
    old, spent = np.asarray(times, np.float64), np.asarray(dissipation, np.float64)
    fine = np.isfinite(spent) & (spent >= 0)
    if spent.shape != (len(old) - 1,) or not np.all(fine) or not np.any(spent > 0):
        raise ValueError(
            f"dissipation is the variance of log w added by each of the {len(old) - 1} steps, finite and not all zero; got "
            f"shape {spent.shape}, {np.sum(~fine)} of them not finite or negative, the largest {np.max(spent)}."
        )
    root = np.sqrt(spent)
    root = np.maximum(root, 1e-3 * np.mean(root))  # no step of the old grid is skipped over for want of a sample
    length = np.concatenate([[0.0], np.cumsum(root)])
    return _times(np.interp(np.linspace(0.0, length[-1], num_steps + 1), length, old))


def time_at(frame: Frame, level: Scalar) -> Array:
    """The t at which R_t / s^2 = level, for level in (0, top_level): Var[X_1 | X_t] in units of Var[X_1]."""
    level = jnp.asarray(level)
    return frame.path.time((1 / level - 1) / frame.scale**2)


def top_level(frame: Frame) -> Array:
    """R_0 / s^2: 1 where X_0 says nothing of X_1, less where it does (Brownian motion from a source)."""
    return frame.residual(jnp.zeros(())) / frame.scale**2


def _check_steps(num_steps: int) -> None:
    if num_steps < 1 or num_steps != int(num_steps):
        raise ValueError(f"num_steps must be a positive whole number; got {num_steps}.")


def _times(times: np.ndarray) -> Array:
    """Rounded to the working precision; where rounding merges two times, the grid is too fine for it."""
    rounded = times.astype(jax.dtypes.canonicalize_dtype(float))
    if not np.all(np.diff(rounded) > 0):
        raise ValueError(
            f"the grid's {len(times) - 1} steps are not all positive in {rounded.dtype}: it ends nearer to t = 1 than that "
            "resolves. Use paths.linear() or paths.trigonometric() (finer near the data), fewer steps, or a larger resolution."
        )
    return jnp.asarray(rounded)
