"""Particles of a problem on their way, and what they weigh, for every `Dynamics`: none is known apart here.

E[exp(log_weight) f(X_1)] = Z E_{p*}[f]. Every function is of one particle; `vmap` over keys or paths.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import sde, validate
from tiltjax.calculus import divergence
from tiltjax.types import ControlFn, Key, Path, Problem, Rates, Samples, Walker


def simulate(problem: Problem, control: ControlFn, times: Array, key: Key) -> Samples:
    """One particle from X_0 to X_1 in the process's coordinates, and its log weight."""
    walker, _ = _through(problem, control, times, key, None, None, stored=False)
    return Samples(walker.x, problem.dynamics.finish(walker))


def simulate_path(
    problem: Problem, control: ControlFn, times: Array, key: Key, *, x0: Array | None = None, xi: Array | None = None
) -> Path:
    """The same with every state, control and normal stored: memory 3 N states.

    x0 (*shape) and xi (N, *shape) take the place of those that the key draws.
    """
    walker, (x, u, normals) = _through(problem, control, times, key, x0, xi, stored=True)
    return Path(times, jnp.concatenate([x, walker.x[None]]), u, normals)


def _through(
    problem: Problem, control: ControlFn, times: Array, key: Key, x0: Array | None, xi: Array | None, *, stored: bool
) -> tuple[Walker, Any]:
    moves = problem.dynamics
    key_start, key_noise = jax.random.split(key)

    def step(walker: Walker, k: Array, t: Array, t1: Array) -> tuple[Walker, Any]:
        z = sde.normal(key_noise, k, moves.shape) if xi is None else xi[k]
        after, u = moves.step(control, t, t1, walker, z)
        return after, (walker.x, u, z) if stored else None

    start = moves.start(control, times[0], moves.initial(key_start) if x0 is None else x0)
    return sde.travel(step, start, times)


def simulate_backward(problem: Problem, control: ControlFn, times: Array, key: Key, x1: Array) -> Path:
    """A path back from X_1 = x1, stored as the forward path that it would be. For x1 ~ p* it is a path of the tilt."""
    moves = problem.dynamics
    normals = sde.noise(key, len(times) - 1, moves.shape)

    def step(x: Array, k: Array, t: Array, t1: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        before, u, xi = moves.back(control, t, t1, x, normals[k])
        return before, (before, u, xi)

    _, (x, u, xi) = sde.travel_back(step, x1, times)
    return Path(times, jnp.concatenate([x, x1[None]]), u, xi)


def log_weight(problem: Problem, control: ControlFn, path: Path, known: Any = None) -> Array:
    """log w of a stored path under `control`, whichever control drew it: differentiable in the control.

    known: `problem.dynamics.known(path)`, if it was kept.
    """
    return own_log_weight(problem, control, problem.dynamics.recontrolled(control, path), known)


def own_log_weight(problem: Problem, control: ControlFn, path: Path, known: Any = None) -> Array:
    """log w of a stored path under the control that drew it, whose values the path holds: only its end may need another."""
    moves = problem.dynamics
    known = moves.known(path) if known is None else known
    return moves.boundary(path, known) + jnp.sum(moves.increments(control, path, known))


def work_rate(control: ControlFn, t: Array, x: Array, rate: Rates, probe: Array | None = None) -> Array:
    """dA/dt = d/dt r_t + v.grad r_t + div g + g.(s + grad r_t), with the exact divergence, or Hutchinson's with a `probe`."""
    g, spread = divergence(lambda y: control(t, y), x, probe)
    return rate.work + spread + jnp.sum(g * rate.score)


def jarzynski(problem: Problem, control: ControlFn, path: Path, key: Key | None = None) -> Array:
    """A_1 = int dA/dt dt along a stored path, by the trapezoid rule: E[exp(A_1) f(X_1)] = Z E_{p*}[f] as the step goes to 0.

    Neither log p_t nor the divergence of the base is needed. With a key the divergence is Hutchinson's (random signs): A_1 is
    then right in the mean, its exponential only as the probes' variance goes to 0. At finite steps `log_weight` (Crooks) is the
    one to use. Raises ValueError for a problem that is not annealed.
    Source: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229; Albergo & Vanden-Eijnden, arXiv 2410.02711.
    """
    rates = validate.rates(problem, "dynamics.jarzynski")

    def one(t: Array, x: Array, k: Array) -> Array:
        probe = None if key is None else jax.random.rademacher(jax.random.fold_in(key, k), x.shape, x.dtype)
        return work_rate(control, t, x, rates(t, x), probe)

    rate = jax.vmap(one)(path.times, path.x, jnp.arange(len(path.times)))
    dt = path.times[1:] - path.times[:-1]
    start = problem.dynamics.start(control, path.times[0], path.x[0]).log_weight
    return start + 0.5 * jnp.sum((rate[1:] + rate[:-1]) * dt)


def dissipation(
    problem: Problem, control: ControlFn, times: Array, key: Key, num_particles: int, batch_size: int = 256
) -> Array:
    """The variance over paths of what each step adds to log w, (N,): for `paths.equal_dissipation`."""
    return dissipation_of(lambda key: (problem, control), times, key, num_particles, batch_size)


def dissipation_of(
    draw: Callable[[Key], tuple[Problem, ControlFn]], times: Array, key: Key, num_particles: int, batch_size: int = 256
) -> Array:
    """The same over problems, with their controls, that draw(key) gives."""

    def one(key: Key) -> Array:
        problem, control = draw(key)
        values = problem.dynamics.fluctuations(control, simulate_path(problem, control, times, key))
        return jnp.where(jnp.isfinite(values), values, 0.0)

    return jnp.var(jax.lax.map(one, jax.random.split(key, num_particles), batch_size=batch_size), axis=0)
