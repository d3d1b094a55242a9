"""Derivatives that several rooms need."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def divergence(f: Callable[[Array], Array], x: Array, probe: Array | None = None) -> tuple[Array, Array]:
    """f(x) and div f(x) of a field on one particle: exact (x.size pullbacks), or Hutchinson's estimate e.(grad f) e.

    probe: e, of x's shape, with independent entries of mean 0 and variance 1 (random signs vary least).
    Source: Hutchinson (1989), Commun. Stat. Simul. Comput. 18.
    """
    value, pullback = jax.vjp(f, x)
    if probe is not None:
        return value, jnp.sum(pullback(probe)[0] * probe)
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    return value, jnp.sum(jax.vmap(lambda e: jnp.sum(pullback(e)[0] * e))(basis))
