"""Narrowed steps: exact on a Gaussian at any number of steps, unbiased in every form; and the variance that is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import draw, fit, gaussian, perturbed, plain, slow, small, z_scores

import tiltjax as tj
from tiltjax import diagnostics, dynamics, exact, losses, networks, paths, problems, processes, sde, targets, weights
from tiltjax.losses.collect import EndPoints
from tiltjax.losses.learned_variance import RATE
from tiltjax.losses.learned_variance import ratio as ratio_of
from tiltjax.types import Learned, Replay

MEAN, VARIANCE = jnp.asarray([0.4, -0.7]), jnp.asarray([0.02, 0.3])
SCALE = 1.5
REPLAY = Replay(256, 512, 30, 128, weights.tempered(0.3))


def known(process, t):
    """Var*[X_1 | X_t] / R_t where the tilt is N(MEAN, VARIANCE): 1 / v = 1 / VARIANCE - 1 / s^2 + 1 / R."""
    residual = process.frame.residual(t)
    return 1 / (residual * (1 / VARIANCE - 1 / process.frame.scale**2) + 1)


def uneven(process, t):
    """No target's: the weights must not need the right one."""
    return jnp.stack([0.3 + 0.5 * t, 1.2 - 0.6 * t])


@pytest.mark.parametrize(  # (on `vp` the tilt's X_0 is not quite the base's)
    ("family", "num_steps"), [("linear", 2), slow("linear", 7), slow("geometric", 2), ("geometric", 7)]
)
def test_a_gaussian_is_sampled_exactly_at_any_number_of_steps(family, num_steps):
    """With its control and its variance every path weighs Z; with the base's steps weights scatter."""
    process = gaussian(family, (2,), SCALE)
    truth = exact.gaussian_target(process, MEAN, VARIANCE)
    narrow = truth.problem._replace(process=processes.narrowed(process, lambda t: known(process, t)))
    times = paths.log_snr(process.frame, num_steps, 0.02)
    found = draw(narrow, truth.control, times, jax.random.key(0), 4000)
    np.testing.assert_allclose(found.log_weight, truth.log_z, atol=1e-8)
    assert np.abs(z_scores(found.path.x[:, -1], np.asarray(MEAN))).max() < 5
    assert np.abs(z_scores((np.asarray(found.path.x[:, -1]) - np.asarray(MEAN)) ** 2, np.asarray(VARIANCE))).max() < 5
    wide = draw(truth.problem, truth.control, times, jax.random.key(0), 4000)
    assert float(jnp.std(wide.log_weight)) > 0.3


@functools.cache
def random_control(family, base="gaussian"):
    """A mixture, a control that is not its own, and steps of an uneven variance."""
    process = gaussian(family, (2,), SCALE)
    target = targets.gmm([[-0.8, 0.3], [0.7, -0.5]], 0.5, [0.7, 0.3])
    plain = problems.sampling(target, process, resolution=0.1)
    narrow = plain._replace(process=processes.narrowed(process, lambda t: uneven(process, t)))
    network = small(plain)
    params = perturbed(network.init(jax.random.key(1)), jax.random.key(2), 0.05)
    return narrow, lambda t, x: network.apply(params, t, x)


@pytest.mark.parametrize(("family", "num_steps"), [("vp", 4), slow("vp", 12), slow("geometric", 4), ("geometric", 12)])
def test_weights_are_unbiased_in_every_form(family, num_steps):
    problem, control = random_control(family)
    process, times = problem.process, paths.log_snr(problem.frame, num_steps, 0.1)
    key = jax.random.key(num_steps)
    found = draw(problem, control, times, key, 8000)
    w = np.exp(np.asarray(found.log_weight))
    assert abs(z_scores(w, 1.0)) < 5 and w.sum() ** 2 / (len(w) * (w**2).sum()) > 0.02
    some = jax.tree.map(lambda leaf: leaf[:200], found.path)
    for form in (weights.crooks_relative, weights.crooks_full):
        other = jax.jit(jax.vmap(lambda path, form=form: form(process, problem.reward, path)))(some)
        np.testing.assert_allclose(other, found.log_weight[:200], atol=1e-8)
    ends = jax.jit(jax.vmap(lambda k: dynamics.simulate(problem, control, times, k)))(jax.random.split(key, 8000)[:200])
    np.testing.assert_allclose(ends.log_weight, found.log_weight[:200], atol=1e-8)
    np.testing.assert_allclose(ends.x, some.x[:, -1], atol=1e-10)


@pytest.mark.parametrize("family", ["vp", slow("geometric")])
def test_a_path_weighs_the_same_under_its_control_and_when_it_is_given(family):
    """The log weight of a stored path under another control is that of the same states drawn by the other."""
    problem, control = random_control(family)
    times = paths.log_snr(problem.frame, 6, 0.1)

    @jax.jit
    def both(key):
        path = sde.simulate_path(problem.process, lambda t, x: 0.3 - 0.2 * x, times, key)
        u = jax.vmap(control)(times[:-1], path.x[:-1])
        given = weights.crooks_full(problem.process, problem.reward, path._replace(control=u))
        return given, dynamics.log_weight(problem, control, path)

    np.testing.assert_allclose(*both(jax.random.key(3)), atol=1e-8)


@pytest.mark.parametrize("family", [slow("vp"), "geometric"])
def test_paths_back_from_the_target_weigh_as_those_forward(family):
    """E over paths of the tilt of 1 / w is 1 / Z, and the forward path stored has the states of the path back."""
    problem, control = random_control(family)
    times = paths.log_snr(problem.frame, 6, 0.1)
    x1 = problem.target.sample(jax.random.key(5), 8000)

    def one(key, x):
        path = dynamics.simulate_backward(problem, control, times, key, x)
        again = sde.simulate_path(problem.process, control, times, key, x0=path.x[0], xi=path.noise)
        return dynamics.own_log_weight(problem, control, path), jnp.max(jnp.abs(again.x - path.x))

    log_weight, off = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(6), 8000), x1)
    assert float(jnp.max(off)) < 1e-8
    assert abs(z_scores(np.exp(-np.asarray(log_weight)), 1.0)) < 5


def test_the_likelihood_is_least_at_the_variance_of_the_target():
    """On draws of the Gaussian, with its control, the slope of the table is 0 at the known ratio and not away from it."""
    process = gaussian("linear", (2,), SCALE)
    truth = exact.gaussian_target(process, MEAN, VARIANCE)
    problem = truth.problem._replace(resolution=0.02)
    network = tj.Network(lambda key: (), lambda params, t, x: truth.control(t, x))
    objective = losses.learned_variance(problem, network, paths.uniform(4), replay=REPLAY, bins=60)
    where = problems.level_bin(problem, 60)
    t = np.linspace(0.0, 1.0, 20_001)[:-1]
    bins = np.asarray(jax.vmap(where)(jnp.asarray(t)))
    middles = jnp.asarray([t[bins == b][np.sum(bins == b) // 2] for b in range(60)])
    middle = jnp.log(jax.vmap(lambda t: known(process, t))(middles))
    start = objective.init()
    right = start._replace(table=middle / RATE)

    def slope(table, key):
        key_x, key_loss = jax.random.split(key)
        x = MEAN[None] + jnp.sqrt(VARIANCE)[None] * jax.random.normal(key_x, (128, 2))
        end = EndPoints(x, jax.vmap(jax.grad(problem.reward))(x))
        of = lambda table: plain(objective).loss(Learned((), right._replace(table=table)), key_loss, end)  # noqa: E731
        return jnp.sum(jax.grad(of)(table), 0)

    keys = jax.random.split(jax.random.key(0), 200)
    slopes = jax.jit(lambda table: jax.lax.map(lambda key: slope(table, key), keys))
    at = np.asarray(slopes(right.table))
    assert np.abs(z_scores(at, 0.0)).max() < 5
    off = np.asarray(slopes(right.table + 0.02))
    assert np.abs(z_scores(off, 0.0)).min() > 10


SMALL = {"network": functools.partial(networks.mlp, width=32, depth=1), "num_steps": 15, "progress": False}
FEW = Replay(512, 2048, 50, 256, weights.tempered(0.3))


@functools.cache
def fitted(name, num_updates=50):
    """Five dimensions, a tenth of the base wide: where the base's own variance weighs most."""
    target = targets.gaussian(jnp.linspace(-1.0, 1.0, 5), 0.1)
    process = gaussian("linear", (5,), 1.0)
    problem = problems.sampling(target, process, resolution=0.01)
    loss = getattr(losses, name)
    return problem, fit(jax.random.key(0), problem, loss=loss, num_updates=num_updates, replay=FEW, **SMALL)


@pytest.mark.slow
def test_a_fit_learns_the_variance():
    """From 1 to near the known one, 0.03 and less, and with it comes a higher ESS at few steps."""
    problem, sampler = fitted("learned_variance", 300)
    ratio = np.asarray(ratio_of(sampler.extra))
    where = problems.level_bin(problem, len(ratio))
    for t in (0.6, 0.8, 0.9):
        expected = 1 / (problem.frame.residual(t) * (1 / 0.01 - 1) + 1)
        above = ratio[where(jnp.asarray(t))] / expected  # the error of the control's own prediction is in it
        assert np.all((above > 0.7) & (above < 2.5)), t
    _, plain = fitted("minimum_variance", 300)
    key, ess = jax.random.key(1), {}
    for name, one in (("learned", sampler), ("plain", plain)):
        draws = one.sample(key, 4000, num_steps=15)
        ess[name] = float(diagnostics.ess(draws.log_weight))
        assert abs(z_scores(np.exp(np.asarray(draws.log_weight)), 1.0)) < 5
    assert ess["learned"] > 2 * ess["plain"]


@pytest.mark.slow
def test_a_loss_on_paths_is_refused():
    problem, _ = fitted("learned_variance")
    options = {"loss": functools.partial(losses.learned_variance, loss=losses.adjoint_matching), "num_updates": 10}
    with pytest.raises(TypeError, match="needs a loss on end points, of the score matching family; got one on"):
        fit(jax.random.key(0), problem, **options, **SMALL)


def test_the_variance_is_saved_with_the_sampler(tmp_path):
    problem, sampler = fitted("learned_variance")
    assert np.std(np.asarray(ratio_of(sampler.extra))) > 1e-3  # there is something to save
    sampler.save(tmp_path / "there")
    back = tj.load(tmp_path / "there", problem, network=SMALL["network"])
    drawn = [s.sample(jax.random.key(2), 50, num_steps=9) for s in (sampler, back)]
    np.testing.assert_array_equal(drawn[0].log_weight, drawn[1].log_weight)
    np.testing.assert_array_equal(drawn[0].x, drawn[1].x)


@pytest.mark.slow
def test_seeds_in_one_program_have_a_variance_each():
    problem, _ = fitted("learned_variance")
    keys = jax.random.split(jax.random.key(3), 2)
    small = {**SMALL, "loss": losses.learned_variance, "replay": REPLAY, "num_updates": 30}
    together = fit(keys, problem, **small)
    alone = fit(keys[1], problem, **small)
    np.testing.assert_allclose(ratio_of(together[1].extra), ratio_of(alone.extra), rtol=1e-6)
    drawn = [s.sample(jax.random.key(4), 20, num_steps=5).log_weight for s in (*together, alone)]
    np.testing.assert_allclose(*drawn[1:], rtol=1e-5, atol=1e-6)
    assert not np.allclose(drawn[0], drawn[1]) and not np.allclose(ratio_of(together[0].extra), ratio_of(together[1].extra))
