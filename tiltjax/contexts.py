"""What is done within a context and what over all, for a family of one and of many alike.

Weights of different contexts have different normalizing constants, so nothing may compare them: they are normalized, tempered
and summed up within a context.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import weights
from tiltjax.families import here_of, of
from tiltjax.types import Batch, Held, Key, Objective


def collect(objective: Objective, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
    """n labelled particles under what is held, and what is carried on: of a family n / k contexts with k particles each."""
    many = None if objective.family is None else of(objective.family).many
    if many is None:
        return objective.collect_on(here_of(objective, held, ()), held, key, n)
    if many.pairs is not None and objective.label is not None:
        return _exact(objective, many.pairs, held, key, n), held.carried
    key_context, key_particles = jax.random.split(key)
    groups = n // many.per_context
    contexts = jax.vmap(many.draw)(jax.random.split(key_context, groups))

    def one(context: Any, key: Key) -> Batch:
        return objective.collect_on(here_of(objective, held, context), held, key, many.per_context)[0]

    batch = jax.vmap(one)(contexts, jax.random.split(key_particles, groups))
    flat: Batch = jax.tree.map(lambda leaf: leaf.reshape(n, *leaf.shape[2:]), batch)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, many.per_context, axis=0, total_repeat_length=n), contexts)
    return flat._replace(context=repeated), held.carried


def _exact(objective: Objective, pairs: Callable[[Key], tuple[Any, Array]], held: Held, key: Key, n: int) -> Batch:
    """n contexts with an exact draw of the tilt each: labelled, and of equal weight."""

    def one(key: Key) -> tuple[Any, Any]:
        key_pair, key_label = jax.random.split(key)
        context, x = pairs(key_pair)
        return context, objective.label(held, key_label, here_of(objective, held, context), x)  # type: ignore[misc]

    context, data = jax.vmap(one)(jax.random.split(key, n))
    return Batch(data, jnp.zeros(n), jnp.zeros(n, bool), context)


def grouped(problem: Any, v: Array) -> Array:
    """(n,) of one round as (contexts, particles of one context)."""
    many = None if problem is None else of(problem).many
    return v[None] if many is None else v.reshape(-1, many.per_context)


def relative(problem: Any, log_weight: Array) -> Array:
    """log w less the log of its mean within the context, of one round (n,); a plain problem's as it is."""
    if problem is None or of(problem).many is None:
        return log_weight
    groups = grouped(problem, log_weight)
    finite = jnp.where(jnp.isfinite(groups), groups, -jnp.inf)
    mean = jax.nn.logsumexp(finite, axis=1, keepdims=True) - jnp.log(groups.shape[1])
    return jnp.where(jnp.isfinite(mean), groups - jnp.where(jnp.isfinite(mean), mean, 0.0), -jnp.inf).reshape(-1)


def mean_within(problem: Any, f: Callable[[Array], Array], v: Array) -> Array:
    """The mean over contexts of f(values of one context), for values (n,) of one round."""
    if problem is None or of(problem).many is None:
        return f(v)
    return jnp.mean(jax.vmap(f)(grouped(problem, v)))


def summary(problem: Any, log_weight: Array) -> tuple[Array, Array, Array]:
    """log Z and ESS of one round, and the least ESS: of a family the means over its contexts."""
    if problem is None or of(problem).many is None:
        ess = weights.ess(log_weight)
        return jax.nn.logsumexp(log_weight) - jnp.log(log_weight.size), ess, ess
    many = of(problem).many
    if many is not None and many.pairs is not None:  # weights of one, which say nothing of the control
        unknown = jnp.full((), jnp.nan, log_weight.dtype)
        return unknown, unknown, unknown
    groups = grouped(problem, log_weight)
    log_z = jax.nn.logsumexp(groups, axis=1) - jnp.log(groups.shape[1])
    ess = jax.vmap(weights.ess)(groups)
    return jnp.mean(log_z), jnp.mean(ess), jnp.min(ess)
