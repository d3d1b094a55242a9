"""Natural units: maps and their determinants, and non-centred coordinates found on particles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slow

import tiltjax as tj
from tiltjax import noncentring, pilot, problems, processes, targets
from tiltjax.coordinates import Coordinates

KEY = jax.random.key(0)
SLOPES = jnp.asarray([[0.0, 0.0, 0.0], [0.7, 0.0, -0.4], [0.0, 0.0, 0.0]])
LOCATION = jnp.asarray([1.0, -2.0, 0.5])
MATRIX = jnp.asarray([[2.0, 0.0, 0.0], [0.4, 1.5, -0.3], [0.1, 0.0, 0.7]])


@pytest.mark.parametrize("scale", [jnp.asarray([2.0, 0.3, 1.1]), MATRIX], ids=["diagonal", "matrix"])
@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["affine", "bent"])
def test_the_map_is_invertible_and_its_determinant_is_that_of_its_jacobian(scale, slopes):
    there = Coordinates(LOCATION, scale, slopes)
    for y in 3 * jax.random.normal(KEY, (4, 3)):
        np.testing.assert_allclose(there.inverse(there.forward(y)), y, rtol=1e-9, atol=1e-12)
        jacobian = jax.jacobian(there.forward)(y)
        np.testing.assert_allclose(there.log_determinant(y), np.linalg.slogdet(jacobian)[1], rtol=1e-9)


def test_log_z_is_the_same_in_bent_coordinates():
    """By quadrature over y of a 2-D density, unnormalized in x."""
    there = Coordinates(jnp.asarray([0.5, -1.0]), jnp.asarray([1.5, 0.4]), jnp.asarray([[0.0, 0.0], [0.8, 0.0]]))
    target = tj.Target(lambda x: -0.5 * (x[0] - 0.4) ** 2 - 0.5 * (x[1] + 1.1) ** 2 * jnp.exp(-x[0]) - 0.5 * x[0], (2,))
    problem = problems.sampling(target, processes.gaussian(tj.paths.linear(), (2,)), coordinates=there)
    first, second = jnp.linspace(-8, 8, 401), jnp.linspace(-60, 60, 2401)
    y = jnp.stack(jnp.meshgrid(first, second, indexing="ij"), -1).reshape(-1, 2)
    log_p = jax.vmap(lambda y: problem.reward(y) + problem.process.log_density(y))(y)
    log_z = jax.nn.logsumexp(log_p) + np.log(16 / 400 * 120 / 2400)
    assert float(log_z) == pytest.approx(np.log(2 * np.pi), abs=1e-6)  # int exp(x_0 / 2 - x_0 / 2) = 2 pi


def hierarchy(n):
    """x_1, x_2 | x_0 ~ N(3 + 0.5 x_3, (0.2 exp(0.8 x_0))^2) and independent x_3; x_4 does nothing."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 5))
    z[:, 1:3] = 3 + 0.5 * z[:, 3:4] + 0.2 * np.exp(0.8 * z[:, :1]) * z[:, 1:3]
    return z


def test_a_hierarchy_is_found_with_its_parameters():
    x = hierarchy(20_000)
    found = noncentring.find(x)
    assert found is not None
    expected = np.zeros((5, 5))
    expected[1:3, 0] = 0.8
    np.testing.assert_allclose(found.slopes, expected, atol=0.03)
    np.testing.assert_allclose(found.location, [0, 3, 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(np.asarray(found.scale)[1:3, 3], 0.5, atol=0.01)
    np.testing.assert_allclose(np.diagonal(found.scale)[1:3], 0.2, rtol=0.03)
    y = np.asarray(jax.vmap(found.inverse)(jnp.asarray(x)))
    np.testing.assert_allclose(np.cov(y, rowvar=False), np.eye(5), atol=0.06)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2), slow(3)])
def test_the_neck_of_a_hierarchy_is_as_wide_as_the_rest_and_in_the_middle(seed):
    """Eight schools, where tau < e^-3 (1 % of the mass): theta - mu is e^-4 of its usual size, and its mean depends on tau."""
    exact = targets.eight_schools()
    found = noncentring.find(np.asarray(exact.sample(jax.random.key(seed), 2048), np.float64))
    assert found is not None
    x = exact.sample(jax.random.key(100), 100_000)
    y = np.asarray(jax.vmap(found.inverse)(x))[(x[:, 1] < -3) & (x[:, 1] > -5)][:, 2:]
    assert np.abs(y.mean(0)).max() < 2.5
    assert y.std(0).min() > 0.4 and y.std(0).max() < 2


@pytest.mark.parametrize("target", [targets.gmm40(), targets.many_well(8)], ids=["gmm40", "many_well"])
def test_modes_are_no_hierarchy(target):
    x = np.asarray(target.sample(KEY, 4000), np.float64)
    assert noncentring.find(x) is None


def ring(x):
    """Three modes on a ring: where x_0 is large, x_1 is small."""
    angle = jnp.cos(3 * jnp.arctan2(x[1], x[0] + 1e-20))
    return -0.5 * ((jnp.sqrt(jnp.sum(x**2) + 1e-12) - 3) / 0.15) ** 2 + jnp.log1p(jnp.exp(4 * angle))


@pytest.mark.float32
def test_modes_that_look_like_a_hierarchy_keep_their_affine_coordinates():
    """The particles' scales depend on one another, but coordinates that undo it would make the finest structure finer."""
    found = pilot.pilot(KEY, ring, (2,), num_particles=1024)
    assert noncentring.find(np.asarray(found.particles, np.float64)) is not None
    assert found.coordinates.slopes is None


@pytest.mark.float32
@pytest.mark.slow
def test_the_pilot_finds_the_funnel_and_reaches_its_neck():
    """In the coordinates that it finds the funnel is N(0, I) nearly: mean, covariance and resolution of exact draws."""
    target = targets.funnel(4)
    found = pilot.pilot(KEY, target.log_density, target.shape, num_particles=1024)
    y = np.asarray(jax.vmap(found.coordinates.inverse)(target.sample(jax.random.key(1), 20_000)))
    np.testing.assert_allclose(y.mean(0), 0, atol=0.25)
    np.testing.assert_allclose(np.cov(y, rowvar=False), np.eye(4), atol=0.35)
    assert found.resolution > 0.5  # 1e-3 and less in affine coordinates
    assert (np.asarray(found.particles)[:, 0] < -3).mean() > 0.1  # 0.159 of the mass
