"""The pilot: location, scales and resolution of targets in odd units and odd places, within a factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import slow

from tiltjax import paths, pilot, preparing, targets

FEW = {"num_particles": 512, "final_moves": 10}


def whitened(found, target):
    """Mean and standard deviation of the target's own draws in the pilot's coordinates."""
    x = jax.vmap(found.coordinates.inverse)(target.sample(jax.random.key(9), 4000))
    return np.asarray(x.mean(0)), np.asarray(x.std(0))


def test_a_gaussian_far_away_in_odd_units():
    target = targets.gaussian(np.full(4, 50.0), np.asarray([0.01, 0.3, 2.0, 10.0]))
    found = pilot.pilot(jax.random.key(0), target.log_density, (4,), **FEW)
    mean, sd = whitened(found, target)
    assert np.abs(mean).max() < 0.3
    assert (sd > 0.75).all() and (sd < 1.33).all()
    assert 0.5 < found.resolution <= 1.0  # its variance in its own units
    assert found.gradient_evaluations > 0 and found.particles.shape == (512, 4)
    # the map is one of coordinates: what correlation the particles show is chance
    assert found.coordinates.scale.ndim == 1


def test_correlations_are_whitened_and_modes_kept():
    covariance = np.asarray([[1.0, 0.98], [0.98, 1.0]])
    target = targets.gaussian([3.0, -1.0], covariance=covariance)
    found = pilot.pilot(jax.random.key(1), target.log_density, (2,), **FEW)
    assert found.coordinates.scale.shape == (2, 2)
    x = jax.vmap(found.coordinates.inverse)(target.sample(jax.random.key(9), 4000))
    np.testing.assert_allclose(np.cov(np.asarray(x).T), np.eye(2), atol=0.35)
    # round trip, and the determinant of the map
    there = found.coordinates.forward(found.coordinates.inverse(jnp.asarray([3.3, -0.7])))
    np.testing.assert_allclose(there, [3.3, -0.7], rtol=1e-9)
    expected = np.log(np.linalg.det(np.asarray(found.coordinates.scale)))
    np.testing.assert_allclose(found.coordinates.log_determinant(jnp.zeros(2)), expected, rtol=1e-12)


def test_two_modes_with_a_hard_wall_between():
    """-inf and NaN where the density is not: kept out, and the resolution is that of a mode."""

    def log_density(x):
        mode = jax.nn.logsumexp(jnp.stack([-0.5 * jnp.sum(jnp.square((x - c) / 0.5)) for c in (-6.0, 6.0)]))
        return jnp.where(jnp.abs(x[0]) < 1.0, -jnp.inf, mode)

    with pytest.warns(UserWarning, match=r"not finite at 1\d\.\d% of the draws"):  # P(|6 z| < 1) = 0.132
        found = pilot.pilot(jax.random.key(2), log_density, (2,), **FEW)
    right = np.asarray(found.particles[:, 0] > 0).mean()
    assert 0.2 < right < 0.8
    x = np.asarray(found.particles)
    np.testing.assert_allclose(np.abs(x).mean(0), 6.0, atol=0.3)
    scale = np.asarray(jnp.linalg.norm(found.coordinates.scale.reshape(2, -1), axis=1)).max()
    assert 0.25 / 4 < found.resolution * scale**2 < 0.25 * 4


def test_a_bounded_support_is_warned_of():
    """Uniform on a square: each side is 2 sqrt(3) standard deviations, P(|z| < sqrt(3))^2 = 0.840."""

    def log_density(x):
        return jnp.where(jnp.all(jnp.abs(x - 3.0) < 2.0), 0.0 * jnp.sum(x), -jnp.inf)

    with pytest.warns(UserWarning, match="Transform bounded variables") as caught:
        pilot.pilot(jax.random.key(3), log_density, (2,), **FEW)
    lost = float(str(caught[0].message).split("%")[0].split()[-1]) / 100
    assert abs(lost - 0.160) < 0.06  # 512 draws, and a width found by 512 particles


@pytest.mark.float32
@pytest.mark.parametrize("target", [slow(targets.funnel(4)), targets.many_well(4)], ids=["funnel", "many_well"])
def test_heavy_tails_and_steep_walls_are_not(target):
    """A warning is an error here."""
    pilot.pilot(jax.random.key(4), target.log_density, (4,), num_particles=256, final_moves=2)


@pytest.mark.parametrize("base_scale", [slow(1.3), 2.5])
def test_a_prepared_base_is_as_wide_as_said_and_z_the_same(base_scale):
    """N(0, I) lands base_scale target deviations wide, where the least variance is 1 / base_scale^2, and keeps the density."""
    centre, sd = np.asarray([50.0, -2.0]), np.asarray([0.01, 10.0])
    target = targets.gaussian(centre, sd)
    problem = preparing.prepare(jax.random.key(5), target, path=paths.linear(), base_scale=base_scale)
    width = np.diag(jax.jacobian(problem.decode)(jnp.zeros(2)))
    of_fit = preparing.prepare(jax.random.key(5), target, base_scale=base_scale)  # the same, but for where base_scale stands
    np.testing.assert_allclose(base_scale * np.diag(jax.jacobian(of_fit.decode)(jnp.zeros(2))), width, rtol=1e-12)
    assert of_fit.frame.scale == base_scale and problem.frame.scale == 1
    assert (width > 0.75 * base_scale * sd).all() and (width < 1.33 * base_scale * sd).all()
    assert 0.5 < problem.resolution * base_scale**2 <= 1.0
    # p_base exp r is the target's density in these coordinates, Z = 1 and all
    y = jax.random.normal(jax.random.key(6), (20, 2))
    normal = targets.gaussian((centre - np.asarray(problem.decode(jnp.zeros(2)))) / width, sd / width)
    found = jax.vmap(lambda y: problem.process.log_density(y) + problem.reward(y))(y)
    np.testing.assert_allclose(found, jax.vmap(normal.log_density)(y), rtol=1e-9)
