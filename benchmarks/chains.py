"""Markov chains for reference draws, by blackjax's kernels: replica exchange of HMC, and NUTS. Many chains at once.

Chains run until told to stop, whatever they cost: references, not baselines to be compared at equal cost.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Key, LogDensity


class Chains(NamedTuple):
    """x (chains, draws, *shape) of every chain after its warm-up.

    acceptance, step_size: by temperature (NUTS: by chain); swaps: the rate between neighbouring temperatures.
    """

    x: Array
    acceptance: Array
    step_size: Array
    swaps: Array


Run = Callable[[LogDensity, Array, Key, int], Chains]  # (log_density, start (chains, *shape), key, draws a chain) -> Chains


class Ladder(NamedTuple):
    """Replica exchange at inverse temperatures `betas` (the first is 1), HMC of `leapfrog` steps between swaps.

    relax: steps of clipped gradient ascent before all, for starts of enormous energy (particles on top of one another).
    """

    betas: tuple[float, ...]
    leapfrog: int = 10
    warm_up: int = 2000
    thin: int = 10
    relax: int = 0
    acceptance: float = 0.8


class _State(NamedTuple):
    """x (chains, temperatures, d), log gamma and its gradient there, untempered; log step sizes and rates by temperature."""

    x: Array
    log_density: Array
    gradient: Array
    log_step: Array
    acceptance: Array
    swaps: Array


def replica_exchange(ladder: Ladder) -> Run:
    """rho_k proportional to gamma^beta_k, each with its own step size, adapted while warming up and fixed from then on.

    One sweep is a Hamiltonian move at every temperature, and swaps of the pairs (0, 1), (2, 3), .. or (1, 2), (3, 4), .. in
    turns. Not for densities whose power beta is not integrable.
    Source: Geyer 1991; Okabe et al. 2001, Chem. Phys. Lett. 335 (even and odd pairs in turns).
    """

    def run(log_density: LogDensity, start: Array, key: Key, draws: int) -> Chains:
        shape = start.shape[1:]

        def flat(x: Array) -> Array:
            return log_density(x.reshape(shape))

        sweep = _sweep(flat, ladder)
        x = jnp.repeat(start.reshape(len(start), 1, -1), len(ladder.betas), 1)
        key_warm, key_run = jax.random.split(key)

        @jax.jit
        def warm(key: Key, x: Array) -> _State:
            x = jax.lax.fori_loop(0, ladder.relax, lambda i, x: x + _clipped(jax.vmap(jax.vmap(jax.grad(flat)))(x)), x)
            value, slope = jax.vmap(jax.vmap(jax.value_and_grad(flat)))(x)
            zeros = jnp.zeros(len(ladder.betas), x.dtype)
            state = _State(x, value, slope, zeros + math.log(0.1), zeros, zeros[:-1])

            def one(i: Array, state: _State) -> _State:
                state = sweep(jax.random.fold_in(key, i), i, state)
                gain = 0.5 / (1.0 + i / 50.0) ** 0.6
                return state._replace(log_step=state.log_step + gain * (state.acceptance - ladder.acceptance))

            return jax.lax.fori_loop(0, ladder.warm_up, one, state)

        @jax.jit
        def collect(key: Key, state: _State) -> tuple[Array, Array, Array]:
            def one(carry: tuple[_State, Array], key: Key) -> tuple[tuple[_State, Array], tuple[Array, Array, Array]]:
                def thinned(carry: tuple[_State, Array], key: Key) -> tuple[tuple[_State, Array], tuple[Array, Array]]:
                    state, i = carry
                    state = sweep(key, i, state)
                    return (state, i + 1), (state.acceptance, state.swaps)

                carry, rates = jax.lax.scan(thinned, carry, jax.random.split(key, ladder.thin))
                return carry, (carry[0].x[:, 0], rates[0].mean(0), rates[1].mean(0))

            _, out = jax.lax.scan(one, (state, jnp.zeros((), int)), jax.random.split(key, draws))
            return out

        state = warm(key_warm, x)
        x, acceptance, swaps = collect(key_run, state)
        x = jnp.swapaxes(x, 0, 1).reshape(len(start), draws, *shape)
        # each pair is tried every other sweep
        return Chains(x, acceptance.mean(0), jnp.exp(state.log_step), 2 * swaps.mean(0))

    return run


def _clipped(gradient: Array, step: float = 0.02) -> Array:
    """Ascends by at most `step` a particle's vector."""
    size = jnp.sqrt(jnp.sum(gradient**2, -1, keepdims=True))
    return jnp.where(jnp.isfinite(size), step * gradient / jnp.maximum(size, 1.0), 0.0)


def _sweep(flat: LogDensity, ladder: Ladder) -> Callable[[Key, Array, _State], _State]:
    import blackjax
    from blackjax.mcmc.hmc import HMCState

    kernel = blackjax.hmc.build_kernel()

    def move(key: Key, beta: Array, step: Array, x: Array, value: Array, slope: Array) -> tuple[Array, ...]:
        key_step, key_move = jax.random.split(key)
        step = step * jax.random.uniform(key_step, (), x.dtype, 0.7, 1.3)  # else the moves may be in tune with an oscillation
        state = HMCState(x, beta * value, beta * slope)
        state, info = kernel(key_move, state, lambda x: beta * flat(x), step, jnp.ones_like(x), ladder.leapfrog)
        return state.position, state.logdensity / beta, state.logdensity_grad / beta, info.acceptance_rate

    def sweep(key: Key, i: Array, state: _State) -> _State:
        betas, num = jnp.asarray(ladder.betas, state.x.dtype), len(ladder.betas)
        key_move, key_swap = jax.random.split(key)
        keys = jax.random.split(key_move, state.log_density.shape)
        moves = jax.vmap(jax.vmap(move), (0, None, None, 0, 0, 0))
        *arrays, acceptance = moves(keys, betas, jnp.exp(state.log_step), state.x, state.log_density, state.gradient)
        acceptance = jnp.nan_to_num(acceptance).mean(0)
        value = arrays[1]
        gain = (betas[:-1] - betas[1:]) * (value[:, 1:] - value[:, :-1])
        even = (jnp.arange(num - 1) + i) % 2 == 0
        swap = even & (jnp.log(jax.random.uniform(key_swap, gain.shape, gain.dtype)) < gain)  # (chains, temperatures - 1)
        up = jnp.pad(swap, ((0, 0), (0, 1)))  # k takes the place of k + 1
        down = jnp.pad(swap, ((0, 0), (1, 0)))
        index = jnp.arange(num) + up - down
        arrays = [jnp.take_along_axis(a, index.reshape(index.shape + (1,) * (a.ndim - 2)), 1) for a in arrays]
        x, value, gradient = arrays
        return _State(x, value, gradient, state.log_step, acceptance, swap.mean(0, dtype=state.x.dtype))

    return sweep


def nuts(warm_up: int = 1000, thin: int = 1, acceptance: float = 0.8) -> Run:
    """NUTS with window adaptation of step size and diagonal mass matrix, chain by chain. For what has one mode.

    Source: Hoffman, Gelman 2014, arXiv 1111.4246; adaptation as in Stan.
    """

    def run(log_density: LogDensity, start: Array, key: Key, draws: int) -> Chains:
        import blackjax
        from blackjax.adaptation.base import get_filter_adapt_info_fn

        shape = start.shape[1:]

        def flat(x: Array) -> Array:
            return log_density(x.reshape(shape))

        def chain(key: Key, x: Array) -> tuple[Array, Array, Array]:
            key_warm, key_run = jax.random.split(key)
            adaptation = blackjax.window_adaptation(
                blackjax.nuts, flat, target_acceptance_rate=acceptance, adaptation_info_fn=get_filter_adapt_info_fn()
            )
            (state, parameters), _ = adaptation.run(key_warm, x, num_steps=warm_up)
            step = blackjax.nuts(flat, **parameters).step

            def thinned(state, key):
                state, rates = jax.lax.scan(
                    lambda s, k: (lambda out: (out[0], out[1].acceptance_rate))(step(k, s)), state, jax.random.split(key, thin)
                )
                return state, (state.position, rates.mean())

            _, (x, rate) = jax.lax.scan(thinned, state, jax.random.split(key_run, draws))
            return x, rate.mean(), parameters["step_size"]

        x, rate, step_size = jax.jit(jax.vmap(chain))(jax.random.split(key, len(start)), start.reshape(len(start), -1))
        return Chains(x.reshape(len(start), draws, *shape), rate, step_size, jnp.zeros(0))

    return run
