"""Arrays that go from round to round and are not learned: `fit`, checkpoints, seeds; and items made of other draws."""

import functools

import chained
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import as_batch, fit, gaussian, small, z_scores

import tiltjax as tj
from tiltjax import buffers, contexts, families, losses, paths, problems, run, sde, targets, train, turns, weights
from tiltjax.types import Batch, Held, Learned, Replay

REPLAY = Replay(64, 256, 20, 64)
TARGET = targets.gmm([[-1.0, 0.0], [1.0, 0.5]], 0.5)


@functools.cache
def problem():
    return problems.sampling(TARGET, gaussian("linear", (2,), 1.6), resolution=0.25)


LOSS = functools.partial(chained.chained, replay=REPLAY)
FIT = {"loss": LOSS, "network": small, "num_updates": 300, "learning_rate": 5e-3, "num_steps": 8, "progress": False}


@pytest.mark.slow
def test_a_loss_with_carried_chains_runs_through_fit():
    sampler = fit(jax.random.key(0), problem(), **FIT)
    draws = sampler.sample(jax.random.key(1), 4000, num_steps=40)
    assert float(tj.diagnostics.ess(draws.log_weight)) > 0.6
    assert abs(z_scores(np.exp(np.asarray(draws.log_weight)), 1.0)) < 5


def trainer():
    return train.trainer(LOSS(problem(), small(problem()), paths.uniform(8)), small(problem()), optax.adam(1e-3))


def test_chains_go_on_from_where_the_last_round_left_them():
    """The filling too hands them on, but for its first round, whose place the first round of training takes."""
    made = trainer()
    start = jax.jit(made.init)((), jax.random.key(0))
    state, _ = jax.jit(made.step)((), start)
    newest = np.asarray(state.buffer.items.data.x[:64])
    np.testing.assert_array_equal(state.carried, newest)
    filled = np.asarray(start.buffer.items.data.x).reshape(4, 64, 2)
    np.testing.assert_array_equal(start.carried, filled[-1])
    apart = [np.square(filled[i] - filled[j]).sum(-1).mean() for i, j in ((2, 3), (1, 3))]
    assert apart[0] < apart[1]  # neighbours in time are nearer


@pytest.mark.slow
def test_a_killed_run_takes_its_chains_up_again(tmp_path):
    whole = run.run(trainer(), jax.random.key(0), 6, progress=False)
    store = {"checkpoint": tmp_path, "checkpoint_seconds": 0.0, "progress": False}
    calls, watch = [], run._watch

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        watch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_watch", killed)
        with pytest.raises(KeyboardInterrupt):
            run.run(trainer(), jax.random.key(0), 6, **store)
    again = run.run(trainer(), jax.random.key(0), 6, **store)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(again.state), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_seeds_at_once_have_chains_each():
    keys = jax.random.split(jax.random.key(2), 2)
    both = run.run(turns.together(trainer()), keys, 3, progress=False).state.carried
    alone = run.run(trainer(), keys[1], 3, progress=False).state.carried
    assert both.shape == (2, 64, 2) and not np.allclose(both[0], both[1])
    np.testing.assert_allclose(both[1], alone, rtol=1e-8)


@pytest.mark.parametrize("name", ["minimum_variance", "adjoint_matching", "learned_variance"])
def test_an_item_of_a_draw_of_the_target_is_one_of_the_loss_s_own(name):
    """Of the same structure as what is collected, and finite in the loss; of end points it is the draw and the slope there."""
    network = small(problem())
    objective = getattr(losses, name)(problem(), network, paths.uniform(8))
    held, key = Held(Learned(network.init(jax.random.key(0)), objective.init())), jax.random.key(1)
    x = TARGET.sample(jax.random.key(2), 16)
    batch, _ = jax.jit(lambda key: contexts.collect(objective, held, key, 16))(key)
    here = families.here_of(objective, held, ())
    items = jax.jit(jax.vmap(lambda x: objective.label(held, key, here, x)))(x)
    assert jax.tree.map(jnp.shape, items) == jax.tree.map(jnp.shape, batch.data)
    assert np.isfinite(jax.jit(objective.loss)(held, key, as_batch(items)))
    if name != "adjoint_matching":
        np.testing.assert_array_equal(items.x, x)
        np.testing.assert_allclose(items.slope, jax.vmap(jax.grad(problem().reward))(x), rtol=1e-9)


def test_a_batch_has_the_shares_of_its_sources():
    """Of 20 items a quarter and a fifth are those of the sources, each drawn evenly; the rest one's own, by their weights."""
    own = buffers.ring(4)
    buffer = buffers.shared(own, (0.25, 0.2))
    batch = lambda value, n: Batch({"x": value + jnp.arange(n)}, jnp.zeros(n), jnp.zeros(n, bool))  # noqa: E731
    state = buffer.init(batch(0, 4), batch(100, 3), batch(200, 2))
    state = buffer.add(state, batch(0, 4)._replace(log_weight=jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4]))))
    cumulative = jnp.cumsum(jnp.exp(buffer.log_weight(state)))

    @jax.jit
    def draw(key):
        return jax.vmap(lambda k: buffer.sample(state, k, 20, cumulative).data["x"])(jax.random.split(key, 4000))

    x = np.asarray(draw(jax.random.key(0)))
    assert ((x >= 200).sum(1) == 4).all() and (((x >= 100) & (x < 200)).sum(1) == 5).all()
    for value, expected in ((200, 2.0), (101, 5 / 3), (0, 1.1), (3, 4.4)):
        assert abs(z_scores((x == value).sum(1), expected)) < 5, value
    with pytest.raises(ValueError, match="positive and sum to less than 1"):
        buffers.shared(own, (0.6, 0.4))


@pytest.mark.slow
def test_draws_from_elsewhere_are_learned_from():
    """Draws of the right mode alone, three quarters of each batch: the control goes there more often than without them."""
    replay, times = Replay(256, 512, 40, 128, weights.tempered(0.2)), paths.log_snr(problem().frame, 8, 0.25)
    objective = losses.conditional_score_matching(problem(), small(problem()), times, replay=replay)

    def right(sources):
        made = train.trainer(objective, small(problem()), optax.adam(1e-2), sources=sources)
        done = run.run(made, jax.random.key(0), 5, progress=False)
        control = lambda t, x: small(problem()).apply(done.state.average.control, t, x)  # noqa: E731
        draw = jax.jit(jax.vmap(lambda k: sde.simulate(problem().process, control, times, k).x[0] > 0))
        return np.asarray(draw(jax.random.split(jax.random.key(1), 2000))).mean()

    x = TARGET.sample(jax.random.key(2), 2000)
    with_them, without = right((buffers.Source(x[x[:, 0] > 0], 0.75),)), right(())
    assert 0.35 < without < 0.65 and with_them > 0.75
    with pytest.raises(ValueError, match="draws from elsewhere need a loss that can label them"):
        on_paths = losses.log_variance(problem(), small(problem()), times, replay=Replay(16, 32, 1, 8))
        made = train.trainer(on_paths, small(problem()), optax.adam(1e-3), sources=(buffers.Source(x, 0.5),))
        jax.eval_shape(made.init, (), jax.random.key(0))


def test_draws_from_elsewhere_are_kept_with_their_labels():
    """Before the first round the second source of the buffer holds the draws, and the reward's slope at each."""
    objective = losses.novel_score_matching(problem(), small(problem()), paths.uniform(4), replay=REPLAY)
    x = TARGET.sample(jax.random.key(2), 20)
    made = train.trainer(objective, small(problem()), optax.adam(1e-2), sources=(buffers.Source(x, 0.5),))
    (kept,) = jax.jit(made.init)((), jax.random.key(0)).buffer.others
    np.testing.assert_array_equal(kept.data.x, x)
    np.testing.assert_allclose(kept.data.slope, jax.vmap(jax.grad(problem().reward))(x), rtol=1e-9)
