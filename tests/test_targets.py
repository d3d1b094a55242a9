"""Targets against quadrature, closed forms, and their own exact samples."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from tiltjax import targets
from tiltjax.targets.many_well import right_well_mass, wells
from tiltjax.types import Target

N = 10_000
COVARIANCE = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])

CASES = {name: getattr(targets, name) for name in targets.__all__} | {
    "log_gaussian_cox": lambda: targets.log_gaussian_cox([[1, 0, 4], [0, 2, 0], [7, 0, 30]]),
    "log_gaussian_cox_whitened": lambda: targets.log_gaussian_cox([[3, 40], [0, 9]], whitened=True),
    "logistic_regression": lambda: targets.logistic_regression([[1.0, 0.5], [-2.0, 0.1], [0.3, -4.0]], [1, 0, 1], 2.0),
    "gaussian_covariance": lambda: targets.gaussian([1.0, -2.0, 0.5], covariance=COVARIANCE),
    "gmm_uneven": lambda: targets.gmm([[-4.0], [0.0], [5.0]], [0.5, 1.0, 0.25], [0.2, 0.5, 0.3]),
    "student_mixture_uneven": lambda: targets.student_mixture([[-40.0, 0.0], [0.0, 30.0]], 3.5, [0.3, 0.7]),
    "eight_schools_noncentred": lambda: targets.eight_schools(centred=False),
    "many_well6": lambda: targets.many_well(6),
    "delta_many_well_32modes": lambda: targets.delta_many_well(50),
}


class Evaluated(NamedTuple):
    """A target with draws, and its density and gradient at them and at points far away.

    N exact draws, or a few standard normal ones where the target has no sampler.
    """

    target: Target
    x: np.ndarray
    values: np.ndarray
    gradients: np.ndarray
    modes: np.ndarray | None


def far_points(shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape)
    constant = [np.full(size, r) for r in (0.0, 1.0, -1.0, 30.0, -30.0, 1e3, -1e3)]
    alternating = [r * (-1.0) ** np.arange(size) for r in (30.0, 1e3, -1e3)]
    return np.stack(constant + alternating).reshape(-1, *shape)


def draws(target: Target, key: jax.Array, n: int) -> jax.Array:
    return jax.random.normal(key, (n, *target.shape)) if target.sample is None else target.sample(key, n)


@functools.cache
def evaluate(name: str) -> Evaluated:
    target = CASES[name]()

    # one compilation a target: that is where the time goes
    @jax.jit
    def run(key):
        x = draws(target, key, 20 if target.sample is None else N)
        points = jnp.concatenate([x, jnp.asarray(far_points(target.shape), x.dtype)])
        values, gradients = jax.vmap(jax.value_and_grad(target.log_density))(points)
        return x, values, gradients, None if target.mode is None else jax.vmap(target.mode)(x)

    x, values, gradients, modes = jax.device_get(run(jax.random.key(0)))
    return Evaluated(target, x, values, gradients, modes)


@pytest.fixture(params=CASES, scope="module")
def evaluated(request: pytest.FixtureRequest) -> Evaluated:
    return evaluate(request.param)


def z_scores(values: np.ndarray, expected: np.ndarray | float) -> np.ndarray:
    """How many standard errors the mean over axis 0 is off."""
    values = np.asarray(values, np.float64)
    return np.abs(values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))


# ---------------------------------------------------------------------------------------- the contract


def test_every_target_is_a_case():
    for name in targets.__all__:
        target = CASES[name]()
        assert isinstance(target, Target) and (target.log_z is None or isinstance(target.log_z, float))
        assert target.sample is None or target.log_z is not None
        assert (target.mode is None) == (target.mode_weights is None)


def test_shapes_and_dtypes(evaluated: Evaluated):
    target, x, values, gradients, _ = evaluated
    assert x.shape[1:] == target.shape
    assert x.dtype == values.dtype == gradients.dtype == np.float64
    for point in (jnp.asarray(x[0], jnp.float32), jnp.zeros(target.shape, jnp.int32)):
        value = jax.eval_shape(target.log_density, point)
        assert value.shape == () and value.dtype == (jnp.float32 if point.dtype == jnp.float32 else jnp.float64)
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        target.log_density(jnp.zeros((3, *target.shape)))


def test_finite_far_away(evaluated: Evaluated):
    assert np.isfinite(evaluated.values).all() and np.isfinite(evaluated.gradients).all()


def test_sample_has_the_score_of_the_density(evaluated: Evaluated):
    """E[grad log p] = 0 and E[x_i d_i log p] = -1: together they see a shift or a scale of any coordinate."""
    if evaluated.target.sample is None:
        return
    score = evaluated.gradients[:N]
    assert z_scores(score, 0.0).max() < 5
    assert z_scores(evaluated.x * score, -1.0).max() < 5


def test_modes_have_their_weights(evaluated: Evaluated):
    target, modes = evaluated.target, evaluated.modes
    if target.mode is None or target.sample is None:
        return
    assert modes.dtype == np.int32 and modes.shape == (N,)
    expected = np.asarray(target.mode_weights)
    np.testing.assert_allclose(expected.sum(), 1.0, rtol=1e-6)
    counts = np.bincount(modes, minlength=len(expected))
    assert len(counts) == len(expected)
    # 0.03 of a weight is what overlap moves between neighbours in gmm40
    standard_error = np.sqrt(expected * (1 - expected) / N)
    assert (np.abs(counts / N - expected) < 5 * standard_error + 0.03 * expected).all()


def test_gradient_is_the_slope_of_the_value():
    for name in ("gaussian_covariance", "gmm_uneven", "funnel", "many_well6", "delta_many_well"):
        target, x, _, gradients, _ = evaluate(name)
        direction = np.random.default_rng(0).normal(size=target.shape)
        h = 1e-5
        shifted = jnp.asarray(np.stack([x[0] + h * direction, x[0] - h * direction]))
        up, down = jax.jit(jax.vmap(target.log_density))(shifted)
        np.testing.assert_allclose(gradients[0] @ direction, (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


def test_sample_is_a_function_of_its_key():
    a, b, c = (targets.gmm().sample(jax.random.key(seed), 3) for seed in (0, 0, 1))
    assert (a == b).all() and not (a == c).any()


@pytest.mark.float32
@pytest.mark.parametrize("name", targets.__all__)
def test_float32_session(name: str):
    target = CASES[name]()
    x = jax.eval_shape(lambda key: draws(target, key, 3), jax.random.key(0))
    assert x.dtype == jnp.float32 and x.shape == (3, *target.shape)
    points = jnp.asarray(far_points(target.shape), jnp.float32)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(target.log_density)))(points)
    assert values.dtype == gradients.dtype == jnp.float32
    with jax.enable_x64(True):
        expected = evaluate(name)
    np.testing.assert_allclose(values, expected.values[len(expected.x) :], rtol=1e-5)
    np.testing.assert_allclose(gradients, expected.gradients[len(expected.x) :], rtol=1e-4, atol=1e-4)
    assert target.mode_weights is None or target.mode_weights.dtype == jnp.float32


# ------------------------------------------------------------------------------------------- log Z


def grid_log_z(target: Target, low: float, high: float, n: int) -> float:
    """Trapezoid rule on a square grid, in the dimension of the target (1 or 2)."""
    axis = np.linspace(low, high, n)
    points = np.stack(np.meshgrid(*[axis] * target.shape[0]), -1).reshape(-1, *target.shape)
    values = np.asarray(jax.jit(jax.vmap(target.log_density))(points))
    return float(special.logsumexp(values) + target.shape[0] * np.log(axis[1] - axis[0]))


@pytest.mark.parametrize(
    ("target", "high", "n"),
    [
        (lambda: targets.gaussian([1.0, -0.5], [0.5, 1.5]), 12.0, 300),
        (lambda: targets.gmm([[-4.0], [0.0], [5.0]], [0.5, 1.0, 0.25], [0.2, 0.5, 0.3]), 12.0, 500),
        (lambda: targets.gmm([[-4.0, 1.0], [4.0, 0.0]], [[0.5, 1.0], [1.0, 0.3]], [0.3, 0.7]), 12.0, 250),
        (targets.gmm40, 55.0, 220),
        (targets.gmm40_be, 50.0, 250),
        (lambda: targets.many_well(2), 9.0, 600),
        (lambda: targets.delta_many_well(1, 1, delta=2.0), 5.0, 500),
    ],
)
def test_log_z_by_quadrature(target, high: float, n: int):
    np.testing.assert_allclose(grid_log_z(target(), -high, high, n), target().log_z, atol=1e-9)


def test_log_z_of_many_wells():
    pair, _ = integrate.quad(lambda a: math.exp(-(a**4) + 6 * a**2 + 0.5 * a - 9), -5, 5, epsabs=0, limit=200)
    log_pair = math.log(pair) + 9 + 0.5 * math.log(2 * math.pi)
    for dim, published in ((2, 10.29348), (32, 164.69568), (64, 329.39135)):
        assert targets.many_well(dim).log_z == pytest.approx(dim / 2 * log_pair, abs=1e-7)
        assert targets.many_well(dim).log_z == pytest.approx(published, abs=1e-5)
    for delta in (0.5, 4.0, 9.0):
        well, _ = integrate.quad(lambda a: math.exp(-((a**2 - delta) ** 2)), -6, 6, epsabs=0, limit=200)  # noqa: B023
        expected = 2 * math.log(well) + 1.5 * math.log(2 * math.pi)
        assert targets.delta_many_well(5, 2, delta).log_z == pytest.approx(expected, abs=1e-8)
    assert targets.delta_many_well().log_z == pytest.approx(-0.54106, abs=1e-5)


def test_densities_against_scipy():
    x = np.array([0.3, -1.2, 2.0])
    full = targets.gaussian([1.0, -2.0, 0.5], covariance=COVARIANCE)
    expected = stats.multivariate_normal([1.0, -2.0, 0.5], COVARIANCE).logpdf(x)
    assert full.log_density(x) == pytest.approx(expected, rel=1e-12)
    expected = stats.norm(0, 3).logpdf(x[0]) + stats.norm(0, math.exp(x[0] / 2)).logpdf(x[1:]).sum()
    assert targets.funnel(3).log_density(x) == pytest.approx(expected, rel=1e-12)
    # the floor of the funnel's scale keeps the conditional normalized
    low = np.array([-70.0, 0.0, 0.0])
    expected = stats.norm(0, 3).logpdf(-70.0) + 2 * stats.norm(0, math.exp(-30.0)).logpdf(0.0)
    assert targets.funnel(3).log_density(low) == pytest.approx(expected, rel=1e-12)


def test_gaussian_moments():
    x = evaluate("gaussian_covariance").x
    centred = x - np.array([1.0, -2.0, 0.5])
    assert z_scores(centred, 0.0).max() < 5
    assert z_scores(centred[:, :, None] * centred[:, None, :], COVARIANCE).max() < 5


# ------------------------------------------------------------------------------------- exact samples


@pytest.mark.parametrize("x64", [True, False])
def test_well_samples_have_the_exact_cdf(x64: bool):
    grid = np.linspace(-5.0, 5.0, 40_001)
    cases = [
        (targets.many_well(8), slice(0, 8, 2), -(grid**4) + 6 * grid**2 + 0.5 * grid),
        (targets.delta_many_well(6, 4), slice(0, 4), -((grid**2 - 4) ** 2)),
    ]
    for target, coordinates, log_f in cases:
        with jax.enable_x64(x64):
            x = jax.device_get(jax.jit(target.sample, static_argnums=1)(jax.random.key(6), N))[:, coordinates].reshape(-1)
        cdf = integrate.cumulative_trapezoid(np.exp(log_f - log_f.max()), grid, initial=0.0)
        assert stats.kstest(x, lambda a, cdf=cdf: np.interp(a, grid, cdf / cdf[-1])).pvalue > 1e-6
        assert np.abs(x).max() < 3.5  # float32's zero must not reach the end of the table


@pytest.mark.parametrize("degrees", [0.7, 2.0, 30.0])
def test_student_samples_have_the_exact_cdf(degrees: float):
    x = np.asarray(targets.student_mixture([[1.0, -2.0]], degrees).sample(jax.random.key(7), N)) - np.array([1.0, -2.0])
    assert stats.kstest(x[:, 0], stats.t(degrees).cdf).pvalue > 1e-6
    assert stats.kstest(x[:, 1], stats.t(degrees).cdf).pvalue > 1e-6
    assert stats.kendalltau(np.abs(x[:, 0]), np.abs(x[:, 1])).pvalue > 1e-6  # coordinates share no chi-square


def test_right_wells():
    expected = integrate.quad(lambda a: math.exp(-(a**4) + 6 * a**2 + 0.5 * a - 9), -0.0416908, 5)[0]
    total = integrate.quad(lambda a: math.exp(-(a**4) + 6 * a**2 + 0.5 * a - 9), -5, 5)[0]
    assert right_well_mass() == pytest.approx(expected / total, abs=1e-7)
    x = evaluate("many_well").x
    assert z_scores(np.asarray(jax.vmap(wells)(x)), right_well_mass()).max() < 5


def test_mode_numbers():
    target = targets.delta_many_well(7, 3)
    assert int(target.mode(jnp.array([2.0, -2.0, 2.0, 9.0, 9.0, 9.0, 9.0]))) == 0b101
    np.testing.assert_allclose(target.mode_weights, 1 / 8)
    pair = targets.many_well(2)
    np.testing.assert_allclose(pair.mode_weights, [1 - right_well_mass(), right_well_mass()])
    assert targets.many_well(20).mode is not None and targets.many_well(22).mode is None
    assert targets.delta_many_well(11, 11).mode is None


# ------------------------------------------------------------------------------------ the 40 means


@pytest.mark.parametrize("partitionable", [False, True])
@pytest.mark.parametrize("dim", [2, 50])
def test_gmm40_be_means(dim: int, partitionable: bool):
    """At a mean that no other is near to, the density is the peak of one component."""
    with jax.threefry_partitionable(partitionable):
        uniform = jax.random.uniform(jax.random.PRNGKey(0), (40, dim), jnp.float32, -1.0, 1.0)
    means = 40.0 * np.asarray(uniform, np.float64)
    target = targets.gmm40_be(dim, threefry_partitionable=partitionable)
    distances = np.linalg.norm(means[:, None, :] - means[None, :, :], axis=2) + 99 * np.eye(40)
    alone = distances.min(1) > 7
    assert alone.sum() > 5
    values, modes = jax.jit(jax.vmap(lambda x: (target.log_density(x), target.mode(x))))(means)
    np.testing.assert_array_equal(modes, np.arange(40))
    np.testing.assert_allclose(values[alone], -math.log(40) - dim / 2 * math.log(2 * math.pi), atol=1e-9)


def test_gmm40_means():
    target = targets.gmm40()
    known = jnp.array([[-0.2994728088378906, 21.457744598388672], [-32.92180633544922, -29.43756103515625]])
    assert [int(target.mode(m)) for m in known] == [0, 1]
    # alone among its neighbours, so that its peak is that of one component of scale softplus(1)
    expected = -math.log(40) - math.log(2 * math.pi * math.log1p(math.e) ** 2)
    assert float(target.log_density(known[1])) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("partitionable", [False, True])
@pytest.mark.parametrize("dim", [2, 50])
def test_mos_means(dim: int, partitionable: bool):
    """The density is a mixture of products of t distributions around the published draws."""
    with jax.threefry_partitionable(partitionable):
        means = np.asarray(jax.random.uniform(jax.random.PRNGKey(0), (10, dim), jnp.float32, -10, 10), np.float64)
    target = targets.mos(dim, threefry_partitionable=partitionable)
    x = np.concatenate([means, np.random.default_rng(0).uniform(-12, 12, (5, dim))])
    expected = special.logsumexp(stats.t(2).logpdf(x[:, None, :] - means).sum(2), axis=1) - math.log(10)
    values, modes = jax.jit(jax.vmap(lambda x: (target.log_density(x), target.mode(x))))(x)
    np.testing.assert_allclose(values, expected, rtol=1e-6)  # the last bit of a float32 mean depends on the compiler
    np.testing.assert_array_equal(modes[:10], np.arange(10))


# -------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.gaussian(0.0), "got mean of shape"),
        (lambda: targets.gaussian([0.0, math.nan]), "expected a finite vector"),
        (lambda: targets.gaussian([0.0, 0.0], -1.0), "got scale = -1.0"),
        (lambda: targets.gaussian([0.0, 0.0], [1.0, 1.0, 1.0]), r"got scale of shape \(3,\)"),
        (lambda: targets.gaussian([0.0, 0.0], np.eye(2)), "covariance="),
        (lambda: targets.gaussian([0.0, 0.0], 2.0, covariance=np.eye(2)), "both scale and covariance"),
        (lambda: targets.gaussian([0.0, 0.0], covariance=np.eye(3)), r"symmetric \(2, 2\)"),
        (lambda: targets.gaussian([0.0, 0.0], covariance=[[1.0, 2.0], [2.0, 1.0]]), "smallest eigenvalue -1"),
        (lambda: targets.gmm([0.0, 1.0]), "one row a component"),
        (lambda: targets.gmm([[0.0], [1.0]], 0.0), "expected positive standard deviations"),
        (lambda: targets.gmm([[0.0], [1.0]], [1.0, 1.0, 1.0]), "got scale of shape"),
        (lambda: targets.gmm([[0.0], [1.0]], weights=[0.5, 0.6]), "sum to 1.1"),
        (lambda: targets.gmm([[0.0], [1.0]], weights=[1.0, 0.0]), "leave empty components out"),
        (lambda: targets.gmm([[0.0], [1.0]], weights=[1.0]), "got weights of shape"),
        (lambda: targets.gmm40_be(3), "got dim=3, expected 2 or 50"),
        (lambda: targets.mos(3), "got dim=3, expected 2 or 50"),
        (lambda: targets.student_mixture([0.0, 1.0]), "one row a component"),
        (lambda: targets.student_mixture(degrees=0.0), "got degrees=0.0"),
        (lambda: targets.student_mixture(weights=[0.5, 0.6]), "sum to 1.1"),
        (lambda: targets.funnel(1), "got dim=1"),
        (lambda: targets.funnel(10, 0.0), "got scale=0.0"),
        (lambda: targets.many_well(31), "pass dim=32"),
        (lambda: targets.many_well(0), "pass dim=2"),
        (lambda: targets.delta_many_well(4, 5), "got wells=5, dim=4"),
        (lambda: targets.delta_many_well(5, 0), "got wells=0"),
        (lambda: targets.delta_many_well(delta=-1.0), "got delta=-1.0"),
    ],
)
def test_bad_arguments_say_what_to_do(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
