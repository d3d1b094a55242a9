"""A loss of one's own, for `test_carried.py`: it learns from chains under p*, which are carried from round to round."""

import jax
import jax.numpy as jnp

from tiltjax import losses, validate
from tiltjax.types import Batch

STEP, MOVES = 0.05, 5


def chained(problem, network, times, *, replay):
    """Novel score matching on the states of unadjusted Langevin chains, one for each particle of a round.

    x <- x + h grad log p*(x) + sqrt(2 h) xi, `MOVES` times a round, from where the last round left them.
    """
    inner = losses.novel_score_matching(problem, network, times, replay=replay)
    density = validate.density(problem.process, "chained")

    def moved(x, key):
        slope = jax.grad(lambda x: problem.reward(x) + density(x))(x)
        return x + STEP * slope + jnp.sqrt(2 * STEP) * jax.random.normal(key, x.shape), None

    def carry(key):
        return problem.frame.scale * jax.random.normal(key, (replay.num_particles, *problem.process.shape))

    def collect(here, held, key, n):
        key_moves, key_label = jax.random.split(key)
        go_on = lambda x, key: jax.lax.scan(moved, x, jax.random.split(key, MOVES))[0]  # noqa: E731
        x = jax.vmap(go_on)(held.carried, jax.random.split(key_moves, n))
        data = jax.vmap(lambda x: inner.label(held, key_label, here, x))(x)
        return Batch(data, jnp.zeros(n), jnp.zeros(n, bool)), x

    return inner._replace(collect_on=collect, carry=carry, weighted=False)
