"""Sequential Monte Carlo on annealed dynamics: unbiased log Z, resampling schemes, moves, what a drift is worth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import gaussian, slow, z_scores
from test_annealed import BASE, LOG_Z, TARGET, build, moving_gaussian, wild

from tiltjax import exact, hamiltonian, paths, problems, processes, sde, smc, targets, weights

KEY = jax.random.key(0)
SCHEMES = {"systematic": weights.resample, "stratified": weights.stratified, "residual": weights.residual}


def idle(t, x):
    return jnp.zeros_like(x)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_draws_each_particle_in_proportion(scheme):
    """E[copies] = num w_i; their number is within 1, 2, or never below floor(num w_i), as the scheme promises."""
    log_weight = jnp.log(jnp.asarray([0.05, 0.3, 0.0, 0.45, 0.2]))
    expected = 12 * np.asarray([0.05, 0.3, 0.0, 0.45, 0.2])
    index = jax.vmap(lambda k: SCHEMES[scheme](k, log_weight, 12))(jax.random.split(KEY, 4000))
    copies = np.stack([(np.asarray(index) == i).sum(1) for i in range(5)], 1)
    assert (copies.sum(1) == 12).all() and (copies[:, 2] == 0).all()
    assert np.abs(z_scores(np.delete(copies, 2, 1), np.delete(expected, 2))).max() < 5
    gap = np.abs(copies - expected)
    if scheme == "systematic":
        assert gap.max() < 1 + 1e-9
    elif scheme == "stratified":
        assert gap.max() < 2
    else:
        assert (copies >= np.floor(expected + 1e-9)).all()


@pytest.mark.parametrize(
    ("scheme", "floor"),
    [
        (scheme, floor) if floor == 0.6 or scheme == "systematic" else slow(scheme, floor)  # at 0 schemes do nothing
        for scheme in SCHEMES
        for floor in (0.0, 0.6, 1.0)
    ],
)
def test_log_z_is_unbiased_with_any_drift_scheme_and_floor(scheme, floor):
    """E[exp(log_z)] = Z over 400 runs of 32 walkers and 6 steps of an untrained drift."""
    problem = build("gaussian")

    @jax.jit
    def many(keys):
        return jax.vmap(lambda k: smc.run(problem, wild, paths.uniform(6), k, 32, ess_floor=floor, scheme=SCHEMES[scheme]))(
            keys
        )

    out = many(jax.random.split(KEY, 400))
    z = np.exp(np.asarray(out.log_z))
    assert abs(z_scores(z, np.exp(LOG_Z))) < 5
    assert z.std() < 2 * np.exp(LOG_Z)  # a wider spread would excuse any mean
    resampled = np.asarray(out.resampled)
    assert (resampled == (np.asarray(out.ess) < floor)).all()
    assert {0.0: not resampled.any(), 0.6: 0.1 < resampled.mean() < 1, 1.0: resampled.all()}[floor]
    np.testing.assert_allclose(jax.nn.logsumexp(out.log_weight, axis=1) - np.log(32), out.log_z, rtol=1e-9)
    np.testing.assert_allclose(out.log_z_path[:, -1], out.log_z, rtol=1e-9)


def test_without_resampling_it_is_a_set_of_independent_walkers():
    problem, times = build("gaussian"), paths.uniform(6)
    out = jax.jit(lambda key: smc.run(problem, wild, times, key, 20_000, ess_floor=0.0))(KEY)
    w = np.exp(np.asarray(out.log_weight))
    assert abs(z_scores(w, np.exp(LOG_Z))) < 5


def test_moves_leave_their_density_invariant():
    """Exact draws of a banana stay draws of it, in MALA and in HMC."""

    def density(x):
        return -0.5 * x[0] ** 2 - 0.5 * (x[1] - x[0] ** 2) ** 2 / 0.25

    z = jax.random.normal(KEY, (40_000, 2))
    x = jnp.stack([z[:, 0], z[:, 0] ** 2 + 0.5 * z[:, 1]], 1)
    for leapfrog in (1, 5):
        out = jax.jit(lambda x, leapfrog=leapfrog: hamiltonian.moves(KEY, density, x, jnp.asarray(0.7), 6, leapfrog))(x)
        y = np.asarray(out.x)
        assert 0.3 < float(out.acceptance) < 0.99
        assert (np.abs(y - np.asarray(x)).max(1) > 1e-3).mean() > 0.9  # they moved
        for value, truth in ((y[:, 0], 0), (y[:, 0] ** 2, 1), (y[:, 1], 1), ((y[:, 1] - y[:, 0] ** 2) ** 2, 0.25)):
            assert abs(z_scores(value, truth)) < 5


def test_log_z_is_unbiased_with_moves_in_many_dimensions():
    """A metric of the walkers that it moves would put log Z off by some d / n, at any number of steps."""
    dim, variance = 24, 0.36
    target = targets.gaussian(jnp.zeros(dim), np.sqrt(variance))
    annealed = problems.annealed(problems.sampling(target, gaussian("trigonometric", (dim,), 1.0)), noise=0.02)

    @jax.jit
    def many(keys):
        run = functools.partial(smc.run, annealed, idle, paths.uniform(100), moves=smc.Moves(2, 5))
        return jax.lax.map(lambda key: run(key, 480).log_z, keys)

    log_z = np.asarray(many(jax.random.split(KEY, 6)))
    assert log_z.std() < 0.15, "the test has no power"
    assert abs(z_scores(np.exp(log_z), 1.0)) < 5
    with pytest.raises(ValueError, match=r"4 or more of them; got num_particles=3"):
        smc.run(annealed, lambda t, x: x, paths.uniform(2), KEY, 3, moves=smc.Moves())


@pytest.mark.slow
def test_moves_keep_walkers_at_the_density_that_they_stand_for():
    """With hardly any noise in the dynamics weights must do all the work, unless moves do: log Z is right either way."""
    truth = exact.mixture_target(processes.gaussian(paths.trigonometric(), (2,), 1.0), *TARGET)
    problem = problems.annealed(truth.problem, noise=0.05)  # a static base: nothing moves but by noise and by moves

    def errors(moves):
        run = jax.jit(jax.vmap(lambda k: smc.run(problem, idle, paths.uniform(8), k, 100, ess_floor=0.7, moves=moves)))
        out = run(jax.random.split(KEY, 300))
        return np.asarray(out.log_z), np.asarray(out.acceptance)

    without, _ = errors(None)
    moved, acceptance = errors(smc.Moves(num=2, leapfrog=3))
    assert 0.3 < acceptance.mean() < 0.99
    assert np.std(moved) < 0.85 * np.std(without)
    assert abs(z_scores(np.exp(without), 1.0)) < 5 and abs(z_scores(np.exp(moved), 1.0)) < 5


def test_a_base_without_density_has_relative_weights():
    problem = build("pretrained")
    out = jax.jit(jax.vmap(lambda k: smc.run(problem, wild, paths.power(200, 1.5), k, 64)))(jax.random.split(KEY, 60))
    assert abs(z_scores(np.exp(np.asarray(out.log_z)), np.exp(LOG_Z))) < 5
    mean = np.asarray(TARGET.weights) @ np.asarray(TARGET.means)
    w = np.asarray(jax.nn.softmax(out.log_weight, axis=1))[..., None]
    assert np.abs(z_scores((w * np.asarray(out.x)).sum(1), mean)).max() < 5
    with pytest.raises(ValueError, match="moves need the density of rho_t; this base has none"):
        smc.run(problem, idle, paths.uniform(4), KEY, 8, moves=smc.Moves())


def test_the_exact_drift_needs_no_resampling_and_has_no_error():
    problem, drift, log_z = moving_gaussian()
    run = lambda control: jax.jit(lambda key: smc.run(problem, control, paths.uniform(100), key, 500, ess_floor=0.9))(KEY)  # noqa: E731
    good, classical = run(drift), run(idle)
    assert not good.resampled.any() and float(good.ess.min()) > 0.99
    assert abs(float(good.log_z - log_z)) < 0.01
    assert classical.resampled.any()


def test_tuning_leaves_out_a_drift_that_does_harm_and_keeps_one_that_helps():
    problem, drift, log_z = moving_gaussian()
    times = paths.uniform(20)
    good = smc.tune(problem, drift, times, KEY, 300, noises=(0.3, 1.0), strengths=(0.0, 1.0))
    bad = smc.tune(problem, lambda t, x: -2 * drift(t, x), times, KEY, 300, noises=(0.3, 1.0), strengths=(0.0, 1.0))
    assert good.strength == 1.0 and bad.strength == 0.0
    assert good.score.shape == (2, 2) and float(good.score.max()) == float(good.score[[0.3, 1.0].index(good.noise), 1])
    assert float(good.score.max()) > float(bad.score.max())
    out = jax.jit(lambda key: smc.run(good.problem, good.control, times, key, 2000))(KEY)
    assert abs(float(out.log_z - log_z)) < 0.05
    # the dynamics that were found are those of the noise that was found
    t, t1, x, key = jnp.asarray(0.4), jnp.asarray(0.5), jnp.asarray([0.3, -0.2]), jax.random.normal(KEY, (2,))

    def move(of, xi):
        return of.step(idle, t, t1, of.start(idle, t, x), xi)[0].x

    spread = [move(of, key) - move(of, 0 * key) for of in (good.problem.dynamics, problem.dynamics)]
    np.testing.assert_allclose(spread[0], good.noise * spread[1], rtol=1e-9)


def test_particles_of_any_shape_come_back_in_the_users_coordinates():
    process = processes.gaussian(paths.trigonometric(), (2, 3), 1.0)
    problem = problems.tilt(process, lambda x: jnp.sum(x[0]))._replace(decode=lambda x: 10 + x)
    annealed = problems.annealed(problem)
    out = jax.jit(lambda key: smc.run(annealed, idle, paths.uniform(5), key, 16, moves=smc.Moves()))(KEY)
    assert out.x.shape == (16, 2, 3) and float(out.x.mean()) > 5


# ------------------------------------------------------------------------------------------- memoryless bases


def base_of(name):
    """The tilt into TARGET with log Z = LOG_Z: of a Gaussian, and of a mixture that is known as a model."""
    nominal = gaussian("linear", (2,), 1.3)
    truth = exact.mixture_target(nominal, *TARGET) if name == "gaussian" else exact.mixture_tilt(nominal, BASE, TARGET)
    return problems.make_tilt(truth.problem.process, lambda x: truth.problem.reward(x) + LOG_Z, 0.3)


@functools.cache
def normalization(name, num_steps, n=1_000_000):
    """Z_N of the base's chain on this grid and its standard error: exactly Z for a Gaussian, the mean of exp r for a model."""
    if name == "gaussian":
        return np.exp(LOG_Z), 0.0
    problem = base_of(name)

    @jax.jit
    def moments(key):
        def one(key):
            return jnp.exp(problem.reward(sde.simulate(problem.process, idle, paths.uniform(num_steps), key).x))

        w = jax.vmap(one)(jax.random.split(key, n // 100))
        return jnp.stack([jnp.mean(w), jnp.mean(w**2)])

    mean, square = np.asarray(jax.lax.map(moments, jax.random.split(jax.random.key(9), 100))).mean(0)
    return mean, np.sqrt((square - mean**2) / n)


@pytest.mark.parametrize("num_steps", [10, slow(40), slow(160)])
@pytest.mark.parametrize("floor", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("name", ["gaussian", slow("model")])
def test_a_memoryless_base_is_sampled_without_bias_whenever_its_walkers_are_resampled(name, floor, num_steps):
    """E[exp(log_z)] = Z_N with a standard error of log Z below 0.01, never resampled, by the ESS, and at every step."""
    problem, times = base_of(name), paths.uniform(num_steps)
    run = jax.jit(jax.vmap(lambda k: smc.run(problem, idle, times, k, 1000, ess_floor=floor)))
    out = run(jax.random.split(jax.random.key(num_steps), 120))
    z = np.exp(np.asarray(out.log_z))
    expected, uncertain = normalization(name, num_steps)
    stderr = z.std(ddof=1) / np.sqrt(len(z))
    assert stderr / expected < 0.01
    assert abs(z.mean() - expected) < 5 * np.hypot(stderr, uncertain)
    resampled = np.asarray(out.resampled)
    assert {0.0: not resampled.any(), 0.8: 0 < resampled.mean() < 1, 1.0: resampled.all()}[floor]
    # and draws weigh rightly: the first coordinate's mean, within what the grid's own bias and the errors leave
    w = np.asarray(jax.nn.softmax(out.log_weight, axis=1))
    mean = (w * np.asarray(out.x[..., 0])).sum(1)
    if name == "gaussian":
        assert abs(z_scores(mean, float(TARGET.weights @ TARGET.means[:, 0]))) < 5


def test_the_potential_is_the_reward_that_is_expected_and_whole_at_the_end():
    problem = base_of("model")
    walker = problem.dynamics.start(idle, jnp.ones(()), jnp.asarray([0.4, -0.2]))
    assert float(problem.dynamics.potential(jnp.ones(()), walker)) == pytest.approx(float(problem.reward(walker.x)), rel=1e-6)
    early = problem.dynamics.start(idle, jnp.zeros(()), jnp.asarray([0.4, -0.2]))
    assert float(problem.dynamics.potential(jnp.zeros(()), early)) == pytest.approx(0.0, abs=1e-9)


def test_looking_ahead_is_worth_resampling():
    """Resampled by the ESS, the draws at the end are of a higher ESS than those that were not resampled."""
    problem, times = base_of("gaussian"), paths.log_snr(base_of("gaussian").frame, 40, 0.3)
    end = lambda floor: smc.run(problem, idle, times, KEY, 4000, ess_floor=floor).log_weight  # noqa: E731
    assert float(weights.ess(end(0.7))) > float(weights.ess(end(0.0))) + 0.2


@pytest.mark.slow
def test_the_chain_of_a_model_is_off_by_no_more_than_one_over_its_steps():
    """|Z_N - Z| falls by half or more where the steps are twice as many, from an error that is seen."""
    means, errors = np.transpose([normalization("model", n, 4_000_000) for n in (5, 10, 20)])
    off = np.abs(means - np.exp(LOG_Z))
    assert (off > 5 * errors).all(), "the test has no power"
    assert (2 * off[1:] < off[:-1] + 3 * np.hypot(errors[:-1], 2 * errors[1:])).all()


def test_what_cannot_run_says_so():
    with pytest.raises(ValueError, match=r"a fraction, in \[0, 1\]; got 2"):
        smc.run(build("gaussian"), idle, paths.uniform(4), KEY, 8, ess_floor=2)
