"""Several seeds in one vmapped program: what each would give alone, kept apart, resumed together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import fit, trainable

import tiltjax as tj
from tiltjax import preparing, run, train, turns
from tiltjax.types import Batch, Learned, Network, Replay

NETWORK = functools.partial(tj.networks.mlp, width=16, depth=1)
SMALL = {
    "network": NETWORK,
    "num_updates": 60,
    "learning_rate": 1e-2,
    "num_steps": 8,
    "sampling_steps": 20,
    "replay": Replay(64, 256, 20, 32, tj.weights.tempered(0.2)),
    "progress": False,
}
VECTOR = Network(lambda key: jax.random.normal(key, (3,)), lambda params, t, x: x)
KEYS = jax.random.split(jax.random.key(0), 3)


def problem():
    process = tj.processes.gaussian(tj.paths.linear(), (2,), 1.5)
    return tj.problems.tilt(process, lambda x: -jnp.sum(jnp.square(x - 0.5)), resolution=0.3)


@pytest.mark.slow
def test_each_seed_is_what_it_is_alone():
    """A problem has no pilot, so that nothing is shared."""
    first, second = fit(KEYS[:2], problem(), **SMALL)
    alone = fit(KEYS[1], problem(), **SMALL)
    for a, b in zip(jax.tree.leaves(second.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(second.report.history.loss, alone.report.history.loss, rtol=1e-8)
    assert second.report.energy_evaluations == alone.report.energy_evaluations
    assert not np.allclose(jax.tree.leaves(first.params)[0], jax.tree.leaves(second.params)[0], rtol=1e-3)
    draws = [sampler.sample(jax.random.key(7), 50).log_weight for sampler in (second, alone)]
    np.testing.assert_allclose(*draws, rtol=1e-6)
    assert first.forward is second.forward  # one program draws for all


def test_the_pilot_of_a_target_is_that_of_the_first_key(monkeypatch):
    found = []

    def pilot(key, *arguments):
        found.append(jax.random.key_data(key))
        raise StopIteration

    monkeypatch.setattr(preparing, "piloted", pilot)
    for call in (lambda: fit(KEYS[0], tj.targets.gaussian()), lambda: fit(KEYS, tj.targets.gaussian())):
        with pytest.raises(StopIteration):
            call()
    np.testing.assert_array_equal(*found)


def test_a_buffer_is_written_where_a_plain_number_says():
    """The cursor and the round have no axis of seeds: under vmap a write at batched places is a scatter, slow."""
    objective = tj.losses.minimum_variance(problem(), NETWORK(problem()), tj.paths.uniform(8))
    trainer = turns.together(train.trainer(objective, NETWORK(problem()), optax.sgd(0.1), replay=Replay(8, 16, 2, 4)))
    state, metrics = jax.eval_shape(trainer.step, (), jax.eval_shape(trainer.init, (), KEYS))
    assert state.round.shape == state.buffer.cursor.shape == ()
    assert metrics.loss.shape == (3,)
    assert jax.tree.leaves(state.params)[0].shape[0] == 3


def test_a_killed_run_of_several_goes_on_to_the_same_result(tmp_path, monkeypatch):
    def collect(params, key, n):
        return Batch({"x": params.control[None] + jax.random.normal(key, (n, 3))}, jnp.zeros(n), jnp.zeros(n, bool))

    def loss(params, key, data):
        return jnp.mean(jnp.square(params.control[None] - data["x"] - 1))

    objective = trainable(collect, loss, Replay(4, 8, 2, 4))
    several = turns.together(train.trainer(objective, VECTOR, optax.adam(0.1)))
    whole = run.run(several, KEYS, 6, chunk=2, progress=False)
    watch, calls = run._watch, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        watch(*arguments)

    resumed = functools.partial(run.run, several, chunk=2, progress=False, checkpoint=tmp_path, checkpoint_seconds=0.0)
    monkeypatch.setattr(run, "_watch", killed)
    with pytest.raises(KeyboardInterrupt):
        resumed(KEYS, 6)
    monkeypatch.setattr(run, "_watch", watch)
    assert any(tmp_path.iterdir())
    again = resumed(KEYS, 6)
    jax.tree.map(np.testing.assert_array_equal, whole.state.average, again.state.average)
    jax.tree.map(np.testing.assert_array_equal, whole.history, again.history)
    with pytest.raises(ValueError, match="of another run"):
        resumed(KEYS[::-1], 6)


def test_one_seed_that_cannot_learn_stops_all_and_is_named():
    """Its parameters decide: those of the second are far out, where the label is not finite."""

    def collect(params, key, n):
        label = jnp.where(params.control[0] > 1, jnp.nan, 1.0)
        return Batch({"x": jnp.full((n, 3), label)}, jnp.zeros(n), jnp.zeros(n, bool))

    def loss(params, key, data):
        return jnp.mean(jnp.square(params.control[None] - data["x"]))

    objective = trainable(collect, loss, Replay(4))
    trainer = train.trainer(objective, VECTOR, optax.sgd(0.1))

    def init(given, key):
        far = jnp.where(jax.random.key_data(key)[-1] == 7, 100.0, 0.0)
        return trainer.init((), key)._replace(params=Learned(far * jnp.ones(3), None))

    several = turns.together(trainer._replace(init=init))
    with pytest.raises(FloatingPointError, match=r"every update of key 1 of rounds 0 to 1 .* bad was \['x'\]"):
        run.run(several, jnp.stack([jax.random.key(i) for i in (6, 7)]), 4, chunk=2, progress=False)
    done = run.run(several, jnp.stack([jax.random.key(i) for i in (6, 8)]), 4, chunk=2, progress=False)
    assert done.history.loss.shape == (4, 2) and bool(jnp.all(jnp.isfinite(done.history.loss)))


def test_keys_are_told_apart():
    with pytest.raises(TypeError, match=r"one key, or keys of shape \(S,\), .* got keys of shape \(3, 1\)"):
        fit(KEYS[:, None], problem(), **SMALL)
    with pytest.raises(TypeError, match=r"one key, or keys of shape \(S,\), .* got keys of shape \(0,\)"):
        fit(KEYS[:0], problem(), **SMALL)
    with pytest.raises(TypeError, match=r"got an old-style jax\.random\.PRNGKey"):
        fit(jax.random.split(jax.random.PRNGKey(0), 3), problem())
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_update'"):
        fit(KEYS, problem(), num_update=3)
