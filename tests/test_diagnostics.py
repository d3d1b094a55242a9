"""Estimates of log weights against closed forms: log-normal weights, whose every moment is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltjax import diagnostics, targets
from tiltjax.types import Samples

SIGMA, N = 0.8, 20_000


@pytest.fixture(scope="module")
def log_weight():
    """log w ~ N(1 - sigma^2 / 2, sigma^2): log E[w] = 1, and the tilted law is N(1 + sigma^2 / 2, sigma^2)."""
    return 1 - SIGMA**2 / 2 + SIGMA * jax.random.normal(jax.random.key(0), (N,))


def test_log_z_elbo_eubo_and_their_order(log_weight):
    tilted = log_weight + SIGMA**2
    estimates = diagnostics.log_z(log_weight), diagnostics.elbo(log_weight), diagnostics.eubo(tilted)
    for estimate, exact in zip(estimates, (1.0, 1 - SIGMA**2 / 2, 1 + SIGMA**2 / 2), strict=True):
        assert abs(estimate.value - exact) < 5 * estimate.stderr
    assert estimates[0].stderr == pytest.approx(np.sqrt(np.expm1(SIGMA**2) / N), rel=0.1)
    assert estimates[1].stderr == pytest.approx(SIGMA / np.sqrt(N), rel=0.05)
    assert estimates[1].value < estimates[0].value < estimates[2].value
    # far from 0, where exp would overflow
    assert float(diagnostics.log_z(log_weight + 1e4).value) == pytest.approx(float(estimates[0].value) + 1e4, abs=1e-9)


def test_ess_and_forward_ess(log_weight):
    """Both are exp(-sigma^2) for log-normal weights."""
    assert float(diagnostics.ess(log_weight)) == pytest.approx(np.exp(-(SIGMA**2)), abs=0.03)
    assert float(diagnostics.forward_ess(log_weight + SIGMA**2)) == pytest.approx(np.exp(-(SIGMA**2)), abs=0.03)
    assert float(diagnostics.ess(jnp.full(7, -3.0))) == pytest.approx(1.0)


def test_standard_errors_cover():
    """z-scores over 200 repetitions have unit variance: expectation, log Z."""
    key_x, key_w = jax.random.split(jax.random.key(1))
    x = jax.random.normal(key_x, (200, 500))
    log_weight = 0.5 * x + 0.3 * jax.random.normal(key_w, (200, 500))  # the tilted mean of x is 0.5
    means = jax.vmap(diagnostics.expectation)(x[:, :, None], log_weight)
    z = np.asarray((means.value - 0.5) / means.stderr)[:, 0]
    assert abs(z.mean()) < 5 / np.sqrt(200) and 0.75 < z.std() < 1.25  # 5 standard errors
    log_z = jax.vmap(diagnostics.log_z)(log_weight)
    z = np.asarray((log_z.value - (0.25 + 0.09) / 2) / log_z.stderr)
    assert abs(z.mean()) < 5 / np.sqrt(200) and 0.75 < z.std() < 1.25


def test_modes():
    target = targets.gmm([[-5.0], [5.0]], 0.5, [0.25, 0.75])
    x = jnp.asarray([[-5.0], [-4.0], [5.0], [6.0]])
    np.testing.assert_allclose(diagnostics.mode_histogram(target, x), [0.5, 0.5])
    weighted = diagnostics.mode_histogram(target, x, jnp.log(jnp.asarray([1.0, 0.0, 2.0, 1.0]) + 1e-300))
    np.testing.assert_allclose(weighted, [0.25, 0.75], rtol=1e-12)
    assert float(diagnostics.total_variation(weighted, target.mode_weights)) == pytest.approx(0.0, abs=1e-12)
    assert float(diagnostics.total_variation(jnp.asarray([1.0, 0.0]), target.mode_weights)) == pytest.approx(0.75)
    assert float(diagnostics.mode_entropy(jnp.asarray([0.5, 0.5]))) == pytest.approx(1.0)
    assert float(diagnostics.mode_entropy(jnp.asarray([1.0, 0.0]))) == pytest.approx(0.0)


def test_ess_along_is_that_of_each_time():
    """A Brownian log weight of variance k sigma^2 after k steps: exp(-k sigma^2) in the limit, and `ess` of each column."""
    steps = SIGMA * jax.random.normal(jax.random.key(2), (N, 2)) - SIGMA**2 / 2
    log_weight = jnp.concatenate([jnp.zeros((N, 1)), jnp.cumsum(steps, axis=1)], axis=1)
    along = diagnostics.ess_along(log_weight)
    np.testing.assert_allclose(along, [diagnostics.ess(log_weight[:, k]) for k in range(3)], rtol=1e-12)
    np.testing.assert_allclose(along, np.exp(-(SIGMA**2) * np.arange(3)), atol=0.05)


def test_bad_input_is_refused_with_what_to_pass():
    draws = Samples(jnp.zeros((3, 2)), jnp.zeros(3))
    for estimate in (diagnostics.ess, diagnostics.log_z, diagnostics.elbo, diagnostics.eubo, diagnostics.forward_ess):
        with pytest.raises(TypeError, match=r"got Samples\. Pass samples\.log_weight"):
            estimate(draws)
    with pytest.raises(ValueError, match=r"got shape \(3, 2\)\. Pass samples\.log_weight"):
        diagnostics.ess(draws.x)
    with pytest.raises(TypeError, match=r"values are an array.*got Samples\. Pass samples\.x"):
        diagnostics.expectation(draws, draws.log_weight)
    with pytest.raises(ValueError, match=r"of the same particles; got shapes \(2,\) and \(3,\)"):
        diagnostics.expectation(jnp.zeros(2), draws.log_weight)
    target = targets.gmm([[-5.0], [5.0]], 0.5, [0.25, 0.75])
    with pytest.raises(TypeError, match=r"draws are an array.*got Samples\. Pass samples\.x"):
        diagnostics.mode_histogram(target, draws, draws.log_weight)
    with pytest.raises(TypeError, match=r"got Samples\. Pass samples\.log_weight"):
        diagnostics.mode_histogram(target, draws.x[:, :1], draws)
    with pytest.raises(TypeError, match=r"got Samples\. See weights\.along"):
        diagnostics.ess_along(draws)
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        diagnostics.ess_along(draws.log_weight)
