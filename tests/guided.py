"""A dynamics of one's own, for `test_dynamics.py`: a guided proposal with narrower noise, and its weight."""

import jax
import jax.numpy as jnp

from tiltjax import memoryless, processes

WIDTH, STRENGTH = 0.9, 0.3


def motion(process, reward, resolution):
    """X' = mean + std (c + a + w xi): the guide a = sqrt(clock) strength gain grad r(m) / (1 + |grad r(m)|) beside the control.

    log w counts the two shifts together, c + a, under noise of width w: any proposal does for E[w] = Z.
    """
    frame = process.frame
    narrow = process._replace(width=lambda t, t1: jnp.full((), WIDTH), log_ratio=processes.narrow_log_ratio)
    plain = memoryless.dynamics(narrow, reward, resolution)

    def guide(t, x):
        slope = jax.grad(reward)(frame.response(t) * x)
        return STRENGTH * frame.gain(t) * slope / (1 + jnp.sqrt(jnp.sum(jnp.square(slope))))

    def steered(control):
        return lambda t, x: control(t, x) + guide(t, x)

    return plain._replace(
        step=lambda control, *state: plain.step(steered(control), *state),
        back=lambda control, *state: plain.back(steered(control), *state),
        recontrolled=lambda control, path: plain.recontrolled(steered(control), path),
        fluctuations=lambda control, path: plain.fluctuations(steered(control), path),
        evaluations=lambda num_steps: (1, num_steps),
    )
