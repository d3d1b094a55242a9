"""Temperatures between the start and the target, with Hamiltonian moves that fit each: found by a scout of few particles.

blackjax's adaptive tempered SMC sets the temperatures by the ESS of a step; step sizes and masses follow the scout's
particles. What is found is then held fixed: the main run's log Z has no bias of adaptation, and its cost is known before.
"""

import time
from typing import Any, NamedTuple

import blackjax
import blackjax.smc.adaptive_tempered as adaptive
import blackjax.smc.resampling as resampling
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.baselines.start import Start
from benchmarks.outcome import compiled
from tiltjax.types import Key

ACCEPTANCE = 0.7
MOST_STAGES = 2000


class Ladder(NamedTuple):
    """Inverse temperatures (K,) from 0 to 1; step sizes (K,), inverse masses (K, dim) and particles (K, n, dim) at each."""

    temperatures: Array
    step_size: Array
    inverse_mass: Array
    particles: Array
    calls: int
    energies: int
    compile_seconds: float
    seconds: float


def scout(key: Key, start: Start, *, keep: float, num_particles: int, leapfrog: int) -> Ladder:
    """keep: the ESS of a step, as a share. Raises FloatingPointError when the temperature comes to a stop.

    `calls` are of density and gradient together, `energies` of the density alone. Asked again from one start, it is the ladder
    found before, with the costs of then: a method is run for equal seconds until its length fits.
    """
    asked = (keep, num_particles, leapfrog, *np.asarray(jax.random.key_data(key)).tolist())
    if asked not in start.scouted:
        start.scouted[asked] = _scout(key, start, keep, num_particles, leapfrog)
    ladder: Ladder = start.scouted[asked]
    return ladder


def _scout(key: Key, start: Start, keep: float, num_particles: int, leapfrog: int) -> Ladder:
    kernel = adaptive.build_kernel(
        start.log_base, start.log_likelihood, blackjax.hmc.build_kernel(), blackjax.hmc.init, resampling.systematic, keep
    )

    def stage(key: Key, state: Any, step_size: Array) -> tuple[Any, Array, Array]:
        key_size, key_step = jax.random.split(key)
        mean = jnp.sum(state.weights[:, None] * state.particles, axis=0)
        variance = jnp.sum(state.weights[:, None] * jnp.square(state.particles - mean[None]), axis=0) + 1e-12
        state, info = kernel(key_step, state, 1, moves(key_size, step_size, variance, num_particles, leapfrog))
        acceptance = jnp.mean(info.update_info.acceptance_rate)
        return state, jnp.clip(step_size * jnp.exp(acceptance - ACCEPTANCE), 1e-6, 2.0), variance

    key_draw, key_run = jax.random.split(key)
    y = start.draw(key_draw, num_particles)
    state = adaptive.init(y)._replace(tempering_param=jnp.zeros((), y.dtype))
    step_size = jnp.asarray(start.dim**-0.25, y.dtype)
    program, compile_seconds = compiled(stage, key_run, state, step_size)
    began, rungs = time.perf_counter(), list[tuple[float, Array, Array, Array]]()
    while not rungs or rungs[-1][0] < 1:
        at = float(state.tempering_param)
        if not np.isfinite(at) or (rungs and at <= rungs[-1][0]) or len(rungs) >= MOST_STAGES:
            raise FloatingPointError(f"tempering came to a stop at inverse temperature {at:.3g}, stage {len(rungs)}.")
        state, step_size, variance = program(jax.random.fold_in(key_run, len(rungs)), state, step_size)
        rungs.append((at, step_size, variance, state.particles))
    at_all, sizes, variances, particles = zip(*rungs, strict=True)
    return Ladder(
        jnp.asarray(at_all, y.dtype),
        jnp.stack(sizes),
        jnp.stack(variances),
        jnp.stack(particles),
        calls=num_particles * len(rungs) * (leapfrog + 1),
        energies=num_particles * len(rungs) * 2,  # to find the next temperature, and the weights
        compile_seconds=compile_seconds,
        seconds=time.perf_counter() - began,
    )


def moves(key: Key, step_size: Array, inverse_mass: Array, n: int, leapfrog: int) -> dict[str, Array]:
    """Parameters of blackjax's HMC for n particles: step sizes jittered by particle, so that no orbit closes."""
    jitter = jnp.exp(jax.random.uniform(key, (n,), step_size.dtype, minval=-1.5, maxval=0.5))
    return {
        "step_size": step_size * jitter,
        "inverse_mass_matrix": inverse_mass[None],
        "num_integration_steps": jnp.asarray([leapfrog]),
    }
