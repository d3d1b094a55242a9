"""Simulation against a short scan on the same noise, adjoints against jax.grad, orders of convergence."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import FAMILIES, driven, gaussian, slow, z_scores

from tiltjax import exact, frames, paths, processes, sde, weights

SCALE = 1.5
N = 9


def control(process):
    """A control that is nothing special: of time and state, not linear."""

    def u(t, x):
        m = process.frame.response(t) * x
        return process.frame.gain(t) * (jnp.sin(2 * m) + process.frame.residual(t) * m[::-1] - 0.3)

    return u


def nonlinear():
    """dX = b dt + sigma dB with b(t, x) = -x - (1 + t) sin(x) x_reversed, by Euler steps: a base of no known density."""
    base = gaussian("geometric", (3,), SCALE)
    process = driven(base, lambda t, x: -x - (1 + t) * jnp.sin(x) * x[::-1])
    return process._replace(initial=lambda key: jax.random.normal(key, (3,)))


def exact_scan(process, u, times, x0, xi):
    """In m = Phi x: m' = m + (R - R') g + sqrt(R - R') xi, g = u / gain; log dP_base/dP_u = -sum g.dB + |g|^2 dR / 2."""
    s2 = process.frame.scale**2
    alpha, beta = jax.vmap(process.frame.path.alpha)(times), jax.vmap(process.frame.path.beta)(times)
    total = alpha**2 * s2 + beta**2
    moving = total > 0  # on a Brownian path alpha and beta vanish at t = 0
    residual = jnp.where(moving, s2 * beta**2 / jnp.where(moving, total, 1.0), s2)
    phi = jnp.where(moving, alpha * s2 / jnp.where(moving, total, 1.0), 1.0)
    fall = -jnp.diff(residual)

    def step(carry, k):
        m, log_ratio = carry
        x = jnp.where(phi[k] > 0, m / jnp.where(phi[k] > 0, phi[k], 1.0), x0)
        g = u(times[k], x) / process.frame.gain(times[k])
        move = fall[k] * g + jnp.sqrt(fall[k]) * xi[k]
        return (m + move, log_ratio - jnp.sum(jnp.sqrt(fall[k]) * g * xi[k] + fall[k] * g**2 / 2)), None

    return jax.lax.scan(step, (phi[0] * x0, 0.0), jnp.arange(len(times) - 1))[0]


def euler_scan(process, u, times, x0, xi):
    def step(carry, k):
        x, log_ratio = carry
        t, dt = times[k], times[k + 1] - times[k]
        at = jnp.maximum(t, dt)
        c = jnp.sqrt(dt) * u(t, x)
        x = x + processes.drift(process, at, x) * dt + frames.diffusion(process.frame, at) * jnp.sqrt(dt) * (c + xi[k])
        return (x, log_ratio - jnp.sum(c * xi[k] + c**2 / 2)), None

    return jax.lax.scan(step, (x0, 0.0), jnp.arange(len(times) - 1))[0]


# ---------------------------------------------------------------------------------- the integrator's arithmetic


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_steps_are_those_of_a_scan(name):
    process = gaussian(name, (2,), SCALE)
    times, u = paths.log_snr(process.frame, N, 1e-2), control(process)
    x0 = jnp.zeros(2) if name == "geometric" else jnp.asarray([0.3, -0.8])
    xi = jax.random.normal(jax.random.key(0), (N, 2))

    @jax.jit
    def both():
        return sde.simulate(process, u, times, jax.random.key(1), x0=x0, xi=xi), exact_scan(process, u, times, x0, xi)

    found, (x, log_ratio) = both()
    np.testing.assert_allclose(found.x, x, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.log_ratio, log_ratio, rtol=1e-7)


@pytest.mark.parametrize("name", ["trigonometric", "geometric", "nonlinear"])
def test_euler_steps_are_those_of_a_scan(name):
    base = gaussian("geometric" if name == "nonlinear" else name, (3,), SCALE)
    process = nonlinear() if name == "nonlinear" else processes.euler(base)
    times, u = paths.power(N), control(base)
    x0 = jnp.zeros(3) if name == "geometric" else jnp.asarray([0.3, -0.8, 0.1])
    xi = jax.random.normal(jax.random.key(0), (N, 3))

    @jax.jit
    def both():
        return sde.simulate(process, u, times, jax.random.key(1), x0=x0, xi=xi), euler_scan(process, u, times, x0, xi)

    found, (x, log_ratio) = both()
    np.testing.assert_allclose(found.x, x, rtol=1e-10)
    np.testing.assert_allclose(found.log_ratio, log_ratio, rtol=1e-10)


def test_stored_paths_are_the_simulated_ones_and_their_noise_reproduces_them():
    process = gaussian("linear", (2,), SCALE)
    times, u, key = paths.uniform(N), control(process), jax.random.key(3)

    @jax.jit
    def run():
        end, path = sde.simulate(process, u, times, key), sde.simulate_path(process, u, times, key)
        again = sde.simulate_path(process, u, times, jax.random.key(4), x0=path.x[0], xi=path.noise)
        split = jax.random.split(key)
        return end, path, again, process.initial(split[0]), sde.noise(split[1], N, (2,))

    end, path, again, start, normals = run()
    np.testing.assert_allclose(end.x, path.x[-1], rtol=1e-12)
    np.testing.assert_allclose(path.noise, normals, rtol=1e-14)  # the same keys; fused otherwise
    np.testing.assert_array_equal(path.x[0], start)
    assert [path.x.shape, path.control.shape, path.noise.shape] == [(N + 1, 2), (N, 2), (N, 2)]
    for found, expected in zip(again, path, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(path.control, jax.vmap(u)(times[:-1], path.x[:-1]), rtol=1e-12)
    log_ratio = weights.girsanov(process, lambda x: jnp.zeros(()), path)
    assert float(end.log_ratio) == pytest.approx(float(log_ratio), rel=1e-10)


# ------------------------------------------------------------------------------------------------- backward


@pytest.mark.parametrize("name", ["trigonometric", "geometric"])
def test_backward_paths_are_the_forward_paths_reversed(name):
    """From X_1 ~ p_base, noising gives the base's own paths: the forward normals it implies are standard and independent."""
    process = gaussian(name, (1,), SCALE)
    times, u = paths.log_snr(process.frame, 6, 5e-2), control(process)

    @jax.jit
    @jax.vmap
    def run(key):
        key, key_end = jax.random.split(key)
        end = SCALE * jax.random.normal(key_end, (1,))
        free = sde.simulate_backward(process, lambda t, x: jnp.zeros_like(x), times, key, end)
        path = sde.simulate_backward(process, u, times, key, end)
        again = sde.simulate_path(process, u, times, key, x0=path.x[0], xi=path.noise)
        return free, path, again, weights.girsanov(process, jnp.sum, path), weights.crooks_relative(process, jnp.sum, path)

    free, path, again, girsanov, crooks = run(jax.random.split(jax.random.key(0), 20_000))
    # stored as the forward path that it would be: the controlled step with its noise makes the same move
    np.testing.assert_allclose(again.x, path.x, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(girsanov, crooks, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(free.x, path.x, rtol=1e-12, atol=1e-12)
    xi = np.asarray(free.noise)[:, :, 0]
    start = np.asarray(free.x)[:, 0]
    assert np.abs(z_scores(xi, 0.0)).max() < 5
    pairs = xi[:, :, None] * xi[:, None, :]
    assert np.abs(z_scores(pairs, np.eye(6))).max() < 5
    if name == "trigonometric":
        assert np.abs(z_scores(start**2, 1.0)).max() < 5
        assert np.abs(z_scores(start * xi, 0.0)).max() < 5
    else:
        np.testing.assert_allclose(start, 0.0, atol=1e-12)


# ------------------------------------------------------------------------------------------------- adjoints


def terminal_reward(x):
    return jnp.sum(jnp.cos(x)) + 0.3 * x[0] * x[1] ** 2


@pytest.mark.parametrize("name", ["linear", "geometric", "euler", "nonlinear"])
def test_lean_adjoint_is_the_gradient_of_the_discretized_reward(name):
    """a_k = -grad of r(X_N) in X_k, the controls held at their values."""
    if name == "nonlinear":
        process = nonlinear()
    else:
        process = gaussian("trigonometric" if name == "euler" else name, (3,), SCALE)
        process = processes.euler(process) if name == "euler" else process
    u, times = control(gaussian("geometric", (3,), SCALE)), paths.power(N)

    @jax.jit
    def run():
        path = sde.simulate_path(process, u, times, jax.random.key(0))
        adjoint = sde.lean_adjoint(process, path, -jax.grad(terminal_reward)(path.x[-1]))

        def cost(pushes):
            def step(x, k):
                mean, std = process.transition(times[k], times[k + 1], x)
                c = jnp.sqrt(process.clock(times[k], times[k + 1])) * path.control[k]
                return mean + std * (c + path.noise[k]) + pushes[k + 1], None

            return -terminal_reward(jax.lax.scan(step, path.x[0] + pushes[0], jnp.arange(N))[0])

        return adjoint, jax.grad(cost)(jnp.zeros((N + 1, 3)))

    adjoint, expected = run()
    np.testing.assert_allclose(adjoint, expected, rtol=1e-6, atol=1e-12)
    assert np.abs(expected[:-1]).min() > 0 or name in ("linear", "euler")


@pytest.mark.parametrize("name", FAMILIES)
def test_lean_adjoint_in_closed_form(name):
    process = gaussian(name, (3,), SCALE)
    times = paths.log_snr(process.frame, N, 1e-2)
    path = sde.simulate_path(process, control(process), times, jax.random.key(0))
    terminal = -jax.grad(terminal_reward)(path.x[-1])
    phi = jax.vmap(process.frame.response)(times)
    adjoint = sde.lean_adjoint(process, path, terminal)
    np.testing.assert_allclose(adjoint, phi[:, None] / phi[-1] * terminal[None], rtol=1e-9, atol=1e-12)
    # Groenwall's bound, with equality for a Gaussian base: alpha / (alpha^2 + beta^2 / s^2)
    bound = jax.vmap(process.frame.path.alpha)(times) / jax.vmap(
        lambda t: process.frame.path.alpha(t) ** 2 + process.frame.path.beta(t) ** 2 / SCALE**2
    )(times)
    np.testing.assert_allclose(jnp.linalg.norm(adjoint[1:], axis=1), bound[1:] * jnp.linalg.norm(terminal), rtol=1e-9)


# ----------------------------------------------------------------------------------------- probability flow


@pytest.mark.parametrize("name", ["linear", slow("trigonometric"), "geometric"])
def test_probability_flow_has_the_density_of_the_target_to_second_order(name):
    """At the exact control, log p_flow(x) -> log p*(x): log_ratio + reward -> 0 (log Z = 0) as the square of the step."""
    process = gaussian(name, (2,), SCALE)
    truth = exact.gaussian_target(process, jnp.asarray([0.8, -0.4]), jnp.asarray([0.2, 0.5]))

    @functools.partial(jax.jit, static_argnums=0)
    def error(num_steps):
        times = paths.log_snr(process.frame, num_steps, 0.2, overshoot=0.02)
        times = jnp.concatenate([times[:-1], jnp.ones(1)])
        ends = jax.vmap(lambda key: sde.probability_flow(process, truth.control, times, key))
        end = ends(jax.random.split(jax.random.key(0), 200))
        log_weight = end.log_ratio + jax.vmap(truth.problem.reward)(end.x)
        return jnp.sqrt(jnp.mean(log_weight**2)), jnp.std(log_weight)

    coarse, fine = error(40), error(80)
    assert float(fine[0]) < 0.02 and float(fine[1]) < 0.02
    for a, b in zip(coarse, fine, strict=True):
        assert 3.0 < float(a / b) < 5.0


def test_probability_flow_with_hutchinsons_divergence():
    """For a control whose Jacobian is diagonal, probes of signs give the exact divergence."""
    process = gaussian("linear", (3,), SCALE)
    times = paths.uniform(10)
    u = lambda t, x: process.frame.gain(t) * jnp.sin(process.frame.response(t) * x)  # noqa: E731
    z = jnp.asarray([0.5, -1.0, 0.2])
    exact_end = sde.probability_flow(process, u, times, jax.random.key(0), z=z)
    probed = sde.probability_flow(process, u, times, jax.random.key(0), z=z, probe=jnp.asarray([1.0, -1.0, 1.0]))
    np.testing.assert_allclose(probed.x, exact_end.x)
    np.testing.assert_allclose(probed.log_ratio, exact_end.log_ratio, rtol=1e-12)


# ---------------------------------------------------------------------------------------------- weak order


def euler_moments(process, u, num_steps):
    """Mean and variance of X_N under Euler steps of a control linear in x: the recursion, no sampling."""
    times = paths.uniform(num_steps)

    def step(carry, k):
        mean, var = carry
        t, t1 = times[k], times[k + 1]

        def move(x):
            base, std = process.transition(t, t1, x)
            return base + std * jnp.sqrt(process.clock(t, t1)) * u(t, x)

        at, slope = jax.jvp(move, (mean,), (jnp.ones(1),))
        std = process.transition(t, t1, mean)[1]
        return (at, slope**2 * var + std**2), None

    path = process.frame.path
    start = (jnp.zeros(1), jnp.full(1, path.alpha(0.0) ** 2 * process.frame.scale**2 + path.beta(0.0) ** 2))
    return jax.lax.scan(step, start, jnp.arange(num_steps))[0]


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("name", ["trigonometric", "geometric"])
def test_euler_has_weak_order_one(name, controlled):
    """Mean and variance of X_1 under the exact control of N(0.8, 0.5): their errors halve with the step."""
    process = gaussian(name, (1,), SCALE)
    truth = exact.gaussian_target(process, jnp.asarray([0.8]), jnp.asarray([0.5]))

    def u(t, x):
        # sigma is infinite at t = 0 of the trigonometric path, where Euler reads it one step late; u is in units of the gain
        return truth.control(jnp.maximum(t, 1e-3), x) if controlled else jnp.zeros_like(x)

    mean, var = (0.8, 0.5) if controlled else (0.0, SCALE**2)
    run = jax.jit(functools.partial(euler_moments, processes.euler(process), u), static_argnums=0)
    moments = np.asarray([run(n) for n in (200, 400, 800)])[:, :, 0]
    errors = np.abs(moments - [mean, var])
    assert errors[-1].max() < 0.02
    if not controlled:
        np.testing.assert_allclose(errors[:, 0], 0.0, atol=1e-12)
        errors = errors[:, 1:]
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2.0, rtol=0.15)


def test_refined_noise_gives_the_same_path_to_first_order():
    """Brownian base, two fine normals to a coarse one: the strong error of an additive-noise Euler step is of order one."""
    process = processes.gaussian(paths.brownian(SCALE), (2,))

    def u(t, x):
        return 0.5 * jnp.sin(x + t)

    @functools.partial(jax.jit, static_argnums=0)
    def ends(num_steps):
        def one(key):
            xi = sde.noise(key, 128, (2,))
            coarse = xi.reshape(num_steps, -1, 2).sum(1) / math.sqrt(128 / num_steps)
            return sde.simulate(process, u, paths.uniform(num_steps), key, xi=coarse).x

        return jax.vmap(one)(jax.random.split(jax.random.key(0), 200))

    truth = ends(128)
    coarse, fine = (float(jnp.sqrt(jnp.mean((ends(n) - truth) ** 2))) for n in (16, 32))
    assert 1.9 < coarse / fine < 2.8  # (1/16 - 1/128) / (1/32 - 1/128) = 2.33


def test_gradients_flow_through_simulation():
    """Rematerialised or not, d X_N / d theta is that of the scan."""
    process = gaussian("linear", (2,), SCALE)
    times, xi = paths.uniform(N), jax.random.normal(jax.random.key(0), (N, 2))
    x0 = jnp.asarray([0.3, -0.8])

    def value(simulator, theta):
        u = lambda t, x: process.frame.gain(t) * jnp.tanh(theta * process.frame.response(t) * x)  # noqa: E731
        end = simulator(u)
        return terminal_reward(end[0]) + end[1]

    ours = lambda u: tuple(sde.simulate(process, u, times, jax.random.key(1), x0=x0, xi=xi))  # noqa: E731
    theirs = lambda u: exact_scan(process, u, times, x0, xi)  # noqa: E731
    found, expected = (jax.jit(jax.grad(functools.partial(value, f)))(jnp.asarray(0.7)) for f in (ours, theirs))
    assert float(found) == pytest.approx(float(expected), rel=1e-8)
