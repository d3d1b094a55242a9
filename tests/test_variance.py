"""How noisy the labels are: closed forms for X_1 ~ N(mu, v) exactly, on every path; and the bound of the lean adjoint.

A target of weight gamma is gamma (X_1 - m) / R + (1 - gamma) grad r(X_1), and given X_t its slope in X_1 is all that varies:
Var(g | X_t) = (gamma / R - (1 - gamma) / q')^2 P,  1/q' = 1/v - 1/s^2,  1/P = 1/v + alpha^2 / beta^2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import driven, gaussian, plain, slow

from tiltjax import diagnostics, exact, families, losses, paths, problems, processes
from tiltjax.losses import collect
from tiltjax.types import Batch, Learned, Network

SCALE, N = 1.5, 8000
MEAN, VARIANCE = jnp.asarray([0.5, -0.8]), jnp.asarray([0.1, 0.6])
EXCESS = 1 / (1 / VARIANCE - 1 / SCALE**2)  # q'
FAMILIES = (slow("linear"), slow("trigonometric"), "geometric")
TIMES = jnp.asarray([0.02, 0.2, 0.5, 0.8, 0.99])
SCORE_MATCHING = {
    "conditional_score_matching",
    "target_score_matching",
    "novel_score_matching",
    "adjoint_sampling",
    "mixture_score_matching",
    "minimum_variance",
}


@functools.cache
def truth(family):
    return exact.gaussian_target(gaussian(family, (2,), SCALE), MEAN, VARIANCE)


@functools.cache
def draws(family):
    """Draws of the target, as the losses collect them."""
    x = MEAN[None] + jnp.sqrt(VARIANCE)[None] * jax.random.normal(jax.random.key(0), (N, 2))
    return collect.known_end_points(truth(family).problem, x)


def near(known):
    """The controls u* + gain p, exact at p = 0: the gradient of a loss in p is that in g."""
    gain = known.problem.frame.gain
    return Network(lambda key: jnp.zeros(2), lambda p, t, x: known.control(t, x) + gain(t) * p)


def objective_of(name, family, **options):
    known = truth(family)
    return getattr(losses, name)(known.problem, near(known), paths.uniform(4), **options)


def gamma(name, family, t):
    """(2,), written down again from the definition of each."""
    process, path = truth(family).problem.process, truth(family).problem.frame.path
    rest = float(process.frame.residual(t))
    ratio = float(path.beta(t)) ** 2 / (float(path.alpha(t)) * SCALE) ** 2
    at = {
        "conditional_score_matching": 1.0,
        "target_score_matching": -min(ratio, 100.0),
        "novel_score_matching": 0.0,
        "adjoint_sampling": 0.0,
        "mixture_score_matching": rest / (rest + 0.1),  # the resolution is the least variance of the target
        "minimum_variance": rest / (rest + 0.1),  # where learning starts
    }
    return np.full(2, at[name])


def closed_form(weight, family, t):
    """Var(g | X_t) by coordinate, (2,)."""
    process, path = truth(family).problem.process, truth(family).problem.frame.path
    posterior = 1 / (1 / VARIANCE + path.alpha(t) ** 2 / path.beta(t) ** 2)
    return np.asarray((weight / process.frame.residual(t) - (1 - weight) / EXCESS) ** 2 * posterior)


@functools.cache
def measured(name, family):
    objective = objective_of(name, family)
    params = Learned(jnp.zeros(2), objective.init())
    known = truth(family)
    return diagnostics.target_variance(objective, params, draws(family), TIMES, jax.random.key(1), known.control)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(SCORE_MATCHING))
def test_variances_of_the_targets_are_the_closed_forms(name, family):
    found, gain2 = measured(name, family), np.asarray(jax.vmap(truth(family).problem.frame.gain)(TIMES)) ** 2
    expected = np.stack([closed_form(gamma(name, family, t), family, t) for t in TIMES]) * gain2[:, None]
    assert found.coordinate.value.shape == (5, 2) and found.trace.value.shape == (5,)
    assert np.abs((found.coordinate.value - expected) / found.coordinate.stderr).max() < 5
    assert np.abs((found.trace.value - expected.sum(1)) / found.trace.stderr).max() < 5
    assert (found.trace.stderr < 0.1 * found.trace.value).all()  # the test could have failed


@pytest.mark.parametrize("family", FAMILIES)
def test_which_of_them_blow_up(family):
    """In units of g, conditional as t -> 1 and target as t -> 0; novel is bounded, and the learned one is 0 at its best."""
    gain2 = jax.vmap(truth(family).problem.frame.gain)(TIMES) ** 2
    of = {name: np.asarray(measured(name, family).trace.value / gain2) for name in SCORE_MATCHING}
    assert of["conditional_score_matching"][-1] > 10 * of["conditional_score_matching"][2]
    assert of["target_score_matching"][0] > 10 * of["target_score_matching"][2]
    bound = float(jnp.sum(VARIANCE / EXCESS**2))
    assert (of["novel_score_matching"] < 1.2 * bound).all()
    objective = objective_of("minimum_variance", family)
    table = jnp.broadcast_to(jnp.log(EXCESS / 0.1) / 30.0, objective.init().shape)
    params = Learned(jnp.zeros(2), table)
    best = diagnostics.target_variance(objective, params, draws(family), TIMES, jax.random.key(1), truth(family).control)
    np.testing.assert_allclose(best.trace.value, 0.0, atol=1e-12)


def test_adjoint_matching_has_the_variance_of_the_novel_target_by_weighted_paths():
    """Collected under a control that is not the exact one, on a coarse grid: the weights make them paths of the tilt."""
    known, family = truth("geometric"), "geometric"
    process, times = known.problem.process, paths.power(5)
    objective = losses.adjoint_matching(known.problem, near(known), times)
    params = Learned(jnp.asarray([0.1, -0.05]), None)
    batch = jax.jit(plain(objective).collect, static_argnums=2)(params, jax.random.key(0), 20_000)
    assert float(diagnostics.ess(batch.log_weight)) < 0.95
    found = diagnostics.target_variance(objective, params, batch, times[1:-1], jax.random.key(1), known.control)
    for k, t in enumerate(times[1:-1]):
        expected = closed_form(np.zeros(2), family, t) * float(process.frame.gain(t)) ** 2
        assert np.abs((found.coordinate.value[k] - expected) / found.coordinate.stderr[k]).max() < 5
        assert (found.coordinate.stderr[k] < 0.1 * found.coordinate.value[k]).all()


@pytest.mark.parametrize("name", ["novel_score_matching", "target_score_matching", "minimum_variance"])
def test_variance_of_the_gradient_is_the_closed_form(name):
    """d term / dp = 2 (R + q) (g* - target) / max(1, 1 - gamma)^2 for the control u* + gain p, at p = 0; and away from it."""
    family, process = "linear", truth("linear").problem.process
    objective = objective_of(name, family)
    batch = jax.tree.map(lambda leaf: leaf[:4000], draws(family))
    for p in (jnp.zeros(2), jnp.asarray([0.5, -1.0])):
        params = Learned(p, objective.init())
        found = jax.jit(
            lambda params: diagnostics.gradient_variance(objective, params, batch, TIMES[1:4], jax.random.key(1), 500)
        )(params)
        for k, t in enumerate(TIMES[1:4]):
            weight = gamma(name, family, t)
            unit = 2 * (float(process.frame.residual(t)) + 0.1) / np.maximum(1.0, 1 - weight) ** 2
            expected = np.sum(unit**2 * closed_form(weight, family, t))
            assert abs(found.variance.value[k] - expected) < 5 * found.variance.stderr[k]
            square = np.sum((unit * np.asarray(p)) ** 2)
            # |mean|^2 of 2 normals: its spread is 2 |mean| se + the se^2 of the two
            spread = 2 * np.sqrt(square * expected / 4000) + 2 * expected / 4000
            assert abs(found.square[k] - square) < 5 * spread


def test_weights_of_the_batch_count_as_repetitions():
    """A particle of weight 2 is that particle twice; one of weight 0 is not there."""
    objective = objective_of("conditional_score_matching", "linear")
    params, key = Learned(jnp.zeros(2), None), jax.random.key(1)
    batch = jax.tree.map(lambda leaf: leaf[:4], draws("linear"))
    # the noise belongs to a particle's place: a loss without noise of its own
    still = objective._replace(
        regression=objective.regression._replace(
            target=lambda params, here, key, t, item: (item.x, item.x),
            term=lambda params, here, key, t, item: params.control @ item.x,
        )
    )
    twice = Batch(batch.data, jnp.log(jnp.asarray([2.0, 1.0, 0.0, 1.0])), batch.clipped)
    index = jnp.asarray([0, 0, 1, 3])
    listed = jax.tree.map(lambda leaf: leaf[index], batch)
    options = (TIMES[:2], key, lambda t, x: 0 * x)
    a, b = (diagnostics.target_variance(still, params, some, *options) for some in (twice, listed))
    np.testing.assert_allclose(a.coordinate.value, b.coordinate.value, rtol=1e-12)
    gradient = diagnostics.gradient_variance(still, params, listed, TIMES[:1], key)
    x = np.asarray(listed.data.x)
    assert float(gradient.variance.value[0]) == pytest.approx(np.var(x, axis=0, ddof=1).sum(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(losses.__all__) - {"action_matching", "nets"}))  # of memoryless problems
def test_what_is_measured_is_what_is_trained_on(name):
    """The loss is the mean of `term` at its own times: summed over a grid, or averaged over log R, by quadrature."""
    if name in ("log_variance", "trajectory_balance", "relative_entropy"):
        objective, params = objective_of(name, "linear"), Learned(jnp.zeros(2), None)
        for measure in (
            lambda: diagnostics.target_variance(objective, params, draws("linear"), TIMES, jax.random.key(0), None),
            lambda: diagnostics.gradient_variance(objective, params, draws("linear"), TIMES, jax.random.key(0)),
        ):
            with pytest.raises(ValueError, match=r"does not regress the control.*log_variance, trajectory"):
                measure()
        return
    objective = objective_of(name, "linear")
    params = Learned(jnp.asarray([0.3, -0.2]), objective.init())
    here = families.of(objective.family).here((), ())
    term = jax.vmap(lambda params, *rest: objective.regression.term(params, here, *rest), (None, 0, None, 0))
    if name == "adjoint_matching":
        data = jax.jit(plain(objective).collect, static_argnums=2)(params, jax.random.key(0), 16).data
        keys = jax.random.split(jax.random.key(1), 16)
        value = float(jnp.mean(jax.lax.map(lambda t: jnp.mean(term(params, keys, t, data)), paths.uniform(4)[:-1])))
        assert float(plain(objective).loss(params, jax.random.key(2), data)) == pytest.approx(value, rel=1e-12)
        return
    data, keys = draws("linear").data, jax.random.split(jax.random.key(1), N)
    process = truth("linear").problem.process
    middle = (np.arange(24) + 0.5) / 24  # the middle of each bin of log R, where gamma may jump at the edges
    times = paths.time_at(process.frame, jnp.asarray((0.3 * 0.1 / SCALE**2) ** middle))
    terms = jax.lax.map(lambda t: jnp.mean(term(params, keys, t, data)), times)
    values = jax.lax.map(lambda key: plain(objective).loss(params, key, data), jax.random.split(jax.random.key(2), 20))
    stderr = np.std(values, ddof=1)  # that of one; the terms' own, of as many particles a time, is below it
    assert abs(np.mean(values) - np.mean(terms)) < 5 * stderr
    assert stderr < 0.05 * np.mean(terms)


# ------------------------------------------------------------------------------------ the norm of the lean adjoint


@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_of_the_lean_adjoint_are_equalities_for_a_gaussian_base(family):
    known, times = truth(family), paths.power(8)
    found = jax.jit(lambda key: diagnostics.adjoint_norm(known.problem, known.control, times, key, 20))(jax.random.key(0))
    assert found.norm.shape == found.bound.shape == (20, 9)
    np.testing.assert_allclose(found.norm, found.bound, rtol=1e-10)
    path = known.problem.frame.path
    factor = jax.vmap(lambda t: diagnostics.log_concave_bound(path, 1 / SCALE**2, t))(times)
    np.testing.assert_allclose(found.norm, factor[None] * found.norm[:, -1:], rtol=1e-10, atol=1e-14)
    assert float(factor[-1]) == pytest.approx(1.0)
    np.testing.assert_allclose(  # as it is written, away from t = 0, where alpha and beta may vanish together
        factor[1:],
        [float(path.alpha(t) / (path.alpha(t) ** 2 + path.beta(t) ** 2 / SCALE**2)) for t in times[1:]],
        rtol=1e-10,
    )


def test_bounds_hold_for_a_base_of_two_widths():
    """N(0, diag(0.5, 1.5)^2) by its exact transitions: log-concave with m = 1 / 1.5^2, and neither bound is an equality."""
    path, scales, times = paths.trigonometric(), (0.5, 1.5), paths.uniform(12)
    sides = [processes.gaussian(path, (1,), scale) for scale in scales]

    def transition(t, t1, x):
        (m0, s0), (m1, s1) = (side.transition(t, t1, x[i : i + 1]) for i, side in enumerate(sides))
        return jnp.concatenate([m0, m1]), jnp.stack([s0, s1])

    blind = processes.gaussian(path, (2,))._replace(move=lambda t, t1, x, seen: transition(t, t1, x), log_density=None)
    problem = problems.tilt(blind, lambda x: jnp.sum(jnp.sin(x)) + x[0] * x[1])
    found = diagnostics.adjoint_norm(problem, lambda t, x: 0 * x, times, jax.random.key(0), 50)
    concave = jax.vmap(lambda t: diagnostics.log_concave_bound(path, 1 / 1.5**2, t))(times)[None] * found.norm[:, -1:]
    assert (found.norm <= found.bound * (1 + 1e-12)).all() and (found.norm <= concave * (1 + 1e-12) + 1e-14).all()
    assert (found.norm[:, 6] < 0.99 * found.bound[:, 6]).mean() > 0.5
    # and by hand: each coordinate of -grad r(X_1) falls by its own response
    own = np.stack([jax.vmap(side.frame.response)(times) for side in sides], -1)
    assert (found.norm >= own.min(-1)[None] * found.norm[:, -1:] - 1e-14).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_for_a_log_concave_base_that_is_not_gaussian(family):
    """N(+-a, v I) in equal parts, a^2 < v: its least curvature, halfway, is m = (1 - a^2 / v) / v. Units of 1 / sqrt(m)."""
    a, v = 0.6, 0.5
    m = (1 - a**2 / v) / v
    process = gaussian(family, (2,), m**-0.5)
    base = exact.mixture_base(process, exact.Mixture(jnp.asarray([[a, 0.0], [-a, 0.0]]), v, jnp.asarray([0.5, 0.5])))
    problem, times = problems.tilt(base, lambda x: jnp.sum(jnp.sin(x)) + x[0] * x[1]), paths.power(12)
    found = jax.jit(lambda key: diagnostics.adjoint_norm(problem, lambda t, x: 0 * x, times, key, 200))(jax.random.key(0))
    bound = jax.vmap(lambda t: diagnostics.log_concave_bound(process.frame.path, m, t))(times)[None] * found.norm[:, -1:]
    assert (found.norm <= bound * (1 + 1e-12) + 1e-14).all() and (found.bound <= bound * (1 + 1e-12) + 1e-14).all()
    middle = slice(1, -1)
    assert (found.norm[:, middle] < 0.9 * bound[:, middle]).mean() > 0.25  # for a Gaussian base: nowhere
    sharper = (
        jax.vmap(lambda t: diagnostics.log_concave_bound(process.frame.path, 1.2 / v, t))(times)[None] * found.norm[:, -1:]
    )
    assert (found.norm[:, middle] > sharper[:, middle]).any()  # a base that concave it is not


def test_the_discrete_bound_holds_for_a_base_of_two_wells():
    """Euler steps of a mixture, where grad b has eigenvalues of both signs; the bound of a log-concave base fails there."""
    path, wells = paths.trigonometric(), jnp.asarray([[1.5, 0.0], [-1.5, 0.5]])

    def score(t, x):
        variance = path.alpha(t) ** 2 * 0.09 + path.beta(t) ** 2
        log_p = jax.nn.logsumexp(-0.5 * jnp.sum((x[None] - path.alpha(t) * wells) ** 2, axis=1) / variance)
        return log_p

    def drift(t, x):
        return path.kappa(t) * x + 2 * path.eta(t) * jax.grad(score, 1)(t, x)

    base = driven(processes.gaussian(path, (2,)), drift)
    problem = problems.tilt(base, lambda x: jnp.sum(jnp.sin(x)))
    times = paths.uniform(40)
    found = diagnostics.adjoint_norm(problem, lambda t, x: 0 * x, times, jax.random.key(0), 50)
    assert (found.norm <= found.bound * (1 + 1e-12)).all() and (found.norm < 0.9 * found.bound).any()
    narrow = jax.vmap(lambda t: diagnostics.log_concave_bound(path, 1 / 0.09, t))(times)[None] * found.norm[:, -1:]
    assert (found.norm[:, 5:-1] > narrow[:, 5:-1]).any()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="m is a lower bound of the curvature"):
        diagnostics.log_concave_bound(paths.linear(), -1.0, 0.5)
    with pytest.raises(ValueError, match="n is the number of paths"):
        diagnostics.adjoint_norm(truth("linear").problem, truth("linear").control, paths.uniform(4), jax.random.key(0), 0)
