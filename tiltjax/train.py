"""One trainer for every loss: collect labelled particles, keep them, regress on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import buffers, contexts, families, rounds, validate
from tiltjax.buffers import Buffer
from tiltjax.types import Batch, Held, Key, Learned, Metrics, Network, Objective, Replay, Trainer, TrainState


class Parts(NamedTuple):
    """What a trainer is made of."""

    objective: Objective
    network: Network
    optimizer: optax.GradientTransformation
    replay: Replay
    average: float
    max_norm: float
    buffer: Buffer


def trainer(
    objective: Objective,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    replay: Replay | None = None,
    average: float = 0.998,
    max_norm: float = 1.0,
    sources: tuple[buffers.Source, ...] = (),
) -> Trainer:
    """A round: collect `replay.num_particles`, add them to the buffer, make `replay.gradient_steps` updates.

    The gradient's global norm is cut at `max_norm` (inf: never) and the cuts are counted. An update with a non-finite loss or
    gradient is skipped and counted; a particle with a non-finite label or weight is kept out of the loss and counted.
    `average` is the decay of the averaged parameters, which are the ones to sample with; after k updates it is
    (1 + k) / (10 + k) where that is less.
    sources: draws of p* that are not one's own (a chain's, a user's), each with its share of every batch; the objective labels
    them (`Objective.label`). Raises ValueError for settings that cannot work.
    """
    replay = objective.replay if replay is None else replay
    findings = validate.Findings("train.trainer")
    validate.replay(replay, findings)
    findings.within(validate.rounds_of, objective.family, replay)
    validate.averaging(average, max_norm, findings)
    findings.stop()
    own = buffers.ring(replay.capacity) if replay.capacity else buffers.once()
    buffer = buffers.shared(own, tuple(source.share for source in sources)) if sources else own
    parts = Parts(objective, network, optimizer, replay, average, max_norm, buffer)

    def begin(given: Any, key: Key, carried: Any, start: Learned | None) -> TrainState:
        return _begin(parts, sources, Held(_first(parts, key, start), carried, given), key)

    return Trainer(
        init=lambda given, key, start=None: begin(given, key, objective.carry(jax.random.fold_in(key, 0)), start),
        step=lambda given, state: _step(parts, given, state),
        quantities=_quantities(objective, network, replay),
        learned=lambda state: state.average,
        begin=begin,
        renew=lambda given, state, key, carried: _renew(parts, sources, Held(state.average, carried, given), state, key),
        updates=replay.gradient_steps,
        given=_given(objective),
    )


def _first(parts: Parts, key: Key, start: Learned | None) -> Learned:
    """The parameters before the first update: new ones, or those of the start; what that does not have is new."""
    if start is None:
        return Learned(parts.network.init(jax.random.split(key, 3)[0]), parts.objective.init())
    return start if start.extra is not None else start._replace(extra=parts.objective.init())


def _begin(parts: Parts, sources: tuple[buffers.Source, ...], held: Held, key: Key) -> TrainState:
    """Before the first round: a full buffer."""
    params, (_, key_buffer, key) = held.params, jax.random.split(key, 3)
    carried, filled = _fill(parts, sources, held, key_buffer)
    return TrainState(
        key=key,
        round=jnp.zeros((), jnp.int32),
        params=params,
        average=jax.tree.map(jnp.copy, params),
        opt_state=parts.optimizer.init(params),
        carried=carried,
        buffer=filled,
    )


def _renew(parts: Parts, sources: tuple[buffers.Source, ...], held: Held, state: TrainState, key: Key) -> TrainState:
    """From the averaged parameters with a new buffer: the optimizer's state goes on, the average starts anew."""
    key_buffer, key = jax.random.split(key)
    carried, filled = _fill(parts, sources, held, key_buffer)
    return state._replace(
        key=key,
        round=jnp.zeros_like(state.round),
        params=jax.tree.map(jnp.copy, state.average),
        carried=carried,
        buffer=filled,
    )


def _fill(parts: Parts, sources: tuple[buffers.Source, ...], held: Held, key: Key) -> tuple[Any, Any]:
    """What is carried after as many rounds as the buffer takes, and the buffer."""
    objective, replay = parts.objective, parts.replay
    if not replay.capacity:
        return held.carried, ()

    def one(carried: Any, place: tuple[Array, Key]) -> tuple[Any, Batch]:
        i, key = place
        batch, after = contexts.collect(objective, held._replace(carried=carried), key, replay.num_particles)
        # the first round of training takes the place of the first one here, which hands nothing on
        return rounds.where(i > 0, after, carried), _comparable(objective, rounds.clean(batch)[0])

    keys = jax.random.split(key, replay.capacity // replay.num_particles)
    carried, collected = jax.lax.scan(one, held.carried, (jnp.arange(len(keys)), keys))
    own = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), collected)
    others = [_labelled(objective, held, jax.random.fold_in(key, i), source.x) for i, source in enumerate(sources)]
    return carried, parts.buffer.init(own, *others)


def _comparable(objective: Objective, batch: Batch) -> Batch:
    """The batch of a round with weights that may be compared across contexts."""
    return batch._replace(log_weight=contexts.relative(objective.family, batch.log_weight))


def _labelled(objective: Objective, held: Held, key: Key, x: Array) -> Batch:
    """Draws x (m, *shape) of p*, in the process's coordinates, as items of the loss, equally weighted."""
    label, here = validate.label(objective), families.here_of(objective, held, ())
    data = jax.vmap(lambda key, x: label(held, key, here, x))(jax.random.split(key, len(x)), x)
    return rounds.clean(Batch(data, jnp.zeros(len(x), x.dtype), jnp.zeros(len(x), bool)))[0]


def _step(parts: Parts, given: Any, state: TrainState) -> tuple[TrainState, Metrics]:
    """One round."""
    objective, replay, buffer = parts.objective, parts.replay, parts.buffer
    key_collect, key_fit = jax.random.split(jax.random.fold_in(state.key, state.round))
    held = Held(state.params, state.carried, given)
    batch, carried = jax.lax.stop_gradient(contexts.collect(objective, held, key_collect, replay.num_particles))
    batch, bad = rounds.clean(batch)
    filled = buffer.add(state.buffer, _comparable(objective, batch))
    cumulative = rounds.cumulative(buffer.log_weight(filled), replay)

    def update(learning: tuple[Any, ...], given: tuple[Key, Array]) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
        key, count = given
        key_draw, key_loss = jax.random.split(key)
        drawn = buffer.sample(filled, key_draw, replay.batch_size, cumulative)

        def loss(params: Learned) -> Array:
            return objective.loss(Held(params, carried, given), key_loss, drawn)

        value, gradient = jax.value_and_grad(loss)(learning[0])
        value = jnp.where(jnp.isfinite(cumulative[-1]), value, jnp.nan)  # no particle has a weight: nothing to learn from
        return _moved(parts, learning, value, gradient, count)

    start = (state.params, state.average, state.opt_state)
    steps = replay.gradient_steps
    counts = (state.round * steps + jnp.arange(steps, dtype=jnp.int32)).astype(jax.dtypes.canonicalize_dtype(float))
    (params, mean, opt_state), (values, norms) = jax.lax.scan(update, start, (jax.random.split(key_fit, steps), counts))
    after = TrainState(state.key, state.round + 1, params, mean, opt_state, carried, buffer.keep(filled))
    return after, rounds.metrics(objective, batch, bad, (values, norms), parts.max_norm)


def _moved(
    parts: Parts, learning: tuple[Any, ...], value: Array, gradient: Learned, count: Array
) -> tuple[tuple[Any, ...], tuple[Array, Array]]:
    """Parameters, their average and the optimizer's state after an update; as they were where it is not finite."""
    params, mean, opt_state = learning
    decay = jnp.minimum(parts.average, (1.0 + count) / (10.0 + count))  # a short run is not an average with its start
    norm = optax.tree.norm(gradient)
    fine = jnp.isfinite(value) & jnp.isfinite(norm)
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, parts.max_norm / jnp.maximum(norm, 1e-30)), gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        change, new_opt_state = parts.optimizer.update(gradient, opt_state, params)
    new_params: Any = optax.apply_updates(params, change)
    new_mean = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, mean, new_params)
    return rounds.where(fine, (new_params, new_mean, new_opt_state), learning), (value, norm)


def _given(objective: Objective) -> Any:
    return () if objective.family is None else objective.family.given


def _quantities(objective: Objective, network: Network, replay: Replay) -> tuple[str, ...]:
    def collect(key: Key) -> Batch:
        held = Held(Learned(network.init(key), objective.init()), objective.carry(key), _given(objective))
        return contexts.collect(objective, held, key, replay.num_particles)[0]

    shapes = jax.eval_shape(collect, jax.random.key(0))
    leaves = [jax.tree_util.keystr(where).lstrip(".") for where, _ in jax.tree.leaves_with_path(shapes.data)]
    return (*leaves, "log_weight", "loss", "gradient")


def muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon for matrices, Nadam for all else, at one rate: a matrix moves by 0.2 learning_rate an entry, as under Adam.

    A matrix's step is its momentum with all singular values near one: directions of small gradient are learned as fast.
    Source: Jordan et al. (2024); the size of the steps: Liu et al. (2025), arXiv 2502.16982.
    """
    return optax.contrib.muon(learning_rate, consistent_rms=0.2)
