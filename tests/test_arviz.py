"""Weighted draws for ArviZ: the weighted moments, the model's names, log Z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiltjax as tj
from tiltjax.integrations import to_arviz

N = 20_000
SHIFT = jnp.asarray([0.5, -1.0])


def weighted():
    """Draws of N(0, I) with the weights of 3 N(SHIFT, I)."""
    x = jax.random.normal(jax.random.key(0), (N, 2))
    return tj.Samples(x, x @ SHIFT - 0.5 * SHIFT @ SHIFT + jnp.log(3.0))


def test_what_arviz_gets_has_the_weighted_moments_and_log_z():
    samples = weighted()
    group = to_arviz(jax.random.key(1), samples)["posterior"]
    x = group["x"].values
    assert x.shape == (1, N, 2)
    weighted_mean = tj.diagnostics.expectation(samples.x, samples.log_weight).value
    # systematic resampling: each count is within one of its mean, so the error is far below that of n draws
    assert np.abs(x[0].mean(0) - weighted_mean).max() < 5 / np.sqrt(N)
    assert np.abs(x[0].mean(0) - np.asarray(SHIFT)).max() < 5 * np.sqrt(2 * np.exp(float(SHIFT @ SHIFT)) / N)
    attributes = group.attrs
    assert abs(attributes["log_evidence"] - np.log(3)) < 5 * attributes["log_evidence_stderr"] < 0.1
    assert attributes["effective_sample_size"] == pytest.approx(N * np.exp(-float(SHIFT @ SHIFT)), rel=0.2)


def test_sites_are_the_models_own_and_options_are_arvizs():
    target = tj.Target(lambda x: -0.5 * jnp.sum(x**2), (2,), constrain=lambda x: {"scale": jnp.exp(x[0]), "pair": x})
    data = to_arviz(jax.random.key(1), weighted(), target, num_draws=100, dims={"pair": ["side"]})
    assert data["posterior"]["scale"].shape == (1, 100) and data["posterior"]["pair"].dims == ("chain", "draw", "side")
    np.testing.assert_allclose(data["posterior"]["scale"][0], np.exp(data["posterior"]["pair"][0, :, 0]), rtol=1e-12)


def test_draws_without_weight_are_refused():
    with pytest.raises(ValueError, match="no draw has a finite log weight"):
        to_arviz(jax.random.key(0), tj.Samples(jnp.zeros((3, 2)), jnp.full(3, -jnp.inf)))
