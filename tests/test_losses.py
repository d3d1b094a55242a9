"""The contract of every loss, found through `losses.__all__`: a sane objective, no slope at the exact control, training."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import gaussian, plain, slow, small, z_scores

from tiltjax import diagnostics, exact, losses, networks, paths, problems, run, sampling, sde, targets, train, weights
from tiltjax.losses import collect, score_matching
from tiltjax.losses.adjoint_matching import labelled
from tiltjax.types import Learned, Network, Replay

SCALE = 1.5
REGRESSIONS = {  # on weighted or replayed end points
    "adjoint_sampling",
    "conditional_score_matching",
    "learned_variance",
    "minimum_variance",
    "mixture_score_matching",
    "novel_score_matching",
    "target_score_matching",
}
# few and small: what is tested is the arithmetic
BUFFERED = Replay(256, 512, 30, 128, weights.tempered(0.3))
WALKERS = Replay(256, 512, 10, 128)
REPLAYS = {name: BUFFERED for name in REGRESSIONS} | {
    "action_matching": WALKERS,
    "nets": WALKERS,
    "adjoint_sampling": BUFFERED._replace(weighting=None),
    "adjoint_matching": Replay(256, 256, 4, 128),
}


def make(name, problem, network, times):
    return getattr(losses, name)(problem, network, times, replay=REPLAYS.get(name, Replay(256)))


# -------------------------------------------------------------------------------------- a slope of zero

CENTRES = jnp.asarray([[-0.8, 0.3], [0.7, -0.5]])
VARIANCE = jnp.asarray([0.15, 0.4])


class Nearby(NamedTuple):
    """An exact tilt, and the controls around its own: u* + gain (p0 + p1 m + p2 |m|^2 R), zero parameters at u*."""

    truth: exact.Exact
    network: Network
    params: tuple


def nearby(process, truth) -> Nearby:
    def apply(params, t, x):
        m, rest = process.frame.response(t) * x, process.frame.residual(t) / process.frame.scale**2
        change = params[0] + params[1] * m + params[2] * jnp.sum(jnp.square(m)) * rest
        return truth.control(t, x) + process.frame.gain(t) * change

    zero = (jnp.zeros(2), jnp.zeros(()), jnp.zeros(2))
    return Nearby(truth, Network(lambda key: zero, apply), zero)


TARGET = exact.Mixture(CENTRES, VARIANCE, jnp.asarray([0.7, 0.3]))
BASE = exact.Mixture(jnp.asarray([[0.9, 0.8], [-0.2, -1.0]]), 0.5, jnp.asarray([0.5, 0.5]))


@functools.cache
def mixture(family) -> Nearby:
    process = gaussian(family, (2,), SCALE)
    return nearby(process, exact.mixture_target(process, *TARGET))


@functools.cache
def pretrained_mixture(family) -> Nearby:
    """The same target on a base that is a mixture too, known by its denoiser."""
    process = gaussian(family, (2,), SCALE)
    return nearby(process, exact.mixture_tilt(process, BASE, TARGET))


BASES = {"gaussian": mixture, "pretrained": pretrained_mixture}


def draw_mixture(key, n):
    return targets.gmm(CENTRES, np.broadcast_to(np.sqrt(VARIANCE), (2, 2)), [0.7, 0.3]).sample(key, n)


def slopes(objective, params, data_of):
    """The gradient for each of 400 small batches, by parameter: (400, 5)."""

    @jax.jit
    def all_of_them(keys):
        def one(key):
            key_data, key_loss = jax.random.split(key)
            grads = jax.grad(plain(objective).loss)(params, key_loss, data_of(key_data))
            return jnp.concatenate([jnp.atleast_1d(g) for g in grads.control])

        return jax.lax.map(one, keys, batch_size=50)

    return np.asarray(all_of_them(jax.random.split(jax.random.key(1), 400)))


@pytest.mark.parametrize(
    ("base", "name"),
    [("gaussian", name) for name in sorted(REGRESSIONS)]
    + [case if case[1] == "novel_score_matching" else slow(*case) for case in [("pretrained", n) for n in sorted(REGRESSIONS)]],
)
def test_regressions_on_draws_of_the_target_have_no_slope_at_the_exact_control(name, base):
    near = BASES[base]("linear")
    objective = make(name, near.truth.problem, near.network, paths.uniform(4))
    params = Learned(near.params, objective.init())

    def data(key):
        x = draw_mixture(key, 64)
        return collect.EndPoints(x, jax.vmap(lambda x: collect.end_slope(near.truth.problem, x)[1])(x))

    found = slopes(objective, params, data)
    assert np.isfinite(found).all() and (found.std(0) > 0).all()
    assert np.abs(z_scores(found, 0.0)).max() < 5
    # and a slope away from it: the test could have failed
    away = slopes(objective, Learned((near.params[0] + 0.3, *near.params[1:]), params.extra), data)
    assert np.abs(z_scores(away, 0.0)).max() > 5


@pytest.mark.parametrize(("base", "num_steps"), [("gaussian", 6), slow("pretrained", 80)])  # exact steps; steps of order one
def test_adjoint_matching_on_paths_of_the_tilt_has_no_slope_at_the_exact_control(base, num_steps):
    """Noising paths from draws of the target are paths of the tilt; the lean adjoint is that of `collect`."""
    near, times = BASES[base]("geometric"), paths.power(num_steps)
    problem = near.truth.problem
    objective = losses.adjoint_matching(problem, near.network, times, num_times=6)

    def data(key):
        def one(key, x):
            path = sde.simulate_backward(problem.process, near.truth.control, times, key, x)
            return labelled(problem, path, 10.0)[0]

        key, key_end = jax.random.split(key)
        return jax.vmap(one)(jax.random.split(key, 64), draw_mixture(key_end, 64))

    params = Learned(near.params, None)
    assert np.abs(z_scores(slopes(objective, params, data), 0.0)).max() < 5
    away = Learned((near.params[0] + 0.3, *near.params[1:]), None)
    assert np.abs(z_scores(slopes(objective, away, data), 0.0)).max() > 5


@pytest.mark.parametrize("name", ["adjoint_matching", "log_variance", "relative_entropy", "trajectory_balance"])
def test_losses_on_paths_have_no_slope_at_the_control_of_the_linear_tilt(name):
    """Exact steps, time-varying noise: their own paths, and log w without spread."""
    process = gaussian("geometric", (2,), SCALE)
    truth = exact.linear_tilt(process, jnp.asarray([0.5, -0.8]))
    near, times = nearby(process, truth), paths.power(6)
    options = {"log_z": float(truth.log_z)} if name == "trajectory_balance" else {}
    objective = getattr(losses, name)(truth.problem, near.network, times, **options)
    params = Learned(near.params, objective.init())
    found = slopes(objective, params, lambda key: plain(objective).collect(params, key, 16).data)
    if name == "relative_entropy":
        assert (found.std(0) > 0).all() and np.abs(z_scores(found, 0.0)).max() < 5
    else:
        np.testing.assert_allclose(found, 0.0, atol=1e-9)
    # the path of one control, the slope of another
    away = Learned((near.params[0] + 0.3, *near.params[1:]), params.extra)
    moved = slopes(objective, away, lambda key: plain(objective).collect(params, key, 16).data)
    assert np.abs(moved.mean(0)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adjoint_matching", "log_variance", "relative_entropy", "trajectory_balance"])
def test_losses_on_paths_have_no_slope_at_the_exact_control_of_a_pretrained_base(name):
    """Its steps are of order one, and so is the slope: with 300 of them it is zero within the noise of 400 batches."""
    near = pretrained_mixture("linear")
    problem, times = near.truth.problem, paths.log_snr(near.truth.problem.frame, 300, 0.15)
    objective = getattr(losses, name)(problem, near.network, times)
    params = Learned(near.params, objective.init())
    found = slopes(objective, params, lambda key: plain(objective).collect(params, key, 8).data)
    assert (found.std(0) > 0).all() and np.abs(z_scores(found, 0.0)).max() < 5
    away = Learned((near.params[0] + 0.5, *near.params[1:]), params.extra)
    moved = slopes(objective, away, lambda key: plain(objective).collect(away, key, 8).data)
    assert np.abs(z_scores(moved, 0.0)).max() > 5


def test_labels_of_adjoint_matching_are_those_of_the_clipped_gradient():
    """gain times grad r(X_1), cut at clip sqrt(d / q), for a Gaussian base; whether it was cut is said."""
    process, steepness = gaussian("linear", (2,), SCALE), jnp.asarray([300.0, -400.0])
    problem, times = problems.tilt(process, lambda x: steepness @ x, resolution=0.5), paths.power(6)
    path = jax.jit(lambda key: sde.simulate_path(process, lambda t, x: 0 * x, times, key))(jax.random.key(0))
    for clip, factor in ((10.0, 10 * np.sqrt(2 / 0.5) / 500), (1000.0, 1.0)):
        item, clipped = jax.jit(lambda path, clip=clip: labelled(problem, path, clip))(path)
        assert bool(clipped) == (factor < 1)
        gain = jax.vmap(process.frame.gain)(times[:-1])[:, None]
        np.testing.assert_allclose(item.target, gain * factor * steepness[None], rtol=1e-9)
    objective = losses.adjoint_matching(problem, small(problem), times, replay=Replay(8))
    params = Learned(small(problem).init(jax.random.key(0)), None)
    batch = jax.jit(plain(objective).collect, static_argnums=2)(params, jax.random.key(1), 8)
    assert batch.clipped.all()


def test_log_weights_of_the_losses_are_those_of_the_paths():
    """On its own paths the log weight that `trajectory_balance` differentiates is `weights.girsanov`."""
    near, times = mixture("linear"), paths.power(6)
    objective = losses.trajectory_balance(near.truth.problem, near.network, times, log_z=0.4, rate=2.0)
    params = Learned(near.params, jnp.asarray(0.1))
    batch = jax.jit(plain(objective).collect, static_argnums=2)(params, jax.random.key(0), 50)
    value = jax.jit(plain(objective).loss)(params, jax.random.key(1), batch.data)
    assert float(value) == pytest.approx(float(jnp.mean((batch.log_weight - 0.6) ** 2)), rel=1e-9)
    variance = losses.log_variance(near.truth.problem, near.network, times)
    value = jax.jit(plain(variance).loss)(params, jax.random.key(1), batch.data)
    assert float(value) == pytest.approx(float(jnp.var(batch.log_weight, ddof=1)), rel=1e-9)


# ----------------------------------------------------------------------------------- the contract, trained


class Easy(NamedTuple):
    problem: object
    network: Network
    times: jax.Array
    draw: object
    bias: float  # of log Z, from steps of order one
    calls: list  # one a time that Python ran the density


def unnormalized_gaussian(calls):
    """log Z = 1.3; 0.58 is the ESS of no control."""
    normal = targets.gaussian([0.6, -0.4], [0.8, 1.1])

    def log_density(x):
        calls.append(x)
        return normal.log_density(x) + 1.3

    target = normal._replace(log_density=log_density, log_z=1.3)
    return problems.sampling(target, gaussian("linear", (2,), SCALE), resolution=0.3)


def tilted_mixture(calls):
    """log Z = 1.3; the base is known by its denoiser."""
    base = exact.Mixture(jnp.asarray([[1.2, 0.3], [-0.8, -0.6]]), 0.8, jnp.asarray([0.5, 0.5]))
    target = exact.Mixture(jnp.asarray([[0.8, 1.0], [-1.2, 0.0]]), 0.7, jnp.asarray([0.2, 0.8]))
    problem = exact.mixture_tilt(gaussian("linear", (2,), SCALE), base, target).problem

    def reward(x):
        calls.append(x)
        return problem.reward(x) + 1.3

    return problems.tilt(problem.process, reward, resolution=0.3)


BUILDS = {"gaussian": (unnormalized_gaussian, 0.0), "pretrained": (tilted_mixture, 0.03)}
ON_PATHS = {"log_variance", "relative_entropy", "trajectory_balance"}
NON_EQUILIBRIUM = {"action_matching", "nets"}


@pytest.fixture(scope="module")
def easy():
    """Built once for as long as the file's compiled programs live: a worker that comes back to the file traces anew."""
    return functools.cache(built)


def built(base="gaussian", on_annealed=None) -> Easy:
    build, bias = BUILDS[base]
    problem = build(calls := [])
    if on_annealed is None:
        return ready(problem, small(problem), lambda n: paths.log_snr(problem.frame, n, 0.3), bias, calls)
    problem = problems.annealed(problem, noise=0.7)
    return ready(problem, on_annealed(problem, width=16, depth=1), paths.uniform, bias, calls)


def ready(problem, network, grid, bias, calls) -> Easy:
    sampler = sampling.sampler(problem, network, None, grid)
    draw = lambda params, key: sampler._replace(params=params).sample(key, 4000, num_steps=40)  # noqa: E731
    return Easy(problem, network, grid(10), draw, bias, calls)


def kinds(name):
    """The problems that a loss is for, by both kinds of base."""
    for base in BUILDS:
        if name not in NON_EQUILIBRIUM:
            yield name, base, False
        if name in NON_EQUILIBRIUM | ON_PATHS and (name, base) != ("relative_entropy", "pretrained"):
            yield name, base, True


# one of each kind of loss

FIRST = ("adjoint_matching", "minimum_variance")
QUICK = {(name, "gaussian", False) for name in FIRST}


def test_every_loss_is_for_both_kinds_of_base():
    for name in losses.__all__:
        assert {base for _, base, _ in kinds(name)} == set(BUILDS)


@pytest.mark.parametrize(
    ("name", "base", "annealed"),
    [case if case in QUICK else slow(*case) for name in losses.__all__ for case in kinds(name)],
)
def test_contract_and_short_training(easy, name, base, annealed):
    """Finite, differentiable, one trace, the same for the same key; short training raises the ESS and keeps log Z right."""
    network_of = networks.potential if name == "action_matching" else networks.drift
    problem, network, times, draw, bias, calls = easy(base, network_of) if annealed else easy(base)
    objective = make(name, problem, network, times)
    updates = 240
    trainer = train.trainer(objective, network, optax.adam(optax.cosine_decay_schedule(1e-2, updates)))
    done = run.run(trainer, jax.random.key(0), updates // objective.replay.gradient_steps, chunk=4, progress=False)
    init = jax.jit(trainer.init)
    again = init((), jax.random.key(0)), init((), jax.random.key(0))
    for a, b in zip(*map(jax.tree.leaves, again), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)
    history = done.history
    assert np.isfinite(history.loss).all() and np.isfinite(history.gradient_norm).all() and (history.gradient_norm > 0).all()
    assert int(jnp.sum(history.nonfinite_updates)) == int(jnp.sum(history.nonfinite_particles)) == 0
    assert np.isfinite(history.ess).all() == objective.weighted
    before = draw(network.init(jax.random.key(0)), jax.random.key(1))
    after = draw(done.state.average.control, jax.random.key(1))
    ess = float(diagnostics.ess(before.log_weight)), float(diagnostics.ess(after.log_weight))
    assert ess[1] > max(0.75, ess[0] + 0.1), ess
    log_z = diagnostics.log_z(after.log_weight)
    assert abs(float(log_z.value) - 1.3) < 5 * float(log_z.stderr) + bias
    elbo = diagnostics.elbo(after.log_weight)
    assert 1.3 - 0.3 < float(elbo.value) < 1.3 + 5 * float(elbo.stderr) + bias
    assert len(calls) == 1  # in all that was built, trained and drawn on this problem


def test_the_learned_mixture_finds_the_targets_own_scale():
    """For N(mean, v) the regression's gamma = R / (R + q') goes to 1/q' = 1/v - 1/s^2, by time bin and coordinate."""
    process = gaussian("geometric", (2,), SCALE)
    variance = jnp.asarray([0.1, 0.6])
    truth = exact.gaussian_target(process, jnp.asarray([0.5, -0.5]), variance)
    near = nearby(process, truth)
    objective = losses.minimum_variance(truth.problem, near.network, paths.uniform(4), bins=6)
    optimizer = optax.adam(2e-3)

    @jax.jit
    def learn(key):
        def update(carry, key):
            extra, opt_state = carry
            x = jnp.asarray([0.5, -0.5])[None] + jnp.sqrt(variance)[None] * jax.random.normal(key, (256, 2))
            data = collect.EndPoints(x, jax.vmap(jax.grad(truth.problem.reward))(x))
            slope = jax.grad(lambda extra: plain(objective).loss(Learned(near.params, extra), key, data))(extra)
            with jax.numpy_dtype_promotion("standard"):
                change, opt_state = optimizer.update(slope, opt_state)
            return (optax.apply_updates(extra, change), opt_state), None

        extra = objective.init()
        (extra, _), _ = jax.lax.scan(update, (extra, optimizer.init(extra)), jax.random.split(key, 600))
        weight = score_matching.learned(truth.problem, 6).weight
        times = paths.time_at(process.frame, jnp.exp(jnp.linspace(-0.2, jnp.log(0.3 * 0.1 / SCALE**2) + 0.2, 12)))
        return times, jax.vmap(lambda t: weight(extra, t))(times)

    times, gamma = learn(jax.random.key(0))
    scale = 1 / (1 / variance - 1 / SCALE**2)
    residual = jax.vmap(process.frame.residual)(times)[:, None]
    np.testing.assert_allclose(gamma, residual / (residual + scale[None]), atol=0.02)


def test_relative_entropy_of_relative_weights_is_refused_with_the_reason(easy):
    problem, network, times, *_ = easy("pretrained", networks.drift)
    with pytest.raises(ValueError, match=r"needs a base with a density; got one known by.*no bound of log Z"):
        losses.relative_entropy(problem, network, times)


@pytest.mark.parametrize("weighting", [None, weights.unweighted])
def test_unweighted_conditional_score_matching_is_refused_with_the_reason(easy, weighting):
    problem, network, times, *_ = easy()
    replay = BUFFERED._replace(weighting=weighting)
    with pytest.raises(ValueError, match=r"every control is a fixed point.*got an unweighted replay.*weights\.truncated"):
        losses.conditional_score_matching(problem, network, times, replay=replay)
