"""How particles of a problem move, and what they weigh: the one place that knows memoryless and annealed problems apart.

A memoryless process keeps its noising kernel under every control (`weights.girsanov`); the backward kernel of an annealed one
depends on the drift, and its weight is that of Crooks. E[exp(log_weight) f(X_1)] = Z E_{p*}[f] in both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import sde, weights
from tiltjax.calculus import divergence
from tiltjax.sde import ControlFn
from tiltjax.types import Anneal, Fields, Key, Path, Problem, Samples


class Walker(NamedTuple):
    """A particle of an annealed problem: where it is, the fields and the drift there, and log w so far."""

    x: Array
    fields: Fields
    drift: Array
    log_weight: Array


def simulate(problem: Problem, control: ControlFn, times: Array, key: Key) -> Samples:
    """One particle from X_0 to X_1 in the process's coordinates, and its log weight."""
    anneal = problem.anneal
    if anneal is None:
        end = sde.simulate(problem.process, control, times, key)
        return Samples(end.x, end.log_ratio + problem.reward(end.x))
    key_start, key_noise = jax.random.split(key)
    walker = start(anneal, control, times[0], problem.process.initial(key_start))
    driver = sde.Noise(key_noise, problem.process.shape)

    def step(walker: Walker, k: Array) -> tuple[Walker, None]:
        return move(anneal, control, times[k], times[k + 1], walker, driver.evaluate(k)[1]), None

    walker, _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), walker, jnp.arange(len(times) - 1))
    return Samples(walker.x, walker.log_weight)


def known(problem: Problem, path: Path) -> Array | Fields:
    """What log w of a stored path needs of the density, whatever the control: r(X_N), or the fields at all N + 1 states."""
    if problem.anneal is None:
        return problem.reward(path.x[-1])
    return jax.vmap(problem.anneal.fields)(path.times, path.x)


def evaluations(problem: Problem, num_steps: int) -> tuple[int, int]:
    """Calls of the density and of its gradient that one stored path and its weight cost."""
    return (1, 0) if problem.anneal is None else (num_steps + 1, 2 * num_steps + 1)


def log_weight(problem: Problem, control: ControlFn, path: Path, given: Array | Fields | None = None) -> Array:
    """log w of a stored path under `control`, whichever control drew it: differentiable in the control.

    given: `known(problem, path)`, if it was kept.
    """
    u = jax.vmap(control)(path.times[:-1], path.x[:-1])
    clock = jax.vmap(problem.process.clock)(path.times[:-1], path.times[1:]).reshape(-1, *(1,) * (u.ndim - 1))
    # a move in units of its noise, sqrt(clock) old + noise, is that of any control
    width = weights.step_widths(problem.process, path.times)
    noise = path.noise + jnp.sqrt(clock) * (path.control - u) / width
    return own_log_weight(problem, control, path._replace(control=u, noise=noise), given)


def own_log_weight(problem: Problem, control: ControlFn, path: Path, given: Array | Fields | None = None) -> Array:
    """log w of a stored path under the control that drew it, whose values the path holds: only its end may need another."""
    given = known(problem, path) if given is None else given
    if isinstance(given, Fields):
        assert problem.anneal is not None
        return problem.anneal.tilt(path.times[0], path.x[0]) + jnp.sum(increments(problem.anneal, control, path, given))
    return given + weights.girsanov(problem.process, lambda x: jnp.zeros((), x.dtype), path)


def increments(anneal: Anneal, control: ControlFn, path: Path, fields: Fields) -> Array:
    """The share of each step in log w, (N,): their cumulative sums weigh X_k as a draw of rho_{t_k}.

    The path's own drift is evaluated anew at its end alone.
    """
    g = jnp.concatenate([path.control, control(path.times[-1], path.x[-1])[None]])
    states = (path.times, path.x, fields, g)
    t, x, f, u = jax.tree.map(lambda leaf: leaf[:-1], states)
    t1, x1, f1, u1 = jax.tree.map(lambda leaf: leaf[1:], states)
    return jax.vmap(anneal.increment)(t, t1, x, x1, f, f1, u, u1)


class Rates(NamedTuple):
    """At one state: work = d/dt r_t + v.grad r_t, and score = s + grad r_t, the score of rho_t."""

    work: Array
    score: Array


def rates(anneal: Anneal, t: Array, x: Array) -> Rates:
    """What the Jarzynski work rate needs of the density, whatever the drift."""
    rise, slope = jax.grad(anneal.tilt, argnums=(0, 1))(t, x)
    return Rates(rise + jnp.sum(anneal.base.velocity(t, x) * slope), anneal.base.score(t, x) + slope)


def work_rate(control: ControlFn, t: Array, x: Array, rate: Rates, probe: Array | None = None) -> Array:
    """dA/dt = d/dt r_t + v.grad r_t + div g + g.(s + grad r_t), with the exact divergence, or Hutchinson's with a `probe`."""
    g, spread = divergence(lambda y: control(t, y), x, probe)
    return rate.work + spread + jnp.sum(g * rate.score)


def jarzynski(anneal: Anneal, control: ControlFn, path: Path, key: Key | None = None) -> Array:
    """A_1 = int dA/dt dt along a stored path, by the trapezoid rule: E[exp(A_1) f(X_1)] = Z E_{p*}[f] as the step goes to 0.

    Neither log p_t nor the divergence of the base is needed. With a key the divergence is Hutchinson's (random signs): A_1 is
    then right in the mean, its exponential only as the probes' variance goes to 0. At finite steps `log_weight` (Crooks) is the
    one to use. Source: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; Albergo & Vanden-Eijnden, arXiv 2410.02711.
    """

    def one(t: Array, x: Array, k: Array) -> Array:
        probe = None if key is None else jax.random.rademacher(jax.random.fold_in(key, k), x.shape, x.dtype)
        return work_rate(control, t, x, rates(anneal, t, x), probe)

    rate = jax.vmap(one)(path.times, path.x, jnp.arange(len(path.times)))
    dt = path.times[1:] - path.times[:-1]
    return anneal.tilt(path.times[0], path.x[0]) + 0.5 * jnp.sum((rate[1:] + rate[:-1]) * dt)


def fluctuations(problem: Problem, control: ControlFn, path: Path) -> Array:
    """What each step of a path adds to log w beyond what its end state implies, (N,): its variance is the step's dissipation.

    Annealed: the increment of the work. Memoryless: with the exact control log w is the sum of log h(X_k+1) - log h(X_k) less
    the control's own terms; by the midpoint rule its fluctuating part is (g_k+1 - g_k).(m_k+1 - m_k) / 2, g = u / gain,
    m = Phi x, of variance |grad g|^2 (R_k - R_k+1)^2 / 2, though the control be only near the exact one.
    """
    if problem.anneal is not None:
        return increments(problem.anneal, control, path, jax.vmap(problem.anneal.fields)(path.times, path.x))
    process = problem.process

    def state(t: Array, x: Array) -> tuple[Array, Array]:
        return process.response(t) * x, control(t, x) / process.gain(t)

    m, g = jax.vmap(state)(path.times, path.x)
    change = (m[1:] - m[:-1]) * (g[1:] - g[:-1])
    return 0.5 * jnp.sum(change.reshape(len(change), -1), axis=1)


def dissipation(
    problem: Problem, control: ControlFn, times: Array, key: Key, num_particles: int, batch_size: int = 256
) -> Array:
    """The variance over paths of what each step adds to log w, (N,): for `paths.equal_dissipation`."""

    def one(key: Key) -> Array:
        values = fluctuations(problem, control, sde.simulate_path(problem.process, control, times, key))
        return jnp.where(jnp.isfinite(values), values, 0.0)

    return jnp.var(jax.lax.map(one, jax.random.split(key, num_particles), batch_size=batch_size), axis=0)


def start(anneal: Anneal, control: ControlFn, t: Array, x: Array) -> Walker:
    """A walker at X_0, a draw of p_0: its weight for rho_0 is the constant exp(r_0)."""
    return Walker(x, anneal.fields(t, x), control(t, x), anneal.tilt(t, x))


def move(anneal: Anneal, control: ControlFn, t: Array, t1: Array, walker: Walker, xi: Array) -> Walker:
    """One step of an annealed problem; the fields and the drift are evaluated once a state. The states are those of `sde`."""
    dt, sigma = t1 - t, anneal.noise(0.5 * (t + t1))
    x, f, g, log_w = walker
    drift = f.velocity + 0.5 * jnp.square(sigma) * (f.score + f.slope) + g
    x1 = x + drift * dt + sigma * jnp.sqrt(dt) * xi
    f1, g1 = anneal.fields(t1, x1), control(t1, x1)
    return Walker(x1, f1, g1, log_w + anneal.increment(t, t1, x, x1, f, f1, g, g1))


def simulate_backward(problem: Problem, control: ControlFn, times: Array, key: Key, x1: Array) -> Path:
    """A path back from X_1 = x1, stored as the forward path that it would be. For x1 ~ p* it is a path of the tilt."""
    if problem.anneal is None:
        return sde.simulate_backward(problem.process, control, times, key, x1)
    process = problem.process
    xi = sde.noise(key, len(times) - 1, process.shape)

    def step(x: Array, k: Array) -> tuple[Array, Array]:
        t, t1 = times[k], times[k + 1]
        mean, std = process.reverse(t, t1, x)
        before = mean - control(t1, x) * (t1 - t) + std * xi[k]
        return before, before

    _, x = jax.lax.scan(step, x1, jnp.arange(len(times) - 1), reverse=True)
    u = jax.vmap(control)(times[:-1], x)
    x = jnp.concatenate([x, x1[None]])
    mean, std = jax.vmap(process.transition)(times[:-1], times[1:], x[:-1])
    dt = (times[1:] - times[:-1]).reshape(-1, *(1,) * (u.ndim - 1))
    return Path(times, x, u, (x[1:] - mean - u * dt) / std.reshape(dt.shape))
