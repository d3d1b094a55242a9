"""The ESS that a time grid allows: the exact control of a 40-mode mixture on the Brownian path, sigma = 30."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

import tiltjax as tj
from benchmarks.cases import CASES
from tiltjax.exact import Exact
from tiltjax.types import Key, Problem

SIGMA = 30.0
STEPS = (25, 50, 100, 200, 400)


def ceiling(
    num_draws: int, console: Console, steps: tuple[int, ...] = STEPS, pilot_paths: int = 1000, case: str = "gmm40"
) -> dict[str, dict[int, float]]:
    """Prints and returns {grid: {number of steps: ESS of the path weights}}."""
    exact = mixture(case)
    process, resolution = exact.problem.process, exact.problem.resolution
    with console.status("pilot paths"):
        dissipation = equal_dissipation(exact, jax.random.key(1), pilot_paths)

    def log_snr(n: int) -> Array:
        return tj.paths.log_snr(process.frame, n, resolution)

    narrow = tj.problems.narrowed(exact.problem, ratio(exact, CASES[case].target(), jax.random.key(2)))
    grids: dict[str, tuple[Problem, Callable[[int], Array]]] = {
        "uniform in t": (exact.problem, tj.paths.uniform),
        "1 - (1 - t)^2": (exact.problem, tj.paths.power),
        "log-SNR": (exact.problem, log_snr),
        "equal dissipation": (exact.problem, dissipation),
        "log-SNR, narrowed": (narrow, log_snr),
    }
    table = Table("grid", *(f"{n} steps" for n in steps), title=f"ESS of the exact control, {case}, {num_draws} paths")
    out: dict[str, dict[int, float]] = {}
    for name, (problem, grid) in grids.items():
        network = tj.Network(lambda key: (), lambda params, t, x: exact.control(t, x))
        sampler = tj.sampling.sampler(problem, network, (), grid)
        with console.status(name):
            out[name] = {n: _ess(sampler, num_draws, n) for n in steps}
        table.add_row(name, *(f"{value:.3f}" for value in out[name].values()))
    console.print(table)
    return out


def mixture(case: str = "gmm40") -> Exact:
    """Its exact control on the Brownian path of sigma = 30."""
    components = CASES[case].components
    assert components is not None
    means, variance = components()
    process = tj.processes.gaussian(tj.paths.brownian(SIGMA), means.shape[1:])
    return tj.exact.mixture_target(process, means, variance, jnp.full(len(means), 1.0 / len(means), means.dtype))


def ratio(exact: Exact, target: tj.Target, key: Key, bins: int = 96, num_draws: int = 2000) -> Array:
    """Var*[X_1 | X_t] / R_t, the mean over exact draws of (X_1 - D)^2 / R_t, for `problems.narrowed`: (bins, *shape)."""
    process, overshoot = exact.problem.process, tj.problems.OVERSHOOT * exact.problem.resolution
    assert target.sample is not None
    key_draws, key_noise = jax.random.split(key)
    x1 = target.sample(key_draws, num_draws)

    def at(fraction: Array, key: Key) -> Array:
        t = tj.paths.time_at(process.frame, (overshoot / process.frame.scale**2) ** fraction)
        x = tj.frames.noised(process.frame, t, x1, jax.random.normal(key, x1.shape))
        residual = process.frame.residual(t)
        pulls = jax.vmap(lambda x: exact.control(t, x))(x) / process.frame.gain(t)
        return jnp.mean(jnp.square(x1 - process.frame.response(t) * x - residual * pulls), axis=0) / residual

    middles = (jnp.arange(bins, dtype=x1.dtype) + 0.5) / bins
    return jax.jit(lambda: jax.lax.map(lambda item: at(*item), (middles, jax.random.split(key_noise, bins))))()


def equal_dissipation(exact: Exact, key: Key, num_paths: int, num_steps: int = 400) -> Callable[[int], Array]:
    """num_steps -> times whose steps have density proportional to sqrt(c(t)), c = E |du/dm gain|_F^2 / 2 on pilot paths.

    The log weight of a step, d log h - u.(dm / gain) + |u|^2 dt / 2, is (gain^2 / 2)(xi xi^T - I) : hess log h dt,
    of variance c dt^2, with m = Phi X the martingale of the base and u = gain grad_m log h. For N steps sum c dt^2 is
    least for that density (Cauchy-Schwarz).
    """
    process = exact.problem.process
    response, gain = process.frame.response, process.frame.gain
    times = tj.paths.log_snr(process.frame, num_steps, exact.problem.resolution)

    def variance(t: Array, x: Array) -> Array:
        return 0.5 * jnp.sum(jnp.square(gain(t) / response(t) * jax.jacfwd(lambda y: exact.control(t, y))(x)))

    def one(key: Key) -> Array:
        path = tj.sde.simulate_path(process, exact.control, times, key)
        return jax.vmap(variance)(times[:-1], path.x[:-1])

    c = np.asarray(jnp.mean(jax.jit(jax.vmap(one))(jax.random.split(key, num_paths)), axis=0), np.float64)
    at = np.asarray(times, np.float64)
    share = np.concatenate([[0.0], np.cumsum(np.sqrt(c) * np.diff(at))])

    def grid(n: int) -> Array:
        return jnp.asarray(np.interp(np.linspace(0.0, share[-1], n + 1), share, at), float)

    return grid


def _ess(sampler: tj.Sampler, num_draws: int, num_steps: int) -> float:
    return float(tj.diagnostics.ess(sampler.sample(jax.random.key(0), num_draws, num_steps=num_steps).log_weight))
