"""Tempered sequential Monte Carlo with Hamiltonian moves, by blackjax.

Source: Del Moral, Doucet, Jasra (2006), J. R. Stat. Soc. B 68.
"""

from typing import Any

import blackjax
import blackjax.smc.resampling as resampling
import blackjax.smc.tempered as tempered
import jax
import jax.numpy as jnp
from jax import Array

import tiltjax as tj
from benchmarks.baselines.ladder import Ladder, moves, scout
from benchmarks.baselines.start import Start, start
from benchmarks.outcome import Outcome, kept, timed
from tiltjax.types import Key

MOST_PARTICLES = 64_000  # beyond, the budget goes into more moves: memory. A power of two is slower: docs/decisions.md


def smc(
    key: Key,
    target: tj.Target,
    *,
    evaluations: int,
    num_draws: int,
    keep: float = 0.9,
    leapfrog: int = 5,
    islands: int = 8,
    begun: Start | None = None,
) -> Outcome:
    """Islands of particles through the temperatures that a scout found (a fifth of the budget).

    `evaluations` are of density and gradient, after the pilot, and are what the run costs but for rounding. An island's
    estimate of Z has no bias; log_z is the log of their mean, its error from their spread. Draws weigh what their island does.
    When not to use it: at budgets that leave an island few particles, where log_z is biased low in most runs.
    Raises ValueError when the scout leaves no budget.
    """
    key_start, key_scout, key_run = jax.random.split(key, 3)
    begun = begun or start(key_start, target)
    num_scouts = max(64, min(1024, evaluations // (5 * 60 * (2 * leapfrog + 4))))
    ladder = scout(key_scout, begun, keep=keep, num_particles=num_scouts, leapfrog=leapfrog)
    left = evaluations - 2 * ladder.calls - ladder.energies
    per_particle = islands * len(ladder.temperatures) * (2 * (leapfrog + 1) + 1)
    n = min(left // per_particle, MOST_PARTICLES // islands)
    if n < 8:
        raise ValueError(
            f"smc needs more than {evaluations} evaluations: the scout took {evaluations - left} for "
            f"{len(ladder.temperatures)} temperatures, and a particle of each of {islands} islands takes {per_particle}."
        )
    num_moves = max(1, int((left / (n * islands * len(ladder.temperatures)) - 3) // (2 * leapfrog)))

    def run(key: Key) -> tuple[Array, Array, Array, Array]:
        keys = jax.random.split(key, islands)
        return jax.vmap(lambda k: island(k, begun, ladder, n, num_moves, leapfrog))(keys)

    (y, log_weight, log_z, acceptance), compile_seconds, seconds = timed(run, key_run)
    samples = tj.Samples(jax.jit(jax.vmap(begun.decode))(y.reshape(-1, begun.dim)), log_weight.reshape(-1))
    stages = n * islands * len(ladder.temperatures)
    calls = ladder.calls + stages * (num_moves * leapfrog + 1)
    costs = {
        "pilot_seconds": begun.seconds,
        "compile_seconds": ladder.compile_seconds + compile_seconds,
        "sample_seconds": ladder.seconds + seconds,
        "energy_evaluations": calls + ladder.energies + stages,
        "gradient_evaluations": calls + begun.gradient_evaluations,
    }
    found: dict[str, Any] = {
        "temperatures": len(ladder.temperatures),
        "particles": n * islands,
        "moves": num_moves,
        "acceptance": float(jnp.mean(acceptance)),
    }
    return Outcome(kept(_mixed(samples, islands)), costs, tj.diagnostics.log_z(log_z), diagnostics=found, begun=begun)


def island(key: Key, begun: Start, ladder: Ladder, n: int, num_moves: int, leapfrog: int) -> tuple[Array, Array, Array, Array]:
    """n particles: y (n, dim), log weights with log mean exp = log Z, log Z itself, the acceptance at each temperature."""
    kernel = tempered.build_kernel(
        begun.log_base, begun.log_likelihood, blackjax.hmc.build_kernel(), blackjax.hmc.init, resampling.systematic
    )
    key_draw, key_run = jax.random.split(key)
    y = begun.draw(key_draw, n)
    state = tempered.init(y)._replace(tempering_param=jnp.zeros((), y.dtype))
    following = jnp.append(ladder.temperatures[1:], ladder.temperatures[-1])

    def step(state: Any, given: tuple[Array, ...]) -> tuple[Any, tuple[Array, Array]]:
        k, to, step_size, inverse_mass = given
        key_size, key_step = jax.random.split(jax.random.fold_in(key_run, k))
        parameters = moves(key_size, step_size, inverse_mass, n, leapfrog)
        state, info = kernel(key_step, state, num_moves, to, parameters)
        return state, (info.log_likelihood_increment, jnp.mean(info.update_info.acceptance_rate))

    rungs = (jnp.arange(following.size), following, ladder.step_size, ladder.inverse_mass)
    state, (increments, acceptance) = jax.lax.scan(step, state, rungs)
    log_z = jnp.sum(increments)
    return state.particles, log_z + jnp.log(n * state.weights), log_z, acceptance


def _mixed(samples: tj.Samples, islands: int) -> tj.Samples:
    """Islands interleaved, so that any even spread of draws is of all of them."""
    return jax.tree.map(lambda leaf: leaf.reshape(islands, -1, *leaf.shape[1:]).swapaxes(0, 1).reshape(leaf.shape), samples)
