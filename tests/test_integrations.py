"""Other libraries' models: log densities against their own, Jacobians against quadrature."""

import functools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer import initialize_model
from numpyro.infer.reparam import TransformReparam
from support import fit, z_scores

import tiltjax as tj
from tiltjax.integrations import from_distribution, from_numpyro
from tiltjax.types import Target

SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
N = 4000
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools(errors, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(errors)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("obs", dist.Normal(theta, errors), obs=y)


def log_integral(target: Target, low: float = -40.0, high: float = 40.0, n: int = 40_001) -> float:
    """Trapezoid rule for a target of shape (1,)."""
    x = jnp.linspace(low, high, n)
    return float(jax.nn.logsumexp(jax.jit(jax.vmap(target.log_density))(x[:, None])) + jnp.log(x[1] - x[0]))


# --------------------------------------------------------------------------------------------- NumPyro


def test_eight_schools_is_numpyros_potential():
    target = from_numpyro(eight_schools, ERRORS, y=SCHOOLS)
    assert target.shape == (10,) and target.log_z is None
    arguments = {"model_args": (ERRORS,), "model_kwargs": {"y": SCHOOLS}}
    info = initialize_model(jax.random.key(0), eight_schools, **arguments, validate_grad=False)
    flat, unravel = ravel_pytree(info.param_info.z)
    xs = jax.random.normal(jax.random.key(1), (5, flat.size))

    @jax.jit
    @jax.vmap
    def both(x):
        ours = target.log_density(x), target.constrain(x)
        return ours, (-info.potential_fn(unravel(x)), info.postprocess_fn(unravel(x)))

    (values, named), (expected_values, expected) = both(xs)
    np.testing.assert_allclose(values, expected_values, rtol=1e-12)
    assert named.keys() == expected.keys() == {"mu", "tau", "theta", "z"}
    for name, value in named.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)
    np.testing.assert_allclose(named["mu"], xs[:, 0])
    np.testing.assert_allclose(named["tau"], np.exp(xs[:, 1]))
    np.testing.assert_allclose(named["theta"], xs[:, :1] + np.exp(xs[:, 1:2]) * xs[:, 2:])
    gradients = jax.jit(jax.vmap(jax.grad(target.log_density)))(xs)
    assert gradients.shape == xs.shape and jnp.isfinite(gradients).all()


def test_dtype_follows_the_input():
    target = from_numpyro(eight_schools, ERRORS, y=SCHOOLS)
    for dtype in (jnp.float32, jnp.float64):
        value, gradient = jax.eval_shape(jax.value_and_grad(target.log_density), jnp.ones(10, dtype))
        assert value.dtype == gradient.dtype == dtype
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        target.log_density(jnp.ones((3, 10)))


@pytest.mark.float32
def test_float32_session():
    target = from_numpyro(eight_schools, ERRORS, y=SCHOOLS)
    value, gradient = jax.jit(jax.value_and_grad(target.log_density))(jnp.ones(10))
    assert value.dtype == gradient.dtype == jnp.float32 and jnp.isfinite(value)
    x = jax.eval_shape(lambda key: from_distribution(dist.Gamma(3.0, 2.0)).sample(key, 5), jax.random.key(0))
    assert x.dtype == jnp.float32


def test_jacobian_of_a_positive_site():
    """Gamma prior, Poisson counts: the evidence is a negative-binomial-like closed form."""
    counts = np.array([3, 1, 4])

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.5))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    target = from_numpyro(model, counts)
    a, b, total, n = 2.0, 1.5, counts.sum(), len(counts)
    expected = a * math.log(b) - math.lgamma(a) + math.lgamma(a + total) - (a + total) * math.log(b + n)
    expected -= sum(math.lgamma(c + 1) for c in counts)
    assert target.shape == (1,)
    assert log_integral(target) == pytest.approx(expected, abs=1e-9)
    # posterior Gamma(a + total, b + n): its mean through constrain
    x = jnp.linspace(-20.0, 5.0, 20_001)[:, None]
    weights = jax.nn.softmax(jax.vmap(target.log_density)(x))
    assert jnp.sum(weights * jax.vmap(target.constrain)(x)["rate"]) == pytest.approx((a + total) / (b + n), rel=1e-8)


def test_simplex_and_matrix_sites_are_flat():
    def model():
        numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("w", dist.Normal(jnp.zeros((2, 2)), 1).to_event(2))

    target = from_numpyro(model)
    assert target.shape == (6,)
    named = target.constrain(jnp.zeros(6))
    np.testing.assert_allclose(named["p"], 1 / 3)
    assert named["w"].shape == (2, 2)


def test_dynamic_support_reparametrization_and_improper_priors():
    def model():
        low = numpyro.sample("low", dist.Exponential(1.0))
        numpyro.sample("x", dist.Uniform(low, low + 1.0))

    x = jnp.array([0.3, -0.7])
    named = from_numpyro(model).constrain(x)
    assert named["low"] < named["x"] < named["low"] + 1

    def affine():
        numpyro.sample("a", dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(1.0, 2.0)))

    reparametrized = from_numpyro(numpyro.handlers.reparam(affine, config={"a": TransformReparam()}))
    named = reparametrized.constrain(jnp.array([0.5]))
    np.testing.assert_allclose(named["a"], 2.0)

    def improper(y):
        m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    assert log_integral(from_numpyro(improper, 0.7)) == pytest.approx(0.0, abs=1e-9)


def test_param_sites_are_held():
    def model():
        a = numpyro.param("a", lambda key: jax.random.normal(key))
        numpyro.sample("x", dist.Normal(a, 1.0))

    target = from_numpyro(model, key=jax.random.key(3))
    assert target.log_density(jnp.ones(1)) == target.log_density(jnp.ones(1))
    assert target.shape == (1,) and target.constrain(jnp.ones(1))["x"] == 1.0


def test_the_model_is_not_run_again_under_jit():
    runs = []

    def model():
        runs.append(0)
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    log_density = jax.jit(jax.vmap(from_numpyro(model).log_density))
    log_density(jnp.zeros((3, 1)))
    before = len(runs)
    log_density(jnp.ones((3, 1)))
    assert len(runs) == before


def mixture():
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.sample("x", dist.Normal(z.astype(float), 1.0))


def observed():
    numpyro.sample("x", dist.Normal(0.0, 1.0), obs=1.0)


def point():
    numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("d", dist.Delta(1.0))


def minibatch():
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("batch", 10, subsample_size=2) as i:
        numpyro.sample("y", dist.Normal(m, 1.0), obs=jnp.arange(10.0)[i])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (mixture, r"discrete latent sites \['z'\].*sum them out"),
        (observed, r"no latent site \(its sites: \['x'\]\)"),
        (point, r"\['d'\] with a Delta.*numpyro\.deterministic"),
        (minibatch, r"\['batch'\] that subsample.*leave subsample_size out"),
    ],
)
def test_models_that_are_no_density(model, message: str):
    with pytest.raises(ValueError, match=message):
        from_numpyro(model)


# -------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Normal(1.0, 2.0),
        dist.Gamma(3.0, 2.0),
        dist.Beta(2.0, 3.0),
        dist.Uniform(-1.0, 4.0),
        dist.TruncatedNormal(1.0, 1.0, low=0.0),
    ],
    ids=lambda d: type(d).__name__,
)
def test_numpyro_scalars_integrate_to_one(distribution):
    target = from_distribution(distribution)
    assert target.shape == (1,) and target.log_z == 0.0
    assert log_integral(target) == pytest.approx(0.0, abs=1e-8)

    @jax.jit
    def run(key):
        x = target.sample(key, N)
        return x, jax.vmap(jax.grad(target.log_density))(x), jax.vmap(target.constrain)(x)

    x, score, y = run(jax.random.key(0))
    assert x.shape == (N, 1) and y.shape == (N,) and distribution.support(y).all()
    for values, expected in ((score, 0.0), (x * score, -1.0), (y, distribution.mean)):
        assert jnp.abs(values.mean() - expected) < 5 * values.std() / math.sqrt(N)


@pytest.mark.slow
def test_numpyro_vectors():
    normal = dist.MultivariateNormal(jnp.ones(3), scale_tril=2 * jnp.eye(3))
    target = from_distribution(normal)
    x = target.sample(jax.random.key(0), 7)
    assert target.shape == (3,) and x.shape == (7, 3) and target.constrain is None
    np.testing.assert_allclose(target.log_density(x[0]), normal.log_prob(x[0]), rtol=1e-12)
    assert jax.eval_shape(target.log_density, x[0].astype(jnp.float32)).dtype == jnp.float32

    simplex = from_distribution(dist.Dirichlet(jnp.array([2.0, 3.0])))
    assert simplex.shape == (1,) and log_integral(simplex) == pytest.approx(0.0, abs=1e-8)
    np.testing.assert_allclose(simplex.constrain(jnp.array([0.4])).sum(), 1.0)
    assert jax.eval_shape(lambda key: simplex.sample(key, 5), jax.random.key(0)).shape == (5, 1)


def test_distrax():
    distrax = pytest.importorskip("distrax")
    normal = distrax.MultivariateNormalDiag(jnp.array([1.0, -1.0]), jnp.array([0.5, 2.0]))
    target = from_distribution(normal)
    x = np.asarray(jax.jit(lambda key: target.sample(key, N))(jax.random.key(0)))
    assert target.shape == (2,) and target.log_z == 0.0 and target.constrain is None and x.shape == (N, 2)
    np.testing.assert_allclose(target.log_density(x[0]), normal.log_prob(x[0]), rtol=1e-12)
    assert (np.abs(x.mean(0) - np.array([1.0, -1.0])) < 5 * x.std(0) / math.sqrt(N)).all()
    value, gradient = jax.eval_shape(jax.value_and_grad(target.log_density), jnp.zeros(2, jnp.float32))
    assert value.dtype == gradient.dtype == jnp.float32

    scalar = from_distribution(distrax.Normal(1.0, 2.0))
    assert scalar.shape == (1,) and scalar.constrain(jnp.array([0.5])) == 0.5

    for bounded in (distrax.Gamma(3.0, 2.0), distrax.Uniform(0.0, 1.0)):
        with pytest.raises(ValueError, match="numpyro distribution of that name"):
            from_distribution(bounded)
    with pytest.raises(ValueError, match="discrete distribution Categorical"):
        from_distribution(distrax.Categorical(logits=jnp.zeros(3)))
    with pytest.raises(ValueError, match="batch shape"):
        from_distribution(distrax.Normal(jnp.zeros(3), 1.0))


class Minimal:
    """The least that counts as a distribution."""

    def log_prob(self, y):
        return -0.5 * jnp.sum(y**2) - math.log(2 * math.pi)


class WithKey(Minimal):
    event_shape = (2,)

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, 2))


def test_duck_types():
    target = from_distribution(Minimal(), shape=(2,))
    assert target.sample is None and target.log_density(jnp.zeros(2)) == -math.log(2 * math.pi)
    assert from_distribution(WithKey()).sample(jax.random.key(0), 5).shape == (5, 2)
    with pytest.raises(ValueError, match=r"pass shape=\(d,\)"):
        from_distribution(Minimal())
    with pytest.raises(TypeError, match="function without log_prob"):
        from_distribution(lambda x: x)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (dist.Poisson(3.0), "discrete distribution Poisson"),
        (dist.Normal(jnp.zeros(3), 1.0), r"batch shape \(3,\).*to_event"),
        (dist.ImproperUniform(dist.constraints.real, (), ()), "expected a distribution that normalizes"),
    ],
)
def test_distributions_that_are_no_target(distribution, message: str):
    with pytest.raises(ValueError, match=message):
        from_distribution(distribution)


# ------------------------------------------------------------------------------------------- imports


def test_nothing_heavy_is_imported_before_it_is_called():
    code = (
        "import sys, tiltjax.integrations as i, tiltjax.targets; i.from_numpyro, i.from_distribution; "
        "print([m for m in ('numpyro', 'distrax', 'tensorflow_probability') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------- a family of posteriors

DESIGN = np.asarray([[1.0, 0.5], [-0.4, 1.2], [0.7, -0.9]])
NOISE = 0.6


def regression(design, y=None):
    theta = numpyro.sample("theta", dist.Normal(jnp.asarray([0.5, -1.0]), 2.0).to_event(1))
    numpyro.sample("y", dist.Normal(design @ theta, NOISE).to_event(1), obs=y)


def exact_posterior(y):
    """Mean, covariance and log evidence of the linear model."""
    prior_mean, prior = np.asarray([0.5, -1.0]), 4.0 * np.eye(2)
    marginal = DESIGN @ prior @ DESIGN.T + NOISE**2 * np.eye(3)
    gain = prior @ DESIGN.T @ np.linalg.inv(marginal)
    off = y - DESIGN @ prior_mean
    evidence = -0.5 * off @ np.linalg.solve(marginal, off) - 0.5 * np.linalg.slogdet(2 * np.pi * marginal)[1]
    return prior_mean + gain @ off, prior - gain @ DESIGN @ prior, evidence


@pytest.mark.slow
def test_one_sampler_draws_of_the_posterior_of_every_data_set():
    """A linear Gaussian model: for each of four data sets the evidence, the moments, and an ESS that is high."""
    family = from_numpyro(regression, DESIGN, observed="y")
    sampler = fit(
        jax.random.key(0),
        family,
        network=functools.partial(tj.networks.mlp, width=48, depth=2),
        num_updates=1500,
        learning_rate=5e-3,
        sampling_steps=50,
        progress=False,
    )
    y = jax.vmap(family.many.draw)(jax.random.split(jax.random.key(9), 4))
    draws = sampler.sample(jax.random.key(1), 4000, context=y)
    for one, x, log_weight in zip(np.asarray(y), np.asarray(draws.x), np.asarray(draws.log_weight), strict=True):
        mean, covariance, evidence = exact_posterior(one)
        w = np.exp(log_weight - evidence)
        assert w.sum() ** 2 / (len(w) * (w**2).sum()) > 0.7
        assert abs(z_scores(w, 1.0)) < 5
        assert np.abs(z_scores(w[:, None] * (x - mean), 0.0)).max() < 5
        assert np.abs(z_scores(w[:, None] * ((x - mean) ** 2 - np.diagonal(covariance)), 0.0)).max() < 5


def test_pairs_of_the_prior_predictive_are_draws_of_the_posterior_of_their_data():
    """E over pairs of the posterior's score is 0, and the problem of a context is the joint density of its data."""
    family = from_numpyro(regression, DESIGN, observed="y")
    y, x = jax.jit(jax.vmap(family.many.pairs))(jax.random.split(jax.random.key(2), 4000))
    score = jax.jit(jax.vmap(jax.grad(lambda x, y: posterior(family, x, y))))(x, y)
    assert np.abs(z_scores(np.asarray(score), 0.0)).max() < 5
    one, mean = y[0], exact_posterior(np.asarray(y[0]))
    problem = family.at((), one)
    natural = problem.encode(jnp.asarray(mean[0]))
    log_joint = posterior(family, natural, one)
    density = -0.5 * np.log(np.linalg.det(2 * np.pi * mean[1])) + mean[2]
    stretch = jax.jacobian(problem.decode)(natural)
    assert float(log_joint - jnp.linalg.slogdet(stretch)[1]) == pytest.approx(density, rel=1e-6)
    assert problem.target.constrain(problem.decode(natural))["theta"].shape == (2,)


def posterior(family, x, y):
    problem = family.at((), y)
    return problem.reward(x) + problem.process.log_density(x)


def test_a_model_without_the_observed_site_is_refused():
    with pytest.raises(ValueError, match=r"observed must name a site .* got 'z', and the model draws \['theta', 'y'\]"):
        from_numpyro(lambda design, z=None: regression(design), DESIGN, observed="z")
