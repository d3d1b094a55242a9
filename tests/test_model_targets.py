"""Lattices and posteriors as targets, against transfer matrices, quadrature and models written out."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats
from support import z_scores

from tiltjax import targets
from tiltjax.integrations import from_numpyro
from tiltjax.targets._tabulate import draw_plane, tabulate_plane
from tiltjax.targets.brownian_motion import _OBSERVED
from tiltjax.targets.log_gaussian_cox import _COUNTS, _prior
from tiltjax.targets.phi4 import magnetization
from tiltjax.targets.seeds import _EXTRACT, _GERMINATED, _KIND, _SEEDS

# -------------------------------------------------------------------------------------------- phi^4


def transfer_log_z(shape: tuple[int, int], hopping: float, quartic: float, axis: np.ndarray) -> float:
    """log tr T^L0 over the grid's rows of L1 sites; T = exp(-V/2 - V'/2 + 2 k phi . phi')."""
    rows = np.array(list(itertools.product(axis, repeat=shape[1])))
    bonds = np.sum(rows * np.roll(rows, 1, 1), 1)
    potential = np.sum((1 - 2 * quartic) * rows**2 + quartic * rows**4, 1) - 2 * hopping * bonds
    transfer = np.exp(-0.5 * (potential[:, None] + potential[None, :]) + 2 * hopping * rows @ rows.T)
    return float(np.log(np.trace(np.linalg.matrix_power(transfer, shape[0]))))


@pytest.mark.parametrize(("shape", "n"), [((2, 2), 16), ((3, 1), 40), ((1, 3), 12), ((2, 1), 60), ((4, 1), 16)])
def test_phi4_bonds_by_transfer_matrix(shape: tuple[int, int], n: int):
    """The sum over all fields on a grid, site by site, and row by row."""
    axis = np.linspace(-3.5, 3.0, n)
    fields = np.array(list(itertools.product(axis, repeat=shape[0] * shape[1]))).reshape(-1, *shape)
    target = targets.phi4(shape, 0.23, 0.05)
    brute = special.logsumexp(np.asarray(jax.jit(jax.vmap(target.log_density))(fields)))
    np.testing.assert_allclose(brute, transfer_log_z(shape, 0.23, 0.05, axis), rtol=1e-12)


def test_phi4_symmetries():
    target = targets.phi4((4, 3))
    phi = np.random.default_rng(0).normal(size=(4, 3))
    value = target.log_density(phi)
    for image in (-phi, np.roll(phi, 1, 0), np.roll(phi, 2, 1), phi[::-1], phi[:, ::-1]):
        np.testing.assert_allclose(target.log_density(image), value, rtol=1e-12)
    np.testing.assert_allclose(targets.phi4((3, 4)).log_density(phi.T), value, rtol=1e-12)
    np.testing.assert_allclose(magnetization(jnp.asarray(phi)), phi.mean(), rtol=1e-12)
    assert int(target.mode(phi)) == int(phi.mean() > 0) == 1 - int(target.mode(-phi))
    # a constant field: two bonds a site
    np.testing.assert_allclose(
        target.log_density(np.full((4, 3), 2.0)), 12 * (4 * 0.3 * 4 - 0.956 * 4 - 0.022 * 16), rtol=1e-12
    )


# -------------------------------------------------------------------------------------- eight schools

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools_model(centred: bool):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = (
            numpyro.sample("theta", dist.Normal(mu, tau)) if centred else mu + tau * numpyro.sample("z", dist.Normal(0.0, 1.0))
        )
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


@pytest.mark.parametrize("centred", [True, False])
def test_eight_schools_is_the_model_in_numpyro(centred: bool):
    target, model = targets.eight_schools(centred=centred), from_numpyro(eight_schools_model, centred)
    x = jax.random.normal(jax.random.key(0), (20, 10)) * 3.0
    ours, theirs = jax.jit(jax.vmap(lambda x: (target.log_density(x), model.log_density(x))))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    named, expected = target.constrain(x[0]), model.constrain(x[0])
    for name in ("mu", "tau") + (("theta",) if centred else ()):
        np.testing.assert_allclose(named[name], expected[name], rtol=1e-12)
    np.testing.assert_allclose(named["theta"], x[0, 2:] if centred else x[0, 0] + jnp.exp(x[0, 1]) * x[0, 2:], rtol=1e-12)


def test_eight_schools_by_quadrature():
    """log Z and the means of mu, log tau and theta on a grid over mu and log tau, theta integrated one school at a time."""
    mu, log_tau = np.meshgrid(np.linspace(-32, 38, 176), np.linspace(-25, 14, 601), indexing="ij")
    variance = np.exp(2 * log_tau)[..., None] + ERRORS**2
    log_joint = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(0, 5).logpdf(np.exp(log_tau)) + log_tau
    log_joint += stats.norm(mu[..., None], np.sqrt(variance)).logpdf(EFFECTS).sum(-1)
    weight = np.exp(log_joint - log_joint.max())
    log_z = log_joint.max() + np.log(weight.sum() * (mu[1, 0] - mu[0, 0]) * (log_tau[0, 1] - log_tau[0, 0]))
    weight = weight / weight.sum()
    theta = mu[..., None] + np.exp(2 * log_tau)[..., None] / variance * (EFFECTS - mu[..., None])
    means = np.array([np.sum(weight * mu), np.sum(weight * log_tau), *np.sum(weight[..., None] * theta, (0, 1))])
    for centred in (True, False):
        target = targets.eight_schools(centred=centred)
        assert target.log_z == pytest.approx(log_z, abs=1e-9)
        x = jax.jit(target.sample, static_argnums=1)(jax.random.key(1), 20_000)
        sites = jax.vmap(target.constrain)(x)
        draws = np.concatenate([sites["mu"][:, None], jnp.log(sites["tau"])[:, None], sites["theta"]], 1)
        assert np.abs(z_scores(draws, means)).max() < 5


# ------------------------------------------------------------------------------------ Brownian motion


@pytest.mark.parametrize("x64", [True, False])
def test_draws_from_a_plane(x64: bool):
    """A correlated normal on coarse nodes: the interpolant adds a sixth of a squared cell to each variance, no more."""
    table = tabulate_plane(lambda x, y: -(x**2 + y**2 - x * y) / 1.5 + 7.0, np.linspace(-8, 9, 35), np.linspace(-10, 8, 61))
    assert table.log_z == pytest.approx(7.0 + np.log(2 * np.pi) + 0.5 * np.log(0.75), abs=1e-9)
    with jax.enable_x64(x64):
        draws = np.asarray(draw_plane(table, jax.random.key(0), 200_000), np.float64)
    assert np.abs(z_scores(draws, 0.0)).max() < 5
    assert np.abs(z_scores(draws**2, 1.0 + np.array([0.5, 0.3]) ** 2 / 6)).max() < 5
    assert abs(z_scores(draws.prod(1), 0.5)) < 5


OBSERVED = np.concatenate([_OBSERVED[:10], np.full(10, np.nan), _OBSERVED[10:]])


def kalman_log_evidence(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """log p(y | q, r) by the filter, for arrays of scales."""
    mean, variance, total = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
    for y in OBSERVED:
        variance = variance + q**2
        if np.isnan(y):
            continue
        spread = variance + r**2
        total = total - 0.5 * ((y - mean) ** 2 / spread + np.log(2 * np.pi * spread))
        mean, variance = mean + variance / spread * (y - mean), variance * r**2 / spread
    return total


def test_brownian_motion_given_its_scales_is_normal():
    """The integral over the 30 locations, from the peak and the Hessian of the density, is the filter's evidence."""
    target = targets.brownian_motion()
    log_scales = np.array([[-2.3, -1.9], [0.5, -3.0], [-4.0, 1.0], [0.1, 0.2]])

    @jax.jit
    @jax.vmap
    def integral(log_scales):
        def of_path(path):
            return target.log_density(jnp.concatenate([log_scales, path]))

        zero = jnp.zeros(30)
        slope, hessian = jax.grad(of_path)(zero), jax.hessian(of_path)(zero)
        peak = of_path(zero) - 0.5 * slope @ jnp.linalg.solve(hessian, slope)
        return peak + 15 * jnp.log(2 * jnp.pi) - 0.5 * jnp.linalg.slogdet(-hessian)[1]

    expected = kalman_log_evidence(*np.exp(log_scales.T)) + stats.norm(0, 2).logpdf(log_scales).sum(1)
    np.testing.assert_allclose(integral(log_scales), expected, rtol=1e-10)


def test_brownian_motion_by_quadrature():
    log_q, log_r = np.meshgrid(np.linspace(-8, 5, 261), np.linspace(-19, 8, 541), indexing="ij")
    log_joint = kalman_log_evidence(np.exp(log_q), np.exp(log_r)) + stats.norm(0, 2).logpdf([log_q, log_r]).sum(0)
    weight = np.exp(log_joint - log_joint.max())
    log_z = log_joint.max() + np.log(weight.sum() * (log_q[1, 0] - log_q[0, 0]) * (log_r[0, 1] - log_r[0, 0]))
    target = targets.brownian_motion()
    assert target.log_z == pytest.approx(log_z, abs=1e-9)
    assert target.log_z == pytest.approx(1.18775, abs=1e-5)
    weight = weight / weight.sum()
    x = np.asarray(jax.jit(target.sample, static_argnums=1)(jax.random.key(2), 20_000))
    for i, value in enumerate((log_q, log_r)):
        mean = np.sum(weight * value)
        assert abs(z_scores(x[:, i], mean)) < 5
        assert abs(z_scores((x[:, i] - mean) ** 2, np.sum(weight * (value - mean) ** 2))) < 5
    named = target.constrain(jnp.asarray(x[0]))
    np.testing.assert_allclose(named["locs"], x[0, 2:])
    np.testing.assert_allclose([named["innovation_noise_scale"], named["observation_noise_scale"]], np.exp(x[0, :2]))


# -------------------------------------------------------------------------- log-Gaussian Cox process


def test_log_gaussian_cox_is_the_model():
    """The prior and the Poisson likelihood of scipy, less what is left out; and the change of variables to whitened ones."""
    counts = np.array([[1, 0, 4], [0, 2, 0], [7, 0, 3]])
    constants = {"variance": 0.8, "length": 0.4, "mean": 2.0}
    target, whitened = (targets.log_gaussian_cox(counts, whitened=w, **constants) for w in (False, True))
    site = np.array([(i / 3, j / 3) for i in range(3) for j in range(3)])
    covariance = 0.8 * np.exp(-np.linalg.norm(site[:, None] - site[None], axis=2) / 0.4)
    left_out = np.sum(counts * np.log(1 / 9) - special.gammaln(counts + 1.0))
    z = np.random.default_rng(0).normal(size=(5, 9))
    f = 2.0 + z @ np.linalg.cholesky(covariance).T
    expected = stats.multivariate_normal(np.full(9, 2.0), covariance).logpdf(f)
    expected = expected + stats.poisson(np.exp(f) / 9).logpmf(counts.reshape(-1)).sum(1) - left_out
    np.testing.assert_allclose(jax.vmap(target.log_density)(f), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(whitened.constrain)(z), f, rtol=1e-12)
    log_determinant = 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(jax.vmap(whitened.log_density)(z), expected + log_determinant, rtol=1e-12)


def test_log_gaussian_cox_goes_on_as_its_tangent():
    target = targets.log_gaussian_cox([[3.0]], variance=1e9)
    below, above, far = (jax.grad(target.log_density)(jnp.array([f])) for f in (30 - 1e-9, 30 + 1e-9, 1000.0))
    np.testing.assert_allclose(above, below, rtol=1e-8)
    np.testing.assert_allclose(far, below, rtol=1e-8)


def test_log_gaussian_cox_simulated():
    """The counts are the documented draws, with the published constants."""
    prior = _prior(40, 1.91, 1 / 33)
    random = np.random.RandomState(0)
    f = np.log(126.0) - 1.91 / 2 + prior.factor @ random.standard_normal(1600)
    counts = random.poisson(np.exp(f) / 1600)
    np.testing.assert_array_equal(np.loadtxt(_COUNTS).reshape(-1), counts)
    target = targets.log_gaussian_cox_simulated()
    assert target.shape == (1600,) and target.log_z is None
    value, gradient = jax.jit(jax.value_and_grad(target.log_density))(f)
    log_likelihood = np.sum(counts * f - np.exp(f) / 1600)
    z = np.linalg.solve(prior.factor, f - np.log(126.0) + 1.91 / 2)
    log_prior = stats.norm.logpdf(z).sum() - np.log(np.diag(prior.factor)).sum()
    np.testing.assert_allclose(value, log_prior + log_likelihood, rtol=1e-12)
    slope = counts - np.exp(f) / 1600 - np.linalg.solve(prior.factor.T, z)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------------- logistic regression


def test_logistic_regression_is_the_model():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 3)), random.integers(0, 2, 40)
    target = targets.logistic_regression(features, labels, 2.5)
    x = random.normal(size=(6, 4)) * 2
    probability = special.expit(x[:, :1] + x[:, 1:] @ features.T)
    expected = stats.bernoulli(probability).logpmf(labels).sum(1) + stats.norm(0, 2.5).logpdf(x).sum(1)
    np.testing.assert_allclose(jax.vmap(target.log_density)(x), expected, rtol=1e-12)
    named = target.constrain(jnp.asarray(x[0]))
    np.testing.assert_allclose(np.append(named["intercept"], named["weights"]), x[0])


@pytest.mark.parametrize(
    ("name", "shape", "cases"),
    [("logistic_breast_cancer", (31,), 569), ("logistic_digits", (55,), 357), ("logistic_iris", (5,), 100)],
)
def test_logistic_regression_on_data(name: str, shape: tuple[int, ...], cases: int):
    """At x = 0 every case has probability 1/2; uphill from there the labels are explained."""
    target = getattr(targets, name)()
    assert target.shape == shape and target.log_z is None
    value, slope = jax.jit(jax.value_and_grad(target.log_density))(jnp.zeros(shape))
    np.testing.assert_allclose(value, cases * np.log(0.5) - 0.5 * shape[0] * np.log(2 * np.pi), rtol=1e-12)
    assert target.log_density(1.0 * slope / jnp.linalg.norm(slope)) > value + 0.2 * cases


def test_data_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        targets.logistic_iris()


def seeds_model(germinated: np.ndarray, total: np.ndarray, kind: np.ndarray, extract: np.ndarray):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0).expand([4]))
    tau = numpyro.sample("b_precision", dist.Gamma(0.01, 0.01))
    with numpyro.plate("plates", len(total)):
        b = numpyro.sample("c", dist.Normal(0.0, 1 / jnp.sqrt(tau)))
        eta = a[0] + a[1] * kind + a[2] * extract + a[3] * kind * extract + b
        numpyro.sample("r", dist.Binomial(total.astype(int), logits=eta), obs=germinated.astype(int))


def test_seeds_is_the_model_in_numpyro():
    target, model = targets.seeds(), from_numpyro(seeds_model, _GERMINATED, _SEEDS, _KIND, _EXTRACT)
    x = jax.random.normal(jax.random.key(0), (20, 26))
    ours, theirs = jax.jit(jax.vmap(lambda x: (target.log_density(x), model.log_density(x))))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    # the coefficients without random effects that Breslow and Clayton (1993) print
    pooled = np.array([[plates.sum() for plates in np.split(part, [5, 11, 16])] for part in (_GERMINATED, _SEEDS)])
    neither, extract, kind, both = special.logit(pooled[0] / pooled[1])
    published = [-0.558, 0.146, 1.318, -0.778]
    ours = [neither, kind - neither, extract - neither, both - kind - extract + neither]
    np.testing.assert_allclose(ours, published, atol=6e-4)


# -------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.phi4((8,)), r"got shape=\(8,\), expected two"),
        (lambda: targets.phi4((8, 0)), "expected two positive lengths"),
        (lambda: targets.phi4(quartic=0.0), "quartic=0.0"),
        (lambda: targets.logistic_regression([1.0, 2.0], [0, 1]), "one row a case"),
        (lambda: targets.logistic_regression([[1.0], [2.0]], [0]), r"got labels of shape \(1,\)"),
        (lambda: targets.logistic_regression([[1.0], [2.0]], [-1, 1]), "of 0 and 1"),
        (lambda: targets.logistic_regression([[1.0], [2.0]], [0, 1], 0.0), "prior_scale=0.0"),
        (lambda: targets.log_gaussian_cox([1, 2]), r"got counts of shape \(2,\)"),
        (lambda: targets.log_gaussian_cox([[0.5]]), "fractional"),
        (lambda: targets.log_gaussian_cox([[1]], length=0.0), "length=0.0"),
    ],
)
def test_bad_arguments_say_what_to_do(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
