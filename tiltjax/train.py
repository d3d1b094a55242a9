"""One trainer for every loss: collect labelled particles, keep them, regress on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import buffers, validate, weights
from tiltjax.types import Batch, Held, Key, Learned, Metrics, Network, Objective, Params, Replay, Trainer, TrainState


def trainer(
    objective: Objective,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    replay: Replay | None = None,
    average: float = 0.998,
    max_norm: float = 1.0,
) -> Trainer:
    """A round: collect `replay.num_particles`, add them to the buffer, make `replay.gradient_steps` updates.

    The gradient's global norm is cut at `max_norm` (inf: never) and the cuts are counted. An update with a non-finite loss or
    gradient is skipped and counted; a particle with a non-finite label or weight is kept out of the loss and counted.
    `average` is the decay of the averaged parameters, which are the ones to sample with; after k updates it is
    (1 + k) / (10 + k) where that is less.
    """
    replay = objective.replay if replay is None else replay
    findings = validate.Findings("train.trainer")
    validate.replay(replay, findings)
    validate.averaging(average, max_norm, findings)
    findings.stop()
    buffer = buffers.ring(replay.capacity) if replay.capacity else None
    names = _quantities(objective, network, replay)

    def init(key: Key) -> TrainState:
        return begin(key, objective.carry(jax.random.fold_in(key, 0)))

    def begin(key: Key, carried: Any) -> TrainState:
        key_params, key_buffer, key = jax.random.split(key, 3)
        params = Learned(network.init(key_params), objective.init())
        carried, held = _fill(Held(params, carried), key_buffer)
        return TrainState(
            key=key,
            round=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            carried=carried,
            buffer=held,
        )

    def renew(state: TrainState, key: Key, carried: Any) -> TrainState:
        key_buffer, key = jax.random.split(key)
        carried, held = _fill(Held(state.average, carried), key_buffer)
        return state._replace(
            key=key,
            round=jnp.zeros_like(state.round),
            params=jax.tree.map(jnp.copy, state.average),
            carried=carried,
            buffer=held,
        )

    def _fill(held: Held, key: Key) -> tuple[Any, Any]:
        """What is carried after as many rounds as the buffer takes, and the buffer."""
        if buffer is None:
            return held.carried, ()

        def one(carried: Any, place: tuple[Array, Key]) -> tuple[Any, Batch]:
            i, key = place
            batch, after = objective.collect(held._replace(carried=carried), key, replay.num_particles)
            # the first round of training takes the place of the first one here, which hands nothing on
            return _where(i > 0, after, carried), _clean(batch)[0]

        keys = jax.random.split(key, replay.capacity // replay.num_particles)
        carried, rounds = jax.lax.scan(one, held.carried, (jnp.arange(len(keys)), keys))
        return carried, buffer.init(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rounds))

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        key_collect, key_fit = jax.random.split(jax.random.fold_in(state.key, state.round))
        now = Held(state.params, state.carried)
        batch, carried = jax.lax.stop_gradient(objective.collect(now, key_collect, replay.num_particles))
        batch, bad = _clean(batch)
        held: Any = () if buffer is None else buffer.add(state.buffer, batch)
        log_weight = batch.log_weight if buffer is None else held.items.log_weight
        cumulative = _cumulative(log_weight, replay)

        def draw(key: Key) -> Any:
            return _whole(batch) if buffer is None else buffer.sample(held, key, replay.batch_size, cumulative).data

        def loss(params: Learned, key: Key, data: Any) -> Array:
            return objective.loss(Held(params, carried), key, data)

        def update(
            carry: tuple[Learned, Learned, Any], given: tuple[Key, Array]
        ) -> tuple[tuple[Learned, Learned, Any], tuple[Array, Array]]:
            (params, mean, opt_state), (key, count) = carry, given
            decay = jnp.minimum(average, (1.0 + count) / (10.0 + count))  # a short run is not an average with its start
            key_draw, key_loss = jax.random.split(key)
            value, gradient = jax.value_and_grad(loss)(params, key_loss, draw(key_draw))
            value = jnp.where(jnp.isfinite(cumulative[-1]), value, jnp.nan)  # no particle has a weight: nothing to learn from
            norm = optax.tree.norm(gradient)
            fine = jnp.isfinite(value) & jnp.isfinite(norm)
            gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-30)), gradient)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                change, new_opt_state = optimizer.update(gradient, opt_state, params)
            new_params: Any = optax.apply_updates(params, change)
            new_mean = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, mean, new_params)
            kept = _where(fine, (new_params, new_mean, new_opt_state), carry)
            return kept, (value, norm)

        start = (state.params, state.average, state.opt_state)
        steps = replay.gradient_steps
        counts = (state.round * steps + jnp.arange(steps, dtype=jnp.int32)).astype(jax.dtypes.canonicalize_dtype(float))
        (params, mean, opt_state), (values, norms) = jax.lax.scan(update, start, (jax.random.split(key_fit, steps), counts))
        after = TrainState(state.key, state.round + 1, params, mean, opt_state, carried, held)
        return after, _metrics(objective.weighted, batch, bad, values, norms, max_norm)

    return Trainer(init, step, names, lambda state: state.average, begin, renew)


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

    def init(key: Key) -> Turns:
        key_first, key_second, key = jax.random.split(key, 3)
        second_state = second.init(key_second)
        first_state = first.begin(key_first, second_state.params.control)
        return Turns(key, jnp.zeros((), jnp.int32), first_state, second_state)

    def turn(own: Trainer, state: TrainState, other: TrainState, key: Key, fresh: Array) -> tuple[TrainState, Metrics]:
        state = jax.lax.cond(fresh, lambda: own.renew(state, key, other.average.control), lambda: state)
        return own.step(state)

    def step(state: Turns) -> tuple[Turns, Metrics]:
        stage, place = state.round // rounds, state.round % rounds
        key, fresh = jax.random.fold_in(state.key, stage), (place == 0) & (stage > 0)

        def of_first() -> tuple[Turns, Metrics]:
            own, metrics = turn(first, state.first, state.second, key, fresh)
            return state._replace(first=own), metrics

        def of_second() -> tuple[Turns, Metrics]:
            own, metrics = turn(second, state.second, state.first, key, fresh)
            shifted = jnp.where(metrics.first_bad < 0, -1, metrics.first_bad + len(first.quantities))
            return state._replace(second=own), metrics._replace(first_bad=shifted)

        after, metrics = jax.lax.cond(stage % 2 == 0, of_first, of_second)
        return after._replace(round=state.round + 1), metrics

    def learned(state: Turns) -> Learned:
        return Learned(first.learned(state.first).control, second.learned(state.second).control)

    def alone(*arguments: Any) -> Any:
        raise ValueError("trainers that take turns are not one of two that do: alternate the two themselves.")

    return Trainer(init, step, (*first.quantities, *second.quantities), learned, alone, alone)


def together(trainer: Trainer) -> Trainer:
    """The same for S keys (S,) at once: all of state and metrics has a leading axis S, but the round and the buffer's cursor.

    Those are the same for all, and stay plain numbers: a buffer is then written in one piece.
    """
    shape = jax.eval_shape(trainer.init, jax.random.key(0))
    shared = {"round", "cursor"}

    def axis(where: Any, leaf: Any) -> int | None:
        return None if getattr(where[-1], "name", None) in shared else 0

    axes: Any = jax.tree_util.tree_map_with_path(axis, shape)
    init = jax.vmap(trainer.init, out_axes=axes)
    return trainer._replace(init=init, step=jax.vmap(trainer.step, in_axes=(axes,), out_axes=(axes, 0)))


def _clean(batch: Batch) -> tuple[Batch, Array]:
    """Particles with anything non-finite lose their weight and their labels; and how many did, by quantity (K,)."""
    leaves = [*jax.tree.leaves(batch.data), batch.log_weight]
    bad = jnp.stack([_bad(leaf) for leaf in leaves])
    lost = jnp.any(bad, axis=0)

    def blank(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(lost.reshape(-1, *(1,) * (leaf.ndim - 1)), jnp.zeros((), leaf.dtype), leaf)

    data = jax.tree.map(blank, batch.data)
    return Batch(data, jnp.where(lost, -jnp.inf, batch.log_weight), batch.clipped), jnp.sum(bad, axis=1)


def _whole(batch: Batch) -> Any:
    """The data of a batch that is used whole: a lost particle's place is taken by one that is not."""
    good = jnp.isfinite(batch.log_weight)
    place = jnp.arange(good.size)
    index = jnp.where(good, place, jnp.argsort(~good)[place % jnp.maximum(jnp.sum(good), 1)])
    return jax.tree.map(lambda leaf: leaf[index], batch.data)


def _bad(leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape[0], bool)
    return ~jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)


def _cumulative(log_weight: Array, replay: Replay) -> Array:
    weighting = weights.unweighted if replay.weighting is None else replay.weighting
    return jnp.cumsum(weights.normalize(weighting(log_weight)))


def _metrics(weighted: bool, batch: Batch, bad: Array, values: Array, norms: Array, max_norm: float) -> Metrics:
    skipped = ~(jnp.isfinite(values) & jnp.isfinite(norms))
    counts = jnp.concatenate([bad, jnp.stack([jnp.sum(~jnp.isfinite(values)), jnp.sum(~jnp.isfinite(norms))])])
    n = batch.log_weight.size
    known = weighted & jnp.any(jnp.isfinite(batch.log_weight))
    return Metrics(
        loss=jnp.mean(values, where=~skipped),
        log_z=jnp.where(weighted, jax.nn.logsumexp(batch.log_weight) - jnp.log(n), jnp.nan),
        ess=jnp.where(known, weights.ess(batch.log_weight), jnp.nan),
        gradient_norm=jnp.mean(norms, where=~skipped),
        clipped_updates=jnp.sum(~skipped & (norms > max_norm)),
        nonfinite_updates=jnp.sum(skipped),
        clipped_particles=jnp.sum(batch.clipped),
        nonfinite_particles=jnp.sum(~jnp.isfinite(batch.log_weight)),
        first_bad=jnp.where(jnp.any(counts > 0), jnp.argmax(counts > 0), -1),
    )


def _quantities(objective: Objective, network: Network, replay: Replay) -> tuple[str, ...]:
    def collect(key: Key) -> Batch:
        held = Held(Learned(network.init(key), objective.init()), objective.carry(key))
        return objective.collect(held, key, replay.num_particles)[0]

    shapes = jax.eval_shape(collect, jax.random.key(0))
    leaves = [jax.tree_util.keystr(where).lstrip(".") for where, _ in jax.tree.leaves_with_path(shapes.data)]
    return (*leaves, "log_weight", "loss", "gradient")


def _where(condition: Array, a: Params, b: Params) -> Params:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon for matrices, Nadam for all else, at one rate: a matrix moves by 0.2 learning_rate an entry, as under Adam.

    A matrix's step is its momentum with all singular values near one: directions of small gradient are learned as fast.
    Source: Jordan et al. (2024); the size of the steps: Liu et al. (2025), arXiv 2502.16982.
    """
    return optax.contrib.muon(learning_rate, consistent_rms=0.2)
