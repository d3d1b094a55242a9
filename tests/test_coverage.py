"""Modes that are far apart: regression losses on a replay buffer with tempered weights, and what they forget without."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import gaussian

import tiltjax as tj
from benchmarks import cases, coverage
from tiltjax import contexts, diagnostics, losses, networks, paths, problems, sampling, targets, train, weights
from tiltjax.types import Held, Learned, Replay

LIGHT = 0.1  # the weight of the second well
WELLS = targets.gmm([[-3.0, 0.0], [3.0, 0.0]], 0.6, [1 - LIGHT, LIGHT])
POINTS = Replay(num_particles=400, capacity=1600, gradient_steps=40, batch_size=256)  # end points
PROBLEM = problems.sampling(WELLS, gaussian("linear", (2,), 3.0), resolution=0.3)
SGD = optax.sgd(1e-3)
KEYS, UPDATES, DRAWS = 3, 400, 2000
BATCH = {"log_variance": 32, "nets": 32}  # whole paths
METHODS = {
    "adjoint_matching": functools.partial(losses.adjoint_matching, num_times=2),
    "nets": functools.partial(losses.nets, num_times=2),
}


class Found(NamedTuple):
    """Of the sampler after training, by key: raw and weighted share of the light well, log Z and its error, ESS."""

    raw: jax.Array
    share: jax.Array
    share_stderr: jax.Array
    log_z: jax.Array
    log_z_stderr: jax.Array
    ess: jax.Array


@functools.cache
def trained(name, tempered) -> Found:
    """Three trainings at once, and their draws."""
    problem, times, build = PROBLEM, paths.log_snr(PROBLEM.frame, 20, 0.3), networks.mlp
    if name == "nets":
        problem, times, build = problems.annealed(problem, noise=2.0), paths.uniform(20), networks.drift
    network = build(problem, width=32, depth=1)
    replay = POINTS._replace(batch_size=BATCH.get(name, 256), weighting=weights.tempered(0.2) if tempered else None)
    objective = METHODS.get(name, getattr(losses, name))(problem, network, times, replay=replay)
    trainer = train.trainer(objective, network, optax.adam(optax.cosine_decay_schedule(1e-2, UPDATES)))

    def one(key):
        key_train, key_draw = jax.random.split(key)
        state, _ = jax.lax.scan(
            lambda state, _: trainer.step((), state), trainer.init((), key_train), length=UPDATES // replay.gradient_steps
        )

        def draw(key):
            return sampling.draw(problem, lambda t, x: network.apply(state.average.control, t, x), times, key)

        return jax.vmap(draw)(jax.random.split(key_draw, DRAWS))

    draws = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), KEYS))
    return Found(*(jnp.stack(values) for values in zip(*map(figures, draws.x, draws.log_weight), strict=True)))


def figures(x, log_weight):
    light = (x[:, 0] > 0).astype(x.dtype)
    log_z, share = diagnostics.log_z(log_weight), diagnostics.expectation(light, log_weight)
    return Found(jnp.mean(light), *share, *log_z, diagnostics.ess(log_weight))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adjoint_matching", "novel_score_matching", "minimum_variance", "log_variance", "nets"])
def test_every_regression_trains_on_tempered_weights(name):
    """For every key the sampler reaches both wells, and its weights put log Z and the light well's share right."""
    found = trained(name, True)
    assert (found.raw > LIGHT / 2).all(), found.raw
    assert (found.ess > 0.3).all(), found.ess
    assert (np.abs(found.log_z) < 5 * found.log_z_stderr).all()
    assert (np.abs(found.share - LIGHT) < 5 * found.share_stderr).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plain", "weighted"), [("adjoint_matching", "adjoint_matching"), ("adjoint_sampling", "novel_score_matching")]
)
def test_on_policy_the_same_loss_loses_what_the_weights_keep(plain, weighted):
    """Same problem, keys and effort: for every key a good part of the effective draws."""
    without, with_weights = trained(plain, False), trained(weighted, True)
    assert (with_weights.ess > without.ess + 0.1).all(), (with_weights.ess, without.ess)


@pytest.mark.slow
def test_the_rivals_raise_the_reward_and_label_with_it():
    """Of one stage: log w of the whole reward, labels of b' r, b' as the rule says; and b is kept for the next."""
    network = networks.mlp(PROBLEM, width=8, depth=1)
    times = paths.log_snr(PROBLEM.frame, 5, 0.3)
    replay = coverage.STAGE._replace(num_particles=100, capacity=100, gradient_steps=1, batch_size=10)
    plain = losses.adjoint_sampling(PROBLEM, network, times, clip=jnp.inf)
    loss = functools.partial(losses.adjoint_sampling, clip=jnp.inf)
    objective = coverage.staged(loss, coverage.RECIPES["annealed"].rule)(PROBLEM, network, times, replay=replay)
    held = Held(Learned(network.init(jax.random.key(0)), None), jnp.asarray(0.25))
    whole, _ = jax.jit(lambda key: contexts.collect(plain, held, key, 100))(jax.random.key(1))
    batch, following = jax.jit(lambda key: contexts.collect(objective, held, key, 100))(jax.random.key(1))
    np.testing.assert_allclose(batch.log_weight, whole.log_weight, rtol=1e-9)
    rewards = jax.vmap(PROBLEM.reward)(whole.data.x)
    strength = 0.25 + 0.75 * weights.temper(0.75 * rewards, coverage.FLOOR)
    np.testing.assert_allclose(following, strength, rtol=1e-6)
    np.testing.assert_allclose(batch.data.slope, strength * whole.data.slope, rtol=1e-6)
    trainer = train.trainer(objective, network, SGD, replay=replay)
    step, start = jax.jit(trainer.step), jax.jit(trainer.init)((), jax.random.key(2))
    assert float(start.carried) == 0  # the buffer's filling is overwritten by the first stage
    state, metrics = step((), start)
    assert 0 < float(state.carried) < 1 and float(metrics.gradient_norm) > 0
    again, _ = step((), state)
    assert float(again.carried) > float(state.carried)


def test_the_table_knows_its_cases_losses_and_recipes():
    assert set(cases.COVERAGE["cases"]) <= set(cases.CASES)
    assert cases.COVERAGE["losses"] == tuple(coverage.METHODS) and cases.COVERAGE["recipes"] == tuple(coverage.RECIPES)


def test_a_lost_mode_is_counted():
    """Draws of the heavy well alone, with the weights that they then have: log Z lacks the light one."""
    x = WELLS.sample(jax.random.key(0), 3000)
    x = x[x[:, 0] < 0]
    found = coverage.judge(WELLS, tj.Samples(x, jnp.full(len(x), jnp.log(1 - LIGHT))))
    assert found["log_z_error"] == pytest.approx(np.log(1 - LIGHT)) and found["ess"] == pytest.approx(1.0)
    assert (found["modes"], found["modes_kept"], found["least_share"]) == (2, 1, 0.0)
    assert found["largest_share"] == pytest.approx(1 / (1 - LIGHT))
