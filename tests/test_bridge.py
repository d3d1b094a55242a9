"""Schroedinger bridges: the source, the base's bridge, the closed Gaussian form, both objectives, weights, the alternation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from support import as_batch, gaussian, perturbed, small, z_scores

import tiltjax as tj
from tiltjax import (
    bridges,
    contexts,
    diagnostics,
    exact,
    frames,
    losses,
    networks,
    paths,
    problems,
    processes,
    sde,
    targets,
    training,
    weights,
)
from tiltjax.losses import bridge, collect
from tiltjax.types import Held, Learned, Network, Replay

MEAN, VARIANCE = jnp.asarray([0.9, -0.6]), jnp.asarray([0.3, 1.5])
SOURCE = 0.8


@functools.cache
def base():
    """Noise that falls in time, from a source of its own width."""
    return processes.gaussian(paths.geometric(2.0, 0.5, source=SOURCE), (2,))


@functools.cache
def truth():
    return exact.gaussian_bridge(base(), MEAN, VARIANCE)


def leaning():
    """A Gaussian process with a drift, where X_1 remembers X_0."""
    return processes.gaussian(paths.vp(0.1, 2.0), (2,), 1.5)


# ------------------------------------------------------------------------------------------------ the base


@pytest.mark.parametrize("path", [paths.brownian(1.3, source=SOURCE), paths.geometric(2.0, 0.5, source=SOURCE)])
def test_a_brownian_path_with_a_source(path):
    """dX = sigma dB from N(0, source^2): its steps, its variance, and B(x | x') N(x') = F(x' | x) N(x)."""
    process = processes.gaussian(path, (1,))
    t, t1, x, x1 = jnp.asarray(0.3), jnp.asarray(0.7), jnp.asarray([0.6]), jnp.asarray([-0.9])
    nodes, node_weights = np.polynomial.legendre.leggauss(40)

    def nu(a, b):
        times = 0.5 * (b - a) * jnp.asarray(nodes) + 0.5 * (a + b)
        return (
            0.5
            * (b - a)
            * jnp.sum(jnp.asarray(node_weights) * jnp.square(jax.vmap(lambda t: frames.diffusion(process.frame, t))(times)))
        )

    def log_normal(v, mean, var):
        return -0.5 * jnp.sum(jnp.square(v - mean)) / var - 0.5 * jnp.log(2 * jnp.pi * var)

    variance = [SOURCE**2 + nu(0.0, s) for s in (t, t1, 1.0)]
    mean, std = process.transition(t, t1, x)
    np.testing.assert_allclose(mean, x, rtol=1e-12)
    np.testing.assert_allclose(jnp.square(std), nu(t, t1), rtol=1e-12)
    np.testing.assert_allclose(processes.drift(process, t, x), 0.0, atol=1e-12)
    back, back_std = process.reverse(t, t1, x1)
    np.testing.assert_allclose(
        log_normal(x, 0.0, variance[0]) + log_normal(x1, mean, std**2),
        log_normal(x1, 0.0, variance[1]) + log_normal(x, back, back_std**2),
        rtol=1e-12,
    )
    key = jax.random.key(0)
    np.testing.assert_allclose(process.initial(key), SOURCE * jax.random.normal(key, (1,)), rtol=1e-12)
    np.testing.assert_allclose(process.log_density(x), log_normal(x, 0.0, variance[2]), rtol=1e-12)
    np.testing.assert_allclose(process.frame.residual(t), nu(t, 1.0), rtol=1e-12)
    levels = jnp.log(jax.vmap(process.frame.residual)(paths.log_snr(process.frame, 9, 0.1)[:-1]))  # uniform from R_0 on
    np.testing.assert_allclose(jnp.diff(levels), jnp.log(0.01 / nu(0.0, 1.0)) / 8, rtol=1e-9)


@pytest.mark.parametrize("make", [base, leaning])
def test_the_bridge_kernel_is_the_base_given_both_ends(make):
    process = make()
    t, x0, x1 = jnp.asarray(0.35), jnp.full(2, 0.7), jnp.full(2, -1.1)
    x = jnp.linspace(-8.0, 8.0, 4001)

    def log_step(t, t1, x, x1):
        mean, std = process.transition(t, t1, x)
        return -0.5 * jnp.square((x1 - mean) / std)

    zero, one = jnp.zeros(()), jnp.ones(())
    log_p = log_step(zero, t, x0[:1], x) + log_step(t, one, x, x1[:1])
    p = jnp.exp(log_p - jnp.max(log_p))
    p = p / jnp.sum(p)
    mean = jnp.sum(p * x)
    np.testing.assert_allclose(processes.bridge(process, t, x0, x1, jnp.zeros(2)), mean, rtol=1e-9)
    moved = processes.bridge(process, t, x0, x1, jnp.ones(2)) - mean
    np.testing.assert_allclose(jnp.square(moved), jnp.sum(p * jnp.square(x - mean)), rtol=1e-9)


def test_without_memory_the_bridge_kernel_is_the_noising_kernel():
    process, t = gaussian("linear", (2,), 1.5), jnp.asarray(0.35)
    x0, x1, xi = jax.random.normal(jax.random.key(0), (3, 2))
    np.testing.assert_allclose(processes.bridge(process, t, x0, x1, xi), frames.noised(process.frame, t, x1, xi), rtol=1e-12)


def test_backward_control_by_the_base_s_own_score_is_the_base_s_reversal():
    for process in (base(), leaning()):
        own = processes.backward_controlled(process, base_score(process))
        args = jnp.asarray(0.2), jnp.asarray(0.6), jnp.asarray([0.4, -1.0])
        np.testing.assert_allclose(own.reverse(*args)[0], process.reverse(*args)[0], rtol=1e-9)


def base_score(process):
    return lambda t, x: -process.frame.response(t) * x / (process.frame.scale**2 - process.frame.residual(t))


# ----------------------------------------------------------------------------------------- the closed form


@pytest.mark.parametrize("make", [base, leaning])
def test_the_gaussian_bridge_solves_the_schroedinger_system(make):
    process = make()
    found = exact.gaussian_bridge(process, MEAN, VARIANCE)
    zero, one, t, x = jnp.zeros(()), jnp.ones(()), jnp.asarray(0.4), jnp.asarray([0.7, -0.2])

    def g(t, x):
        return found.control(t, x) / process.frame.gain(t)

    # phi phi_hat is p_0 at the start and p* at the end
    m0, first = process.frame.response(zero) * x, process.frame.scale**2 - process.frame.residual(zero)
    np.testing.assert_allclose(g(zero, x) + found.corrector(zero, x), -m0 / first, rtol=1e-9)
    np.testing.assert_allclose(g(one, x) + found.corrector(one, x), -(x - MEAN) / VARIANCE, rtol=1e-9)
    # the base carries phi back from t = 1, phi_hat on from t = 0
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(60)

    def carried(slope_at, start, variance, response):
        """The slope at m of log int N(y; m, variance) exp(potential(y)) dy, the potential quadratic."""
        slope = lambda y: slope_at(start, y / response)  # noqa: E731
        m = process.frame.response(t) * x
        y = m[None] + jnp.sqrt(variance) * jnp.asarray(nodes)[:, None]
        potential = 0.5 * (y - m[None]) * (slope(m)[None] + jax.vmap(slope)(y))  # exact for a linear slope
        w = jnp.asarray(node_weights)[:, None] * jnp.exp(potential)
        return jnp.sum(w * jax.vmap(slope)(y), axis=0) / jnp.sum(w, axis=0)

    rest = process.frame.residual(t)
    np.testing.assert_allclose(carried(g, one, rest, 1.0), g(t, x), rtol=1e-6)
    spent = process.frame.residual(zero) - rest
    np.testing.assert_allclose(
        carried(found.corrector, zero, spent, process.frame.response(zero)), found.corrector(t, x), rtol=1e-6
    )


def moments_of_steps(num_steps):
    """Mean and variance of X_N and Cov(X_0, X_N) under the exact control held over each step: every step is affine."""
    process, times = base(), paths.uniform(num_steps)

    def step(carry, k):
        mean, variance, covariance = carry
        t, t1 = times[k], times[k + 1]

        def move(x):
            start, std = process.transition(t, t1, x)
            return start + std * jnp.sqrt(process.clock(t, t1)) * truth().control(t, x)

        offset = move(jnp.zeros(2))
        slope = move(jnp.ones(2)) - offset
        noise = jnp.square(process.transition(t, t1, mean)[1])
        return (slope * mean + offset, jnp.square(slope) * variance + noise, slope * covariance), None

    start = (jnp.zeros(2), jnp.full(2, SOURCE**2), jnp.full(2, SOURCE**2))
    return jnp.stack(jax.lax.scan(step, start, jnp.arange(num_steps))[0])


def test_the_exact_control_carries_the_source_to_the_target():
    """Mean, variance and covariance with the start, to first order in the step."""
    expected = jnp.stack([MEAN, VARIANCE, truth().covariance])
    error = [np.abs(moments_of_steps(n) - expected).max() for n in (200, 400, 800)]
    assert error[0] < 0.01
    np.testing.assert_allclose(np.divide(error[:-1], error[1:]), 2.0, rtol=0.05)


@pytest.mark.slow
def test_at_the_bridge_the_weights_of_its_own_reversal_are_even():
    """Those of the base's reversal keep a spread there, whatever the grid."""
    process, reward = base(), truth().problem.reward
    turned = processes.backward_controlled(process, truth().corrector)

    def log_weights(num_steps):
        times = paths.log_snr(process.frame, num_steps, truth().problem.resolution)

        def draw(key):
            path = sde.simulate_path(turned, truth().control, times, key)
            return weights.crooks_full(turned, reward, path), weights.girsanov(process, reward, path)

        return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 5000))

    full, relative = log_weights(200)
    for log_weight in (full, relative):
        assert np.abs(z_scores(np.exp(np.asarray(log_weight)), 1.0)) < 5
    assert diagnostics.ess(full) > 0.97
    assert 0.6 < diagnostics.ess(relative) < 0.85
    assert diagnostics.ess(log_weights(25)[0]) < diagnostics.ess(full)


# ------------------------------------------------------------------------------------------ the objectives


def exact_pairs(key, n):
    """(X_0, X_1) of the Gaussian bridge."""
    z0, z1 = jax.random.normal(key, (2, n, 2))
    c = truth().covariance[None]
    start = SOURCE * z0
    return start, MEAN[None] + c / SOURCE**2 * start + jnp.sqrt(VARIANCE[None] - c**2 / SOURCE**2) * z1


def around(function, unit):
    """A network whose parameters move it away from `function`: f + unit(t) (p0 + p1 x)."""
    apply = lambda params, t, x: function(t, x) + unit(t) * (params[0] + params[1] * x)  # noqa: E731
    return Network(lambda key: (jnp.zeros(2), jnp.zeros(2)), apply)


def slopes(objective, held, data_of):
    """The gradient for each of 400 small batches: (400, 4)."""

    @jax.jit
    def all_of_them(keys):
        def one(key):
            key_data, key_loss = jax.random.split(key)
            of = lambda params: objective.loss(held._replace(params=params), key_loss, as_batch(data_of(key_data)))  # noqa: E731
            return jnp.concatenate(jax.grad(of)(held.params).control)

        return jax.lax.map(one, keys, batch_size=50)

    return np.asarray(all_of_them(jax.random.split(jax.random.key(1), 400)))


def test_the_adjoint_match_has_no_slope_at_the_bridge():
    network = around(truth().control, base().frame.gain)
    right = Network(lambda key: (), lambda params, t, x: truth().corrector(t, x))
    wrong = Network(lambda key: (), lambda params, t, x: base_score(base())(t, x))

    def found(shift, corrector):
        objective = bridge.adjoint_bridge_matching(truth().problem, network, paths.uniform(4), corrector=corrector)

        def data(key):
            start, end = exact_pairs(key, 64)
            return bridge.Pulled(start, end, -(end - MEAN[None]) / VARIANCE[None])

        return z_scores(slopes(objective, Held(Learned((jnp.full(2, shift), jnp.zeros(2)), None)), data), 0.0)

    assert np.abs(found(0.0, right)).max() < 5
    assert np.abs(found(0.3, right)).max() > 10
    assert np.abs(found(0.0, wrong)).max() > 10  # the first stage's corrector is not the last's


@pytest.mark.parametrize("terminal", [0.0, 1.0])
def test_the_corrector_match_has_no_slope_at_the_bridge(terminal):
    network = around(truth().corrector, lambda t: 1.0)
    control = Network(lambda key: (), lambda params, t, x: truth().control(t, x))
    options = {"control": control, "terminal": terminal}
    objective = bridge.corrector_matching(truth().problem, network, paths.uniform(4), **options)

    def found(shift):
        data = lambda key: bridge.Pairs(*exact_pairs(key, 64))  # noqa: E731
        return z_scores(slopes(objective, Held(Learned((jnp.full(2, shift), jnp.zeros(2)), None)), data), 0.0)

    assert np.abs(found(0.0)).max() < 5
    assert np.abs(found(0.3)).max() > 10


@pytest.mark.slow
def test_objectives_collect_the_pairs_of_the_present_control():
    """X_0 from the source, X_1 from the control's end, labelled by grad log gamma; no gradient reaches the other network."""
    problem, times = truth().problem, paths.log_snr(base().frame, 8, 0.3)
    control, corrector = small(problem), networks.corrector(problem, 16, 1)
    own, frozen = perturbed(control.init(jax.random.key(0)), jax.random.key(1), 0.1), corrector.init(jax.random.key(2))
    adjoint = bridge.adjoint_bridge_matching(problem, control, times, corrector=corrector)
    held = Held(Learned(own, None), frozen)
    batch, carried = jax.jit(lambda key: contexts.collect(adjoint, held, key, 2000))(jax.random.key(3))
    assert jax.tree.all(jax.tree.map(np.array_equal, carried, frozen))
    assert abs(z_scores(np.square(batch.data.start).mean(1), SOURCE**2)) < 5
    np.testing.assert_allclose(batch.data.slope, -(batch.data.end - MEAN[None]) / VARIANCE[None], rtol=1e-9, atol=1e-9)
    assert abs(z_scores(np.exp(np.asarray(batch.log_weight)), 1.0)) < 5
    slope = jax.jit(jax.grad(lambda params: adjoint.loss(held._replace(params=params), jax.random.key(4), batch)))(held.params)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(slope.control)[-1:])
    match = bridge.corrector_matching(problem, corrector, times, control=control)
    pairs, _ = jax.jit(lambda key: contexts.collect(match, Held(Learned(frozen, None), own), key, 2000))(jax.random.key(3))
    np.testing.assert_allclose(pairs.data.end, batch.data.end, rtol=1e-9)
    np.testing.assert_array_equal(pairs.data.start, batch.data.start)
    assert match.energy_evaluations == match.gradient_evaluations == 0


def test_without_memory_the_first_stage_is_adjoint_sampling():
    process = gaussian("linear", (2,), 1.5)
    problem = exact.gaussian_target(process, MEAN, VARIANCE).problem
    control, corrector = small(problem), networks.corrector(problem, 16, 1)
    params = perturbed(control.init(jax.random.key(0)), jax.random.key(1), 0.1)
    other = losses.adjoint_sampling(problem, control, paths.uniform(4))
    same = bridge.adjoint_bridge_matching(problem, control, paths.uniform(4), corrector=corrector)
    start, end = jax.random.normal(jax.random.key(2), (2, 50, 2))
    slope, key = jax.vmap(jax.grad(problem.reward))(end), jax.random.key(3)
    gradient = slope + jax.vmap(jax.grad(process.log_density))(end)
    np.testing.assert_allclose(
        jax.jit(same.loss)(
            Held(Learned(params, None), corrector.init(jax.random.key(4))), key, as_batch(bridge.Pulled(start, end, gradient))
        ),
        jax.jit(other.loss)(Held(Learned(params, None)), key, as_batch(collect.EndPoints(end, slope))),
        rtol=1e-9,
    )


# ------------------------------------------------------------------------------------------------- weights

TWO_MODES = targets.gmm(jnp.asarray([[-1.2, 0.0], [1.4, 0.5]]), 0.5 * jnp.ones((2, 2)), [0.35, 0.65])


def test_weights_are_unbiased_for_any_control_and_any_corrector():
    """Untrained random networks, few steps. With the base's own reversal the full form is `girsanov`, path by path."""
    process = base()
    target = TWO_MODES._replace(log_density=lambda x: TWO_MODES.log_density(x) + 1.3)
    problem = problems.sampling(target, process, resolution=0.25)
    control, corrector = small(problem), networks.corrector(problem, 16, 1)
    random = perturbed(control.init(jax.random.key(0)), jax.random.key(1), 0.1)
    other = perturbed(corrector.init(jax.random.key(2)), jax.random.key(3), 0.05)
    turned = processes.backward_controlled(process, lambda t, x: corrector.apply(other, t, x))
    times = paths.log_snr(process.frame, 4, 0.25)

    @jax.jit
    @jax.vmap
    def draw(key):
        path = sde.simulate_path(process, lambda t, x: control.apply(random, t, x), times, key)
        full = [weights.crooks_full(p, problem.reward, path) for p in (turned, process)]
        return *full, weights.girsanov(process, problem.reward, path)

    learned, full, girsanov = draw(jax.random.split(jax.random.key(4), 20_000))
    np.testing.assert_allclose(full, girsanov, rtol=1e-7, atol=1e-7)
    assert jnp.std(learned - girsanov) > 0.05
    for log_weight in (learned, girsanov):
        assert diagnostics.ess(log_weight) > 0.02
        assert abs(z_scores(np.exp(np.asarray(log_weight) - 1.3), 1.0)) < 5


# ------------------------------------------------------------------------------------------ the alternation


def fit(problem, key=jax.random.key(0), **options):
    given = {
        "network": small,
        "corrector": functools.partial(networks.corrector, width=16, depth=1),
        "learning_rate": 1e-2,
        "num_steps": 12,
        "sampling_steps": 60,
        "replay": Replay(256, 512, 25, 128),
        "progress": False,
    }
    return support.fit(key, problem, call=tj.fit_bridge, **{**given, **options})


def moments(x):
    return np.stack([x.mean(0), x.var(0)])


@pytest.mark.slow
def test_stages_lead_to_the_gaussian():
    sampler = fit(truth().problem, num_stages=4, num_updates=600)
    draws = sampler.sample(jax.random.key(1), 8000)
    found, log_z = moments(draws.x), diagnostics.log_z(draws.log_weight)
    print(found, diagnostics.ess(draws.log_weight), log_z)
    assert np.abs(found[0] - MEAN).max() < 0.06  # one standard error is 0.014
    assert np.abs(found[1] / VARIANCE - 1).max() < 0.12  # 0.016, and 60 steps of the control held
    assert diagnostics.ess(draws.log_weight) > 0.85
    assert abs(float(log_z.value)) < 5 * float(log_z.stderr)
    assert sampler.report.history.loss.shape == (48,) and sampler.report.nonfinite_updates == 0
    assert sampler.report.energy_evaluations == 4 * (6 * 256 + 512)


QUICK = {"num_stages": 2, "num_updates": 100}


def test_a_bridge_is_saved_loaded_and_refined(tmp_path):
    """Of a random control and corrector: E[w] = Z after `load`; of the exact ones, `refine` raises the ESS."""
    sampler = fit(truth().problem, **QUICK)
    moved = perturbed(sampler.learned, jax.random.key(1), 0.02)
    sampler = sampler._replace(params=moved.control, extra=moved.extra)
    sampler.save(tmp_path / "there")
    loss = functools.partial(bridge.schroedinger, corrector=functools.partial(networks.corrector, width=16, depth=1))
    back = tj.load(tmp_path / "there", truth().problem, network=small, loss=loss)
    own, loaded = (one.sample(jax.random.key(2), 8000, num_steps=10) for one in (sampler, back))
    np.testing.assert_array_equal(own.log_weight, loaded.log_weight)
    assert abs(z_scores(np.exp(np.asarray(loaded.log_weight)), 1.0)) < 5 and float(jnp.std(loaded.log_weight)) > 0.05
    x = jnp.asarray([0.3, -0.2])
    np.testing.assert_array_equal(back.network.apply(back.params, 0.5, x), sampler.network.apply(sampler.params, 0.5, x))
    with pytest.raises(ValueError, match="do not fit the network"):
        tj.load(tmp_path / "there", truth().problem, network=small)  # the default corrector is wider


def test_refining_the_exact_bridge_raises_its_ess():
    made = sampling_of_the_exact_bridge(lambda num_steps: paths.power(num_steps, 3.0))
    refined = made.refine(jax.random.key(1), num_particles=512, num_steps=100)
    ess = [float(diagnostics.ess(one.sample(jax.random.key(2), 8000, num_steps=12).log_weight)) for one in (made, refined)]
    assert ess[1] > ess[0] + 0.02, ess


def sampling_of_the_exact_bridge(grid):
    network = Network(lambda key: (), lambda params, t, x: truth().control(t, x))
    exactly = lambda problem, extra: problem._replace(motion=bridges.motion(truth().corrector))  # noqa: E731
    return tj.sampling.sampler(truth().problem, network, (), grid, remade=exactly)


@pytest.mark.slow
def test_a_bridge_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = fit(truth().problem, **QUICK)
    save, calls = tj.checkpoints.Store.save, []

    def killed(self, *arguments):
        save(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(tj.checkpoints.Store, "save", killed)
    options = {**QUICK, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}
    monkeypatch.setattr(training, "CHUNK_UPDATES", 25)  # a chunk a round: four saves a turn of two rounds each
    with pytest.raises(KeyboardInterrupt):
        fit(truth().problem, **options)
    monkeypatch.setattr(tj.checkpoints.Store, "save", save)
    again = fit(truth().problem, **options)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.learned, again.learned))


@pytest.mark.slow
def test_two_bridges_in_one_program_are_those_alone():
    keys = jax.random.split(jax.random.key(5), 2)
    both = fit(truth().problem, key=keys, **QUICK)
    alone = fit(truth().problem, key=keys[1], **QUICK)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10), both[1].learned, alone.learned)
    assert not np.allclose(jax.tree.leaves(both[0].params)[-1], jax.tree.leaves(both[1].params)[-1])


@pytest.mark.slow
def test_a_bridge_of_a_density_that_is_nowhere_finite_ends_with_the_reason():
    nowhere = problems.tilt(base(), lambda x: jnp.nan * jnp.sum(x), resolution=0.25)
    with pytest.raises(FloatingPointError, match="every update"):
        fit(nowhere, **QUICK)


@pytest.mark.slow
def test_stages_lead_to_both_modes():
    """Mean, variance and the share of the modes; weights correct the rest: log Z, and 1 / w from exact draws."""
    problem = problems.sampling(TWO_MODES, base(), resolution=0.25)
    # the share of the modes wanders with the draws of a small buffer: a larger one than elsewhere here
    options = {"learning_rate": 5e-3, "replay": Replay(512, 2048, 25, 256)}
    network = functools.partial(networks.mlp, width=32, depth=1)
    sampler = fit(problem, network=network, num_stages=6, num_updates=1800, **options)
    draws, truly = sampler.sample(jax.random.key(1), 8000), TWO_MODES.sample(jax.random.key(2), 8000)
    w = np.exp(np.asarray(draws.log_weight))
    right = np.asarray(draws.x[:, 0] > 0.1)
    share = float(jnp.sum(jnp.asarray([0.35, 0.65]) * jax.scipy.stats.norm.cdf(jnp.asarray([-1.3, 1.3]) / 0.5)))
    print(moments(draws.x), moments(truly), right.mean(), share, diagnostics.ess(draws.log_weight))
    assert np.abs(moments(draws.x) - moments(truly)).max() < 0.12  # a standard error of the widest is 0.02
    assert abs(right.mean() - share) < 0.05
    assert diagnostics.ess(draws.log_weight) > 0.6
    assert abs(z_scores(w * (right - share), 0.0)) < 5
    assert abs(z_scores(w, 1.0)) < 5
    back = sampler.backward(jax.random.key(3), truly[:4000])
    assert abs(z_scores(np.exp(-np.asarray(back.log_weight)), 1.0)) < 5
    assert 0.5 < diagnostics.forward_ess(back.log_weight) <= 1


# ------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_a_bridge_is_refused():
    linear = exact.linear_tilt(gaussian("linear", (2,), 1.0), jnp.ones(2)).problem
    blind = linear._replace(process=linear.process._replace(log_density=None))
    network = networks.zero(linear)
    with pytest.raises(ValueError, match=r"memoryless.*source: paths\.brownian"):
        fit(linear)
    with pytest.raises(TypeError, match=r"needs a problem.*got Target"):
        fit(TWO_MODES)
    with pytest.raises(TypeError, match=r"typed PRNG key"):
        tj.fit_bridge(0, truth().problem)
    with pytest.raises(ValueError, match=r"num_stages must be a positive int; got 0"):
        fit(truth().problem, num_stages=0)
    with pytest.raises(ValueError, match=r"needs a Gaussian process; got one known by"):
        fit(blind)
    with pytest.raises(ValueError, match=r"needs a Gaussian process; got one known by"):
        bridge.adjoint_bridge_matching(blind, network, paths.uniform(2), corrector=network)
    with pytest.raises(ValueError, match=r"unweighted.*got a replay with a weighting"):
        replay = Replay(64, 128, 1, 32, weights.tempered(0.2))
        bridge.corrector_matching(truth().problem, network, paths.uniform(2), control=network, replay=replay)
    with pytest.raises(ValueError, match=r"source is the standard deviation of X_0 .*got -1"):
        paths.brownian(1.0, source=-1)
    with pytest.raises(ValueError, match=r"source of positive width.*gaussian_target"):
        exact.gaussian_bridge(linear.process, MEAN, VARIANCE)
