"""Classical baselines against exact answers, and their counts against calls counted in the running program."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiltjax as tj
from benchmarks import baselines
from benchmarks.baselines import ladder as ladders
from benchmarks.baselines import parallel_tempering as tempering  # the function; its module is below
from benchmarks.baselines.smc import island
from benchmarks.baselines.start import Start, start
from tiltjax.preparing import BASE_SCALE

replica_exchange = importlib.import_module("benchmarks.baselines.parallel_tempering")
LOG_Z = 1.3
SHARE = 0.75  # of the right mode


@pytest.fixture(autouse=True)
def as_it_is_run():
    """blackjax mixes dtypes and ranks."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def gaussian() -> tj.Target:
    """N(mean, C) exp(LOG_Z) in three dimensions."""
    mean, root = jnp.asarray([0.5, -0.3, 0.2]), jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.6, 0.0], [0.0, -0.3, 0.8]])
    log_det = float(jnp.sum(jnp.log(jnp.diagonal(root))))

    def log_density(x):
        z = jnp.linalg.solve(root, x - mean)
        return LOG_Z - log_det - 0.5 * jnp.sum(jnp.square(z)) - 1.5 * math.log(2 * math.pi)

    return tj.Target(log_density, (3,), log_z=LOG_Z)


def two_modes() -> tj.Target:
    """Modes at -1 and 1 of width 0.15, a quarter and three quarters."""
    mixture = tj.targets.gmm([[-1.0, 0.0], [1.0, 0.0]], 0.15, [1 - SHARE, SHARE])
    return tj.Target(lambda x: LOG_Z + mixture.log_density(x), (2,), log_z=LOG_Z)


def as_it_stands(key, target):
    """In place of the pilot: the target is in natural units."""
    dim = math.prod(target.shape)
    return Start(dim, lambda y: target.log_density(y.reshape(target.shape)), lambda y: y.reshape(target.shape), 0, 0.0, {})


@pytest.fixture
def no_pilot(monkeypatch):
    for name in baselines.__all__:
        monkeypatch.setattr(importlib.import_module(f"benchmarks.baselines.{name}"), "start", as_it_stands)


def z_score(values, exact) -> float:
    """Of independent estimates (n,)."""
    return float((np.mean(values) - exact) / (np.std(values, ddof=1) / math.sqrt(len(values))))


# ------------------------------------------------------------------------------------------------- answers


@pytest.mark.slow
@pytest.mark.parametrize("target", [gaussian(), two_modes()])
def test_islands_of_smc_have_no_bias(target):
    """E[mean w f(x)] = Z E[f] for f = 1 and for a half space, at 40 particles."""
    begun = as_it_stands(None, target)
    ladder = ladders.scout(jax.random.key(0), begun, keep=0.7, num_particles=200, leapfrog=3)
    assert ladder.temperatures[0] == 0 and ladder.temperatures[-1] == 1 and bool(jnp.all(jnp.diff(ladder.temperatures) > 0))
    keys = jax.random.split(jax.random.key(1), 400)
    y, log_weight, log_z, _ = jax.jit(jax.vmap(lambda k: island(k, begun, ladder, 40, 1, 3)))(keys)
    np.testing.assert_allclose(jax.nn.logsumexp(log_weight, axis=1) - math.log(40), log_z, atol=1e-9)
    assert abs(z_score(jnp.exp(log_z - LOG_Z), 1.0)) < 5
    right = jnp.mean(jnp.exp(log_weight - LOG_Z) * (y[..., 0] > 0), axis=1)
    assert abs(z_score(right, SHARE if target.shape == (2,) else 0.5 * math.erfc(-0.5 / math.sqrt(2)))) < 5


@pytest.mark.slow
@pytest.mark.parametrize("target", [gaussian(), two_modes()])
def test_replica_exchange_finds_log_z_and_the_weights_of_modes(target, no_pilot):
    outcome = tempering(jax.random.key(0), target, evaluations=200_000, num_draws=4000, leapfrog=3)
    assert abs(float(outcome.log_z.value) - LOG_Z) < 5 * float(outcome.log_z.stderr) < 0.5
    x = outcome.draw(jax.random.key(0), 10**9).x
    right = np.asarray(x[:, 0] > 0).reshape(-1, 16).mean(0)  # by ladder
    assert abs(z_score(right, SHARE if target.shape == (2,) else 0.5 * math.erfc(-0.5 / math.sqrt(2)))) < 5
    assert outcome.diagnostics["least_swapped"] > 0.1


@pytest.mark.slow
def test_nuts_has_the_moments_of_a_gaussian(no_pilot):
    outcome = baselines.nuts(jax.random.key(0), gaussian(), evaluations=60_000, num_draws=4000)
    x = np.asarray(outcome.draw(jax.random.key(0), 10**9).x)
    chains = x[: len(x) // 8 * 8].reshape(-1, 8, 3)
    for i, (mean, variance) in enumerate(((0.5, 1.0), (-0.3, 0.61), (0.2, 0.73))):
        assert abs(z_score(chains[..., i].mean(0), mean)) < 5
        assert abs(z_score(((chains[..., i] - mean) ** 2).mean(0), variance)) < 5
    assert outcome.diagnostics["r_hat"] < 1.05 and outcome.log_z is None


def test_stepping_stones_have_the_error_of_independent_ladders():
    """log of a product of means: the jackknife agrees with the delta method."""
    stones = np.random.default_rng(0).gamma(50.0, 1 / 50.0, size=(400, 3))
    estimate = replica_exchange.stepping_stones(jnp.log(stones))
    means = stones.mean(0)
    assert float(estimate.value) == pytest.approx(np.log(means).sum(), abs=1e-12)
    delta = np.sqrt(((stones / means - 1).sum(1) ** 2).mean() / 400)
    assert float(estimate.stderr) == pytest.approx(delta, rel=0.02)


# --------------------------------------------------------------------------------------------------- start


@pytest.mark.slow
def test_the_start_keeps_log_z():
    """log E_start[gamma / start] = log Z, Jacobian and all, with the pilot's own coordinates."""
    target = gaussian()
    scaled = tj.Target(lambda x: target.log_density((x - 40.0) / 7.0) - 3 * math.log(7.0), (3,))
    begun = start(jax.random.key(0), scaled)
    y = begun.draw(jax.random.key(1), 20_000)
    ratio = jnp.exp(jax.vmap(begun.log_likelihood)(y) - LOG_Z)
    assert abs(z_score(ratio, 1.0)) < 5
    assert float(jnp.std(y)) == pytest.approx(BASE_SCALE, rel=0.02)
    assert begun.gradient_evaluations > 0
    np.testing.assert_allclose(jnp.mean(jax.vmap(begun.decode)(y), axis=0), 40.0 + 7.0 * np.array([0.5, -0.3, 0.2]), atol=2.0)


@pytest.mark.slow
def test_configurations_that_are_centred_keep_their_volume():
    """log Z of four harmonic particles in the plane, on the six dimensions that are left."""
    k = 3.0
    target = tj.Target(lambda x: -0.5 * k * jnp.sum(jnp.square(x - jnp.mean(x, 0)[None])), (4, 2), centred=True)
    begun = start(jax.random.key(0), target)
    assert begun.dim == 6
    y = begun.draw(jax.random.key(1), 20_000)
    ratio = jnp.exp(jax.vmap(begun.log_likelihood)(y) - 3 * math.log(2 * math.pi / k))
    assert abs(z_score(ratio, 1.0)) < 5
    x = jax.vmap(begun.decode)(y)
    assert x.shape == (20_000, 4, 2)
    np.testing.assert_allclose(x.sum(1), 0.0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- costs


def counting():
    """A target that counts, in the running program, calls of its value alone and of value with gradient."""
    counts = {"value": 0, "gradient": 0}

    def count(name):
        counts[name] += 1

    def plain(x):
        return -0.5 * jnp.sum(jnp.square(x))

    @jax.custom_jvp
    def log_density(x):
        jax.debug.callback(lambda: count("value"), ordered=False)
        return plain(x)

    @log_density.defjvp
    def rule(primals, tangents):
        jax.debug.callback(lambda: count("gradient"), ordered=False)
        return plain(primals[0]), -jnp.sum(primals[0] * tangents[0])

    return tj.Target(log_density, (2,)), counts


@pytest.mark.parametrize("method", [baselines.smc, tempering, baselines.nuts], ids=lambda method: method.__name__)
@pytest.mark.slow
def test_a_run_from_where_another_began_has_no_pilot_and_the_same_draws(method, no_pilot, monkeypatch):
    given = {"evaluations": 60_000, "num_draws": 100}
    module = importlib.import_module(f"benchmarks.baselines.{method.__name__}")
    started, start = [], module.start
    monkeypatch.setattr(module, "start", lambda key, target: started.append(start(key, target)) or started[-1])
    first = method(jax.random.key(0), gaussian(), **given)
    again = method(jax.random.key(0), gaussian(), **given, begun=first.begun)
    assert len(started) == 1
    assert again.costs["gradient_evaluations"] == first.costs["gradient_evaluations"]
    for one, other in zip(*(outcome.draw(None, 100) for outcome in (first, again)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_scout_is_sent_once_for_what_it_is_asked(no_pilot, monkeypatch):
    """Key, particles, share and leapfrog steps: what differs in one of them has a ladder of its own."""
    begun, given = as_it_stands(None, gaussian()), {"keep": 0.7, "num_particles": 64, "leapfrog": 2}
    first = ladders.scout(jax.random.key(0), begun, **given)
    assert ladders.scout(jax.random.key(0), begun, **given) is first
    others = [{"num_particles": 80}, {"keep": 0.9}, {"leapfrog": 3}]
    found = [ladders.scout(jax.random.key(0), begun, **{**given, **other}) for other in others]
    found.append(ladders.scout(jax.random.key(1), begun, **given))
    assert len({ladder.calls * float(jnp.sum(ladder.particles)) for ladder in (first, *found)}) == 5


@pytest.mark.slow
def test_smc_counts_what_it_calls(no_pilot):
    target, counts = counting()
    outcome = baselines.smc(jax.random.key(0), target, evaluations=60_000, num_draws=100, leapfrog=3)
    jax.effects_barrier()
    stages, particles = outcome.diagnostics["temperatures"], outcome.diagnostics["particles"]
    moves = outcome.diagnostics["moves"]
    # a stage of the scout: an initial gradient, three leaps, two values; of the islands, all of which go at once: one value
    assert counts == {"gradient": stages * 4 + stages * (3 * moves + 1), "value": stages * 3}
    scouts = 64
    assert outcome.costs["gradient_evaluations"] == stages * (4 * scouts + (3 * moves + 1) * particles)
    assert outcome.costs["energy_evaluations"] == outcome.costs["gradient_evaluations"] + stages * (2 * scouts + particles)
    spent = outcome.costs["gradient_evaluations"] + outcome.costs["energy_evaluations"]
    assert 0.9 * 60_000 < spent <= 60_000


@pytest.mark.slow
def test_replica_exchange_counts_what_it_calls(no_pilot):
    target, counts = counting()
    outcome = tempering(jax.random.key(0), target, evaluations=60_000, num_draws=10**6, leapfrog=3, ladders=4)
    jax.effects_barrier()
    rungs, sweeps = outcome.diagnostics["temperatures"], outcome.diagnostics["sweeps"]
    assert counts == {"gradient": rungs * 4 + sweeps * 4, "value": rungs * 2 + sweeps}
    assert outcome.costs["gradient_evaluations"] == rungs * 4 * 64 + sweeps * 4 * (rungs - 1) * 4
    spent = outcome.costs["gradient_evaluations"] + outcome.costs["energy_evaluations"]
    assert 0.9 * 60_000 < spent <= 60_000


@pytest.mark.slow
def test_nuts_counts_what_it_calls(no_pilot):
    """One chain: several go in lock step, where the longest trajectory sets how many calls are made."""
    target, counts = counting()
    outcome = baselines.nuts(jax.random.key(0), target, evaluations=6000, num_draws=100, chains=1, warm_up=60)
    jax.effects_barrier()
    assert counts["value"] == 0
    assert outcome.costs["gradient_evaluations"] == outcome.costs["energy_evaluations"] == counts["gradient"]


@pytest.mark.parametrize("name", ["smc", "parallel_tempering"])
def test_a_budget_that_the_scout_eats_is_refused(name, no_pilot):
    with pytest.raises(ValueError, match=f"{name} needs more than 2000 evaluations: the scout took"):
        getattr(baselines, name)(jax.random.key(0), gaussian(), evaluations=2000, num_draws=100)
