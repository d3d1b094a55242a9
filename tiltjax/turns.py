"""Trainers of several: two that take turns, many keys at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Key, Learned, Metrics, Trainer, TrainState


class Turns(NamedTuple):
    """State of two trainers that take turns. round counts those of both."""

    key: Key
    round: Array
    first: TrainState
    second: TrainState


def alternate(first: Trainer, second: Trainer, rounds: int) -> Trainer:
    """Two trainers that take turns of `rounds` rounds each; the control that one has learned is carried, frozen, by the other.

    A turn starts from the averaged parameters of the own last turn with a new buffer; the optimizer's state goes on, and with
    it its schedule. One `lax.cond` on the round says whose turn it is. What is learned is Learned(first's control, second's).
    """

    def init(given: Any, key: Key, start: Learned | None = None) -> Turns:
        key_first, key_second, key = jax.random.split(key, 3)
        starts = (None, None) if start is None else (Learned(start.control, None), Learned(start.extra, None))
        second_state = second.init(given, key_second, starts[1])
        first_state = first.begin(given, key_first, second_state.params.control, starts[0])
        return Turns(key, jnp.zeros((), jnp.int32), first_state, second_state)

    def turn(
        own: Trainer, given: Any, states: tuple[TrainState, TrainState], key: Key, fresh: Array
    ) -> tuple[TrainState, Metrics]:
        state, other = states
        state = jax.lax.cond(fresh, lambda: own.renew(given, state, key, other.average.control), lambda: state)
        return own.step(given, state)

    def step(given: Any, state: Turns) -> tuple[Turns, Metrics]:
        stage, place = state.round // rounds, state.round % rounds
        key, fresh = jax.random.fold_in(state.key, stage), (place == 0) & (stage > 0)

        def of_first() -> tuple[Turns, Metrics]:
            own, metrics = turn(first, given, (state.first, state.second), key, fresh)
            return state._replace(first=own), metrics

        def of_second() -> tuple[Turns, Metrics]:
            own, metrics = turn(second, given, (state.second, state.first), key, fresh)
            shifted = jnp.where(metrics.first_bad < 0, -1, metrics.first_bad + len(first.quantities))
            return state._replace(second=own), metrics._replace(first_bad=shifted)

        after, metrics = jax.lax.cond(stage % 2 == 0, of_first, of_second)
        return after._replace(round=state.round + 1), metrics

    def learned(state: Turns) -> Learned:
        return Learned(first.learned(state.first).control, second.learned(state.second).control)

    def alone(*arguments: Any) -> Any:
        raise ValueError("trainers that take turns are not one of two that do: alternate the two themselves.")

    return Trainer(init, step, (*first.quantities, *second.quantities), learned, alone, alone, first.updates, first.given)


def together(trainer: Trainer) -> Trainer:
    """The same for S keys (S,) at once: all of state and metrics has a leading axis S, but the round and the buffer's cursor.

    Those are the same for all, and stay plain numbers: a buffer is then written in one piece.
    """
    shared = {"round", "cursor"}

    def axis(where: Any, leaf: Any) -> int | None:
        return None if getattr(where[-1], "name", None) in shared else 0

    def axes_of(state: Any) -> Any:
        return jax.tree_util.tree_map_with_path(axis, state)

    def init(given: Any, keys: Key, *start: Learned) -> Any:
        axes = axes_of(jax.eval_shape(trainer.init, given, keys[0], *start))
        return jax.vmap(trainer.init, in_axes=(None, 0, *(None for _ in start)), out_axes=axes)(given, keys, *start)

    def step(given: Any, state: Any) -> tuple[Any, Metrics]:
        axes = axes_of(state)
        return jax.vmap(trainer.step, in_axes=(None, axes), out_axes=(axes, 0))(given, state)

    return trainer._replace(init=init, step=step)
