"""NETS and the Jarzynski work: residuals of the exact drift, agreement with Crooks, optima of the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import plain, slow, z_scores
from test_annealed import LOG_Z, TARGET, build, moving_gaussian, wild

from tiltjax import calculus, dynamics, exact, losses, networks, paths, problems, weights
from tiltjax.losses import nonequilibrium
from tiltjax.types import Learned, Network

KEY = jax.random.key(0)


@pytest.mark.parametrize("hutchinson", [False, True])
def test_divergence(hutchinson):
    x = jnp.asarray([0.3, -0.7, 1.1])
    f = lambda x: jnp.stack([x[0] * x[1], jnp.sin(x[1]) * x[2], x[2] ** 3])  # noqa: E731
    true = x[1] + jnp.cos(x[1]) * x[2] + 3 * x[2] ** 2
    if not hutchinson:
        value, div = calculus.divergence(f, x)
        np.testing.assert_allclose(value, f(x))
        assert float(div) == pytest.approx(float(true), rel=1e-12)
        return
    probes = jax.random.rademacher(KEY, (4000, 3), x.dtype)
    found = jax.vmap(lambda e: calculus.divergence(f, x, e)[1])(probes)
    assert abs(z_scores(found, float(true))) < 5


@pytest.mark.parametrize("base", ["gaussian", slow("pretrained")])
def test_jarzynski_weighs_as_the_target(base):
    problem, times = build(base), paths.uniform(200)

    def one(key):
        path = dynamics.simulate_path(problem, wild, times, key)
        return path.x[-1], dynamics.jarzynski(problem, wild, path)

    x, work = jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000))
    w = np.exp(np.asarray(work))
    assert abs(z_scores(w, np.exp(LOG_Z))) < 5
    mean = np.asarray(TARGET.weights) @ np.asarray(TARGET.means)
    assert np.abs(z_scores(w[:, None] * (np.asarray(x) - mean), 0.0)).max() < 5


@pytest.mark.parametrize("base", ["gaussian", slow("pretrained")])
def test_crooks_and_jarzynski_agree_path_by_path(base):
    """Correlation above 0.999, and a difference that shrinks as the root of the step."""
    problem = build(base)

    def compare(num_steps):
        def one(key):
            path = dynamics.simulate_path(problem, wild, paths.uniform(num_steps), key)
            return dynamics.log_weight(problem, wild, path), dynamics.jarzynski(problem, wild, path)

        return map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(KEY, 400)))

    crooks, work = compare(1600)
    assert np.corrcoef(crooks, work)[0, 1] > 0.999
    coarse, coarse_work = compare(100)
    ratio = np.std(coarse - coarse_work) / np.std(crooks - work)
    assert 2.5 < ratio < 6.5  # 4 = sqrt(16)


def test_the_exact_drift_has_no_residual():
    """rho_t = N(t a, 1): c + div g + g.(s + grad r) = d/dt log Z_t = t |a|^2 at every state."""
    problem, drift, _ = moving_gaussian()
    for t in map(jnp.asarray, (0.0, 0.3, 0.8)):
        for x in jax.random.normal(KEY, (5, 2)):
            rate = dynamics.work_rate(drift, t, x, problem.dynamics.rates(t, x))
            assert float(rate) == pytest.approx(float(t) * (0.8**2 + 0.5**2), abs=1e-9)


def around(drift):
    """g + p0 + p1 x + p2 |x|^2, a gradient: zero parameters at the exact drift."""

    def change(p, x):
        return jnp.sum(p[0] * x) + 0.5 * p[1] * jnp.sum(x**2) + jnp.sum(p[2] * x) * jnp.sum(x**2) / 6

    def phi(p, t, x):
        return jnp.sum(drift(t, x) * x) + change(p, x)

    params = (jnp.zeros(2), jnp.zeros(()), jnp.zeros(2))
    return Network(lambda key: params, lambda p, t, x: jax.grad(phi, argnums=2)(p, t, x), potential=phi), params


@pytest.mark.parametrize("name", [slow("nets"), slow("hutchinson"), "action_matching"])
def test_losses_have_no_slope_at_the_exact_drift(name):
    """On walkers of that drift, which stay draws of rho_t; and a slope away from it."""
    problem, drift, _ = moving_gaussian()
    network, params = around(drift)
    times = paths.uniform(64)
    if name == "action_matching":
        objective, extra = plain(losses.action_matching(problem, network, times)), None
    else:
        objective = plain(losses.nets(problem, network, times, hutchinson=name == "hutchinson", bins=8, rate=1.0))
        extra = jnp.linspace(0, 1, 9) * (0.8**2 + 0.5**2)  # F(t), linear in t

    def slopes(params):
        def one(key):
            key_data, key_loss = jax.random.split(key)
            data = objective.collect(Learned(around(drift)[1], extra), key_data, 64).data
            grads = jax.grad(lambda p: objective.loss(Learned(p, extra), key_loss, data))(params)
            return jnp.concatenate([jnp.atleast_1d(g) for g in grads])

        return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(jax.random.split(KEY, 200)))

    found = slopes(params)
    if name == "action_matching":
        assert (found.std(0) > 0).all() and np.abs(z_scores(found, 0.0)).max() < 5
    else:
        np.testing.assert_allclose(found, 0.0, atol=1e-9)  # the residual vanishes at every state
    assert np.abs(z_scores(slopes((params[0] + 0.3, *params[1:])), 0.0)).max() > 5


def test_action_matching_does_not_see_what_is_added_to_the_potential_at_a_time():
    """c_t less its mean over the walkers of that time, not over all: a function of time alone drops out, walker or not."""
    problem, drift, _ = moving_gaussian()
    network, params = around(drift)
    lifted = network._replace(
        apply=lambda p, t, x: network.apply(p[0], t, x),
        potential=lambda p, t, x: network.potential(p[0], t, x) + p[1] * jnp.sin(3 * t),
    )
    objective = plain(losses.action_matching(problem, lifted, paths.uniform(8)))
    learned = lambda size: Learned((params, jnp.asarray(size)), None)  # noqa: E731
    data = jax.jit(objective.collect, static_argnums=2)(learned(0.0), KEY, 16).data
    level, raised = (jax.jit(objective.loss)(learned(size), KEY, data) for size in (0.0, 5.0))
    assert float(raised) == pytest.approx(float(level), rel=1e-9)


def test_the_random_divergence_keeps_the_square_unbiased():
    """At the same times of the same walkers its mean over probes is the loss with the exact divergence."""
    problem, drift, _ = moving_gaussian()
    network, _ = around(drift)
    params = Learned((jnp.asarray([0.2, 0.1]), jnp.asarray(0.3), jnp.asarray([0.4, -0.6])), jnp.zeros(9))
    exactly, randomly = (
        plain(losses.nets(problem, network, paths.uniform(8), hutchinson=flag, bins=8)) for flag in (False, True)
    )
    data = jax.jit(exactly.collect, static_argnums=2)(params, KEY, 16).data

    def difference(key):
        return randomly.loss(params, key, data) - exactly.loss(params, key, data)

    found = np.asarray(jax.jit(jax.vmap(difference))(jax.random.split(KEY, 2000)))
    assert found.std() > 1e-3 and abs(z_scores(found, 0.0)) < 5


@pytest.mark.slow
def test_the_horizon_ends_where_the_weights_are_spent():
    """Walkers without a drift lose their ESS in time; those of the exact drift do not."""
    problem, drift, _ = moving_gaussian()
    times = paths.uniform(40)
    horizons = []
    for control in (lambda p, t, x: 0 * x, lambda p, t, x: drift(t, x)):
        objective = plain(losses.nets(problem, Network(lambda key: (), control), times, ess_floor=0.8))
        batch = jax.jit(objective.collect, static_argnums=2)(Learned((), objective.init()), KEY, 500)
        horizon = int(batch.data.horizon[0])
        horizons.append(horizon)
        assert (np.asarray(batch.data.horizon) == horizon).all()
        work = np.asarray(batch.data.work)
        effective = np.exp(2 * jax.nn.logsumexp(work, 0) - jax.nn.logsumexp(2 * work, 0)) / 500
        assert (effective[: horizon + 1] >= 0.8).all() and (horizon == 40 or effective[horizon + 1] < 0.8)
        chosen = nonequilibrium._times(KEY, 3000, batch.data.horizon[0])
        assert int(chosen.max()) == horizon and int(chosen.min()) == 0
    assert horizons[0] < 35 and horizons[1] == 40


@pytest.mark.slow
def test_walkers_carry_their_jarzynski_weights():
    """The work along the path, by which action matching weighs, is the weight of `dynamics.log_weight` at its end."""
    problem = build("gaussian")
    network = networks.potential(problem, width=8, depth=1)
    objective = plain(losses.action_matching(problem, network, paths.uniform(12)))
    batch = jax.jit(lambda key: objective.collect(Learned(network.init(key), None), key, 50))(KEY)
    constant = problem.dynamics.start(wild, jnp.zeros(()), jnp.zeros(2)).log_weight
    np.testing.assert_allclose(batch.data.work[:, -1] + constant, batch.log_weight, rtol=1e-9)


def test_what_is_missing_is_said():
    truth = exact.mixture_target(build("gaussian").process, *TARGET)
    network = networks.mlp(truth.problem, 8, 1)
    for loss in (losses.nets, losses.action_matching):
        with pytest.raises(ValueError, match=r"needs an annealed problem; got a memoryless one\. Use problems\.annealed"):
            loss(truth.problem, network, paths.uniform(4))
    annealed = problems.annealed(truth.problem)
    with pytest.raises(ValueError, match=r"needs a network that is a gradient.*networks\.potential"):
        losses.action_matching(annealed, networks.drift(annealed, 8, 1), paths.uniform(4))
    with pytest.raises(ValueError, match=r"needs a memoryless process; got an annealed problem"):
        losses.minimum_variance(annealed, network, paths.uniform(4))
    with pytest.raises(ValueError, match="ess_floor is the ESS that ends the horizon"):
        losses.nets(annealed, network, paths.uniform(4), ess_floor=1.0)
    weighted = nonequilibrium.REPLAY._replace(weighting=weights.tempered(0.2))
    with pytest.raises(ValueError, match=r"action_matching weighs its walkers itself.*losses\.nets"):
        losses.action_matching(annealed, networks.potential(annealed, 8, 1), paths.uniform(4), replay=weighted)
