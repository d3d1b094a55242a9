"""Control networks: zero at the start, the same on every path, finite where the density is not, also in half precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, perturbed, slow

from tiltjax import networks, paths, problems, sampling

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
        t = process.frame.path.time(jnp.asarray(1.3) / process.frame.scale**2)  # where R / s^2 = 1 / 2.3
        assert float(process.frame.residual(t)) == pytest.approx(process.frame.scale**2 / 2.3)
        network = MAKERS[name](problem(family))
        params = perturbed(network.init(jax.random.key(1)), jax.random.key(2), 0.3)
        u = network.apply(params, t, X / process.frame.response(t))
        assert jnp.all(jnp.isfinite(u)) and jnp.any(u != 0)
        found.append(u / process.frame.gain(t))
    np.testing.assert_allclose(*found, rtol=1e-7)


def test_score_informed_adds_the_clipped_gradient_at_the_predicted_end():
    network = networks.score_informed(problem(), width=8, depth=1, clip=0.5)
    params = network.init(jax.random.key(1))
    params["gate"]["out"]["bias"] = jnp.ones_like(params["gate"]["out"]["bias"])
    process = problem().process
    limit = 0.5 * np.sqrt(6 / 0.1)
    for x in (0.1 * X, 50.0 * X):
        slope = jax.grad(reward)(process.frame.response(T) * x)
        slope = slope * min(1.0, limit / float(jnp.linalg.norm(slope)))
        np.testing.assert_allclose(network.apply(params, T, x), process.frame.gain(T) * slope, rtol=1e-9)
    spoilt = problem(r=lambda x: reward(x) + jnp.log(x[0, 0] - 100.0))
    assert jnp.all(jnp.isfinite(networks.score_informed(spoilt, width=8, depth=1).apply(params, T, X)))


@pytest.mark.float32
@pytest.mark.parametrize("name", ["mlp", "score_informed"])
def test_float32_to_both_ends(name):
    network = MAKERS[name](problem())
    params, apply = perturbed(jax.jit(network.init)(jax.random.key(1)), jax.random.key(2), 0.3), jax.jit(network.apply)
    for t in (0.0, 1e-7, 0.5, 1 - 1e-7, 1.0):
        u = apply(params, jnp.asarray(t), X.astype(jnp.float32))
        assert u.dtype == jnp.float32 and jnp.all(jnp.isfinite(u))


# ------------------------------------------------------------------------------------------- bfloat16

HALF = {
    "mlp": functools.partial(networks.mlp, width=32, depth=2),
    "score_informed": functools.partial(networks.score_informed, width=32, depth=2),
    "drift": functools.partial(networks.drift, width=32, depth=2),
    "potential": functools.partial(networks.potential, width=32, depth=2),
    "corrector": functools.partial(networks.corrector, width=32, depth=2),
    "egnn": functools.partial(networks.egnn, width=16, depth=2),
}


def symmetric():
    return problems.tilt(gaussian("linear", SHAPE, 1.5), lambda x: -jnp.sum(jnp.square(x)), resolution=0.1)


@pytest.mark.parametrize("name", [slow(name) if name == "egnn" else name for name in HALF])
def test_half_precision_is_near_and_stays_inside(name):
    """Products round at 2^-8, times what random layers amplify; parameters, control, gradients in the working precision."""
    full, half = HALF[name](symmetric()), HALF[name](symmetric(), dtype=jnp.bfloat16)
    params = perturbed(jax.jit(full.init)(jax.random.key(1)), jax.random.key(2), 0.3)
    own = jax.eval_shape(half.init, jax.random.key(1))
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, params)
    a, b = (jax.jit(network.apply)(params, T, X) for network in (full, half))
    assert b.dtype == jnp.float64
    error = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
    assert 1e-6 < error < 0.1
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(half.apply(p, T, X)))))(params)
    leaves = jax.tree.leaves((own, slopes))
    assert all(leaf.dtype == jnp.float64 for leaf in leaves)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(slopes))
    assert "bf16" in str(jax.make_jaxpr(lambda x: half.apply(params, T, x))(X))


@pytest.mark.slow
def test_weights_are_those_of_the_control_in_half_precision():
    """E[exp(log_weight)] = Z without bias: base N(0, 1.5^2) in six dimensions, r = -|x|^2 / 2."""
    target = problems.tilt(gaussian("linear", SHAPE, 1.5), lambda x: -0.5 * jnp.sum(jnp.square(x)), resolution=0.1)
    network = HALF["mlp"](target, dtype=jnp.bfloat16)
    params = perturbed(network.init(jax.random.key(1)), jax.random.key(2), 0.02)
    sampler = sampling.sampler(target, network, params, lambda n: paths.log_snr(target.frame, n, 0.1))
    weight = np.exp(np.asarray(sampler.sample(jax.random.key(3), 20_000, num_steps=10).log_weight))
    truth = (1 + 1.5**2) ** -3
    assert abs(weight.mean() - truth) < 5 * weight.std() / np.sqrt(weight.size)
    assert weight.std() / weight.mean() < 10  # enough of them count for the z-score to mean something
