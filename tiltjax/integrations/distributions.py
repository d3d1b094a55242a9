"""Distribution objects as targets."""

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..targets._particle import particle
from ..types import Key, Target
from ._foreign import relaxed_promotion

_PROBES = 256


def from_distribution(dist: Any, *, shape: tuple[int, ...] | None = None) -> Target:
    """A distribution of NumPyro, distrax, TFP, or anything with `log_prob` (and `sample`, if it can).

    log_density(x) = dist.log_prob(x),  x of the event shape (a scalar event becomes (1,));   log_z = 0.

    NumPyro distributions declare their support, and a bounded one is unconstrained by T = biject_to(support):
    log_density(x) = dist.log_prob(T(x)) + log |det T'(x)|,   `constrain` = T, and `sample` draws x.
    Other libraries do not: there log_prob must be finite on all of R^d, which is tried a little outside of
    the range of 256 draws (at +-1 and +-10 if there is no `sample`).
    `constrain` is None where x is already the distribution's own value.

    `shape` is the event shape, for objects that have no `event_shape`.
    dist.sample is called with seed=key, sample_shape=(n,), or with (key, (n,)) if it takes no `seed`.

    Raises TypeError for an object without log_prob; ValueError for a discrete, batched or improper
    distribution, one of unknown event shape, and a bounded support that does not declare itself.
    Not for an unnormalized log_prob, which makes log_z wrong: Target(dist.log_prob, shape) instead.
    """
    if not callable(getattr(dist, "log_prob", None)):
        raise TypeError(f"got {type(dist).__name__} without log_prob, expected a distribution: Target(log_density, shape)")
    with relaxed_promotion():
        event_shape = _event_shape(dist, shape)
        if _is_numpyro(dist):
            return _from_numpyro_distribution(dist, event_shape)
        target = _target(dist, event_shape, lambda x: x, lambda y: y, lambda x, y: jnp.zeros((), x.dtype), event_shape)
        _check_support(dist, target)
        return target


def _from_numpyro_distribution(dist: Any, event_shape: tuple[int, ...]) -> Target:
    from numpyro.distributions import ImproperUniform, biject_to

    if isinstance(dist, ImproperUniform):
        raise ValueError("got ImproperUniform, expected a distribution that normalizes: use one with a finite mass")
    transform = biject_to(dist.support)
    free_shape = transform.inverse_shape(event_shape)
    return _target(dist, event_shape, transform, transform.inv, transform.log_abs_det_jacobian, free_shape)


def _target(
    dist: Any,
    event_shape: tuple[int, ...],
    forward: Callable[[Array], Array],
    inverse: Callable[[Array], Array],
    log_det: Callable[[Array, Array], Array],
    free_shape: tuple[int, ...],
) -> Target:
    """The target on `free_shape` (() becomes (1,)) of forward^-1(Y), Y ~ dist on `event_shape`."""
    shape = free_shape or (1,)

    def free(x: Array) -> Array:
        return particle(x, shape).reshape(free_shape)

    def log_density(x: Array) -> Array:
        with relaxed_promotion():
            z = free(x)
            y = forward(z)
            return (dist.log_prob(y) + jnp.sum(log_det(z, y))).astype(z.dtype).reshape(())

    def constrain(x: Array) -> Array:
        with relaxed_promotion():
            return forward(free(x))

    def sample(key: Key, n: int) -> Array:
        with relaxed_promotion():
            y = _draw(dist, key, n).reshape(n, *event_shape)
            return jax.vmap(inverse)(y).reshape(n, *shape)

    probe = jnp.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    moved = shape != event_shape or bool(jnp.any(constrain(probe) != probe))
    has_sample = callable(getattr(dist, "sample", None))
    return Target(log_density, shape, 0.0, sample if has_sample else None, constrain=constrain if moved else None)


def _draw(dist: Any, key: Key, n: int) -> Array:
    if "seed" in inspect.signature(dist.sample).parameters:
        return jnp.asarray(dist.sample(seed=key, sample_shape=(n,)))
    return jnp.asarray(dist.sample(key, (n,)))


def _event_shape(dist: Any, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    name = type(dist).__name__
    batch_shape = tuple(getattr(dist, "batch_shape", ()))
    if batch_shape:
        raise ValueError(
            f"got {name} with batch shape {batch_shape}, expected one distribution (): make the batch "
            "part of the event (numpyro: dist.to_event(); distrax and TFP: Independent(dist))"
        )
    if _is_discrete(dist):
        raise ValueError(f"got the discrete distribution {name}, expected a density on R^d: nothing here samples integers")
    if shape is None and not hasattr(dist, "event_shape"):
        raise ValueError(f"got {name}, which has no event_shape, expected to be told: pass shape=(d,)")
    return tuple(dist.event_shape) if shape is None else tuple(shape)


def _is_discrete(dist: Any) -> bool:
    if _is_numpyro(dist):
        return dist.support.is_discrete
    dtype = getattr(dist, "dtype", None)
    dtype = getattr(dtype, "as_numpy_dtype", dtype)
    try:
        return dtype is not None and not jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        return False


def _is_numpyro(dist: Any) -> bool:
    # an instance of its class exists only if the library has been imported
    numpyro = sys.modules.get("numpyro.distributions")
    return numpyro is not None and isinstance(dist, numpyro.Distribution)


def _check_support(dist: Any, target: Target) -> None:
    probes, values = jax.jit(lambda key: _probe(target, key))(jax.random.key(0))
    for x, value in zip(probes, values, strict=True):
        if not jnp.isfinite(value):
            raise ValueError(
                f"got {type(dist).__name__} with log_prob = {value} at x = {x}, expected a density that is "
                "finite on all of R^d: for a bounded support take the numpyro distribution of that name, "
                "which is unconstrained here, or transform it yourself (log, logit), Jacobian included"
            )


def _probe(target: Target, key: Key) -> tuple[list[Array], list[Array]]:
    """Points that a bounded support would leave out, and the log density there."""
    if target.sample is None:
        probes = [jnp.full(target.shape, value, float) for value in (-10.0, -1.0, 1.0, 10.0)]
    else:
        x = target.sample(key, _PROBES)
        low, high = x.min(0), x.max(0)
        probes = [2 * low - high, 2 * high - low]
    return probes, [target.log_density(x) for x in probes]
