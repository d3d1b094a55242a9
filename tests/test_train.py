"""The trainer and its loop: what is skipped, cut, averaged, kept, counted, and when it stops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import trainable

from tiltjax import buffers, run, train, weights
from tiltjax.types import Batch, Learned, Network, Replay

SGD = optax.sgd(0.1)
NETWORK = Network(lambda key: jnp.zeros(3), lambda params, t, x: x)


def objective(collect, loss=None, weighted=True):
    """A batch is what `collect(n)` makes; the loss is its mean squared distance to the parameters."""

    def mean_square(params, key, data):
        return jnp.mean(jnp.sum(jnp.square(params.control[None] - data["x"]), axis=-1))

    return trainable(collect, loss or mean_square, Replay(4), weighted=weighted)


def ones(params, key, n):
    return Batch({"x": jnp.ones((n, 3))}, jnp.zeros(n), jnp.zeros(n, bool))


def start(trainer):
    return trainer.init((), jax.random.key(0))


# -------------------------------------------------------------------------------------------- one round


def test_a_round_is_what_optax_would_do():
    trainer = train.trainer(objective(ones), NETWORK, SGD, replay=Replay(4, gradient_steps=2), average=0.05, max_norm=jnp.inf)
    state, metrics = jax.jit(trainer.step)((), start(trainer))
    first = 0.2 * jnp.ones(3)  # 0 - 0.1 * 2 (0 - 1)
    second = first - 0.1 * 2 * (first - 1)
    np.testing.assert_allclose(state.params.control, second, rtol=1e-12)
    # decay min(0.05, (1 + k) / (10 + k)): 0.05 at both
    average = 0.05 * (0.95 * first) + 0.95 * second
    np.testing.assert_allclose(state.average.control, average, rtol=1e-12)
    assert int(state.round) == 1 and int(metrics.first_bad) == -1
    assert float(metrics.loss) == pytest.approx((3.0 + 3 * 0.8**2) / 2)
    assert float(metrics.gradient_norm) == pytest.approx(2 * np.sqrt(3) * 0.9)
    assert [int(n) for n in (metrics.clipped_updates, metrics.nonfinite_updates, metrics.nonfinite_particles)] == [0, 0, 0]


def test_the_average_forgets_its_start_in_a_short_run():
    trainer = train.trainer(objective(ones), NETWORK, SGD, replay=Replay(4, gradient_steps=200), average=0.998)
    state, _ = jax.jit(trainer.step)((), start(trainer))
    np.testing.assert_allclose(state.average.control, 1.0, atol=0.01)


def test_clipped_updates_are_cut_to_the_norm_and_counted():
    trainer = train.trainer(objective(ones), NETWORK, SGD, replay=Replay(4, gradient_steps=3), max_norm=1.0)
    state, metrics = jax.jit(trainer.step)((), start(trainer))
    assert int(metrics.clipped_updates) == 3
    np.testing.assert_allclose(jnp.linalg.norm(state.params.control), 0.3, rtol=1e-12)
    assert float(metrics.gradient_norm) > 1  # before the cut


@pytest.mark.parametrize("poison", ["value", "gradient"])
def test_nonfinite_updates_are_skipped_and_counted(poison):
    def loss(params, key, data):
        fine = jnp.mean(jnp.sum(jnp.square(params.control[None] - data["x"]), axis=-1))
        spoil = jax.random.uniform(key) < 0.5
        if poison == "value":
            return jnp.where(spoil, jnp.inf, fine)
        size = jnp.where(spoil, 0.0, 1.0)  # the slope of sqrt at 0
        return fine + 1e-3 * jnp.sqrt(size * jnp.sum(jnp.square(params.control) + 1.0)) * size

    replay = Replay(4, gradient_steps=40)
    trainer = train.trainer(objective(ones, loss), NETWORK, optax.adam(0.1), replay=replay)
    state, metrics = jax.jit(trainer.step)((), start(trainer))
    skipped = int(metrics.nonfinite_updates)
    assert 8 < skipped < 32
    assert trainer.quantities[int(metrics.first_bad)] == {"value": "loss", "gradient": "gradient"}[poison]
    assert int(state.opt_state[0].count) == 40 - skipped  # the optimizer does not see them either
    assert np.isfinite(state.params.control).all() and np.isfinite(state.average.control).all()
    assert np.isfinite(float(metrics.loss)) and np.isfinite(float(metrics.gradient_norm))
    assert int(metrics.clipped_updates) <= 40 - skipped


@pytest.mark.parametrize("capacity", [0, 8])
def test_nonfinite_particles_are_kept_out_and_counted(capacity):
    """One of four has a label that is not a number, one a weight of infinity: the loss is that of the others."""

    def collect(params, key, n):
        x = jnp.ones((n, 3)).at[0, 1].set(jnp.nan)
        return Batch({"x": x.at[1].set(77.0)}, jnp.zeros(n).at[1].set(jnp.inf), jnp.zeros(n, bool).at[2].set(True))

    replay = Replay(4, capacity, gradient_steps=1, batch_size=64 if capacity else 0)
    trainer = train.trainer(objective(collect), NETWORK, SGD, replay=replay)
    state, metrics = jax.jit(trainer.step)((), start(trainer))
    assert float(metrics.loss) == pytest.approx(3.0)
    assert int(metrics.nonfinite_particles) == 2 and int(metrics.nonfinite_updates) == 0
    assert int(metrics.clipped_particles) == 1
    assert trainer.quantities[int(metrics.first_bad)] == "['x']"
    assert float(metrics.ess) == pytest.approx(0.5)
    assert float(metrics.log_z) == pytest.approx(np.log(0.5))
    np.testing.assert_allclose(state.params.control, state.params.control[0])


def test_weights_of_the_buffer_choose_the_batch():
    """Weights 1 : 3 on two kinds of particles: the mean of a large batch."""

    def collect(params, key, n):
        kind = jnp.arange(n) % 2
        x = jnp.broadcast_to(kind[:, None].astype(float), (n, 3))
        return Batch({"x": x}, jnp.where(kind == 1, jnp.log(3.0), 0.0), jnp.zeros(n, bool))

    def loss(params, key, data):
        return jnp.mean(data["x"]) + 0.0 * jnp.sum(params.control)

    replay = Replay(4, 16, gradient_steps=4, batch_size=5000, weighting=lambda log_weight: log_weight)
    trainer = train.trainer(objective(collect, loss), NETWORK, SGD, replay=replay)
    _, metrics = jax.jit(trainer.step)((), start(trainer))
    assert abs(float(metrics.loss) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 20_000)
    trainer = train.trainer(objective(collect, loss), NETWORK, SGD, replay=replay._replace(weighting=None))
    _, metrics = jax.jit(trainer.step)((), start(trainer))
    assert abs(float(metrics.loss) - 0.5) < 5 * np.sqrt(0.25 / 20_000)


# ---------------------------------------------------------------------------------------------- the loop


def counting(params, key, n):
    return Batch({"x": jax.random.normal(key, (n, 3))}, jnp.zeros(n), jnp.zeros(n, bool))


def test_the_buffer_is_filled_with_draws_of_their_own():
    """No key twice: neither within the filling, nor between it and the first rounds."""
    trainer = train.trainer(objective(counting), NETWORK, SGD, replay=Replay(4, 16, batch_size=8))
    step = jax.jit(trainer.step)
    state = jax.jit(trainer.init)((), jax.random.key(0))
    rows = [state.buffer.items.data["x"]]
    for cursor in (0, 4):
        state, _ = step((), state)
        rows.append(state.buffer.items.data["x"][cursor : cursor + 4])
    assert len(np.unique(np.concatenate(rows), axis=0)) == 16 + 2 * 4


def test_chunks_do_not_change_the_run():
    trainer = train.trainer(objective(counting), NETWORK, SGD)
    once, twice = (run.run(trainer, jax.random.key(5), 6, chunk=c, progress=False) for c in (1, 3))
    np.testing.assert_allclose(once.state.params.control, twice.state.params.control, rtol=1e-12)
    assert once.history.loss.shape == twice.history.loss.shape == (6,)
    np.testing.assert_allclose(once.history.loss, twice.history.loss, rtol=1e-12)
    assert int(once.state.round) == 6 and once.compile_seconds > 0 and once.train_seconds > 0


def test_progress_is_shown(capsys):
    trainer = train.trainer(objective(counting), NETWORK, SGD)
    run.run(trainer, jax.random.key(5), 2, progress=True)
    assert "2/2" in capsys.readouterr().out
    many = train.trainer(objective(counting), NETWORK, SGD, replay=Replay(4, gradient_steps=50))
    run.run(many, jax.random.key(5), 2, progress=True)
    assert "100/100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda x: (x.at[:, 0].set(jnp.nan), jnp.zeros(len(x))), r"\['x'\]"),
        (lambda x: (x, jnp.full(len(x), -jnp.inf)), "log_weight"),
        (lambda x: (1e200 * x, jnp.zeros(len(x))), "loss"),
    ],
)
def test_a_run_that_cannot_learn_stops_and_names_what_went_bad_first(spoil, name):
    def collect(params, key, n):
        x, log_weight = spoil(jax.random.normal(key, (n, 3)))
        return Batch({"x": x}, log_weight, jnp.zeros(n, bool))

    trainer = train.trainer(objective(collect), NETWORK, SGD)
    with pytest.raises(FloatingPointError, match=rf"first quantity to go bad was {name} .*Check the density"):
        run.run(trainer, jax.random.key(0), 10, chunk=2, progress=False)


def test_a_run_that_learns_now_and_then_goes_on():
    def loss(params, key, data):
        fine = jnp.mean(jnp.sum(jnp.square(params.control[None] - data["x"]), axis=-1))
        return jnp.where(jax.random.uniform(key) < 0.7, jnp.nan, fine)

    trainer = train.trainer(objective(ones, loss), NETWORK, SGD, replay=Replay(4, gradient_steps=20))
    done = run.run(trainer, jax.random.key(0), 3, progress=False)
    assert 20 < int(jnp.sum(done.history.nonfinite_updates)) < 58


# ------------------------------------------------------------------------------------------------ buffers


def test_the_ring_keeps_the_newest():
    buffer = buffers.ring(6)
    state = buffer.init({"x": jnp.asarray([[0.0], [1.0]])})
    np.testing.assert_array_equal(state.items["x"][:, 0], [0, 1, 0, 1, 0, 1])
    for i in range(1, 5):
        state = buffer.add(state, {"x": jnp.asarray([[2.0 * i], [2.0 * i + 1]])})
    np.testing.assert_array_equal(np.sort(state.items["x"][:, 0]), [4, 5, 6, 7, 8, 9])
    assert int(state.cursor) == 2
    with pytest.raises(ValueError, match=r"multiple.*got 6 and 4"):
        buffer.init({"x": jnp.zeros((4, 1))})


def test_the_ring_samples_by_weight_and_never_what_has_none():
    buffer = buffers.ring(4)
    state = buffer.init(jnp.arange(4.0))
    w = jnp.asarray([0.0, 1.0, 0.0, 3.0])
    drawn = buffer.sample(state, jax.random.key(0), 10_000, jnp.cumsum(w))
    counts = np.bincount(np.asarray(drawn, int), minlength=4)
    assert counts[0] == counts[2] == 0
    assert abs(counts[3] / 10_000 - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 10_000)


# ----------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("replay", "options", "message"),
    [
        (Replay(0), {}, "must be positive; got 0 and 1"),
        (Replay(4, gradient_steps=0), {}, "must be positive; got 4 and 0"),
        (Replay(4, 10, batch_size=2), {}, "multiple of num_particles.*capacity=10"),
        (Replay(4, 8), {}, "positive batch_size.*batch_size=0"),
        (Replay(4, weighting=weights.truncated), {}, "needs a replay buffer.*capacity=0"),
        (Replay(4), {"average": 2.0}, r"in \[0, 1\) \(0: no averaging\); got 2.0"),
        (Replay(4), {"average": 1.0}, r"in \[0, 1\).*; got 1.0"),
        (Replay(4), {"average": float("nan")}, r"in \[0, 1\).*; got nan"),
        (Replay(4), {"max_norm": 0.0}, r"must be positive \(inf: no clipping\); got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(replay, options, message):
    with pytest.raises(ValueError, match=message):
        train.trainer(objective(ones), NETWORK, SGD, replay=replay, **options)


def test_learned_extras_are_trained_beside_the_network():
    def loss(params, key, data):
        return jnp.mean(jnp.square(params.extra - 2.0)) + 0.0 * jnp.sum(params.control)

    both = objective(ones, loss)._replace(init=lambda: jnp.zeros(()))
    trainer = train.trainer(both, NETWORK, SGD, replay=Replay(4, gradient_steps=100))
    state, _ = jax.jit(trainer.step)((), start(trainer))
    assert isinstance(state.params, Learned) and float(state.params.extra) == pytest.approx(2.0, abs=1e-3)


# -------------------------------------------------------------------------------------------- the optimizer


def test_muon_moves_all_directions_of_a_matrix_alike_by_adams_size_and_vectors_as_nadam_does():
    """From a gradient with singular values from 1 to 0.05: a step's are within a factor of two, its entries 0.2 of the rate."""
    rate, (left, _), (right, _) = 0.01, *(jnp.linalg.qr(jax.random.normal(jax.random.key(k), (48, 24))) for k in (0, 1))
    gradient = {"kernel": (left * jnp.geomspace(1, 0.05, 24)[None]) @ right[:24].T, "bias": jnp.asarray([1.0, -1e-3])}
    params = jax.tree.map(jnp.zeros_like, gradient)
    with jax.numpy_dtype_promotion("standard"):
        steps = {}
        for name, optimizer in {"muon": train.muon(rate), "nadam": optax.nadam(rate)}.items():
            steps[name], _ = optimizer.update(gradient, optimizer.init(params), params)
    sizes = np.linalg.svd(steps["muon"]["kernel"], compute_uv=False)
    assert sizes.max() / sizes.min() < 2 < 19 < np.linalg.cond(gradient["kernel"])
    assert float(jnp.sum(steps["muon"]["kernel"] * gradient["kernel"])) < 0
    assert float(jnp.sqrt(jnp.mean(jnp.square(steps["muon"]["kernel"])))) == pytest.approx(0.2 * rate, rel=0.3)
    np.testing.assert_allclose(steps["muon"]["bias"], steps["nadam"]["bias"], rtol=1e-9)
