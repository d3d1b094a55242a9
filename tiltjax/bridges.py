"""Dynamics of a Schroedinger bridge: the base's steps under a control, weighed against a reversal with a control of its own.

With the corrector h = grad_m log phi_hat the kernel B_h of the way back is `processes.backward_controlled`, and
    log w = r(X_N) - sum_k log (F_u / F_base)(X_k+1 | X_k) + sum_k log (B_h / B_base)(X_k | X_k+1),
which is the full Crooks weight, since a Gaussian base obeys p_k F_base = p_k+1 B_base exactly. E[w] = Z whatever u and h are;
at the bridge's own there is no spread but for the grid.
Sources: Liu, Choi, Chen, Miller, Chen (2025), arXiv 2506.22565; Vargas et al. (2024), arXiv 2307.01050.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import memoryless, processes, sde, weights
from tiltjax.types import ControlFn, Dynamics, LogDensity, Path, Process, Walker


def motion(corrector: Callable[[Array, Array], Array]) -> Callable[[Process, LogDensity, float], Dynamics]:
    """The `Problem.motion` of a bridge whose corrector is h(t, x)."""
    return lambda process, reward, resolution: dynamics(process, reward, resolution, corrector)


def dynamics(process: Process, reward: LogDensity, resolution: float, corrector: Callable[[Array, Array], Array]) -> Dynamics:
    """Those of `memoryless`, weighed against B_h in place of the noising kernel. ValueError unless the base is Gaussian."""
    plain, turned = memoryless.dynamics(process, reward, resolution), processes.backward_controlled(process, corrector)

    def turn(t: Array, t1: Array, x: Array, x1: Array) -> Array:
        """log (B_h / B_base)(x | x1): two Gaussians of one width."""
        mean, std = process.reverse(t, t1, x1)
        width = jnp.where(std > 0, std, 1.0)
        shift = jnp.where(std > 0, (turned.reverse(t, t1, x1)[0] - mean) / width, 0.0)
        return jnp.sum(shift * ((x - mean) / width - 0.5 * shift))

    def step(control: ControlFn, t: Array, t1: Array, walker: Walker, xi: Array) -> tuple[Walker, Array]:
        after, u = plain.step(control, t, t1, walker, xi)
        return after._replace(log_weight=after.log_weight + turn(t, t1, walker.x, after.x)), u

    def increments(control: ControlFn, path: Path, known: Any) -> Array:
        turns = jax.vmap(turn)(path.times[:-1], path.times[1:], path.x[:-1], path.x[1:])
        return weights.increments(process, path) + turns

    def fluctuations(control: ControlFn, path: Path) -> Array:
        """(g' - g).(m' - m) / 2 of the control, less the same of h beyond the base's own (`memoryless.fluctuations`)."""
        frame = process.frame

        def own(t: Array, x: Array) -> Array:  # h less grad_m log N(m; 0, s^2 - R), in units of the control
            known = jnp.maximum(frame.scale**2 - frame.residual(t), 1e-6 * frame.scale**2)
            return frame.gain(t) * (corrector(t, x) + frame.response(t) * x / known)

        return memoryless.fluctuations(process, lambda t, x: control(t, x) - own(t, x), path)

    def back(control: ControlFn, t: Array, t1: Array, x1: Array, xi: Array) -> tuple[Array, Array, Array]:
        return sde.back_step(turned, control, t, t1, x1, xi)

    return plain._replace(step=step, increments=increments, fluctuations=fluctuations, back=back, memoryless=False)
