"""Many particles, a few at a time where more would not fit in a cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Params

Inputs = Any  # a tree of arrays with one leading axis, the particles


def each(f: Callable[..., Any], inputs: tuple[Inputs, ...], size: int | None) -> Any:
    """vmap(f)(*inputs), `size` particles at once (None: all)."""
    n = _count(inputs)
    if size is None or n <= size:
        return jax.vmap(f)(*inputs)
    return jax.lax.map(lambda item: f(*item), inputs, batch_size=size)


def mean(f: Callable[..., Array], params: Params, inputs: tuple[Inputs, ...], size: int | None) -> Array:
    """mean_i f(params, *inputs_i), a scalar each, `size` particles at once (None: all).

    Slices are differentiated one by one as they come, so that no more than one is ever held: beyond `size` particles there is
    a gradient by params and by nothing else.
    """
    n = _count(inputs)

    def part(params: Params, inputs: tuple[Inputs, ...]) -> Array:
        return jnp.sum(jax.vmap(lambda *item: f(params, *item))(*inputs)) / n

    if size is None or n <= size:
        return part(params, inputs)
    slices, rest = _sliced(inputs, n // size, size)

    def total(of: Callable[..., Any], params: Params) -> Any:
        """The sum of of(params, slice) over all."""
        start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of, params, jax.tree.map(_first, slices)))
        value, _ = jax.lax.scan(lambda sums, some: (_add(sums, of(params, some)), None), start, slices)
        return _add(value, of(params, rest)) if n % size else value

    @jax.custom_vjp
    def value(params: Params) -> Array:
        return total(part, params)

    def forward(params: Params) -> tuple[Array, Params]:
        return total(jax.value_and_grad(part), params)

    def backward(gradient: Params, cotangent: Array) -> tuple[Params]:
        return (jax.tree.map(lambda g: g * cotangent, gradient),)

    value.defvjp(forward, backward)
    return value(params)


def _sliced(inputs: Inputs, parts: int, size: int) -> tuple[Inputs, Inputs]:
    """(parts, size, ...) of the first particles, and those left over."""
    whole = parts * size
    first = jax.tree.map(lambda a: a[:whole].reshape(parts, size, *a.shape[1:]), inputs)
    return first, jax.tree.map(lambda a: a[whole:], inputs)


def _count(inputs: Inputs) -> int:
    return jax.tree.leaves(inputs)[0].shape[0]


def _first(a: Array) -> Array:
    return a[0]


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)
