"""What tells one run from another: names of its recipes, its reward at two points; and what was saved with them."""

import functools
import hashlib
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tiltjax import families
from tiltjax.types import Family, Problem


def name_of(function: Any) -> str:
    """That of the function within a functools.partial too."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def told(function: Any) -> str:
    """Its name, with the plain arguments of a functools.partial, and its functions by their names."""
    plain = int | float | str | type
    arguments = getattr(function, "keywords", {}).items()
    given = {name: value for name, value in arguments if isinstance(value, plain)}
    given |= {name: told(value) for name, value in arguments if inspect.isroutine(value) or hasattr(value, "func")}
    return f"{name_of(function)} {given or ''}"


def same_network(call: str, saved: str, network: Any) -> str:
    """What `load` or `fit` was given beside what it needs, where both have a name."""
    got, anonymous = name_of(network), ("", "Network", "partial", "<lambda>")
    if got == saved or got in anonymous or saved in anonymous:
        return f"Pass {call} the network that the sampler was fitted with, of the same width and depth."
    return f"The sampler was fitted with the network {saved}; got {got}. Pass {call} that of the fit."


def probe(problem: Problem | Family) -> list[float]:
    """The reward at two fixed points: two problems of one shape hardly ever agree there. Of a family, that of one context."""
    shape, problem = problem.frame.shape, families.example(problem)
    return [float(problem.reward(jnp.full(shape, value, jax.dtypes.canonicalize_dtype(float)))) for value in (0.1, -0.7)]


def bytes_of(tree: Any) -> str:
    """A hash of the bytes of all arrays, in order."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()[:16]
