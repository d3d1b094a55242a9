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
    """Numbers in a context; 0 of a plain problem."""
    family = of(problem)
    if family.many is None:
        return 0
    shape = jax.eval_shape(family.many.draw, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shape))


def flat_context(here: Here, dtype: Any) -> Array:
    """The context as one vector."""
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(here.context)]
    return jnp.concatenate(leaves)


def here_of(objective: Objective, held: Held, context: Any) -> Here:
    """The problem of a context, with the dynamics of what is learned."""
    if objective.family is None:  # an objective of no problem at all
        return Here(objective.problem(None, held.params.extra), held.given, context)
    here = of(objective.family).here(held.given, context)
    return here._replace(problem=objective.problem(here.problem, held.params.extra))
