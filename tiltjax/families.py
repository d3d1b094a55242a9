"""Families of problems: a plain problem is the family of one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Family, Held, Here, Objective, Problem


def of(problem: Problem | Family) -> Family:
    """A plain problem as the family of one; a family as it is."""
    if isinstance(problem, Family):
        return problem
    centred = problem.target is not None and problem.target.centred
    return Family(lambda given, context: problem, problem.frame, problem.resolution, centred=centred)


def example(problem: Problem | Family) -> Problem:
    """One problem of the family, for facts that all share. Not to be used inside a traced function: it holds `given`."""
    family = of(problem)
    context = () if family.many is None else family.many.draw(jax.random.key(0))
    return family.at(family.given, context)


def context_size(problem: Problem | Family) -> int:
    """Numbers that a network sees of a context; 0 of a plain problem."""
    many = of(problem).many
    if many is None:
        return 0
    return jax.eval_shape(lambda key: many.features(many.draw(key)), jax.random.key(0)).size


def flat(context: Any) -> Array:
    """All numbers of a context as one vector."""
    real = jax.dtypes.canonicalize_dtype(float)
    return jnp.concatenate([jnp.ravel(leaf).astype(real) for leaf in jax.tree.leaves(context)])


def seen(problem: Problem | Family, here: Here, dtype: Any) -> Array:
    """What a network sees of the context, (context_size,)."""
    many = of(problem).many
    assert many is not None
    return many.features(here.context).astype(dtype)


def here_of(objective: Objective, held: Held, context: Any) -> Here:
    """The problem of a context, with the dynamics of what is learned."""
    if objective.family is None:  # an objective of no problem at all
        return Here(objective.problem(None, held.params.extra), held.given, context)
    here = of(objective.family).here(held.given, context)
    return here._replace(problem=objective.problem(here.problem, held.params.extra))
