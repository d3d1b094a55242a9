"""A ring buffer of labelled particles, on arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Key


class Buffer(NamedTuple):
    """Recipe: `init(batch) -> state`, `add(state, batch) -> state`, `sample(state, key, n, cumulative) -> batch`."""

    init: Callable[[Any], "Ring"]
    add: Callable[["Ring", Any], "Ring"]
    sample: Callable[["Ring", Key, int, Array], Any]


class Ring(NamedTuple):
    """State: the items, each leaf (capacity, ...), and where the next batch goes."""

    items: Any
    cursor: Array


def ring(capacity: int) -> Buffer:
    """The newest `capacity` particles. Batches must divide the capacity; `init` fills it by repeating its batch.

    `sample` draws n items with replacement; `cumulative` (capacity,) is the running sum of their unnormalized weights.
    Raises ValueError when a batch does not divide the capacity.
    """

    def init(batch: Any) -> Ring:
        size = jax.tree.leaves(batch)[0].shape[0]
        if capacity % size:
            raise ValueError(f"the buffer's capacity must be a multiple of the particles a round; got {capacity} and {size}.")
        items = jax.tree.map(lambda leaf: jnp.tile(leaf, (capacity // size,) + (1,) * (leaf.ndim - 1)), batch)
        return Ring(items, jnp.zeros((), jnp.int32))

    def add(state: Ring, batch: Any) -> Ring:
        def write(old: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, state.cursor, 0)

        size = jax.tree.leaves(batch)[0].shape[0]
        return Ring(jax.tree.map(write, state.items, batch), (state.cursor + size) % capacity)

    def sample(state: Ring, key: Key, n: int, cumulative: Array) -> Any:
        points = jax.random.uniform(key, (n,), cumulative.dtype) * cumulative[-1]
        index = jnp.clip(jnp.searchsorted(cumulative, points, side="right"), 0, capacity - 1)
        return jax.tree.map(lambda leaf: leaf[index], state.items)

    return Buffer(init, add, sample)
