"""Gaussian paths and time grids: against automatic differentiation, and in float32 against x64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiltjax import paths, processes

PATHS = {
    "linear": paths.linear,
    "trigonometric": paths.trigonometric,
    "vp": paths.vp,
    "brownian": lambda: paths.brownian(2.0),
    "geometric": lambda: paths.geometric(3.0, 0.5),
    "steep": lambda: paths.geometric(1e3, 1.0),
}
FIXED_START = {"brownian", "geometric", "steep"}

# everywhere but at the ends, where kappa and eta may be infinite
INSIDE = np.concatenate([[1e-4, 1e-3], np.linspace(0.01, 0.99, 50), [0.999, 0.9999]])


@pytest.fixture(params=PATHS)
def name(request):
    return request.param


@pytest.fixture
def path(name):
    return PATHS[name]()


def slope(f):
    return jax.vmap(jax.grad(lambda t: jnp.asarray(f(t)).sum()))


# -------------------------------------------------------------------------------------------- identities


def test_kappa_and_eta_are_what_alpha_and_beta_say(path):
    t = jnp.asarray(INSIDE)
    kappa = slope(path.alpha)(t) / jax.vmap(path.alpha)(t)
    beta = jax.vmap(path.beta)(t)
    np.testing.assert_allclose(jax.vmap(path.kappa)(t), kappa, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(path.eta)(t), beta * (kappa * beta - slope(path.beta)(t)), rtol=1e-7)


def test_signal_and_noise_are_alpha_and_beta_less_a_factor(path):
    t = jnp.asarray(INSIDE)
    alpha, beta, signal2, noise2, lift = (jax.vmap(f)(t) for f in (path.alpha, path.beta, path.signal2, path.noise2, path.lift))
    factor = alpha**2 / signal2
    np.testing.assert_allclose(beta**2, factor * noise2, rtol=1e-10)
    np.testing.assert_allclose(lift, alpha / factor, rtol=1e-10)


def test_rise_is_the_difference_and_speed_its_slope(path):
    t, t1 = (x.reshape(-1) for x in jnp.meshgrid(jnp.linspace(0.0, 0.95, 20), jnp.linspace(0.05, 1.0, 20)))
    expected = path.signal2(t1) * path.noise2(t) - path.signal2(t) * path.noise2(t1)
    np.testing.assert_allclose(path.rise(t, t1), expected, rtol=1e-9, atol=1e-12 * float(jnp.abs(expected).max()))
    t = jnp.asarray(INSIDE)
    np.testing.assert_allclose(jax.vmap(path.speed)(t), jax.vmap(jax.grad(path.rise, 1))(t, t), rtol=1e-9)


def test_time_inverts_the_signal_to_noise_ratio(path):
    t = jnp.asarray(INSIDE)
    np.testing.assert_allclose(path.time(path.signal2(t) / path.noise2(t)), t, rtol=1e-7, atol=1e-10)


def test_ends(name, path):
    assert float(path.alpha(1.0)) == pytest.approx(1.0, rel=1e-12)
    assert float(path.beta(1.0)) == pytest.approx(0.0, abs=1e-12)
    if name == "vp":  # its signal at t = 0 is small, not 0
        assert float(path.alpha(0.0)) == pytest.approx(np.exp(-0.25 * 20.1), rel=1e-12)
    else:
        assert float(path.alpha(0.0)) == 0.0
    assert float(path.beta(0.0)) == pytest.approx(0.0 if name in FIXED_START else 1.0, abs=1e-4)
    # the pair (signal, noise) never vanishes together: what exact steps divide by
    for t in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0):
        assert float(path.signal2(t) + path.noise2(t)) > 0
        assert np.isfinite([float(f(t)) for f in (path.kappa, path.eta, path.speed, path.lift)]).all()


def test_brownian_paths_imply_a_scale():
    assert PATHS["brownian"]().scale == pytest.approx(2.0)
    nu1 = (3.0**2 - 0.5**2) / (2 * np.log(6.0))
    assert PATHS["geometric"]().scale == pytest.approx(np.sqrt(nu1))
    # nu_t is the integral of sigma_t^2, which is 2 eta
    t = np.linspace(0.0, 1.0, 20_001)
    sigma2 = 2 * np.asarray(jax.vmap(PATHS["geometric"]().eta)(jnp.asarray(t)))
    assert np.trapezoid(sigma2, t) == pytest.approx(nu1, rel=1e-7)
    assert paths.linear().scale is None and paths.trigonometric().scale is None and paths.vp().scale is None


# ----------------------------------------------------------------------------------------------- float32

GRIDS = {
    "uniform": lambda process: paths.uniform(200),
    "power": lambda process: paths.power(200),
    "log_snr": lambda process: paths.log_snr(process.frame, 200, 1e-3 * process.frame.scale**2),
}


@pytest.mark.float32
@pytest.mark.parametrize("grid", GRIDS)
def test_every_step_has_its_variance_in_float32(path, grid):
    """A step's variances, forward, backward and in m coordinates, from float32 times, against x64 at the same times."""

    def steps(path, times):
        process = processes.gaussian(path, ())
        t, t1 = times[:-1], times[1:]
        x = jnp.ones_like(t)
        forward, backward = jax.vmap(process.transition)(t, t1, x), jax.vmap(process.reverse)(t, t1, x)
        clock = jax.vmap(process.clock)(t, t1) * jnp.square(jax.vmap(process.frame.gain)(t))
        # the first reverse step of a fixed start is a point mass
        return jnp.square(forward[1]), jnp.square(backward[1])[1:], clock

    times = GRIDS[grid](processes.gaussian(path, ()))
    assert times.dtype == jnp.float32 and times[0] == 0 and times[-1] == 1
    single = steps(path, times)
    with jax.enable_x64(True):
        double = steps(path, jnp.asarray(np.asarray(times, np.float64)))
    for found, expected in zip(single, double, strict=True):
        assert found.dtype == jnp.float32 and expected.dtype == jnp.float64
        assert (np.asarray(found) > 0).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- grids


def test_uniform_and_power_grids():
    np.testing.assert_allclose(paths.uniform(4), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(paths.power(4, 2.0), 1 - np.array([1, 0.75, 0.5, 0.25, 0]) ** 2)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_log_snr_grid_is_uniform_in_log_residual(name, path, scale):
    process = processes.gaussian(path, (2,), None if name in FIXED_START else scale)
    s2 = process.frame.scale**2
    times = paths.log_snr(process.frame, 30, 1e-2 * s2)
    assert times.shape == (31,) and times[0] == 0 and times[-1] == 1
    log_r = np.log(np.asarray(jax.vmap(process.frame.residual)(times[1:-1])) / s2)
    first = np.log(float(process.frame.residual(0.0)) / s2)  # 0, but where X_1 remembers X_0 (vp: a little)
    np.testing.assert_allclose(log_r, np.linspace(first, np.log(1e-3), 30)[1:], atol=1e-7)
    level = jnp.asarray([0.9, 0.1, 1e-4])
    np.testing.assert_allclose(jax.vmap(process.frame.residual)(paths.time_at(process.frame, level)) / s2, level, rtol=1e-6)


def test_a_grid_too_fine_for_its_precision_says_so():
    process = processes.gaussian(paths.brownian(), ())
    assert len(paths.log_snr(process.frame, 50, 1e-12)) == 51
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"float32.*paths\.linear"):
        paths.log_snr(process.frame, 50, 1e-12)


def test_a_grid_may_be_made_inside_jit():
    process = processes.gaussian(paths.linear(), ())
    for make in (lambda: paths.uniform(5), lambda: paths.power(5), lambda: paths.log_snr(process.frame, 5, 0.01)):
        np.testing.assert_array_equal(jax.jit(make)(), make())
