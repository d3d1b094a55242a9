"""Path weights: unbiased for any control at any number of steps, in every form; and what is done with weights."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from support import gaussian, perturbed, slow, small, z_scores

from tiltjax import diagnostics, losses, paths, problems, processes, run, sde, targets, train, weights
from tiltjax.types import Replay, Target

STEPS = (5, 20, 100)
FAMILIES = ("linear", "vp", "geometric")


def banana() -> Target:
    """log gamma = -x^2 / 2 - 5 (y - x^2 / 2)^2 / 2 + log(1 + y^2 / 4), log Z by quadrature."""

    def log_density(x):
        return -0.5 * x[0] ** 2 - 2.5 * (x[1] - 0.5 * x[0] ** 2) ** 2 + jnp.log1p(x[1] ** 2 / 4)

    side = jnp.linspace(-7.0, 7.0, 701)
    grid = jnp.stack(jnp.meshgrid(side, 2.5 * side + 15.0), -1).reshape(-1, 2)
    area = 2.5 * (side[1] - side[0]) ** 2
    return Target(log_density, (2,), float(jax.nn.logsumexp(jax.vmap(log_density)(grid)) + jnp.log(area)))


def correlated() -> Target:
    """A 10-D Gaussian with correlations 0.5^|i - j| and standard deviations from 0.6 to 1, not normalized."""
    sd = np.linspace(0.6, 1.0, 10)
    covariance = 0.5 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10))) * np.outer(sd, sd)
    normal = targets.gaussian(np.linspace(-0.3, 0.3, 10), covariance=covariance)
    return normal._replace(log_density=lambda x: normal.log_density(x) + 2.5, log_z=2.5)


# the base is wider than the target in every direction: plain importance weights, those of no control, have a finite variance
TARGETS = {
    "gmm": (lambda: targets.gmm([[-1.5, 0.0], [1.0, 1.0], [0.5, -2.0]], 0.5, [0.3, 0.5, 0.2]), 2.0, 0.25),
    "banana": (banana, 2.5, 0.1),
    "correlated": (correlated, 1.2, 0.1),
}


class Case(NamedTuple):
    """Problems on each family and parameters, untrained to trained: of networks that see m, hence the same on every family."""

    problems: dict
    params: dict
    log_z: float


@functools.cache
def case(name) -> Case:
    make, scale, resolution = TARGETS[name]
    target = make()
    on = {
        family: problems.sampling(target, gaussian(family, target.shape, scale), resolution=resolution) for family in FAMILIES
    }
    problem, network = on["linear"], small(on["linear"])
    replay = Replay(512, 1024, 50, 128, weights.tempered(0.3))
    objective = losses.minimum_variance(problem, network, paths.log_snr(problem.frame, 12, resolution), replay=replay)
    trained = run.run(train.trainer(objective, network, optax.adam(5e-3)), jax.random.key(0), 8, progress=False)
    untrained = network.init(jax.random.key(1))
    params = {
        "untrained": untrained,
        "random": perturbed(untrained, jax.random.key(2), 0.05 if target.shape == (2,) else 0.02),
        "trained": trained.state.params.control,
    }
    return Case(on, params, target.log_z)


@functools.cache
def sampler(name, family, form):
    """(params, key, num_steps, n) -> log weights, of the end or of another form."""
    problem = case(name).problems[family]
    network = small(problem)
    process = processes.euler(problem.process) if form == "euler" else problem.process

    def grid(num_steps):
        if form == "euler":
            return paths.uniform(num_steps)
        return paths.log_snr(problem.frame, num_steps, problem.resolution)

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def draw(params, key, num_steps, n):
        control = lambda t, x: network.apply(params, t, x)  # noqa: E731

        def one(key):
            if form == "end":
                end = sde.simulate(process, control, grid(num_steps), key)
                return end.log_ratio + problem.reward(end.x)
            path = sde.simulate_path(process, control, grid(num_steps), key)
            return weights.crooks_full(process, problem.reward, path)

        return jax.vmap(one)(jax.random.split(key, n))

    return draw


def z_score(log_weight, log_z):
    return z_scores(np.exp(np.asarray(log_weight, np.float64) - log_z), 1.0)


def quick(name, family, steps):
    """The banana at five and twenty steps, on a path that rests and on one that grows; the mixture at five and twenty."""
    return steps < 100 and (name, family) in {("banana", "vp"), ("banana", "geometric"), ("gmm", "geometric")}


@pytest.mark.parametrize(
    ("name", "family", "steps"),
    [case if quick(*case) else slow(*case) for case in itertools.product(TARGETS, FAMILIES, STEPS)],
)
def test_unbiased_with_any_network(name, family, steps):
    which, draw = case(name), sampler(name, family, "end")
    ess = {}
    for i, (kind, params) in enumerate(which.params.items()):
        log_weight = draw(params, jax.random.key(steps + i), steps, 8000 if steps < 100 else 4000)
        ess[kind] = float(diagnostics.ess(log_weight))
        assert ess[kind] > 0.01, f"{kind}: the test has no power"
        assert abs(z_score(log_weight, which.log_z)) < 5, kind
    print(name, family, steps, ess)
    if steps == 100:
        assert ess["trained"] > ess["untrained"], "what is called trained should be"


@functools.cache
def forms(name, family):
    """params, key -> girsanov, crooks_relative, crooks_full of the same 4000 exact paths; crooks_full of Euler ones."""
    problem = case(name).problems[family]
    network, process = small(problem), problem.process
    euler = processes.euler(process)
    times, even = paths.log_snr(process.frame, 8, problem.resolution), paths.power(20)

    @jax.jit
    def draw(params, key):
        def control(t, x):
            return network.apply(params, t, x)

        def one(key):
            path = sde.simulate_path(process, control, times, key)
            stepped = sde.simulate_path(euler, control, even, key)
            exact = [f(process, problem.reward, path) for f in (weights.girsanov, weights.crooks_relative, weights.crooks_full)]
            return (*exact, weights.crooks_full(euler, problem.reward, stepped))

        return jax.vmap(one)(jax.random.split(key, 4000))

    return draw


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("banana", family) for family in FAMILIES),
        slow("correlated", "linear"),
        slow("correlated", "vp"),
        slow("correlated", "geometric"),
    ],
)
def test_crooks_weights(name, family):
    """Relative = girsanov path by path; full is unbiased too, with exact and with Euler-Maruyama steps."""
    which = case(name)
    for kind in ("random", "trained"):
        girsanov, relative, full, stepped = forms(name, family)(which.params[kind], jax.random.key(7))
        np.testing.assert_allclose(relative, girsanov, rtol=1e-7, atol=1e-7)
        if family != "vp":  # where X_0 and X_1 are not independent, the reverse kernels are not quite the base's own
            np.testing.assert_allclose(full, girsanov, rtol=1e-6, atol=1e-6)
        for log_weight in (full, stepped) if name == "banana" else (full,):  # 20 Euler steps: too wide a spread in 10-D
            assert diagnostics.ess(log_weight) > 0.005
            assert abs(z_score(log_weight, which.log_z)) < 5


def test_crooks_full_of_euler_steps_corrects_what_the_relative_form_does_not():
    """Few coarse Euler steps of the base: the relative weight is that of the stepped base, the full one is unbiased."""
    target = TARGETS["gmm"][0]()
    problem = problems.sampling(target, gaussian("trigonometric", (2,), 2.0))
    process, times = processes.euler(problem.process), paths.uniform(12)

    @jax.jit
    @jax.vmap
    def draw(key):
        path = sde.simulate_path(process, lambda t, x: jnp.zeros_like(x), times, key)
        return weights.girsanov(process, problem.reward, path), weights.crooks_full(process, problem.reward, path)

    relative, full = draw(jax.random.split(jax.random.key(0), 50_000))
    assert abs(z_score(relative, 0.0)) > 7
    assert abs(z_score(full, 0.0)) < 5


@pytest.mark.slow
def test_z_scores_over_seeds_are_standard_normal():
    """50 runs of 2000 particles of the trained control: the standard error is right, not only the mean."""
    draw = sampler("gmm", "geometric", "end")
    log_weight = draw(case("gmm").params["trained"], jax.random.key(11), 20, 100_000).reshape(50, 2000)
    assert diagnostics.ess(log_weight.reshape(-1)) > 0.3
    estimates = [diagnostics.log_z(row) for row in log_weight]
    z = np.asarray([float(e.value / e.stderr) for e in estimates])
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.mean()) < 5 / math.sqrt(50)
    assert 0.6 < z.std(ddof=1) < 1.5  # chi: 5 standard errors are 0.5


@pytest.mark.parametrize("family", ["linear", "geometric"])
def test_backward_weights_are_unbiased_for_one_over_z(family):
    """On paths that noise exact draws, E[1 / w] = 1 / Z and E[log w] >= log Z."""
    which = case("gmm")
    problem = which.problems[family]
    network, times = small(problem), paths.log_snr(problem.frame, 20, problem.resolution)

    @jax.jit
    def run(params, key):
        key_end, key = jax.random.split(key)
        ends = problem.target.sample(key_end, 5000)

        def one(key, end):
            path = sde.simulate_backward(problem.process, lambda t, x: network.apply(params, t, x), times, key, end)
            return weights.girsanov(problem.process, problem.reward, path)

        return jax.vmap(one)(jax.random.split(key, 5000), ends)

    log_weight = run(which.params["trained"], jax.random.key(3))
    assert abs(z_scores(np.exp(-np.asarray(log_weight)), 1.0)) < 5
    eubo = diagnostics.eubo(log_weight)
    assert eubo.value > -5 * eubo.stderr
    assert 0.3 < diagnostics.forward_ess(log_weight) <= 1


def test_crooks_full_needs_a_density():
    process = gaussian("linear", (1,), 1.0)._replace(log_density=None)
    path = sde.Path(paths.uniform(1), jnp.zeros((2, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match=r"crooks_relative.*needs a Gaussian process"):
        weights.crooks_full(process, jnp.sum, path)


# --------------------------------------------------------------------------------------- what is done with weights


def test_normalize_and_ess():
    log_weight = jnp.log(jnp.asarray([1.0, 3.0, 4.0])) + 700.0
    np.testing.assert_allclose(weights.normalize(log_weight), [0.125, 0.375, 0.5])
    assert float(weights.ess(log_weight)) == pytest.approx(64 / (3 * 26))
    assert float(weights.ess(jnp.asarray([0.0, -jnp.inf]))) == pytest.approx(0.5)


def test_temper_meets_the_floor_and_no_more():
    log_weight = 4.0 * jax.random.normal(jax.random.key(0), (2000,))
    for floor in (0.1, 0.2, 0.5):
        tau = weights.temper(log_weight, floor)
        assert 0 < tau < 1
        assert float(weights.ess(tau * log_weight)) == pytest.approx(floor, abs=1e-4)
    assert float(weights.temper(0.1 * log_weight, 0.2)) == 1.0
    # a particle without weight stays without, and tempers nothing
    lost = log_weight.at[:200].set(-jnp.inf)
    weighted = weights.tempered(0.2)(lost)
    assert jnp.isneginf(weighted[:200]).all() and jnp.isfinite(weighted[200:]).all()
    assert float(weights.ess(weighted)) == pytest.approx(0.2, abs=1e-4)
    assert jnp.isneginf(weights.tempered(0.2)(jnp.full(5, -jnp.inf))).all()


def test_defensive_weights_are_a_mixture_with_equal_ones():
    log_weight = jnp.asarray([0.0, 2.0, -200.0, -jnp.inf, jnp.nan])
    weighted = weights.defensive(weights.tempered(0.5), 0.1)(log_weight)
    some = np.exp(weights.tempered(0.5)(log_weight)[:3])
    expected = np.append(0.9 * some / some.sum() + 0.1 / 3, [0.0, 0.0])
    np.testing.assert_allclose(weights.normalize(weighted), expected, rtol=1e-6)
    assert float(jnp.sum(jnp.exp(weighted))) == pytest.approx(1.0, abs=1e-6)
    assert jnp.isneginf(weights.defensive(weights.tempered(0.2), 0.1)(jnp.full(5, -jnp.inf))).all()


def test_truncated_and_unweighted():
    w = jnp.concatenate([jnp.full(99, 1.0), jnp.full(1, 1e4)])
    mean = float(w.mean())
    np.testing.assert_allclose(jnp.exp(weights.truncated(jnp.log(w))), np.minimum(w, math.sqrt(100) * mean), rtol=1e-12)
    np.testing.assert_array_equal(weights.unweighted(jnp.asarray([3.0, -jnp.inf, jnp.nan])), [0.0, -jnp.inf, -jnp.inf])


def test_systematic_resampling_is_within_one_of_the_expected_counts():
    log_weight = 2.0 * jax.random.normal(jax.random.key(0), (50,))
    expected = 1000 * np.asarray(weights.normalize(log_weight))
    counts = np.stack([np.bincount(weights.resample(jax.random.key(i), log_weight, 1000), minlength=50) for i in range(200)])
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    assert (np.abs(counts.mean(0) - expected) < 5 * 0.5 / math.sqrt(200)).all()


@pytest.mark.parametrize("family", [slow("linear"), "vp", "geometric"])
def test_weights_along_a_path_end_in_those_of_the_path(family):
    """Plus the reward, forward and backward; and the first k steps of a path have the weight of a path of k steps, mean 1."""
    problem = case("gmm").problems[family]
    times, network = paths.power(7), small(problem)
    params = case("gmm").params["random"]

    def control(t, x):
        return network.apply(params, t, x)

    def one(key):
        key_forward, key_backward, key_end = jax.random.split(key, 3)
        forward = sde.simulate_path(problem.process, control, times, key_forward)
        back = sde.simulate_backward(problem.process, control, times, key_backward, jax.random.normal(key_end, (2,)))
        start = forward._replace(times=times[:4], x=forward.x[:4], control=forward.control[:3], noise=forward.noise[:3])
        return [
            (weights.along(problem.process, path), weights.girsanov(problem.process, problem.reward, path))
            for path in (forward, back, start)
        ] + [(problem.reward(path.x[-1]), 0.0) for path in (forward, back, start)]

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
    for (along, end), (reward, _) in zip(found[:3], found[3:], strict=True):
        np.testing.assert_allclose(along[:, -1] + reward, end, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(along[:, 0], 0.0)
    forward, start = found[0][0], found[2][0]
    np.testing.assert_allclose(forward[:, :4], start, rtol=1e-12, atol=1e-12)
    assert forward.shape == (4000, 8) and np.abs(z_scores(np.exp(forward[:, 1:]), 1.0)).max() < 5
    assert np.all(np.std(forward[:, 1:], axis=0) > 0.01)
    assert diagnostics.ess_along(forward).shape == (8,)
