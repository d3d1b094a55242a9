"""The contract of every dynamics, our own and a user's: weights of simulated and stored paths, SMC, refine, save, seeds."""

import functools

import guided
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import fit, gaussian, slow, small, z_scores

import tiltjax as tj
from tiltjax import annealing, bridges, dynamics, exact, losses, memoryless, paths, problems, processes, smc
from tiltjax.types import Replay

KEY, LOG_Z, STEPS = jax.random.key(0), 0.7, 8
TARGET = exact.Mixture(jnp.asarray([[-0.7, 0.1], [1.0, -0.8]]), 0.3, jnp.asarray([0.7, 0.3]))
N = 20_000


@functools.cache
def problem(name):
    """One tilt, moved in four ways."""
    process = gaussian("linear", (2,), 1.3)
    if name == "bridge":
        process = processes.gaussian(paths.geometric(1.6, 0.4, source=0.8), (2,))
    truth = exact.mixture_target(process, *TARGET).problem.reward
    plain = problems.make_tilt(process, problems.traced_once(lambda x: truth(x) + LOG_Z), 0.3)
    corrector = lambda t, x: -0.4 * x + 0.2 * jnp.sin(3 * x[::-1] + t)  # noqa: E731
    motions = {
        "memoryless": memoryless.dynamics,
        "annealed": annealing.motion(annealing.scaled(plain.reward, jnp.square), lambda t: 0.9 + 0.4 * jnp.sin(3 * t)),
        "bridge": bridges.motion(corrector),
        "guided": guided.motion,
    }
    return plain._replace(motion=motions[name])


ALL = ["memoryless", "annealed", "bridge", "guided"]


def wild(t, x):
    """A control that nobody trained."""
    return 0.4 * jnp.sin(2 * x[::-1] + t) - 0.2 * x


def other(t, x):
    return 0.3 * jnp.cos(x) + t


DRAWS = tj.targets.gmm(np.asarray(TARGET.means), np.sqrt(TARGET.variance), [0.7, 0.3])


@pytest.mark.parametrize("name", ALL)
def test_simulated_and_stored_paths_weigh_alike_and_without_bias(name):
    """Path by path, under the control that drew them and under another; E[w] = Z; and from draws of the target back."""
    of, times = problem(name), paths.uniform(STEPS)

    @jax.jit
    def run(key, x1):
        def one(key, x1):
            key_back, key_other = jax.random.split(jax.random.fold_in(key, 1))
            end, path = dynamics.simulate(of, wild, times, key), dynamics.simulate_path(of, wild, times, key)
            stored = dynamics.own_log_weight(of, wild, path), dynamics.log_weight(of, wild, path)
            drawn = dynamics.simulate_path(of, other, times, key_other)
            twice = dynamics.log_weight(of, wild, of.dynamics.recontrolled(wild, drawn))
            back = dynamics.simulate_backward(of, wild, times, key_back, x1)
            again = dynamics.simulate_path(of, wild, times, key, x0=back.x[0], xi=back.noise)
            off = jnp.max(jnp.abs(again.x - back.x))
            under = dynamics.log_weight(of, wild, drawn) - twice
            return end, path.x[-1], *stored, under, dynamics.own_log_weight(of, wild, back), off

        return jax.vmap(one)(jax.random.split(key, N), x1)

    end, x, own, under_it, under, back, off = jax.tree.map(np.asarray, run(KEY, DRAWS.sample(jax.random.key(1), N)))
    np.testing.assert_allclose(x, end.x, rtol=1e-9, atol=1e-12)
    for stored in (own, under_it):
        np.testing.assert_allclose(stored, end.log_weight, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(under, 0.0, atol=1e-8)
    assert end.log_weight.std() > 0.2, "the test has no power"
    assert abs(z_scores(np.exp(end.log_weight), np.exp(LOG_Z))) < 5
    assert off.max() < 1e-8
    # paths of the tilt are paths of the control, weighted: E*[h] = E[w h] / Z, here for h = Z / (Z + w), which both sides bound
    above, below = (1 / (1 + np.exp(sign * (log_w - LOG_Z))) for sign, log_w in ((-1, end.log_weight), (1, back)))
    stderr = np.sqrt((above.var() + below.var()) / N)
    assert abs(above.mean() - below.mean()) < 5 * stderr


@pytest.mark.parametrize("name", ALL)
def test_smc_is_unbiased(name):
    of = problem(name)
    runs = jax.jit(jax.vmap(lambda k: smc.run(of, wild, paths.uniform(STEPS), k, 32, ess_floor=0.9)))
    out = runs(jax.random.split(KEY, 600))
    assert 0.2 < float(out.resampled.mean()) <= 1
    assert abs(z_scores(np.exp(np.asarray(out.log_z)), np.exp(LOG_Z))) < 5


FIT = {
    "loss": losses.log_variance,
    "network": small,
    "num_updates": 40,
    "num_steps": STEPS,
    "sampling_steps": STEPS,
    "learning_rate": 1e-2,
    "replay": Replay(64),
    "progress": False,
}


@pytest.mark.parametrize("name", [slow(name) for name in ALL])
def test_a_sampler_of_it_is_fitted_refined_saved_loaded_and_fitted_by_seeds(name, tmp_path):
    of, keys = problem(name), jax.random.split(KEY, 2)
    alone, both = fit(keys[1], of, **FIT), fit(keys, of, **FIT)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(both[1].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)
    refined = alone.refine(jax.random.key(1), num_particles=256, num_steps=40)
    assert np.abs(np.asarray(refined.grid(STEPS)) - np.asarray(alone.grid(STEPS))).max() > 1e-3
    refined.save(tmp_path / "there")
    back = tj.load(tmp_path / "there", of, network=small)
    draws, again = (one.sample(jax.random.key(2), 4000) for one in (refined, back))
    np.testing.assert_array_equal(draws.log_weight, again.log_weight)
    assert abs(z_scores(np.exp(np.asarray(draws.log_weight)), np.exp(LOG_Z))) < 5
