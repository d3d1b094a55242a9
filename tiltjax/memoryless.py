"""Memoryless dynamics: the base's own steps under a control, whose noising kernel every tilt keeps.

    log w = r(X_N) - sum_k [c_k.xi_k + |c_k|^2 / 2],   c_k = sqrt(clock_k) u_k
Sources: Zhang & Chen (2022), arXiv 2111.15141, eq. 10; Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import frames, networks, paths, sde, weights
from tiltjax.types import ControlFn, Dynamics, LogDensity, Network, Path, Problem, Process, Walker


def dynamics(process: Process, reward: LogDensity, resolution: float) -> Dynamics:
    """Steps of the process (`sde.controlled_step`). The default of `problems.sampling` and `problems.tilt`.

    potential: log psi_t = (1 - R_t / s^2) q / (q + R_t) r(D(t, x)), q the resolution: the reward of the end that the base
    expects, as much as is left of it when that end is uncertain by R. (Of a Gaussian mode of variance q that is what remains.)
    The reward itself would choose the particles of one mode long before the others can have arrived.
    """
    frame = process.frame

    def start(control: ControlFn, t: Array, x: Array) -> Walker:
        return Walker(x, process.see(t, x), (), jnp.zeros((), x.dtype))

    def step(control: ControlFn, t: Array, t1: Array, walker: Walker, xi: Array) -> tuple[Walker, Array]:
        x, change, u = sde.controlled_step(process, control, t, t1, walker.x, walker.seen, xi)
        return Walker(x, process.see(t1, x), (), walker.log_weight + change), u

    def potential(t: Array, walker: Walker) -> Array:
        expected = frames.denoiser(frame, t, walker.x, process.g_of(t, walker.x, walker.seen))
        rest = frame.residual(t)
        return (1 - rest / frame.scale**2) * resolution / (resolution + rest) * reward(expected)

    def back(control: ControlFn, t: Array, t1: Array, x1: Array, xi: Array) -> tuple[Array, Array, Array]:
        return sde.back_step(process, control, t, t1, x1, xi)

    return Dynamics(
        shape=process.shape,
        initial=process.initial,
        start=start,
        step=step,
        finish=lambda walker: walker.log_weight + reward(walker.x),
        potential=potential,
        back=back,
        known=lambda path: reward(path.x[-1]),
        recontrolled=lambda control, path: recontrolled(process, control, path),
        increments=lambda control, path, known: weights.increments(process, path),
        boundary=lambda path, known: known,
        fluctuations=lambda control, path: fluctuations(process, control, path),
        evaluations=lambda num_steps: (1, 0),
        grid=lambda resolution, num_steps: paths.log_snr(frame, num_steps, resolution),
        network=network,
        memoryless=True,
        unbiased=True,
    )


def network(centred: bool) -> Callable[[Problem], Network]:
    """A control in the coordinates of the noising kernel, equivariant for particles."""
    return networks.egnn if centred else networks.mlp


def recontrolled(process: Process, control: ControlFn, path: Path) -> Path:
    """The same states as drawn by another control: a move in units of its noise, c + width xi, is that of any."""
    u = jax.vmap(control)(path.times[:-1], path.x[:-1])
    root = weights.column(jnp.sqrt(jax.vmap(process.clock)(path.times[:-1], path.times[1:])), u)
    return path._replace(control=u, noise=path.noise + root * (path.control - u) / weights.step_widths(process, path.times))


def fluctuations(process: Process, control: ControlFn, path: Path) -> Array:
    """(g_k+1 - g_k).(m_k+1 - m_k) / 2, (N,): with g = u / gain, m = Phi x.

    With the exact control log w is the sum of log h(X_k+1) - log h(X_k) less the control's own terms; by the midpoint rule this
    is its fluctuating part, of variance |grad g|^2 (R_k - R_k+1)^2 / 2, though the control be only near the exact one.
    """
    frame = process.frame

    def state(t: Array, x: Array) -> tuple[Array, Array]:
        return frame.response(t) * x, control(t, x) / frame.gain(t)

    m, g = jax.vmap(state)(path.times, path.x)
    change = (m[1:] - m[:-1]) * (g[1:] - g[:-1])
    return 0.5 * jnp.sum(change.reshape(len(change), -1), axis=1)
