"""Bases known only by a velocity, score, noise or denoiser: conversions, the law of the steps, weights, closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import FAMILIES, draw, gaussian, perturbed, slow, small, z_scores

from tiltjax import exact, paths, problems, processes, sde, weights

SCALE = 1.5
BASE = exact.Mixture(jnp.asarray([[-0.9, 0.3], [0.8, -0.4]]), 0.3, jnp.asarray([0.4, 0.6]))
TARGET = exact.Mixture(jnp.asarray([[-0.7, 0.1], [1.0, -0.8]]), jnp.asarray([0.2, 0.15]), jnp.asarray([0.7, 0.3]))
KEY = jax.random.key(0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["velocity", "score", "noise", "denoiser"])
def test_any_parametrization_gives_the_others(family, name):
    """Each is computed by hand from the mixture's score; a process made from one has the velocity and score of all."""
    nominal = gaussian(family, (2,), SCALE)
    path, known = nominal.frame.path, exact.mixture_base(nominal, BASE)

    def log_marginal(t, x):  # p_t of the mixture, from the definition of the path
        mean, variance = path.alpha(t) * BASE.means, jnp.square(path.alpha(t)) * BASE.variance + jnp.square(path.beta(t))
        parts = -0.5 * jnp.sum(jnp.square(x[None] - mean), -1) / variance - jnp.log(variance)
        return jax.nn.logsumexp(parts + jnp.log(BASE.weights))

    score = jax.grad(log_marginal, argnums=1)
    model = {
        "score": score,
        "noise": lambda t, x: -path.beta(t) * score(t, x),
        "velocity": lambda t, x: path.kappa(t) * x + path.eta(t) * score(t, x),
        "denoiser": lambda t, x: (x + jnp.square(path.beta(t)) * score(t, x)) / path.alpha(t),
    }[name]
    process = processes.pretrained(path, (2,), scale=nominal.frame.scale, **{name: model})

    @jax.jit
    def pairs(t, x):
        velocity = path.kappa(t) * x + path.eta(t) * score(t, x)
        found = processes.score(process, t, x), processes.velocity(process, t, x), process.g_base(t, x)
        return found, (score(t, x), velocity, known.g_base(t, x))

    for t in map(jnp.asarray, (0.05, 0.4, 0.9, 0.97)):
        for a, b in zip(*pairs(t, jnp.asarray([0.4, -1.1])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_the_gaussian_itself_makes_its_exact_steps(family):
    nominal = gaussian(family, (2,), SCALE)
    process = processes.pretrained(
        nominal.frame.path, (2,), denoiser=lambda t, x: nominal.frame.response(t) * x, scale=nominal.frame.scale
    )
    x, t, t1 = jnp.asarray([0.4, -1.1]), jnp.asarray(0.3), jnp.asarray(0.7)
    for a, b in zip(process.transition(t, t1, x), nominal.transition(t, t1, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("family", ["linear", slow("geometric")])
def test_the_steps_end_in_the_base_with_weak_order_one(family):
    """The density of the steps, pushed through a grid of states by quadrature: the error of E[x^2] halves with the step."""
    nominal = gaussian(family, (1,), SCALE)
    base = exact.Mixture(jnp.asarray([[-0.9], [0.8]]), 0.3, jnp.asarray([0.4, 0.6]))
    process = exact.mixture_base(nominal, base)
    second = 0.3 + 0.4 * 0.9**2 + 0.6 * 0.8**2
    grid = np.linspace(-7, 7, 1401)

    @functools.partial(jax.jit, static_argnums=0)
    def error(num_steps):
        # E[f(X_1) | X_k = x] backwards, in m = Phi x, where every step is one of variance R - R'
        times = paths.log_snr(nominal.frame, num_steps, 0.05)
        value = jnp.asarray(grid**2)

        def back(value, k):
            response = nominal.frame.response(times[k])
            mean, std = jax.vmap(lambda m: process.transition(times[k], times[k + 1], m / response))(grid[:, None])
            after = nominal.frame.response(times[k + 1])
            nodes, mass = np.polynomial.hermite_e.hermegauss(40)
            points = after * (mean + std[0] * nodes[None])
            return jnp.interp(points.ravel(), grid, value).reshape(points.shape) @ (mass / mass.sum()), None

        value, _ = jax.lax.scan(back, value, jnp.arange(num_steps - 1, 0, -1))
        # the first step starts from X_0 ~ N(0, alpha_0^2 s^2 + beta_0^2) or from X_0 = 0
        _, std = process.transition(times[0], times[1], jnp.zeros(1))
        nodes, mass = np.polynomial.hermite_e.hermegauss(60)
        starts = jnp.sqrt(
            jnp.square(nominal.frame.path.alpha(0.0)) * nominal.frame.scale**2 + jnp.square(nominal.frame.path.beta(0.0))
        )
        means = jax.vmap(lambda z: process.transition(times[0], times[1], starts * z)[0])(nodes[:, None])
        points = nominal.frame.response(times[1]) * (means + std * nodes[None])
        inner = jnp.interp(points.ravel(), grid, value).reshape(points.shape) @ (mass / mass.sum())
        return jnp.sum(inner * mass) / mass.sum() - second

    coarse, fine = float(error(40)), float(error(80))
    assert abs(fine) < 0.03
    assert 1.6 < coarse / fine < 2.5


def tilt(family="linear"):
    return exact.mixture_tilt(gaussian(family, (2,), SCALE), BASE, TARGET)


@pytest.mark.parametrize("family", [slow("vp"), "geometric"])
def test_weights_of_any_control_tilt_the_base_of_the_grid(family):
    """E[w] under a random network equals E[exp r] under no control on the same grid of 12 steps."""
    problem = tilt(family).problem
    times = paths.log_snr(problem.frame, 12, problem.resolution)
    net = small(problem)
    params = perturbed(net.init(KEY), jax.random.key(1), 0.15)
    run = jax.jit(lambda control, key: jnp.exp(draw(problem, control, times, key, 20_000).log_weight), static_argnums=0)
    free = np.asarray(run(lambda t, x: jnp.zeros_like(x), jax.random.key(2)))
    steered = np.asarray(run(lambda t, x: net.apply(params, t, x), jax.random.key(3)))
    error = np.hypot(free.std() / np.sqrt(free.size), steered.std() / np.sqrt(steered.size))
    assert abs(free.mean() - steered.mean()) < 5 * error
    assert np.std(np.log(steered)) > 0.1  # the control did something


@pytest.mark.parametrize("family", [slow("trigonometric"), "geometric"])
def test_at_the_exact_control_the_spread_of_the_weights_shrinks_with_the_step(family):
    truth = tilt(family)

    @jax.jit
    def spread(times):
        log_weight = draw(truth.problem, truth.control, times, KEY, 1000).log_weight
        return jnp.std(log_weight), jnp.mean(log_weight)

    (coarse, _), (fine, mean) = (spread(paths.log_snr(truth.problem.frame, n, 0.05)) for n in (30, 120))
    assert fine < 0.3 and 1.5 < coarse / fine < 3.0  # as the root of the step
    assert abs(mean) < 0.1


def test_relative_crooks_is_girsanov_on_a_base_without_density():
    problem = tilt().problem
    net = small(problem)
    params = perturbed(net.init(KEY), jax.random.key(1), 0.2)

    @jax.jit
    def run(key):
        path = sde.simulate_path(problem.process, lambda t, x: net.apply(params, t, x), paths.uniform(9), key)
        return path, [form(problem.process, problem.reward, path) for form in (weights.girsanov, weights.crooks_relative)]

    path, (a, b) = run(KEY)
    assert float(b) == pytest.approx(float(a), rel=1e-8)
    with pytest.raises(ValueError, match="needs a Gaussian process; got one known by"):
        weights.crooks_full(problem.process, problem.reward, path)


def test_the_closed_form_tilts_the_base_into_the_target():
    """Under u* the end points have the target's moments."""
    truth = tilt("trigonometric")
    times = paths.log_snr(truth.problem.frame, 150, 0.05)
    x = np.asarray(jax.jit(lambda k: draw(truth.problem, truth.control, times, k, 4000).path.x[:, -1])(KEY))
    mean = np.asarray(TARGET.weights) @ np.asarray(TARGET.means)
    assert np.abs(z_scores(x, mean)).max() < 5
    assert abs(z_scores((x[:, 0] > 0.1).astype(float), 0.3 * 0.978 + 0.7 * 0.0368)) < 5  # each mode's Gaussian tail


@pytest.mark.parametrize(
    "given",
    [{}, {"score": lambda t, x: x, "noise": lambda t, x: x}],
    ids=["none", "two"],
)
def test_exactly_one_model_is_asked_for(given):
    with pytest.raises(ValueError, match="exactly one of velocity, score, noise, denoiser; got"):
        processes.pretrained(paths.linear(), (2,), **given)


def test_a_model_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"velocity\(t, x\) must return the shape of the particle, \(2,\); got \(\)"):
        processes.pretrained(paths.linear(), (2,), velocity=lambda t, x: jnp.sum(x))
    with pytest.raises(ValueError, match=r"score\(t, x\) failed on one particle of shape \(2,\)"):
        processes.pretrained(paths.linear(), (2,), score=lambda t, x: x @ jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="needs a Gaussian process"):
        problems.sampling(problems.Target(lambda x: -jnp.sum(x), (2,)), tilt().problem.process)
