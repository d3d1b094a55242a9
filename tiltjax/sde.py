"""Simulation by diffrax, one particle at a time; `vmap` over keys for many. The only module that imports diffrax.

A step reads its own kernel (`Process.move`), so its variance is never a rounded difference of times: x' = mean + std (c + w xi)
is one step of diffrax's Euler solver on a `ControlTerm` that (1, xi) drives. The loop over steps is one `lax.scan` (`travel`),
for draws, stored paths and SMC alike, whose step is rematerialised when a loss differentiates through it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jax import Array

from tiltjax import validate
from tiltjax.calculus import divergence
from tiltjax.types import ControlFn, Key, Path, Process


class End(NamedTuple):
    """The end of a controlled path: x (*shape), and its relative path density.

    log_ratio = log dP_base/dP_u = -sum_k [c.xi + |c|^2 / 2], c = sqrt(clock) u; of narrowed steps as in `weights.girsanov`.
    """

    x: Array
    log_ratio: Array


class Drive(diffrax.AbstractPath):
    """What drives one step: (1, xi)."""

    xi: Array

    @property
    def t0(self) -> float:
        return 0.0

    @property
    def t1(self) -> float:
        return 1.0

    def evaluate(self, t0: Array, t1: Array | None = None, left: bool = True, use_jump: bool = True) -> tuple[Array, Array]:
        return jnp.ones((), self.xi.dtype), self.xi


def kernel_step(x: Array, mean: Array, std: Array, c: Array, width: Array, xi: Array) -> Array:
    """x' = mean + std (c + width xi), by diffrax's Euler solver."""

    def vector_field(t: Any, y: Array, args: Any) -> lineax.AbstractLinearOperator:
        def increment(driver: tuple[Array, Array]) -> Array:
            one, normal = driver
            return (mean - x) * one + std * (c * one + width * normal)

        structure = (jax.ShapeDtypeStruct((), mean.dtype), jax.ShapeDtypeStruct(mean.shape, mean.dtype))
        return lineax.FunctionLinearOperator(increment, structure)

    term = diffrax.ControlTerm(vector_field, Drive(xi))
    after, *_ = diffrax.Euler().step(term, 0.0, 1.0, x, None, None, made_jump=False)
    return after


def travel(step: Callable[[Any, Array, Array, Array], tuple[Any, Any]], state: Any, times: Array) -> tuple[Any, Any]:
    """The scan of step(state, k, t_k, t_k+1) -> (state, row) over a grid (N+1,): the last state, the rows stacked."""

    def body(state: Any, k: Array) -> tuple[Any, Any]:
        return step(state, k, times[k], times[k + 1])

    # the scan keeps the rematerialised step from being merged away
    return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), state, jnp.arange(len(times) - 1))


def travel_back(step: Callable[[Array, Array, Array, Array], tuple[Array, Any]], x1: Array, times: Array) -> tuple[Array, Any]:
    """The same from t = 1 to 0: rows are in the order of the times."""
    return jax.lax.scan(lambda x, k: step(x, k, times[k], times[k + 1]), x1, jnp.arange(len(times) - 1), reverse=True)


def normal(key: Key, k: Array, shape: tuple[int, ...]) -> Array:
    """xi_k ~ N(0, I) of step k."""
    return jax.random.normal(jax.random.fold_in(key, k), shape)


def noise(key: Key, num_steps: int, shape: tuple[int, ...]) -> Array:
    """The normals (N, *shape) of all steps."""
    return jax.vmap(lambda k: normal(key, k, shape))(jnp.arange(num_steps))


def controlled_step(
    process: Process, control: ControlFn, t: Array, t1: Array, x: Array, seen: Any, xi: Array
) -> tuple[Array, Array, Array]:
    """(x', log_ratio of the step, u) of a memoryless process: X' = mean + std (c + width xi), c = sqrt(clock) u(t, x)."""
    mean, std = process.move(t, t1, x, seen)
    u = control(t, x)
    c, width = jnp.sqrt(process.clock(t, t1)) * u, process.width(t, t1)
    a, b = process.log_ratio(width, c, xi)
    return kernel_step(x, mean, std, c, width, xi), -jnp.sum(a) - 0.5 * jnp.sum(b), u


def simulate(
    process: Process, control: ControlFn, times: Array, key: Key, *, x0: Array | None = None, xi: Array | None = None
) -> End:
    """One controlled path from X_0 to X_1: its end and its relative path density.

        X' = mean(X) + std (c + xi),   c = sqrt(clock) u(t, X),   (mean, std) = process.transition(t, t', X).

    times (N+1,) ascending; x0 (*shape) defaults to a draw of the process; xi (N, *shape) reuses given normals (`noise`).
    Differentiable in whatever `control` closes over, at the memory of one state a step. A Gaussian process makes exact steps
    (the sampler is unbiased at any N); `processes.euler` makes Euler-Maruyama ones.
    """
    end, _ = _through(process, control, times, key, x0, xi, stored=False)
    return end


def simulate_path(
    process: Process, control: ControlFn, times: Array, key: Key, *, x0: Array | None = None, xi: Array | None = None
) -> Path:
    """`simulate`, with every state, control and normal stored: memory 3 N states a particle."""
    end, (x, u, normals) = _through(process, control, times, key, x0, xi, stored=True)
    return Path(times, jnp.concatenate([x, end.x[None]]), u, normals)


def _through(
    process: Process, control: ControlFn, times: Array, key: Key, x0: Array | None, xi: Array | None, *, stored: bool
) -> tuple[End, Any]:
    key_start, key_noise = jax.random.split(key)
    start = process.initial(key_start) if x0 is None else x0

    def step(state: tuple[End, Any], k: Array, t: Array, t1: Array) -> tuple[tuple[End, Any], Any]:
        (x, log_ratio), seen = state
        z = normal(key_noise, k, process.shape) if xi is None else xi[k]
        after, change, u = controlled_step(process, control, t, t1, x, seen, z)
        return (End(after, log_ratio + change), process.see(t1, after)), (x, u, z) if stored else None

    begin = (End(start, jnp.zeros((), start.dtype)), process.see(times[0], start))
    (end, _), rows = travel(step, begin, times)
    return end, rows


def simulate_backward(process: Process, control: ControlFn, times: Array, key: Key, x1: Array) -> Path:
    """A path of the noising kernel from X_1 = x1 back to X_0, stored as the forward path that it would be.

    For x1 ~ p* this is a path of the tilt itself (tilts keep the noising kernel): its weights give the EUBO and the forward
    ESS. `noise` holds the normals that the *controlled* forward step would have needed to make the same move.
    """
    normals = noise(key, len(times) - 1, process.shape)

    def step(x: Array, k: Array, t: Array, t1: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        before, u, xi = back_step(process, control, t, t1, x, normals[k])
        return before, (before, u, xi)

    _, (x, u, xi) = travel_back(step, x1, times)
    return Path(times, jnp.concatenate([x, x1[None]]), u, xi)


def back_step(process: Process, control: ControlFn, t: Array, t1: Array, x1: Array, xi: Array) -> tuple[Array, Array, Array]:
    """(x, u, xi_forward): one step of the noising kernel, and the normals with which the controlled step moves x to x1."""
    mean, std = process.reverse(t, t1, x1)
    x = mean + std * xi
    forward_mean, forward_std = process.transition(t, t1, x)
    u = control(t, x)
    return x, u, ((x1 - forward_mean) / forward_std - jnp.sqrt(process.clock(t, t1)) * u) / process.width(t, t1)


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
    validate.density(process, "probability_flow")
    response, residual, gain, scale = process.frame.response, process.frame.residual, process.frame.gain, process.frame.scale

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
