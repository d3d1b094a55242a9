"""Replica exchange: chains at every temperature, Hamiltonian moves by blackjax, neighbours that swap.

Sources: Geyer (1991); Syed, Bouchard-Côté, Deligiannidis, Doucet (2022), arXiv 1905.02939 (even and odd swaps in turn, and
the start as the hottest chain); Xie, Lewis, Fan, Kuo, Chen (2011), Syst. Biol. 60 (stepping stones).
"""

from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
from jax import Array

import tiltjax as tj
from benchmarks.baselines.ladder import Ladder, scout
from benchmarks.baselines.start import Start, start
from benchmarks.outcome import Outcome, kept, timed
from tiltjax.types import Estimate, Key


class Sums(NamedTuple):
    """Over sweeps, between neighbours (K-1,): log of the sum of stones, the acceptance of moves and of swaps."""

    log_stones: Array
    acceptance: Array
    swapped: Array


def parallel_tempering(
    key: Key,
    target: tj.Target,
    *,
    evaluations: int,
    num_draws: int,
    keep: float = 0.5,
    leapfrog: int = 5,
    ladders: int = 16,
    burn_in: float = 0.2,
    begun: Start | None = None,
) -> Outcome:
    """Independent ladders on the temperatures that a scout found, started from the scout's particles.

        log Z = sum_k log mean exp((b_k+1 - b_k) l(x_k)),   l = log gamma - log start,

    the mean over sweeps and ladders after the burn-in, the error by the jackknife over ladders. `evaluations` are of density
    and gradient, after the pilot. When not to use it: where the scout loses a mode that no swap brings back; nothing tells.
    Raises ValueError when the scout leaves no budget for ten sweeps.
    """
    key_start, key_scout, key_pick, key_run = jax.random.split(key, 4)
    begun = begun or start(key_start, target)
    num_scouts = max(64, min(1024, evaluations // (5 * 60 * (2 * leapfrog + 4))))
    ladder = scout(key_scout, begun, keep=keep, num_particles=num_scouts, leapfrog=leapfrog)
    rungs = len(ladder.temperatures)
    left, a_sweep = evaluations - 2 * ladder.calls - ladder.energies, ladders * (2 * (rungs - 1) * (leapfrog + 1) + rungs)
    sweeps = left // a_sweep
    if sweeps < 10:
        raise ValueError(
            f"parallel_tempering needs more than {evaluations} evaluations: the scout took {evaluations - left}, and a sweep "
            f"of {ladders} ladders of {rungs} temperatures takes {a_sweep}."
        )
    burnt = int(burn_in * sweeps)
    num_kept = min(-(-num_draws // ladders), sweeps - burnt)
    stride = (sweeps - burnt) // num_kept
    pick = jax.random.randint(key_pick, (ladders, rungs), 0, num_scouts)
    y = ladder.particles[jnp.arange(rungs)[None], pick]

    def run(key: Key, y: Array) -> tuple[Array, Sums]:
        return jax.vmap(lambda k, y: chains(k, begun, ladder, y, leapfrog, burnt, num_kept, stride))(
            jax.random.split(key, ladders), y
        )

    (tops, sums), compile_seconds, seconds = timed(run, key_run, y)
    x = jax.jit(jax.vmap(begun.decode))(tops.swapaxes(0, 1).reshape(-1, begun.dim))
    total = burnt + num_kept * stride
    calls = ladder.calls + total * ladders * (rungs - 1) * (leapfrog + 1)
    costs = {
        "pilot_seconds": begun.seconds,
        "compile_seconds": ladder.compile_seconds + compile_seconds,
        "sample_seconds": ladder.seconds + seconds,
        "energy_evaluations": calls + ladder.energies + total * ladders * rungs,
        "gradient_evaluations": calls + begun.gradient_evaluations,
    }
    found = {
        "temperatures": rungs,
        "sweeps": total,
        "acceptance": float(jnp.mean(sums.acceptance)) / (num_kept * stride),
        "least_swapped": float(jnp.min(jnp.mean(sums.swapped, axis=0))) * 2 / (num_kept * stride),
    }
    samples = tj.Samples(x, jnp.zeros(len(x), x.dtype))
    log_z = stepping_stones(sums.log_stones - jnp.log(num_kept * stride))
    return Outcome(kept(samples), costs, log_z, diagnostics=found, begun=begun)


def chains(
    key: Key, begun: Start, ladder: Ladder, y: Array, leapfrog: int, burnt: int, num_kept: int, stride: int
) -> tuple[Array, Sums]:
    """One ladder y (K, dim): the coldest chain at every stride-th sweep after the burn-in (num_kept, dim), and the sums."""
    nothing = jnp.zeros(len(y) - 1, y.dtype)
    none = Sums(nothing - jnp.inf, nothing, nothing)

    def body(i: Array | int, carry: tuple[Array, Sums]) -> tuple[Array, Sums]:
        return sweep(jax.random.fold_in(key, i), i, begun, ladder, leapfrog, *carry)

    y, _ = jax.lax.fori_loop(0, burnt, body, (y, none))

    def keep_one(carry: tuple[Array, Sums], i: Array) -> tuple[tuple[Array, Sums], Array]:
        first = burnt + i * stride
        y, sums = jax.lax.fori_loop(first, first + stride, body, carry)
        return (y, sums), y[-1]

    (_, sums), tops = jax.lax.scan(keep_one, (y, none), jnp.arange(num_kept))
    return tops, sums


def sweep(key: Key, i: Array | int, begun: Start, ladder: Ladder, leapfrog: int, y: Array, sums: Sums) -> tuple[Array, Sums]:
    """A fresh draw of the start for the hottest, a move for every other chain, then swaps of even or odd neighbours.

    A swap of k and k + 1 is accepted with min(1, exp((b_k+1 - b_k) (l_k - l_k+1))).
    """
    key_draw, key_size, key_move, key_swap = jax.random.split(key, 4)
    kernel, rungs = blackjax.hmc.build_kernel(), len(y)

    def move(key: Key, y: Array, at: Array, step_size: Array, inverse_mass: Array) -> tuple[Array, Array]:
        def density(y: Array) -> Array:
            return begun.log_base(y) + at * begun.log_likelihood(y)

        state, info = kernel(key, blackjax.hmc.init(y, density), density, step_size, inverse_mass, leapfrog)
        return state.position, info.acceptance_rate

    jitter = jnp.exp(jax.random.uniform(key_size, (rungs - 1,), y.dtype, minval=-1.5, maxval=0.5))
    moved, acceptance = jax.vmap(move)(
        jax.random.split(key_move, rungs - 1),
        y[1:],
        ladder.temperatures[1:],
        ladder.step_size[1:] * jitter,
        ladder.inverse_mass[1:],
    )
    y = jnp.concatenate([begun.draw(key_draw, 1), moved])
    value = jax.vmap(begun.log_likelihood)(y)
    gaps = jnp.diff(ladder.temperatures)
    log_ratio = gaps * (value[:-1] - value[1:])
    mine = jnp.arange(rungs - 1) % 2 == i % 2
    swapped = mine & (jnp.log(jax.random.uniform(key_swap, mine.shape, y.dtype)) < log_ratio)
    none = jnp.zeros(1, bool)
    place = jnp.arange(rungs) + jnp.append(swapped, none) - jnp.append(none, swapped)
    stones = jnp.logaddexp(sums.log_stones, gaps * value[:-1])
    return y[place], Sums(stones, sums.acceptance + acceptance, sums.swapped + swapped)


def stepping_stones(log_means: Array) -> Estimate:
    """log Z of ladders' log mean stones (R, K-1), with the jackknife's standard error over ladders."""
    n = len(log_means)

    def log_z(share: Array) -> Array:
        return jnp.sum(jax.nn.logsumexp(log_means + jnp.log(share)[:, None], axis=0))

    without = jax.vmap(lambda i: log_z((jnp.arange(n) != i) / (n - 1)))(jnp.arange(n))
    spread = jnp.sqrt((n - 1) * jnp.mean(jnp.square(without - jnp.mean(without))))
    return Estimate(log_z(jnp.full(n, 1 / n)), spread)
