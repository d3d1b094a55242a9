"""Gaussian reference processes: transitions against Bayes' rule, the named special cases, one process on all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import FAMILIES, gaussian

from tiltjax import frames, paths, processes, sde

SCALE = 1.7
TIMES = [0.0, 0.05, 0.3, 0.62, 0.9, 0.999, 1.0]


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def process(name):
    return gaussian(name, (), SCALE)


def variance(process, t):
    return float(process.frame.path.alpha(t) ** 2 * process.frame.scale**2 + process.frame.path.beta(t) ** 2)


def affine(kernel, t, t1):
    """(coefficient, variance) of a kernel whose mean is linear in x."""
    mean, std = kernel(t, t1, jnp.ones(()))
    return float(mean), float(std) ** 2


# ------------------------------------------------------------------------------------------- exact kernels


def test_transitions_compose(process):
    for i, s in enumerate(TIMES):
        for j, t in enumerate(TIMES[i + 1 :], i + 1):
            for u in TIMES[j + 1 :]:
                (a, v), (b, w) = affine(process.transition, s, t), affine(process.transition, t, u)
                np.testing.assert_allclose(affine(process.transition, s, u), (a * b, b**2 * v + w), rtol=1e-9)


def test_marginals_are_those_of_the_path(process):
    for i, s in enumerate(TIMES):
        for t in TIMES[i + 1 :]:
            a, v = affine(process.transition, s, t)
            assert a**2 * variance(process, s) + v == pytest.approx(variance(process, t), rel=1e-10)
    start = jax.vmap(process.initial)(jax.random.split(jax.random.key(0), 20_000))
    expected = variance(process, 0.0)
    assert abs(np.var(start) - expected) <= 5 * expected * np.sqrt(2 / 20_000)
    assert variance(process, 1.0) == pytest.approx(SCALE**2)


def test_reverse_is_bayes_rule_of_transition(process):
    for i, s in enumerate(TIMES):
        for t in TIMES[i + 1 :]:
            a, v = affine(process.transition, s, t)
            prior = variance(process, s)
            after = prior * v / (a**2 * prior + v)
            coefficient, found = affine(process.reverse, s, t)
            assert found == pytest.approx(after, rel=1e-9, abs=1e-14)
            assert coefficient == pytest.approx(after * a / v, rel=1e-9, abs=1e-14)


def test_response_and_residual_are_the_last_transition(process):
    for t in TIMES[1:-1]:
        a, v = affine(process.transition, t, 1.0)
        assert (float(process.frame.response(t)), float(process.frame.residual(t))) == pytest.approx((a, v), rel=1e-10)


def test_noise_is_the_noising_kernel(process):
    """X_t | X_1 of `noise` and of `reverse`: the same coefficient and variance."""
    for t in TIMES[1:-1]:
        coefficient, v = affine(process.reverse, t, 1.0)
        zero, one = jnp.zeros(()), jnp.ones(())
        assert float(frames.noised(process.frame, t, one, zero)) == pytest.approx(coefficient, rel=1e-12)
        assert float(frames.noised(process.frame, t, zero, one)) ** 2 == pytest.approx(v, rel=1e-10)


# ------------------------------------------------------------------------------------------------- drifts


def test_drifts_score_and_velocity(process):
    x = jnp.asarray(1.3)
    for t in (0.05, 0.3, 0.62, 0.9, 0.999):
        sigma2 = float(frames.diffusion(process.frame, t)) ** 2
        score = float(processes.score(process, t, x))
        assert score == pytest.approx(-1.3 / variance(process, t), rel=1e-10)
        forward, backward = float(processes.drift(process, t, x)), float(frames.backward_drift(process.frame, t, x))
        assert forward - backward == pytest.approx(sigma2 * score, rel=1e-9)
        assert (forward + backward) / 2 == pytest.approx(float(processes.velocity(process, t, x)), rel=1e-9, abs=1e-12)
        # the probability flow of a Gaussian base scales x with its standard deviation
        log_sd = jax.grad(
            lambda t: 0.5 * jnp.log(process.frame.path.alpha(t) ** 2 * SCALE**2 + process.frame.path.beta(t) ** 2)
        )
        assert float(processes.velocity(process, t, x)) == pytest.approx(1.3 * float(log_sd(t)), rel=1e-8, abs=1e-10)


def test_short_transitions_have_the_drift_and_diffusion(process):
    x, dt = jnp.asarray(1.3), 1e-6
    for t in (0.05, 0.3, 0.62, 0.9):
        mean, std = process.transition(t, t + dt, x)
        assert float(mean - x) / dt == pytest.approx(float(processes.drift(process, t, x)), rel=1e-3, abs=1e-5)
        assert float(std**2) / dt == pytest.approx(float(frames.diffusion(process.frame, t)) ** 2, rel=1e-3)
        before, back = process.reverse(t, t + dt, x)
        assert float(x - before) / dt == pytest.approx(
            float(frames.backward_drift(process.frame, t + dt, x)), rel=1e-3, abs=1e-5
        )
        assert float(back**2) / dt == pytest.approx(float(frames.diffusion(process.frame, t)) ** 2, rel=1e-3)


def test_gain_is_sigma_phi_and_the_clock_counts_residual_variance(process):
    for t in (0.05, 0.3, 0.62, 0.9):
        assert float(process.frame.gain(t)) == pytest.approx(
            float(frames.diffusion(process.frame, t) * process.frame.response(t)), rel=1e-9
        )
        fall = -float(jax.grad(process.frame.residual)(t))
        assert float(process.frame.gain(t)) ** 2 == pytest.approx(fall, rel=1e-9)
    for t, t1 in itertools.pairwise(TIMES):
        fall = float(process.frame.residual(t) - process.frame.residual(t1))
        assert float(process.clock(t, t1) * process.frame.gain(t) ** 2) == pytest.approx(fall, rel=1e-9)


def test_euler_steps_have_the_drifts_and_start_one_step_late(process):
    euler, x = processes.euler(process), jnp.asarray(1.3)
    for t, t1, at in ((0.3, 0.31, 0.3), (0.0, 0.02, 0.02)):
        dt = t1 - t
        mean, std = euler.transition(t, t1, x)
        assert float(mean) == pytest.approx(float(x + dt * processes.drift(process, at, x)), rel=1e-12)
        assert float(std) == pytest.approx(float(frames.diffusion(process.frame, at)) * np.sqrt(dt), rel=1e-12)
        before, back = euler.reverse(t, t1, x)
        assert float(before) == pytest.approx(float(x - dt * frames.backward_drift(process.frame, at, x)), rel=1e-12)
        assert float(back) == pytest.approx(float(std), rel=1e-12)
        assert float(euler.clock(t, t1)) == pytest.approx(dt)


# --------------------------------------------------------------------------------------------- named cases


def test_pis_is_the_brownian_case():
    process = processes.gaussian(paths.brownian(2.0), ())
    x = jnp.asarray(0.7)
    for t in TIMES:
        assert float(process.frame.response(t)) == pytest.approx(1.0)
        assert float(processes.drift(process, t, x)) == pytest.approx(0.0, abs=1e-12)
        assert float(frames.diffusion(process.frame, t)) == pytest.approx(2.0)
        assert float(process.initial(jax.random.key(0))) == 0.0
    assert affine(process.transition, 0.2, 0.7) == pytest.approx((1.0, 4.0 * 0.5))


def test_ou_is_the_variance_preserving_case():
    """DDS, eq. 5: with s = 1 the base is stationary, and a step is exp(-int rate / 2) x + sqrt(1 - exp(-int rate)) xi."""
    process = processes.gaussian(paths.vp(0.1, 20.0), (), 1.0)
    for t, t1 in ((0.0, 0.1), (0.4, 0.9), (0.9, 1.0)):
        area = np.trapezoid(20.0 - 19.9 * np.linspace(t, t1, 1001), np.linspace(t, t1, 1001))
        assert affine(process.transition, t, t1) == pytest.approx((np.exp(-area / 2), 1 - np.exp(-area)), rel=1e-9)
        assert variance(process, t) == pytest.approx(1.0)
        assert float(processes.drift(process, t, jnp.ones(()))) == pytest.approx(-(20.0 - 19.9 * t) / 2, rel=1e-9)


def test_flow_matching_prior_is_the_linear_case():
    """v(x, t) = E[X_1 - X_0 | X_t = x], by regression on the Gaussian pair."""
    process = processes.gaussian(paths.linear(), (), SCALE)
    for t in (0.1, 0.5, 0.9):
        slope = (t * SCALE**2 - (1 - t)) / (t**2 * SCALE**2 + (1 - t) ** 2)
        assert float(processes.velocity(process, t, jnp.ones(()))) == pytest.approx(slope, rel=1e-10)
        assert float(process.frame.response(t)) == pytest.approx(t * SCALE**2 / (t**2 * SCALE**2 + (1 - t) ** 2), rel=1e-10)


def test_one_process_on_all_paths():
    """On grids of equal residual variance, the same noise and g give the same m_k = Phi_k X_k and the same weight."""

    def run(name):
        process = gaussian(name, (2,), SCALE)
        times = paths.log_snr(process.frame, 12, 1e-2)
        x = jnp.zeros(2) if name == "geometric" else jnp.asarray([0.4, -1.1])

        def control(t, x):
            m = process.frame.response(t) * x
            return process.frame.gain(t) * jnp.sin(m + process.frame.residual(t))

        xi = jax.random.normal(jax.random.key(0), (12, 2))
        path = sde.simulate_path(process, control, times, jax.random.key(1), x0=x, xi=xi)
        end = sde.simulate(process, control, times, jax.random.key(1), x0=x, xi=xi)
        m = jax.vmap(lambda t, x: process.frame.response(t) * x)(times, path.x)
        return m, end.log_ratio

    expected = jax.jit(lambda: run("geometric"))()
    for name in ("linear", "trigonometric"):
        for found, value in zip(jax.jit(lambda name=name: run(name))(), expected, strict=True):
            np.testing.assert_allclose(found, value, atol=1e-6)


# ------------------------------------------------------------------------------------------------ densities


def test_log_density_integrates_to_one():
    process = gaussian("linear", (2,), 0.6)
    x = jnp.linspace(-6.0, 6.0, 301)
    grid = jnp.stack(jnp.meshgrid(x, x), -1).reshape(-1, 2)
    log_mass = jax.nn.logsumexp(jax.vmap(process.log_density)(grid)) + 2 * jnp.log(x[1] - x[0])
    assert float(log_mass) == pytest.approx(0.0, abs=1e-10)
    np.testing.assert_allclose(jax.vmap(jax.grad(process.log_density))(grid[:5]), -grid[:5] / 0.36, rtol=1e-12)


@pytest.mark.float32
def test_float32_in_float32_out(process):
    t, x = jnp.asarray(0.3), jnp.ones(())
    for value in (
        processes.drift(process, t, x),
        processes.score(process, t, x),
        *process.transition(t, t + 0.1, x),
        process.frame.gain(t),
    ):
        assert value.dtype == jnp.float32 and jnp.isfinite(value)


@pytest.mark.parametrize("name", ["linear", "vp"])
def test_the_velocity_has_its_limit_at_the_start(name):
    """d/dt log sd of X_t is smooth at t = 0, where kappa is not finite: no half of it there."""
    process, x = gaussian(name, (2,), 1.5), jnp.asarray([0.6, -1.0])
    at = [processes.velocity(process, jnp.asarray(t), x) for t in (0.0, 1e-4)]
    np.testing.assert_allclose(*at, rtol=2e-3)
