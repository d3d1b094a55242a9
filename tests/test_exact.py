"""Tilts with closed forms: zero spread, quadrature, and the ceiling that a time grid sets on the ESS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import FAMILIES, draw, gaussian, plain, z_scores

from tiltjax import diagnostics, exact, frames, losses, paths, processes, sde, targets
from tiltjax.targets.gmm40 import gmm40_means
from tiltjax.types import Learned, Network

SCALE = 1.5
SLOPE = jnp.asarray([0.7, -1.2])


def as_network(truth):
    return Network(lambda key: (), lambda params, t, x: truth.control(t, x))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_the_linear_tilt_have_no_spread(name):
    process = gaussian(name, (2,), SCALE)
    truth = exact.linear_tilt(process, SLOPE)
    assert float(truth.log_z) == pytest.approx(0.5 * SCALE**2 * float(SLOPE @ SLOPE))
    # where X_0 and X_1 are not quite independent (vp), what X_0 knows of X_1 is left in the weight
    spread = float(jnp.linalg.norm(SLOPE)) * np.sqrt(max(0.0, SCALE**2 - float(process.frame.residual(0.0))))
    assert spread < (0.05 if name == "vp" else 1e-6)

    @jax.jit
    def run(times):
        drawn = draw(truth.problem, truth.control, times, jax.random.key(0), 100)
        ends = jax.vmap(lambda key: sde.simulate(process, truth.control, times, key))(jax.random.split(jax.random.key(0), 100))
        return drawn.log_weight, ends.log_ratio + jax.vmap(truth.problem.reward)(ends.x)

    for times in (paths.power(7), paths.log_snr(process.frame, 7, 1e-2)):
        for log_weight in run(times):
            np.testing.assert_allclose(log_weight, truth.log_z, atol=1e-10 if name != "vp" else 5 * spread)


@pytest.mark.parametrize("name", ["linear", "geometric"])
def test_adjoint_matching_has_no_residual_at_the_control_of_the_linear_tilt(name):
    process = gaussian(name, (2,), SCALE)
    truth = exact.linear_tilt(process, SLOPE)
    objective = plain(losses.adjoint_matching(truth.problem, as_network(truth), paths.power(7), num_times=7))
    batch = jax.jit(lambda key: objective.collect(Learned((), None), key, 20))(jax.random.key(0))
    assert float(jax.jit(objective.loss)(Learned((), None), jax.random.key(1), batch.data)) < 1e-20
    np.testing.assert_allclose(batch.log_weight, truth.log_z, rtol=1e-10)


# ----------------------------------------------------------------------------------------------- mixtures

MEANS = jnp.asarray([[-1.0, 0.5], [0.8, -0.6], [0.0, 1.2]])
VARIANCE = jnp.asarray([0.1, 0.3])
WEIGHTS = jnp.asarray([0.5, 0.3, 0.2])


def test_reward_of_a_mixture_is_its_log_density_over_the_base():
    process = gaussian("linear", (2,), SCALE)
    x = jax.random.normal(jax.random.key(0), (20, 2))
    known = targets.gmm(MEANS, jnp.broadcast_to(jnp.sqrt(VARIANCE), (3, 2)), WEIGHTS)
    expected = jax.vmap(known.log_density)(x) - jax.vmap(process.log_density)(x)
    truth = exact.mixture_target(process, MEANS, VARIANCE, WEIGHTS)
    np.testing.assert_allclose(jax.vmap(truth.problem.reward)(x), expected, rtol=1e-10)
    covariance = jnp.asarray([[0.4, 0.2], [0.2, 0.3]])
    one = targets.gaussian(MEANS[0], covariance=covariance)
    full = exact.gaussian_target(process, MEANS[0], covariance)
    expected = jax.vmap(one.log_density)(x) - jax.vmap(process.log_density)(x)
    np.testing.assert_allclose(jax.vmap(full.problem.reward)(x), expected, rtol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_control_of_a_mixture_is_the_gradient_of_a_quadrature(name):
    """u* = sigma grad log h, h_t(x) = int exp r(y) N(y; Phi_t x, R_t) dy on a fine grid of y."""
    process = gaussian(name, (1,), SCALE)
    truth = exact.mixture_target(process, jnp.asarray([[-1.0], [0.8]]), 0.1, jnp.asarray([0.6, 0.4]))
    y = jnp.linspace(-12.0, 12.0, 4001)
    reward = jax.vmap(truth.problem.reward)(y[:, None])

    def log_h(t, x):
        m, residual = process.frame.response(t) * x[0], process.frame.residual(t)
        return jax.nn.logsumexp(reward - 0.5 * jnp.square(y - m) / residual - 0.5 * jnp.log(residual))

    both = jax.jit(lambda t, x: (truth.control(t, x), frames.diffusion(process.frame, t) * jax.grad(log_h, 1)(t, x)))
    for t in map(jnp.asarray, (0.1, 0.4, 0.7, 0.9)):
        for x in (jnp.asarray([-0.7]), jnp.asarray([0.3])):
            np.testing.assert_allclose(*both(t, x), rtol=1e-7)


def test_weights_of_a_mixture_lose_their_spread_with_the_step():
    process = gaussian("geometric", (2,), SCALE)
    truth = exact.mixture_target(process, MEANS, VARIANCE, WEIGHTS)

    @functools.partial(jax.jit, static_argnums=0)
    def run(num_steps):
        times = paths.log_snr(process.frame, num_steps, truth.problem.resolution)
        return draw(truth.problem, truth.control, times, jax.random.key(0), 4000)

    spread = []
    for num_steps in (25, 100):
        drawn = run(num_steps)
        spread.append(float(jnp.std(drawn.log_weight)))
        assert abs(z_scores(np.exp(np.asarray(drawn.log_weight)), 1.0)) < 5  # log Z = 0 at any number of steps
    assert spread[1] < 0.4
    assert 1.6 < spread[0] / spread[1] < 2.6  # as the square root of the step
    # and the draws are those of the mixture
    assert np.abs(z_scores(drawn.path.x[:, -1], np.asarray(WEIGHTS @ MEANS))).max() < 5


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "ceiling"), [("log_snr", 0.67), ("uniform", 0.16)])
def test_the_grid_sets_a_ceiling_on_the_ess(grid, ceiling):
    """The exact control of GMM-40 (FAB) with Brownian motion of scale 30 in 50 steps: what no network can exceed."""
    variance = np.log1p(np.e) ** 2
    process = processes.gaussian(paths.brownian(30.0), (2,))
    truth = exact.mixture_target(process, jnp.asarray(gmm40_means("fab")), variance, jnp.full(40, 1 / 40))
    times = paths.uniform(50) if grid == "uniform" else paths.log_snr(process.frame, 50, variance)

    @jax.jit
    def run(key):
        ends = jax.vmap(lambda k: sde.simulate(process, truth.control, times, k))(jax.random.split(key, 20_000))
        return ends.log_ratio + jax.vmap(truth.problem.reward)(ends.x)

    log_weight = run(jax.random.key(0))
    assert float(diagnostics.ess(log_weight)) == pytest.approx(ceiling, abs=0.02)
    assert abs(z_scores(np.exp(np.asarray(log_weight)), 1.0)) < 5


def test_closed_forms_refuse_what_they_do_not_hold_for():
    process = gaussian("linear", (2,), 1.0)
    with pytest.raises(ValueError, match=r"below the base's 1\.0; got"):
        exact.gaussian_target(process, jnp.zeros(2), jnp.ones(2))
    with pytest.raises(ValueError, match=r"needs a Gaussian process; got one known by"):
        exact.linear_tilt(process._replace(log_density=None), SLOPE)
