"""Where the classical methods start: the pilot of `fit`, so that neither side knows more of the target than the other."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import tiltjax as tj
from tiltjax import pilot
from tiltjax.fitting import BASE_SCALE
from tiltjax.types import Key

UNREACHABLE = -1e30


class Start(NamedTuple):
    """The target in the pilot's natural units y (dim,), and the over-dispersed normal start N(0, BASE_SCALE^2 I).

    log_density(y) has the Jacobian, so its log Z is the target's; UNREACHABLE where the target's is not finite.
    decode(y) -> x of the target's shape.
    """

    dim: int
    log_density: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    gradient_evaluations: int
    seconds: float

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
    """Runs the pilot."""
    began = time.perf_counter()
    dim, embed = embedding(target)
    found = pilot.pilot(key, lambda y: target.log_density(embed(y)), (dim,))
    coordinates = found.coordinates

    def log_density(y: Array) -> Array:
        value = target.log_density(embed(coordinates.forward(y))) + coordinates.log_determinant(y)
        return jnp.where(jnp.isfinite(value), value, UNREACHABLE)

    seconds = time.perf_counter() - began
    return Start(dim, log_density, lambda y: embed(coordinates.forward(y)), found.gradient_evaluations, seconds)


def embedding(target: tj.Target) -> tuple[int, Callable[[Array], Array]]:
    """dim and y (dim,) -> x of the target's shape: the identity, or onto centred configurations by an orthonormal basis.

    The basis of sum_i x_i = 0 is Helmert's, so volumes, and with them log Z, are those of the subspace.
    """
    shape = tuple(target.shape)
    if not getattr(target, "centred", False):
        return math.prod(shape), lambda y: y.reshape(shape)
    from scipy.linalg import helmert

    n, d = shape
    basis = jnp.asarray(np.ascontiguousarray(helmert(n).T), float)
    return (n - 1) * d, lambda y: jnp.matmul(basis, y.reshape(n - 1, d), precision="highest")
