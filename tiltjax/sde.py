"""Simulation by diffrax, one particle at a time; `vmap` over keys for many. The only module that imports diffrax.

The solver's clock counts steps: a step reads its own kernel (`Process.transition`), so its variance is never a rounded
difference of times. One `ControlTerm` drives the particle and its path weight together by (1, xi_k), so the control is
evaluated once a step. Steps are diffrax's; the loop over them is a `lax.scan` whose step is rematerialised when a loss
differentiates through it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jax import Array

from tiltjax.calculus import divergence
from tiltjax.processes import step_width
from tiltjax.types import Key, Path, Process

ControlFn = Callable[[Array, Array], Array]  # (t, x) -> u


class End(NamedTuple):
    """The end of a controlled path: x (*shape), and its relative path density.

    log_ratio = log dP_base/dP_u = -sum_k [c.xi + |c|^2 / 2], c = sqrt(clock) u; of narrowed steps as in `weights.girsanov`.
    """

    x: Array
    log_ratio: Array


class Noise(diffrax.AbstractPath):
    """What drives a step of the clock: (1, xi_k, xi_k^2), xi_k ~ N(0, I) from the key folded with k, or a stored row."""

    source: Array
    shape: tuple[int, ...] = ()
    stored: bool = False

    @property
    def t0(self) -> float:
        return 0.0

    @property
    def t1(self) -> float:
        return float("inf")

    def evaluate(
        self, t0: Array, t1: Array | None = None, left: bool = True, use_jump: bool = True
    ) -> tuple[Array, Array, Array]:
        xi = self.source[t0] if self.stored else jax.random.normal(jax.random.fold_in(self.source, t0), self.shape)
        return jnp.ones((), xi.dtype), xi, jnp.square(xi)


def noise(key: Key, num_steps: int, shape: tuple[int, ...]) -> Array:
    """The (N, *shape) normals that `simulate` draws from `key`."""
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(key, k), shape))(jnp.arange(num_steps))


def simulate(
    process: Process, control: ControlFn, times: Array, key: Key, *, x0: Array | None = None, xi: Array | None = None
) -> End:
    """One controlled path from X_0 to X_1: its end and its relative path density.

        X' = mean(X) + std (c + xi),   c = sqrt(clock) u(t, X),   (mean, std) = process.transition(t, t', X).

    times (N+1,) ascending; x0 (*shape) defaults to a draw of the process; xi (N, *shape) reuses given normals (`noise`).
    Differentiable in whatever `control` closes over, at the memory of one state a step. A Gaussian process makes exact steps
    (the sampler is unbiased at any N); `processes.euler` makes Euler-Maruyama ones.
    """
    end, _ = _scan(process, control, times, key, x0, xi, stored=False)
    return end


def simulate_path(
    process: Process, control: ControlFn, times: Array, key: Key, *, x0: Array | None = None, xi: Array | None = None
) -> Path:
    """`simulate`, with every state, control and normal stored: memory 3 N states a particle."""
    end, rows = _scan(process, control, times, key, x0, xi, stored=True)
    assert rows is not None
    x, u, normals = rows
    return Path(times, jnp.concatenate([x, end.x[None]]), u, normals)


def _scan(
    process: Process, control: ControlFn, times: Array, key: Key, x0: Array | None, xi: Array | None, *, stored: bool
) -> tuple[End, tuple[Array, Array, Array] | None]:
    key_start, key_noise = jax.random.split(key)
    start = process.initial(key_start) if x0 is None else x0
    driver = Noise(key_noise, process.shape) if xi is None else Noise(xi, process.shape, stored=True)
    term = diffrax.ControlTerm(lambda k, y, args: _kernel(process, control, times[k], times[k + 1], y), driver)
    solver = diffrax.Euler()

    @functools.partial(jax.checkpoint, prevent_cse=False)  # the scan keeps it from being merged away
    def step(y: End, k: Array) -> tuple[End, tuple[Array, Array, Array] | None]:
        after, *_ = solver.step(term, k, k + 1, y, None, None, made_jump=False)
        if not stored:
            return after, None
        return after, (y.x, control(times[k], y.x), driver.evaluate(k)[1])

    return jax.lax.scan(step, End(start, jnp.zeros((), start.dtype)), jnp.arange(len(times) - 1))


def _kernel(process: Process, control: ControlFn, t: Array, t1: Array, y: End) -> lineax.AbstractLinearOperator:
    """(1, xi, xi^2) -> the increments of a step, linear in all."""
    mean, std = process.transition(t, t1, y.x)
    c = jnp.sqrt(process.clock(t, t1)) * control(t, y.x)

    def increment(driver: tuple[Array, Array, Array]) -> End:
        one, xi, _ = driver
        return End((mean - y.x) * one + std * (c * one + xi), -jnp.sum(c * xi) - 0.5 * jnp.sum(jnp.square(c)) * one)

    def narrow(driver: tuple[Array, Array, Array]) -> End:
        one, xi, square = driver
        width = step_width(process, t, t1)
        log_ratio = -jnp.sum(c * width * xi) + 0.5 * jnp.sum((1 - jnp.square(width)) * square)
        log_ratio += jnp.sum(jnp.log(width) - 0.5 * jnp.square(c)) * one
        return End((mean - y.x) * one + std * (c * one + width * xi), log_ratio)

    real = jax.ShapeDtypeStruct(mean.shape, mean.dtype)
    structure = (jax.ShapeDtypeStruct((), mean.dtype), real, real)
    return lineax.FunctionLinearOperator(increment if process.shrink is None else narrow, structure)


def simulate_backward(process: Process, control: ControlFn, times: Array, key: Key, x1: Array) -> Path:
    """A path of the noising kernel from X_1 = x1 back to X_0, stored as the forward path that it would be.

    For x1 ~ p* this is a path of the tilt itself (tilts keep the noising kernel): its weights give the EUBO and the forward
    ESS. `noise` holds the normals that the *controlled* forward step would have needed to make the same move.
    """
    normals = noise(key, len(times) - 1, process.shape)

    def step(x: Array, k: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        t, t1 = times[k], times[k + 1]
        mean, std = process.reverse(t, t1, x)
        before = mean + std * normals[k]
        forward_mean, forward_std = process.transition(t, t1, before)
        u = control(t, before)
        xi = ((x - forward_mean) / forward_std - jnp.sqrt(process.clock(t, t1)) * u) / step_width(process, t, t1)
        return before, (before, u, xi)

    _, (x, u, xi) = jax.lax.scan(step, x1, jnp.arange(len(times) - 1), reverse=True)
    return Path(times, jnp.concatenate([x, x1[None]]), u, xi)


def lean_adjoint(process: Process, path: Path, terminal: Array) -> Array:
    """a_k, k = 0..N, shape (N+1, *shape): a_N = terminal = -grad r(X_N), and the exact transpose of the base's own step before.

        a_k = (d mean_k / d x)^T a_{k+1},   mean_k = process.transition(t_k, t_{k+1}, x)[0]

    This is a' = -(grad b)^T a with the step's own order, and the gradient of -r(X_N) with respect to X_k when the control is
    held fixed. Gaussian base: a_k = (Phi_k / Phi_N) a_N. Source: Domingo-Enrich et al. (2024), arXiv 2409.08861.
    """

    def step(a: Array, k: Array) -> tuple[Array, Array]:
        _, pullback = jax.vjp(lambda x: process.transition(path.times[k], path.times[k + 1], x)[0], path.x[k])
        (before,) = pullback(a)
        return before, before

    _, before = jax.lax.scan(step, terminal, jnp.arange(len(path.times) - 1), reverse=True)
    return jnp.concatenate([before, terminal[None]])


def probability_flow(
    process: Process, control: ControlFn, times: Array, key: Key, *, z: Array | None = None, probe: Array | None = None
) -> End:
    """The tilt's probability-flow ODE from noise to data, with Heun steps on the grid.

    Gives x and log_ratio = log p_base(x) - log p_flow(x). In y = sqrt(R_0 - R_t) and the unit-variance coordinate
    z = X_t / sqrt(Var X_t) of the base it reads
        dz/dy = g(m = y z),   d log p/dy = -y div_m g(m),   g = grad_m log h = u / gain,
    regular at both ends for every Gaussian path. z_0 ~ N(0, I). Adding the reward to log_ratio gives an end weight. The
    divergence is exact (d evaluations of a vjp), or Hutchinson's with a `probe` (*shape) of unit-variance entries (then the
    weight is right only in the mean of its logarithm). Only for Gaussian processes.
    Source: Song et al. (2021), arXiv 2011.13456; Chen et al. (2018), arXiv 1806.07366.
    """
    if process.log_density is None:
        raise ValueError("probability_flow needs a Gaussian process; got one known by its velocity or score.")
    response, residual, gain, scale = process.response, process.residual, process.gain, process.scale

    z0 = jax.random.normal(key, process.shape) if z is None else z
    solver = diffrax.Heun()
    clock = jnp.sqrt(jnp.maximum(scale**2 - jax.vmap(residual)(times), 0.0))

    def slope(t: Array, y: Array, state: End) -> End:
        def g(m: Array) -> Array:
            return control(t, m / jnp.maximum(response(t), 1e-12)) / gain(t)

        value, spread = divergence(g, y * state.x, probe)
        return End(value, y * spread)

    def step(state: End, k: Array) -> tuple[End, None]:
        def along(part: Any, state: Any, args: Any) -> End:  # part in [0, 1] of this step
            t = times[k] + part * (times[k + 1] - times[k])
            y = clock[k] + part * (clock[k + 1] - clock[k])
            return jax.tree.map(lambda v: (clock[k + 1] - clock[k]) * v, slope(t, y, state))

        term = diffrax.ODETerm(along)
        zero, one = jnp.zeros((), times.dtype), jnp.ones((), times.dtype)
        after, *_ = solver.step(term, zero, one, state, None, solver.init(term, zero, one, state, None), made_jump=False)
        return after, None

    end, _ = jax.lax.scan(step, End(z0, jnp.zeros((), z0.dtype)), jnp.arange(len(times) - 1))
    # log p_flow(x) = log N(z_0) - int y div g dy - d log s;  log p_base(x) = log N(z_1) - d log s
    shift = 0.5 * jnp.sum(jnp.square(z0)) - 0.5 * jnp.sum(jnp.square(end.x))
    return End(scale * end.x, shift + end.log_ratio)
