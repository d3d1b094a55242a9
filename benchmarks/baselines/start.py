"""Where the classical methods start: the pilot of `fit`, so that neither side knows more of the target than the other."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import tiltjax as tj
from tiltjax import particles, pilot
from tiltjax.preparing import BASE_SCALE
from tiltjax.types import Key

UNREACHABLE = -1e30


class Start(NamedTuple):
    """The target in the pilot's natural units y (dim,), and the over-dispersed normal start N(0, BASE_SCALE^2 I).

    log_density(y) has the Jacobian, so its log Z is the target's; UNREACHABLE where the target's is not finite.
    decode(y) -> x of the target's shape. scouted: the ladders that `ladder.scout` found from here, by what it was asked.
    """

    dim: int
    log_density: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    gradient_evaluations: int
    seconds: float
    scouted: dict[Any, Any]

    def log_base(self, y: Array) -> Array:
        """Of the start; normalized."""
        constant = self.dim * (math.log(BASE_SCALE) + 0.5 * math.log(2 * math.pi))
        return -0.5 * jnp.sum(jnp.square(y / BASE_SCALE)) - constant

    def draw(self, key: Key, n: int) -> Array:
        """Exact draws of the start, (n, dim)."""
        return BASE_SCALE * jax.random.normal(key, (n, self.dim))

    def log_likelihood(self, y: Array) -> Array:
        """log_density - log_base: what tempering turns on."""
        return self.log_density(y) - self.log_base(y)


def start(key: Key, target: tj.Target) -> Start:
    """Runs the pilot, as `fit` does."""
    began = time.perf_counter()
    free = particles.free(target)
    shape, dim = tuple(free.shape), math.prod(free.shape)

    def free_density(y: Array) -> Array:
        return free.log_density(y.reshape(shape))

    found = pilot.pilot(key, free_density, (dim,), natural=pilot.isotropic if target.centred else None)
    coordinates = found.coordinates

    def log_density(y: Array) -> Array:
        value = free_density(coordinates.forward(y)) + coordinates.log_determinant(y)
        return jnp.where(jnp.isfinite(value), value, UNREACHABLE)

    def decode(y: Array) -> Array:
        x = coordinates.forward(y).reshape(shape)
        return particles.embed(x) if target.centred else x

    return Start(dim, log_density, decode, found.gradient_evaluations, time.perf_counter() - began, {})
