"""log dP*/dP of a stored path, up to log Z; and what is done with weights.

Every function takes one `Path` and gives a scalar; `vmap` over paths. E[exp(log_weight) f(X_1)] = Z E_{p*}[f].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import validate
from tiltjax.types import Key, Path, Process


def girsanov(process: Process, reward: Callable[[Array], Array], path: Path) -> Array:
    """log w = r(X_N) - sum_k [c_k.xi_k + |c_k|^2 / 2],  c_k = sqrt(clock_k) u_k.

    On narrowed steps of width v_k a step adds -v_k c_k.xi_k - |c_k|^2 / 2 + (1 - v_k^2) |xi_k|^2 / 2 + sum log v_k.
    With exact transitions (`processes.gaussian`) E[w] = Z at any number of steps; with `processes.euler` the tilt is that of
    the discretized base. Source: Zhang & Chen (2022), arXiv 2111.15141, eq. 10; Domingo-Enrich et al., arXiv 2605.00229.
    """
    return reward(path.x[-1]) + jnp.sum(increments(process, path))


def along(process: Process, path: Path) -> Array:
    """log dP_base/dP_u of the first k steps, k = 0..N, shape (N+1,): `girsanov` less the reward, as it accrues.

        log w_k = -sum_{j < k} [c_j.xi_j + |c_j|^2 / 2],  c_j = sqrt(clock_j) u_j

    E[exp(log w_k)] = 1 at every k; `girsanov` is its last entry plus r(X_N). `diagnostics.ess_along` shows where it is lost.
    """
    steps = increments(process, path)
    return jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])


def increments(process: Process, path: Path) -> Array:
    """-[c_k.xi_k + |c_k|^2 / 2], (N,), or what it is on narrowed steps."""

    def one(t: Array, t1: Array, u: Array, xi: Array) -> Array:
        a, b = process.log_ratio(process.width(t, t1), jnp.sqrt(process.clock(t, t1)) * u, xi)
        return -jnp.sum(a + 0.5 * b)

    return jax.vmap(one)(path.times[:-1], path.times[1:], path.control, path.noise)


def step_widths(process: Process, times: Array) -> Array:
    """The widths w_k of all steps, (N, *shape): 1 where the process is not narrowed."""

    def one(t: Array, t1: Array) -> Array:
        return jnp.broadcast_to(process.width(t, t1), process.shape)

    return jax.vmap(one)(times[:-1], times[1:])


def crooks_relative(process: Process, reward: Callable[[Array], Array], path: Path) -> Array:
    """log w = r(X_N) - sum_k log (F / F_base)(X_k+1 | X_k): the Crooks weight whose backward kernels are the base's own.

    F is the controlled kernel, F_base the same with u = 0; the ratio of backward kernels is 1 because a tilt keeps the noising
    kernel. Needs no density of the base. Equal to `girsanov` path by path; computed here from the states alone, not from
    the stored normals. Source: Vargas et al. (2024), arXiv 2307.01050; Domingo-Enrich et al., arXiv 2605.00229.
    """
    return (
        reward(path.x[-1])
        - jnp.sum(_forward(process, path))
        + jnp.sum(
            _forward(process._replace(width=lambda t, t1: jnp.ones((), t.dtype)), path._replace(control=0 * path.control))
        )
    )


def crooks_full(process: Process, reward: Callable[[Array], Array], path: Path) -> Array:
    """log w = log p_base(X_N) + r(X_N) - log p_0(X_0) + sum_k log B(X_k | X_k+1) - sum_k log F(X_k+1 | X_k).

    Needs the base density; E[w] = Z exactly at any number of steps, for any kernels: exact or Euler-Maruyama. When X_0 is
    fixed (Brownian paths) the first reverse kernel is a point mass that cancels p_0, and both are left out.
    Raises ValueError for a process without a density. Source: Vargas et al. (2024), arXiv 2307.01050.
    """
    log_density = validate.density(process, "weights.crooks_full (use crooks_relative otherwise)")
    start = process.frame.variance(0.0)
    moving = start > 0
    tiny = jnp.where(moving, start, 1.0)
    log_start = jnp.where(moving, jnp.sum(_log_normal(path.x[0] / jnp.sqrt(tiny), jnp.sqrt(tiny))), 0.0)
    backward = _backward(process, path)
    backward = backward.at[0].set(jnp.where(moving, backward[0], 0.0))
    end = log_density(path.x[-1]) + reward(path.x[-1])
    return end - log_start + jnp.sum(backward) - jnp.sum(_forward(process, path))


def _forward(process: Process, path: Path) -> Array:
    """log F(X_k+1 | X_k), (N,)."""

    def one(t: Array, t1: Array, x: Array, x1: Array, u: Array) -> Array:
        mean, std = process.transition(t, t1, x)
        width = process.width(t, t1)
        z = (x1 - mean) / std - jnp.sqrt(process.clock(t, t1)) * u
        return jnp.sum(_log_normal(z / width, std * width))

    return jax.vmap(one)(path.times[:-1], path.times[1:], path.x[:-1], path.x[1:], path.control)


def _backward(process: Process, path: Path) -> Array:
    """log B(X_k | X_k+1), (N,)."""

    def one(t: Array, t1: Array, x: Array, x1: Array) -> Array:
        mean, std = process.reverse(t, t1, x1)
        std = jnp.where(std > 0, std, 1.0)
        return jnp.sum(_log_normal((x - mean) / std, std))

    return jax.vmap(one)(path.times[:-1], path.times[1:], path.x[:-1], path.x[1:])


def _log_normal(z: Array, std: Array) -> Array:
    return -0.5 * jnp.square(z) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)


def column(v: Array, like: Array) -> Array:
    """v (N,) beside `like` (N, *shape)."""
    return v.reshape(v.shape + (1,) * (like.ndim - 1))


# --------------------------------------------------------------------------------------- what is done with weights


def normalize(log_weight: Array) -> Array:
    """Weights that sum to one, (n,). A log weight of -inf is a particle that counts for nothing."""
    return jax.nn.softmax(log_weight)


def ess(log_weight: Array) -> Array:
    """(sum w)^2 / (n sum w^2), in (0, 1]."""
    w = normalize(log_weight)
    return 1.0 / (log_weight.size * jnp.sum(jnp.square(w)))


def temper(log_weight: Array, floor: float, iterations: int = 25) -> Array:
    """tau: the largest in [0, 1] with ESS(w^tau) >= floor, by bisection. A trust region: as the control improves it is 1."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        fine = ess(middle * log_weight) >= floor
        return jnp.where(fine, middle, low), jnp.where(fine, high, middle)

    one = jnp.ones((), log_weight.dtype)
    finite = jnp.where(jnp.isfinite(log_weight), log_weight, jnp.finfo(log_weight.dtype).min / 4)
    log_weight = finite - jnp.max(finite)
    low, _ = jax.lax.fori_loop(0, iterations, halve, (0 * one, one))
    return jnp.where(ess(log_weight) >= floor, one, low)


def unweighted(log_weight: Array) -> Array:
    """Every finite particle counts the same."""
    return jnp.where(jnp.isfinite(log_weight), 0.0, -jnp.inf)


def truncated(log_weight: Array) -> Array:
    """log min(w, sqrt(n) mean w): bounded weights whose bias vanishes. Source: Ionides (2008), J. Comp. Graph. Stat. 17."""
    n = log_weight.size
    log_mean = jax.nn.logsumexp(log_weight) - jnp.log(n)
    return jnp.minimum(log_weight, log_mean + 0.5 * jnp.log(n))


def tempered(ess_floor: float) -> Callable[[Array], Array]:
    """w -> w^tau, tau by `temper`. Raises ValueError unless 0 < ess_floor < 1."""
    if not 0 < ess_floor < 1:
        raise ValueError(f"ess_floor is a fraction of the particles, in (0, 1); got {ess_floor}.")

    def weighting(log_weight: Array) -> Array:
        # 0 * -inf is not a number: particles without weight stay without
        return jnp.where(jnp.isfinite(log_weight), temper(log_weight, ess_floor) * log_weight, -jnp.inf)

    weighting.__name__ = f"tempered({ess_floor})"
    return weighting


def defensive(weighting: Callable[[Array], Array], share: float) -> Callable[[Array], Array]:
    """(1 - share) w + share / n for the normalized w of `weighting`: no finite particle counts for less than share / n.

    For replay buffers: draws that strayed have no weight, so weights alone never show the control where they are and what
    pulls them back; its draws then have tails of absurd energies. Only for labels with the gradient of the reward (not for
    `conditional_score_matching`, which learns to reproduce what it is shown). When not to use it: separated modes (the share
    remembers the modes that the control has, not those that it lost).
    Raises ValueError unless 0 < share < 1. Source: Hesterberg (1995), Technometrics 37 (the mixture).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is a fraction of the weight, in (0, 1); got {share}.")

    def mixed(log_weight: Array) -> Array:
        some, every = (normalize(f(log_weight)) for f in (weighting, unweighted))
        return jnp.where(jnp.isfinite(log_weight), jnp.log((1 - share) * some + share * every), -jnp.inf)

    mixed.__name__ = f"defensive({getattr(weighting, '__name__', 'weighting')}, {share})"
    return mixed


def resample(key: Key, log_weight: Array, num: int) -> Array:
    """Indices (num,) by systematic resampling: particle i is drawn within one of num w_i times. The default.

    Source: Kitagawa (1996); Douc & Cappe (2005), arXiv cs/0507025 (all three schemes).
    """
    offset = jax.random.uniform(key, dtype=log_weight.dtype)
    return _at(log_weight, (jnp.arange(num, dtype=log_weight.dtype) + offset) / num)


def stratified(key: Key, log_weight: Array, num: int) -> Array:
    """Indices (num,), one uniform point in each of num equal strata: within two of num w_i."""
    offsets = jax.random.uniform(key, (num,), log_weight.dtype)
    return _at(log_weight, (jnp.arange(num, dtype=log_weight.dtype) + offsets) / num)


def residual(key: Key, log_weight: Array, num: int) -> Array:
    """Indices (num,): floor(num w_i) copies of each particle for sure, the rest drawn from what is left over."""
    expected = num * normalize(log_weight)
    sure = jnp.floor(expected)
    place = jnp.arange(num)
    certain = jnp.searchsorted(jnp.cumsum(sure), place.astype(sure.dtype), side="right")
    drawn = jax.random.categorical(key, jnp.log(jnp.maximum(expected - sure, 1e-30)), shape=(num,))
    return jnp.where(
        place < jnp.sum(sure).astype(place.dtype), jnp.clip(certain, 0, log_weight.size - 1).astype(drawn.dtype), drawn
    )


def _at(log_weight: Array, points: Array) -> Array:
    """The particles in whose share of [0, 1] the points lie."""
    edges = jnp.cumsum(normalize(log_weight))
    return jnp.clip(jnp.searchsorted(edges, points * edges[-1]), 0, log_weight.size - 1)
