"""What one round of training does with a batch: what is bad in it, what counts, what is reported."""

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import contexts, weights
from tiltjax.types import Batch, Metrics, Objective, Params, Replay


def clean(batch: Batch) -> tuple[Batch, Array]:
    """Particles with anything non-finite lose their weight and their labels; and how many did, by quantity (K,)."""
    leaves = [*jax.tree.leaves(batch.data), batch.log_weight]
    bad = jnp.stack([_bad(leaf) for leaf in leaves])
    lost = jnp.any(bad, axis=0)

    def blank(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(lost.reshape(-1, *(1,) * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

    data = jax.tree.map(blank, batch.data)
    log_weight = jnp.where(lost, -jnp.inf, batch.log_weight)
    return batch._replace(data=data, log_weight=log_weight), jnp.sum(bad, axis=1)


def _bad(leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape[0], bool)
    return ~jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)


def cumulative(log_weight: Array, replay: Replay) -> Array:
    """The running sum of the weights that the replay draws with, (n,)."""
    weighting = weights.unweighted if replay.weighting is None else replay.weighting
    return jnp.cumsum(weights.normalize(weighting(log_weight)))


def metrics(objective: Objective, batch: Batch, bad: Array, updates: tuple[Array, Array], max_norm: float) -> Metrics:
    """Of the newly collected batch, and of the updates of the round: their losses and the norms of their gradients."""
    values, norms = updates
    skipped = ~(jnp.isfinite(values) & jnp.isfinite(norms))
    counts = jnp.concatenate([bad, jnp.stack([jnp.sum(~jnp.isfinite(values)), jnp.sum(~jnp.isfinite(norms))])])
    log_z, ess, worst = contexts.summary(objective.family, batch.log_weight)
    known = objective.weighted & jnp.any(jnp.isfinite(batch.log_weight))
    return Metrics(
        loss=jnp.mean(values, where=~skipped),
        log_z=jnp.where(objective.weighted, log_z, jnp.nan),
        ess=jnp.where(known, ess, jnp.nan),
        worst_ess=jnp.where(known, worst, jnp.nan),
        gradient_norm=jnp.mean(norms, where=~skipped),
        clipped_updates=jnp.sum(~skipped & (norms > max_norm)),
        nonfinite_updates=jnp.sum(skipped),
        clipped_particles=jnp.sum(batch.clipped),
        nonfinite_particles=jnp.sum(~jnp.isfinite(batch.log_weight)),
        first_bad=jnp.where(jnp.any(counts > 0), jnp.argmax(counts > 0), -1),
    )


def where(condition: Array, a: Params, b: Params) -> Params:
    """jnp.where on trees."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
