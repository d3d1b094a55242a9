"""Control networks: zero at the start, the same on every path, finite where the density is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, perturbed

from tiltjax import networks, problems

SHAPE = (2, 3)


def reward(x):
    return -jnp.sum(jnp.abs(x)) - 3.0 * jnp.sum(jnp.square(x - 0.2))


def problem(family="linear", r=reward):
    return problems.tilt(gaussian(family, SHAPE, 1.5), r, resolution=0.1)


MAKERS = {
    "mlp": lambda p: networks.mlp(p, width=8, depth=2),
    "score_informed": lambda p: networks.score_informed(p, width=8, depth=2),
    "zero": networks.zero,
}
T, X = jnp.asarray(0.4), jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize("name", MAKERS)
def test_zero_at_initialization(name):
    network = MAKERS[name](problem())
    params = network.init(jax.random.key(1))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(params))
    u = network.apply(params, T, X)
    assert u.shape == SHAPE and u.dtype == jnp.float64
    np.testing.assert_array_equal(u, 0.0)
    assert network.gradient_evaluations == (name == "score_informed")


@pytest.mark.parametrize("name", ["mlp", "score_informed"])
def test_one_set_of_parameters_is_one_control_on_every_path(name):
    """g = u / gain is a function of m = Phi_t x and R_t alone."""
    found = []
    for family in ("linear", "geometric"):
        process = problem(family).process
        t = process.path.time(jnp.asarray(1.3) / process.scale**2)  # where R / s^2 = 1 / 2.3
        assert float(process.residual(t)) == pytest.approx(process.scale**2 / 2.3)
        network = MAKERS[name](problem(family))
        params = perturbed(network.init(jax.random.key(1)), jax.random.key(2), 0.3)
        u = network.apply(params, t, X / process.response(t))
        assert jnp.all(jnp.isfinite(u)) and jnp.any(u != 0)
        found.append(u / process.gain(t))
    np.testing.assert_allclose(*found, rtol=1e-7)


def test_score_informed_adds_the_clipped_gradient_at_the_predicted_end():
    network = networks.score_informed(problem(), width=8, depth=1, clip=0.5)
    params = network.init(jax.random.key(1))
    params["gate"]["out"]["bias"] = jnp.ones_like(params["gate"]["out"]["bias"])
    process = problem().process
    limit = 0.5 * np.sqrt(6 / 0.1)
    for x in (0.1 * X, 50.0 * X):
        slope = jax.grad(reward)(process.response(T) * x)
        slope = slope * min(1.0, limit / float(jnp.linalg.norm(slope)))
        np.testing.assert_allclose(network.apply(params, T, x), process.gain(T) * slope, rtol=1e-9)
    spoilt = problem(r=lambda x: reward(x) + jnp.log(x[0, 0] - 100.0))
    assert jnp.all(jnp.isfinite(networks.score_informed(spoilt, width=8, depth=1).apply(params, T, X)))


@pytest.mark.float32
@pytest.mark.parametrize("name", ["mlp", "score_informed"])
def test_float32_to_both_ends(name):
    network = MAKERS[name](problem())
    params = perturbed(network.init(jax.random.key(1)), jax.random.key(2), 0.3)
    for t in (0.0, 1e-7, 0.5, 1 - 1e-7, 1.0):
        u = network.apply(params, jnp.asarray(t), X.astype(jnp.float32))
        assert u.dtype == jnp.float32 and jnp.all(jnp.isfinite(u))
