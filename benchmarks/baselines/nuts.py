"""The no-U-turn sampler with window adaptation, by blackjax: several chains, no log Z.

Sources: Hoffman & Gelman (2014), arXiv 1111.4246; Betancourt (2017), arXiv 1701.02434.
"""

import math
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.adaptation.base import get_filter_adapt_info_fn
from jax import Array

import tiltjax as tj
from benchmarks.baselines.start import Start, start
from benchmarks.outcome import Outcome, kept, timed
from tiltjax.types import Key

LEAPS = 32  # of a transition, as the warm-up is foreseen


def nuts(
    key: Key,
    target: tj.Target,
    *,
    evaluations: int,
    num_draws: int,
    chains: int = 8,
    warm_up: int = 300,
    begun: Start | None = None,
) -> Outcome:
    """Chains from over-dispersed normal draws in the pilot's units; each adapts its own step size and masses.

    `evaluations` are of density and gradient, after the pilot: leapfrog steps of the warm-up and of what is kept. The warm-up
    has at most `warm_up` transitions, 50 at least, else as many as a third of the budget holds at LEAPS steps each. How many
    draws fit is foreseen from its last third, ten transitions at least, so that a run may cost somewhat more or less.
    When not to use it: modes that are far apart (a chain stays in its own).
    """
    key_start, key_draw, key_warm, key_run = jax.random.split(key, 4)
    begun = begun or start(key_start, target)
    warm_up = max(50, min(warm_up, evaluations // (6 * chains * LEAPS)))
    warm = blackjax.window_adaptation(
        blackjax.nuts, begun.log_density, adaptation_info_fn=get_filter_adapt_info_fn(info_keys={"num_integration_steps"})
    )

    def adapt(key: Key, y: Array) -> tuple[Array, dict[str, Array], Array]:
        (state, parameters), info = warm.run(key, y, warm_up)
        found = {name: parameters[name] for name in ("step_size", "inverse_mass_matrix")}
        return state.position, found, info.info.num_integration_steps

    (y, parameters, steps), compile_warm, seconds_warm = timed(
        lambda key, y: jax.vmap(adapt)(jax.random.split(key, chains), y), key_warm, begun.draw(key_draw, chains)
    )
    spent = int(jnp.sum(steps)) + chains
    a_transition = 2 * chains * float(jnp.mean(steps[:, -(warm_up // 3) :]))
    transitions = max(10, int((evaluations - 2 * spent) / a_transition))
    num_kept = min(-(-num_draws // chains), transitions)
    stride = transitions // num_kept
    kernel = blackjax.nuts.build_kernel()

    def chain(key: Key, y: Array, parameters: dict[str, Array]) -> tuple[Array, Array, Array]:
        def body(i: Array | int, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            state, steps, divergent = carry
            state, info = kernel(jax.random.fold_in(key, i), state, begun.log_density, **parameters)
            return state, steps + info.num_integration_steps, divergent + info.is_divergent

        def keep_one(carry: Any, i: Array) -> tuple[Any, Array]:
            carry = jax.lax.fori_loop(i * stride, (i + 1) * stride, body, carry)
            return carry, carry[0].position

        zero = jnp.zeros((), int)
        first = (blackjax.nuts.init(y, begun.log_density), zero, zero)
        (_, steps, divergent), draws = jax.lax.scan(keep_one, first, jnp.arange(num_kept))
        return draws, steps, divergent

    (draws, steps, divergent), compile_run, seconds = timed(
        lambda key, *rest: jax.vmap(chain)(jax.random.split(key, chains), *rest), key_run, y, parameters
    )
    calls = spent + int(jnp.sum(steps)) + chains
    costs = {
        "pilot_seconds": begun.seconds,
        "compile_seconds": compile_warm + compile_run,
        "sample_seconds": seconds_warm + seconds,
        "energy_evaluations": calls,
        "gradient_evaluations": calls + begun.gradient_evaluations,
    }
    found = {
        "warm_up": warm_up,
        "transitions": num_kept * stride,
        "divergent": int(jnp.sum(divergent)),
        "r_hat": float(jnp.max(blackjax.diagnostics.potential_scale_reduction(draws))) if chains > 1 else math.nan,
    }
    x = jax.jit(jax.vmap(begun.decode))(draws.swapaxes(0, 1).reshape(-1, begun.dim))
    return Outcome(kept(tj.Samples(x, jnp.zeros(len(x), x.dtype))), costs, diagnostics=found, begun=begun)
