"""Grids of equal dissipation: measured on a sampler's own paths, for every kind of problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, perturbed, slow, z_scores

import tiltjax as tj
from tiltjax import annealing, diagnostics, dynamics, exact, paths, problems, processes, sampling
from tiltjax.types import Network

KEY = jax.random.key(0)


def test_edges_are_equal_parts_of_the_root_of_the_dissipation():
    """c(t) = (1 + 3 t)^2 on 4,000 steps: int_0^t sqrt(c) = t + 1.5 t^2, whose inverse is known."""
    times = jnp.linspace(0.0, 1.0, 4001)
    middle = 0.5 * (times[1:] + times[:-1])
    grid = paths.equal_dissipation(times, ((1 + 3 * middle) / 4000) ** 2, 10)
    part = 2.5 * np.arange(11) / 10
    np.testing.assert_allclose(grid, (np.sqrt(1 + 6 * part) - 1) / 3, atol=1e-6)


@pytest.mark.parametrize("spent", [[1.0, np.nan, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0], [1.0, -1.0, 1.0]])
def test_dissipation_that_is_no_variance_is_refused(spent):
    with pytest.raises(ValueError, match="variance of log w added by each of the 3 steps"):
        paths.equal_dissipation(jnp.linspace(0, 1, 4), jnp.asarray(spent), 5)


@pytest.mark.parametrize("family", ["linear", "geometric"])
def test_dissipation_of_a_gaussian_target_is_that_of_theory(family):
    """g has slope -1 / (R + q'), 1/q' = 1/v - 1/s^2: a fine step adds sum_i (R - R')^2 / (R + q'_i)^2 / 2."""
    process, variance = gaussian(family, (2,), 1.5), jnp.asarray([0.1, 0.6])
    truth = exact.gaussian_target(process, jnp.asarray([0.5, -0.5]), variance)
    times = paths.log_snr(process.frame, 200, 0.1)
    spent = jax.jit(lambda key: dynamics.dissipation(truth.problem, truth.control, times, key, 4000))(KEY)
    residual = np.asarray(jax.vmap(process.frame.residual)(times))
    excess = 1 / (1 / np.asarray(variance) - 1 / process.frame.scale**2)
    middle = 0.5 * (residual[1:] + residual[:-1])
    expected = 0.5 * ((residual[:-1] - residual[1:])[:, None] ** 2 / (middle[:, None] + excess) ** 2).sum(1)
    found = (
        np.asarray(spent)[5:-1] / expected[5:-1]
    )  # standard error of a variance: some 5 % a step; O(step) beyond the leading order
    assert abs(np.mean(found) - 1) < 0.06 and np.abs(found - 1).max() < 0.4


BASE = exact.Mixture(jnp.asarray([[-0.9, 0.3], [0.8, -0.4]]), 0.4, jnp.asarray([0.4, 0.6]))
TARGET = exact.Mixture(jnp.asarray([[-1.2, 0.1], [1.0, -1.3], [1.1, 1.0]]), 0.01, jnp.asarray([0.5, 0.3, 0.2]))


def memoryless():
    process = gaussian("linear", (2,), 1.5)
    truth = exact.mixture_target(process, *TARGET)
    return truth.problem, truth.control, lambda n: paths.log_snr(process.frame, n, 1e-4)


def pretrained():
    truth = exact.mixture_tilt(gaussian("linear", (2,), 1.5), BASE, TARGET)
    return truth.problem, truth.control, lambda n: paths.log_snr(truth.problem.frame, n, 1e-4)


def annealed():
    """rho_t = N(a sqrt(t) sin(2 t) .., 1): moved by its exact drift, which hurries in the beginning."""
    process = processes.gaussian(paths.trigonometric(), (2,), 1.0)
    a = jnp.asarray([3.0, -2.0])
    where = lambda t: jnp.tanh(8 * t) / jnp.tanh(8.0)  # noqa: E731
    problem = problems.tilt(process, lambda x: jnp.sum(a * x))
    problem = problems.annealed(problem, annealing.scaled(problem.reward, where), 0.6)
    return problem, lambda t, x: a * jax.grad(where)(t), paths.uniform


@pytest.mark.parametrize("kind", [memoryless, slow(pretrained), annealed])
def test_a_refined_sampler_has_a_higher_ess_at_equal_steps(kind):
    problem, control, grid = kind()
    network = Network(lambda key: (), lambda params, t, x: control(t, x))
    sampler = sampling.sampler(problem, network, (), grid, num_steps=25)
    refined = sampler.refine(KEY, num_particles=400, num_steps=200)
    assert refined.grid(25).shape == (26,)
    before, after = (np.asarray(s.sample(jax.random.key(1), 4000).log_weight) for s in (sampler, refined))
    assert np.std(after) < 0.9 * np.std(before)
    assert float(diagnostics.ess(jnp.asarray(after))) > float(diagnostics.ess(jnp.asarray(before))) + 0.02
    if kind is memoryless:
        assert abs(z_scores(np.exp(after), 1.0)) < 5


def test_a_refined_grid_is_saved_and_loaded(tmp_path):
    problem, _, _ = memoryless()
    network = tj.networks.mlp(problem, 8, 1)
    asked = []

    def grid(n):
        asked.append(n)
        return paths.log_snr(problem.frame, n, 0.01)

    sampler = sampling.sampler(problem, network, perturbed(network.init(KEY), KEY, 0.05), grid)
    refined = sampler.refine(KEY, num_particles=64, num_steps=50)
    assert asked == [50]  # measured on its own grid, of as many steps as said
    refined.save(tmp_path / "s")
    again = tj.load(tmp_path / "s", problem, network=network)
    np.testing.assert_array_equal(again.grid(20), refined.grid(20))
    assert not np.allclose(again.grid(20), sampler.grid(20))
