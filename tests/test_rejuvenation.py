"""End points moved under the target before a loss learns from them: weights stay right, particles settle, labels follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, plain, small, z_scores

import tiltjax as tj
from tiltjax import losses, paths, problems, targets
from tiltjax.losses import Rejuvenation
from tiltjax.types import Learned

KEY = jax.random.key(0)
WEIGHTS = np.asarray([0.3, 0.7])
MEANS = np.asarray([[-1.2, 0.0], [1.5, 0.5]])
NUM = 20_000


def made(target, rejuvenation, scale=2.0):
    """The problem, its network, and minimum_variance on a short grid."""
    problem = problems.sampling(target, gaussian("linear", target.shape, scale), resolution=0.2)
    network = small(problem)
    times = paths.log_snr(problem.frame, 4, problem.resolution)
    return problem, network, losses.minimum_variance(problem, network, times, rejuvenation=rejuvenation)


def batch(target, rejuvenation, n=NUM, scale=2.0):
    """What is collected under the control 0, and the problem."""
    problem, network, objective = made(target, rejuvenation, scale)
    params = Learned(network.init(KEY), objective.init())
    return jax.jit(lambda: plain(objective).collect(params, jax.random.key(1), n))(), problem


def test_weighted_end_points_are_of_the_target_also_after_they_moved():
    """E[w f(X')] = Z E_{p*}[f], with first and second moments of a mixture in closed form, and Z = 1."""
    target = targets.gmm(MEANS, 0.6, WEIGHTS)
    moved, _ = batch(target, Rejuvenation(5, 3, 0.2))
    x, w = moved.data.x, jnp.exp(moved.log_weight)[:, None]
    first, second = WEIGHTS @ MEANS, WEIGHTS @ (MEANS**2 + 0.36)
    assert np.abs(z_scores(w, 1.0)).max() < 4
    assert np.abs(z_scores(w * x, first)).max() < 4
    assert np.abs(z_scores(w * x**2, second)).max() < 4


def test_without_weights_they_settle_in_the_mode_that_they_are_in():
    """One Gaussian of variance 0.09 under paths of variance 4: moved particles have its moments, those that stay do not."""
    target = targets.gmm(np.asarray([[0.5, -0.3]]), 0.3)
    moved, _ = batch(target, Rejuvenation(40, 5, 0.25), scale=1.0)
    stay, x = np.split(np.asarray(moved.data.x), [NUM // 4])
    assert np.abs(z_scores(x, [0.5, -0.3])).max() < 4
    assert np.abs(z_scores((x - np.asarray([0.5, -0.3])) ** 2, 0.09)).max() < 4
    assert stay.var() > 0.9


def test_those_that_stay_are_as_they_were_and_the_others_are_labelled_where_they_are():
    target = targets.gmm(MEANS, 0.6, WEIGHTS)
    (plain, _), (moved, problem) = batch(target, None, 100), batch(target, Rejuvenation(3, 2, 0.2), 100)
    np.testing.assert_array_equal(moved.data.x[:20], plain.data.x[:20])
    np.testing.assert_array_equal(moved.data.slope[:20], plain.data.slope[:20])
    np.testing.assert_array_equal(moved.log_weight, plain.log_weight)
    assert np.mean(np.any(moved.data.x[20:] != plain.data.x[20:], axis=1)) > 0.3
    np.testing.assert_allclose(moved.data.slope, jax.vmap(jax.grad(problem.reward))(moved.data.x), rtol=1e-9)


def test_what_the_moves_cost_is_counted():
    """20 moves of 5 steps and a first gradient for four in five: 96 of each, beside the label's own."""
    moved, plain = (made(targets.gmm(), how)[2] for how in (Rejuvenation(20, 5, 0.2), None))
    assert moved.gradient_evaluations == moved.energy_evaluations == 97
    assert plain.gradient_evaluations == plain.energy_evaluations == 1


@pytest.mark.parametrize("wrong", [{"num_moves": 0}, {"leapfrog": 0}, {"share": 1.0}, {"share": -0.1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"expected one move.*{next(iter(wrong))}={next(iter(wrong.values()))}"):
        made(targets.gmm(), Rejuvenation(**wrong))


def test_a_base_without_a_density_is_refused():
    problem = problems.sampling(targets.gmm(), gaussian("linear", (2,), 1.0))
    problem = problem._replace(process=problem.process._replace(log_density=None))
    with pytest.raises(ValueError, match="needs a Gaussian process; got one known by"):
        tj.losses.minimum_variance(problem, small(problem), jnp.linspace(0.0, 1.0, 5), rejuvenation=Rejuvenation())
