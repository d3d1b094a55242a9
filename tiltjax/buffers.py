"""A ring buffer of labelled particles, on arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Key


class Buffer(NamedTuple):
    """Recipe: `init(batch) -> state`, `add(state, batch) -> state`, `sample(state, key, n, cumulative) -> batch`.

    `cumulative` (n,) is the running sum of the unnormalized weights that go by `log_weight(state)`. `keep(state)` is what is
    held until the next round.
    """

    init: Callable[..., Any]
    add: Callable[[Any, Any], Any]
    sample: Callable[[Any, Key, int, Array], Any]
    log_weight: Callable[[Any], Array]
    keep: Callable[[Any], Any] = lambda state: state


class Source(NamedTuple):
    """Draws x (m, *shape) of p* from elsewhere, in the process's coordinates, and their share of a batch, in (0, 1)."""

    x: Array
    share: float


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

    return Buffer(init, add, sample, lambda state: state.items.log_weight)


def once() -> Buffer:
    """No buffer: the newest batch, used whole and forgotten. A lost particle's place is taken by one that is not."""

    def sample(batch: Any, key: Key, n: int, cumulative: Array) -> Any:
        good = jnp.isfinite(batch.log_weight)
        place = jnp.arange(good.size)
        index = jnp.where(good, place, jnp.argsort(~good)[place % jnp.maximum(jnp.sum(good), 1)])
        return jax.tree.map(lambda leaf: leaf[index], batch)

    return Buffer(lambda batch: (), lambda state, batch: batch, sample, lambda batch: batch.log_weight, lambda batch: ())


class Shared(NamedTuple):
    """State: one's own items, and the batches of other sources."""

    own: Any
    others: tuple[Any, ...]


def shared(own: Buffer, shares: tuple[float, ...]) -> Buffer:
    """`own`, and sources of other draws beside it: each has its share of what is sampled, by equal weights within it.

    `init(batch, *others)`; what is added is one's own. Of n items source i has round(share_i n), the rest are one's own.
    Raises ValueError unless the shares are positive and leave something to one's own.
    """
    if not all(share > 0 for share in shares) or not sum(shares) < 1:
        raise ValueError(f"shares of other sources must be positive and sum to less than 1; got {shares}.")

    def sample(state: Shared, key: Key, n: int, cumulative: Array) -> Any:
        counts = [round(share * n) for share in shares]
        key_own, *keys = jax.random.split(key, 1 + len(shares))
        parts = [own.sample(state.own, key_own, n - sum(counts), cumulative)]
        for key, count, batch in zip(keys, counts, state.others, strict=True):
            index = jax.random.randint(key, (count,), 0, batch.log_weight.size)
            parts.append(jax.tree.map(lambda leaf, index=index: leaf[index], batch))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    return Buffer(
        init=lambda batch, *others: Shared(own.init(batch), others),
        add=lambda state, batch: state._replace(own=own.add(state.own, batch)),
        sample=sample,
        log_weight=lambda state: own.log_weight(state.own),
        keep=lambda state: state._replace(own=own.keep(state.own)),
    )
