"""One trainer for every loss: collect labelled particles, keep them, regress on them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from tiltjax import buffers, weights
from tiltjax.types import Batch, Key, Learned, Metrics, Network, Objective, Params, Replay, Trainer, TrainState


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
    _check(replay, average, max_norm)
    buffer = buffers.ring(replay.capacity) if replay.capacity else None
    names = _quantities(objective, network, replay)

    def init(key: Key) -> TrainState:
        key_params, key_buffer, key = jax.random.split(key, 3)
        params = Learned(network.init(key_params), objective.init())
        return TrainState(
            key=key,
            round=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params),
            opt_state=optimizer.init(params),
            buffer=_fill(params, key_buffer),
        )

    def _fill(params: Learned, key: Key) -> Any:
        if buffer is None:
            return ()
        keys = jax.random.split(key, replay.capacity // replay.num_particles)
        rounds = jax.lax.map(lambda k: _clean(objective.collect(params, k, replay.num_particles))[0], keys)
        return buffer.init(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rounds))

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        key_collect, key_fit = jax.random.split(jax.random.fold_in(state.key, state.round))
        batch, bad = _clean(jax.lax.stop_gradient(objective.collect(state.params, key_collect, replay.num_particles)))
        held: Any = () if buffer is None else buffer.add(state.buffer, batch)
        log_weight = batch.log_weight if buffer is None else held.items.log_weight
        cumulative = _cumulative(log_weight, replay)

        def draw(key: Key) -> Any:
            return _whole(batch) if buffer is None else buffer.sample(held, key, replay.batch_size, cumulative).data

        def update(
            carry: tuple[Learned, Learned, Any], given: tuple[Key, Array]
        ) -> tuple[tuple[Learned, Learned, Any], tuple[Array, Array]]:
            (params, mean, opt_state), (key, count) = carry, given
            decay = jnp.minimum(average, (1.0 + count) / (10.0 + count))  # a short run is not an average with its start
            key_draw, key_loss = jax.random.split(key)
            value, gradient = jax.value_and_grad(objective.loss)(params, key_loss, draw(key_draw))
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
        after = TrainState(state.key, state.round + 1, params, mean, opt_state, held)
        return after, _metrics(objective.weighted, batch, bad, values, norms, max_norm)

    return Trainer(init, step, names)


def together(trainer: Trainer) -> Trainer:
    """The same for S keys (S,) at once: all of state and metrics has a leading axis S, but the round and the buffer's cursor.

    Those are the same for all, and stay plain numbers: a buffer is then written in one piece.
    """
    shape = jax.eval_shape(trainer.init, jax.random.key(0))
    axes: Any = jax.tree.map(lambda _: 0, shape)._replace(round=None)
    if isinstance(shape.buffer, buffers.Ring):
        axes = axes._replace(buffer=axes.buffer._replace(cursor=None))
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
        return objective.collect(Learned(network.init(key), objective.init()), key, replay.num_particles)

    shapes = jax.eval_shape(collect, jax.random.key(0))
    leaves = [jax.tree_util.keystr(where).lstrip(".") for where, _ in jax.tree.leaves_with_path(shapes.data)]
    return (*leaves, "log_weight", "loss", "gradient")


def _where(condition: Array, a: Params, b: Params) -> Params:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _check(replay: Replay, average: float, max_norm: float) -> None:
    if replay.num_particles < 1 or replay.gradient_steps < 1:
        raise ValueError(
            f"num_particles and gradient_steps must be positive; got {replay.num_particles} and {replay.gradient_steps}."
        )
    if replay.capacity and (replay.capacity % replay.num_particles or replay.batch_size < 1):
        raise ValueError(
            "a replay buffer needs a capacity that is a multiple of num_particles, and a positive batch_size; "
            f"got capacity={replay.capacity}, num_particles={replay.num_particles}, batch_size={replay.batch_size}."
        )
    if replay.weighting is not None and not replay.capacity:
        raise ValueError(
            "a weighting needs a replay buffer to draw from; got capacity=0, where the batch is used whole. Pass "
            "Replay(..., capacity=, batch_size=, weighting=), or leave weighting out."
        )
    if not 0 <= average < 1:
        raise ValueError(f"average is the decay of the averaged parameters, in [0, 1) (0: no averaging); got {average}.")
    if not max_norm > 0:
        raise ValueError(f"max_norm is the largest gradient norm and must be positive (inf: no clipping); got {max_norm}.")


def muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon for matrices, Nadam for all else, at one rate: a matrix moves by 0.2 learning_rate an entry, as under Adam.

    A matrix's step is its momentum with all singular values near one: directions of small gradient are learned as fast.
    Source: Jordan et al. (2024); the size of the steps: Liu et al. (2025), arXiv 2502.16982.
    """
    return optax.contrib.muon(learning_rate, consistent_rms=0.2)
