"""What every method hands to the judge, learned or classical."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import tiltjax as tj
from tiltjax.types import Estimate, Key


class Outcome(NamedTuple):
    """draw(key, n) -> Samples of at most n draws; log_z (None: the method has none); costs: entries of the result line.

    sampler: of a learned method, whose paths carry weights. A classical method's draws are made already: equally weighted for
    chains, weighted for particles. diagnostics: what the method says of itself (acceptance, r-hat). begun: where a classical
    method started, for a longer run of it.
    """

    draw: Callable[[Key, int], tj.Samples]
    costs: dict[str, Any]
    log_z: Estimate | None = None
    sampler: tj.Sampler | None = None
    diagnostics: dict[str, float] | None = None
    begun: Any = None


def kept(samples: tj.Samples) -> Callable[[Key, int], tj.Samples]:
    """draw(key, n) of draws that are there: n of them, evenly spread (neighbours are correlated), or all if there are fewer."""

    def draw(key: Key, n: int) -> tj.Samples:
        size = samples.log_weight.size
        index = np.linspace(0, size - 1, min(n, size)).astype(int)
        return jax.tree.map(lambda leaf: leaf[index], samples)

    return draw


def compiled(f: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """The program of f for arguments like these, and the seconds to compile it."""
    began = time.perf_counter()
    program = jax.jit(f).lower(*arguments).compile()
    return program, time.perf_counter() - began


def timed(f: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """f(*arguments) under `jit`, the seconds to compile it, the seconds to run it."""
    program, seconds = compiled(f, *arguments)
    began = time.perf_counter()
    out = jax.block_until_ready(program(*arguments))
    return out, seconds, time.perf_counter() - began
