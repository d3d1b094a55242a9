"""`fit` from end to end: three lines, few traces of the density, units that do not matter, save and load."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import fit

import tiltjax as tj
from tiltjax import weights
from tiltjax.types import Replay

# few and small: the default replay is 20,000 particles
SMALL = functools.partial(
    fit,
    network=functools.partial(tj.networks.mlp, width=24, depth=1),
    num_updates=300,
    learning_rate=1e-2,
    num_steps=15,
    sampling_steps=60,
    replay=Replay(256, 1024, 50, 256, weights.tempered(0.2)),
    progress=False,
)
NETWORK = functools.partial(tj.networks.mlp, width=24, depth=1)
CENTRE, LOG_Z = jnp.asarray([300.0, -2e-3]), 4.2
UNITS = jnp.asarray([20.0, 1e-3])


class Counted:
    """A skewed density, far away and in odd units; `calls` counts how often Python runs it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        z = (x - CENTRE.astype(x.dtype)) / UNITS.astype(x.dtype)
        y = z[1] - 0.5 * (jnp.square(z[0]) - 1)
        log_density = -0.5 * jnp.square(z[0]) - 2 * jnp.square(y) - jnp.log(2 * jnp.pi * 0.5 * 20.0 * 1e-3)
        return log_density + LOG_Z


def exact_draws(key, n):
    z = jax.random.normal(key, (n, 2)) * jnp.asarray([[1.0, 0.5]])
    return CENTRE[None] + UNITS[None] * z.at[:, 1].add(0.5 * (jnp.square(z[:, 0]) - 1))


@pytest.fixture(scope="module")
def fitted():
    density = Counted()
    target = tj.Target(density, shape=(2,))
    sampler = SMALL(jax.random.key(0), target)
    draws = sampler.sample(jax.random.key(1), 4000)
    return density, target, sampler, draws


def test_three_lines_give_log_z_and_the_moments(fitted):
    _, _, _, draws = fitted
    assert draws.x.shape == (4000, 2) and draws.log_weight.shape == (4000,)
    log_z = tj.diagnostics.log_z(draws.log_weight)
    assert abs(log_z.value - LOG_Z) < 5 * log_z.stderr and log_z.stderr < 0.05
    assert tj.diagnostics.ess(draws.log_weight) > 0.3
    mean = tj.diagnostics.expectation(draws.x, draws.log_weight)
    assert (np.abs(mean.value - CENTRE) < 5 * mean.stderr).all()
    elbo = tj.diagnostics.elbo(draws.log_weight)
    assert elbo.value < LOG_Z + 5 * elbo.stderr


def test_the_density_is_traced_at_most_twice(fitted):
    density, _, sampler, _ = fitted
    sampler.sample(jax.random.key(1), 100, num_steps=20)
    sampler.backward(jax.random.key(1), exact_draws(jax.random.key(2), 100))
    assert 1 <= density.calls <= 2


def test_backward_weights_bound_log_z_from_above(fitted):
    _, _, sampler, _ = fitted
    x = exact_draws(jax.random.key(2), 2000)
    back = sampler.backward(jax.random.key(3), x)
    np.testing.assert_array_equal(back.x, x)
    eubo = tj.diagnostics.eubo(back.log_weight)
    assert eubo.value > LOG_Z - 5 * eubo.stderr
    inverse = np.exp(LOG_Z - np.asarray(back.log_weight))
    assert abs(inverse.mean() - 1) < 5 * inverse.std() / np.sqrt(2000)
    with pytest.raises(ValueError, match=r"x must be \(n, \*\(2,\)\); got shape \(2000, 3\)"):
        sampler.backward(jax.random.key(3), jnp.zeros((2000, 3)))


def test_draws_depend_on_their_keys_alone(fitted):
    _, _, sampler, draws = fitted
    again = sampler.sample(jax.random.key(1), 4000, batch_size=1500)
    np.testing.assert_allclose(again.log_weight, draws.log_weight, rtol=1e-9)
    np.testing.assert_allclose(again.x, draws.x, rtol=1e-9)


def test_resampling_gives_equal_weights(fitted):
    _, _, sampler, draws = fitted
    x = sampler.resample(jax.random.key(4), draws, 1000)
    assert x.shape == (1000, 2)
    mean = tj.diagnostics.expectation(draws.x, draws.log_weight)
    assert (np.abs(x.mean(0) - mean.value) < 5 * np.asarray(draws.x).std(0) / np.sqrt(500)).all()


def test_four_public_steps_give_what_fit_gives_to_the_bit(fitted):
    _, target, sampler, draws = fitted
    training = tj.Training(learning_rate=1e-2, replay=Replay(256, 1024, 50, 256, weights.tempered(0.2)))
    key_pilot, key_train = jax.random.split(jax.random.key(0))
    problem = tj.prepare(key_pilot, target)
    network, grid = NETWORK(problem), tj.preparing.default_grid(problem)
    objective = tj.losses.minimum_variance(problem, network, grid(15))
    done = tj.training.train(key_train, objective, network, 300, training=training, progress=False)
    by_hand = tj.sampling.sampler(problem, network, done.learned.control, grid, num_steps=60)
    jax.tree.map(np.testing.assert_array_equal, by_hand.params, sampler.params)
    np.testing.assert_array_equal(by_hand.sample(jax.random.key(1), 4000).log_weight, draws.log_weight)


def test_a_fit_goes_on_from_a_sampler(fitted, tmp_path, monkeypatch):
    """Of a target: no pilot, the same coordinates, and at a learning rate near 0 the same control."""
    _, target, sampler, _ = fitted
    sampler.save(tmp_path / "saved")
    monkeypatch.setattr(tj.pilot, "pilot", None)
    start = tj.load(tmp_path / "saved", target, network=NETWORK)
    still = SMALL(jax.random.key(2), target, start=start, num_updates=100, learning_rate=1e-12)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), still.params, sampler.params)
    for name in ("location", "scale", "resolution"):
        assert still.record[name] == sampler.record[name]
    assert still.report.history.ess[0] > 0.3  # the buffer was filled by the control of the start
    with pytest.raises(ValueError, match=r"parameters of another shape .* Pass fit the network"):
        SMALL(jax.random.key(2), target, start=sampler, network=functools.partial(tj.networks.mlp, width=8, depth=1))
    with pytest.raises(ValueError, match=r"start draws particles of shape \(2,\); got a problem of shape \(3,\)"):
        SMALL(jax.random.key(2), tj.targets.gaussian(jnp.zeros(3)), start=sampler)
    with pytest.raises(TypeError, match="start must be a sampler"):
        SMALL(jax.random.key(2), target, start=sampler.params)
    problem = tj.problems.sampling(target, tj.processes.gaussian(tj.paths.linear(), (2,)))
    alone = tj.sampling.sampler(problem, NETWORK(problem), NETWORK(problem).init(jax.random.key(0)), tj.paths.uniform)
    with pytest.raises(ValueError, match="start was fitted to a problem, not to a target"):
        SMALL(jax.random.key(2), target, start=alone)


@pytest.mark.slow
def test_an_optimizer_is_made_with_a_cosine_from_the_learning_rate_to_zero():
    made = []

    def still(schedule):
        made.append(schedule)
        return optax.set_to_zero()

    problem = tj.problems.sampling(tj.targets.gaussian(), tj.processes.gaussian(tj.paths.linear(), (2,)))  # no pilot
    sampler = SMALL(jax.random.key(0), problem, optimizer=still, num_updates=50, learning_rate=0.3)
    np.testing.assert_allclose([made[0](k) for k in (0, 25, 50)], [0.3, 0.15, 0], atol=1e-9)
    # nothing moved, so the control is 0 and the draws are the base's: log w = r(X_1)
    draws = sampler.sample(jax.random.key(1), 20, num_steps=5)
    np.testing.assert_allclose(draws.log_weight, jax.vmap(problem.reward)(draws.x), rtol=1e-6)


def test_the_report_counts(fitted):
    report = fitted[2].report
    assert report.history.loss.shape == (6,) and report.nonfinite_updates == 0
    assert report.energy_evaluations == 6 * 256 + 1024
    assert report.gradient_evaluations > report.energy_evaluations  # those of the pilot too
    assert min(report.compile_seconds, report.train_seconds, report.pilot_seconds) > 0


def test_save_and_load(fitted, tmp_path):
    _, target, sampler, draws = fitted
    sampler.save(tmp_path / "sampler")
    loaded = tj.load(tmp_path / "sampler", target, network=NETWORK)
    assert loaded.num_steps == sampler.num_steps
    again = loaded.sample(jax.random.key(1), 4000)
    np.testing.assert_array_equal(again.log_weight, draws.log_weight)
    np.testing.assert_array_equal(again.x, draws.x)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(sampler.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="exists and is not empty"):
        sampler.save(tmp_path / "sampler")
    # state.kernel (2, 24), the same in both, is no part of the difference
    differ = r"do not fit the network: 6 arrays differ \(control\.hidden\.1\.bias: saved nothing, .*; \.\.\.\)\. Pass"
    with pytest.raises(ValueError, match=differ) as caught:
        tj.load(tmp_path / "sampler", target, network=functools.partial(tj.networks.mlp, width=24, depth=4))
    assert "state" not in str(caught.value)
    with pytest.raises(ValueError, match=r"kernel: saved \(24, 24\), expected \(8, 8\)"):
        tj.load(tmp_path / "sampler", target, network=functools.partial(tj.networks.mlp, width=8, depth=1))
    with pytest.raises(ValueError, match=r"fitted with the network mlp; got score_informed\. Pass load that of the fit"):
        tj.load(tmp_path / "sampler", target, network=functools.partial(tj.networks.score_informed, width=24, depth=1))
    with pytest.raises(ValueError, match=r"particles of shape \(2,\); got a problem of shape \(3,\)"):
        tj.load(tmp_path / "sampler", tj.targets.gaussian(jnp.zeros(3)))


class Pair(NamedTuple):
    """Fields out of alphabetical order."""

    w: jax.Array
    b: jax.Array


@pytest.mark.parametrize(
    "params",
    [{"layers": {i: jnp.full(2, float(i)) for i in range(12)}}, Pair(jnp.ones(2), jnp.zeros(2)), ()],
    ids=["more than ten layers", "fields", "none"],
)
def test_arrays_are_saved_and_loaded_by_name(params, tmp_path):
    """In all of these, the order in which they are stored is another, and the shapes do not show it."""
    problem = tj.problems.sampling(tj.targets.gaussian(), tj.processes.gaussian(tj.paths.linear(), (2,), 2.0))
    network = tj.Network(lambda key: params, lambda params, t, x: jnp.zeros_like(x))
    tj.sampling.sampler(problem, network, params, tj.paths.uniform).save(tmp_path / "saved")
    loaded = tj.load(tmp_path / "saved", problem, network=network)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.float32
@pytest.mark.slow
def test_float32_and_its_traces():
    """As most users run it; the density is traced no more often than in x64."""
    density = Counted()
    sampler = SMALL(jax.random.key(0), tj.Target(density, shape=(2,)))
    draws = sampler.sample(jax.random.key(1), 4000)
    assert draws.x.dtype == draws.log_weight.dtype == jnp.float32
    assert density.calls <= 2
    log_z = tj.diagnostics.log_z(draws.log_weight)
    assert abs(log_z.value - LOG_Z) < 5 * log_z.stderr and log_z.stderr < 0.05


@pytest.mark.slow
def test_a_problem_is_taken_as_it_stands(tmp_path):
    """Its own process, another loss, and a checkpoint that the same call goes on from."""
    process = tj.processes.gaussian(tj.paths.brownian(1.5), (2,))
    problem = tj.problems.tilt(process, lambda x: -jnp.sum(jnp.square(x - 0.5)), resolution=0.3)
    go = functools.partial(
        fit,
        jax.random.key(0),
        problem,
        loss=tj.losses.adjoint_matching,
        network=NETWORK,
        num_updates=100,
        learning_rate=1e-2,
        num_steps=10,
        sampling_steps=30,
        checkpoint=tmp_path,
        progress=False,
    )
    sampler, again = go(), go()
    draws = sampler.sample(jax.random.key(1), 4000)
    log_z = tj.diagnostics.log_z(draws.log_weight)
    truth = -np.log(1 + 2 * 1.5**2) - 2 * 0.25 / (1 + 2 * 1.5**2)  # E exp(-(x - a)^2), x ~ N(0, s^2), twice
    assert abs(log_z.value - truth) < 5 * log_z.stderr
    assert tj.diagnostics.ess(draws.log_weight) > 0.5
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(sampler.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="fitted to a problem, not to a target"):
        sampler.save(tmp_path / "saved")
        tj.load(tmp_path / "saved", tj.targets.gaussian(jnp.zeros(2)), network=NETWORK)
    loaded = tj.load(tmp_path / "saved", problem, network=NETWORK)
    np.testing.assert_array_equal(loaded.sample(jax.random.key(1), 4000).x, draws.x)
