"""Annealed problems: unbiased weights, closed forms of the drift, both kinds of base, both forms of the simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, slow, z_scores

from tiltjax import annealing, dynamics, exact, frames, paths, problems, processes

SCALE = 1.3
KEY = jax.random.key(0)
BASE = exact.Mixture(jnp.asarray([[-0.9, 0.3], [0.8, -0.4]]), 0.4, jnp.asarray([0.4, 0.6]))
TARGET = exact.Mixture(jnp.asarray([[-0.7, 0.1], [1.0, -0.8]]), 0.3, jnp.asarray([0.7, 0.3]))
LOG_Z = 0.7
NOISE = lambda t: 0.9 + 0.4 * jnp.sin(3 * t)  # noqa: E731


@functools.cache
def build(base, tilt="scaled"):
    nominal = gaussian("linear", (2,), SCALE)
    truth = exact.mixture_target(nominal, *TARGET) if base == "gaussian" else exact.mixture_tilt(nominal, BASE, TARGET)
    reward = lambda x: truth.problem.reward(x) + LOG_Z  # noqa: E731
    problem = truth.problem._replace(reward=reward)
    bend = lambda t: t**2 * (3 - 2 * t)  # noqa: E731
    tilts = {
        "scaled": annealing.scaled(reward, bend),
        "denoised": annealing.denoised(problem.process, reward, bend),
        "user's": lambda t, x: t * reward(x) + jnp.sin(np.pi * t) * x[0],
    }
    return problems.annealed(problem, tilts[tilt], NOISE)


def wild(t, x):
    """A drift that nobody trained, of varying divergence."""
    return 0.6 * jnp.sin(2 * x[::-1] + t) + 0.4 * jnp.cos(2 * x) - 0.2 * x


def draws(problem, control, times, key, n):
    return jax.jit(lambda key: jax.vmap(lambda k: dynamics.simulate(problem, control, times, k))(jax.random.split(key, n)))(key)


@pytest.mark.parametrize("num_steps", [3, 25])
@pytest.mark.parametrize("tilt", ["scaled", "user's"])
def test_full_crooks_is_unbiased_at_any_number_of_steps(num_steps, tilt):
    problem = build("gaussian", tilt)
    w = np.exp(draws(problem, wild, paths.uniform(num_steps), jax.random.key(num_steps), 20_000).log_weight)
    assert w.std() > 0.3
    assert abs(z_scores(w, np.exp(LOG_Z))) < 5


@pytest.mark.parametrize("tilt", [slow("scaled"), slow("denoised"), "user's"])
def test_relative_crooks_needs_no_density_and_is_exact_as_the_step_goes_to_zero(tilt):
    """The mean of the target's first coordinate too: the weight is right for every function."""
    problem = build("pretrained", tilt)
    out = draws(problem, wild, paths.power(300, 1.5), KEY, 3000)
    w = np.exp(np.asarray(out.log_weight))
    assert abs(z_scores(w, np.exp(LOG_Z))) < 5
    mean = np.asarray(TARGET.weights) @ np.asarray(TARGET.means)
    assert np.abs(z_scores(w[:, None] * (np.asarray(out.x) - mean), 0.0)).max() < 5


@pytest.mark.parametrize("base", ["gaussian", "pretrained"])
def test_walkers_stored_paths_and_diffrax_are_one_simulation(base):
    problem, times = build(base), paths.uniform(9)

    @jax.jit
    def run(key):
        path = dynamics.simulate_path(problem, wild, times, key)
        return dynamics.simulate(problem, wild, times, key), path, dynamics.log_weight(problem, wild, path)

    sample, path, log_weight = run(KEY)
    np.testing.assert_allclose(path.x[-1], sample.x, rtol=1e-9)
    np.testing.assert_allclose(log_weight, sample.log_weight, rtol=1e-8)


@pytest.mark.parametrize("base", ["gaussian", slow("pretrained")])
def test_a_path_weighs_the_same_under_any_control_that_could_have_drawn_it(base):
    """log w of a path drawn by one drift, under another: from the two Gaussian kernels, written out."""
    problem, times = build(base), paths.uniform(4)
    path = jax.jit(lambda key: dynamics.simulate_path(problem, wild, times, key))(KEY)
    other = lambda t, x: 0.3 * x + t  # noqa: E731
    total = 0.0

    def tilted(t, x):  # r_t, the weight of a walker that starts there
        return problem.dynamics.start(other, t, x).log_weight

    def log_normal(x, mean, variance):
        return -0.5 * jnp.sum((x - mean) ** 2) / variance - jnp.log(2 * jnp.pi * variance)

    for t, t1, x, x1 in zip(times[:-1], times[1:], path.x[:-1], path.x[1:], strict=True):
        half, dt = 0.5 * NOISE(0.5 * (t + t1)) ** 2, t1 - t
        for tilts, sign in ((1.0, 1.0), (0.0, 1.0 if base == "gaussian" else -1.0)):
            slope = jax.grad(tilted, argnums=1)
            ahead = (
                processes.velocity(problem.process, t, x)
                + half * (processes.score(problem.process, t, x) + tilts * slope(t, x))
                + tilts * other(t, x)
            )
            back = processes.velocity(problem.process, t1, x1) - half * (
                processes.score(problem.process, t1, x1) + tilts * slope(t1, x1)
            )
            back = back + tilts * other(t1, x1)
            if tilts or base == "pretrained":
                total += sign * log_normal(x, x1 - back * dt, 2 * half * dt)
                total -= sign * log_normal(x1, x + ahead * dt, 2 * half * dt)

    def log_rho(t, x):
        return tilted(t, x) + (frames.log_marginal(problem.frame, t, x) if base == "gaussian" else 0.0)

    total += log_rho(times[-1], path.x[-1]) - log_rho(times[0], path.x[0])
    found = jax.jit(lambda path: dynamics.log_weight(problem, other, path))(path)
    assert float(found) == pytest.approx(float(total), rel=1e-9)


def moving_gaussian():
    """A base N(0, 1) on the static path and the tilt r_t = t a.x: rho_t = N(t a, 1), and g = a moves it without any work."""
    a = jnp.asarray([0.8, -0.5])
    process = processes.gaussian(paths.trigonometric(), (2,), 1.0)
    problem = problems.tilt(process, lambda x: jnp.sum(a * x))
    return problems.annealed(problem, noise=lambda t: 0.5 + t), lambda t, x: a, 0.5 * jnp.sum(a**2)


def test_the_exact_drift_does_no_random_work():
    problem, drift, log_z = moving_gaussian()
    spread = []
    for n in (20, 80):
        log_weight = draws(problem, drift, paths.uniform(n), KEY, 500).log_weight
        spread.append(float(jnp.std(log_weight)))
        assert abs(float(jnp.mean(log_weight)) - float(log_z)) < 0.05
    assert spread[1] < 0.05 and 1.5 < spread[0] / spread[1] < 5
    idle = draws(problem, lambda t, x: jnp.zeros_like(x), paths.uniform(80), KEY, 500).log_weight
    assert float(jnp.std(idle)) > 0.3


def test_backward_paths_obey_crooks():
    """From draws of the target: E[1/w] = 1/Z, whatever the drift; and the forward and backward work cross at log Z."""
    problem, _, log_z = moving_gaussian()
    times = paths.uniform(15)
    drift = lambda t, x: 0.3 * jnp.cos(x) + t  # noqa: E731

    def one(key):
        key_x, key = jax.random.split(key)
        x = jnp.asarray([0.8, -0.5]) + jax.random.normal(key_x, (2,))
        path = dynamics.simulate_backward(problem, drift, times, key, x)
        return dynamics.log_weight(problem, drift, path), path

    log_weight, path = jax.jit(jax.vmap(one))(jax.random.split(KEY, 10_000))
    assert abs(z_scores(np.exp(-np.asarray(log_weight)), np.exp(-float(log_z)))) < 5
    # the stored normals make the same move forwards
    path = jax.tree.map(lambda leaf: leaf[:10], path)
    again = jax.jit(jax.vmap(lambda p: dynamics.simulate_path(problem, drift, times, KEY, x0=p.x[0], xi=p.noise).x))(path)
    np.testing.assert_allclose(again, path.x, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tilt": lambda t, x: t * jnp.sum(x)}, "ends in the reward"),
        ({"tilt": lambda t, x: x[0] * (1 - t) + t * TILT.reward(x)}, "starts constant"),
        ({"noise": 0.0}, "noise is sigma_t of the dynamics and must be positive"),
    ],
)
def test_what_cannot_be_annealed_says_so(change, message):
    with pytest.raises(ValueError, match=message):
        problems.annealed(TILT, **change)


TILT = problems.tilt(processes.gaussian(paths.linear(), (2,), 1.0), lambda x: -jnp.sum(x**4))


def test_a_start_at_a_point_and_a_second_annealing_are_refused():
    point = problems.tilt(processes.gaussian(paths.brownian(), (2,)), lambda x: -jnp.sum(x**4))
    with pytest.raises(ValueError, match=r"starts from a point.*paths\.trigonometric"):
        problems.annealed(point)
    with pytest.raises(ValueError, match=r"got an annealed problem.*pass the problem that was annealed"):
        problems.annealed(problems.annealed(TILT))
