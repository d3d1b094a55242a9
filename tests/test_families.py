"""Given arrays as arguments of every program; families of problems: weights, metrics and draws by context."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import fit, small, z_scores

import tiltjax as tj
from tiltjax import contexts, families, losses, paths, problems, processes, run, train
from tiltjax.types import Held, Learned, Replay

KEY = jax.random.key(0)
CENTRES = jnp.asarray([[-1.0, 0.4], [1.1, -0.3]])
PROCESS = processes.gaussian(paths.linear(), (2,), 1.5)
REPLAY = Replay(128, 512, 20, 128, tj.weights.tempered(0.2))
SMALL = {"num_steps": 8, "sampling_steps": 40, "progress": False, "replay": REPLAY, "learning_rate": 1e-2}


@jax.jit
def log_density(b, x):
    """A mixture of two, not normalized, with all energies times b."""
    return b * jax.nn.logsumexp(-0.5 * jnp.sum(jnp.square(x[None] - CENTRES), axis=1) / 0.25)


def at(given, b):
    return problems.make_sampling(tj.Target(functools.partial(log_density, b), (2,)), PROCESS, 0.2)


def tempered():
    return problems.family(at, lambda key: jax.random.uniform(key, (), minval=0.4, maxval=1.0), per_context=16)


def log_z(b):
    """By quadrature."""
    side = jnp.linspace(-9.0, 9.0, 601)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    values = jax.vmap(functools.partial(log_density, b))(grid)
    return float(jax.nn.logsumexp(values) + 2 * jnp.log(side[1] - side[0]))


# ----------------------------------------------------------------------------------------------- given arrays


def heavy(weights):
    """A base whose denoiser reads a large array: what is given."""

    def at(given, context):
        model = lambda t, x: PROCESS.frame.response(t) * x + 1e-3 * (given @ jnp.tile(x, given.shape[1] // 2))[:2]  # noqa: E731
        base = processes.make_pretrained(PROCESS.frame, "denoiser", model)
        return problems.make_tilt(base, lambda x: -jnp.sum(jnp.square(x - 0.5)), 0.3)

    return problems.family(at, given=weights)


def largest_constant(text):
    """Numbers in the largest constant of a program."""
    sizes = [
        np.prod([int(n) for n in dims.split(",") if n] or [1]) for dims in re.findall(r"\[([\d,]*)\][^ ]* constant\(", text)
    ]
    return max(sizes, default=0)


def weights_of(seed):
    return jax.random.normal(jax.random.key(seed), (4, 50_000))


def test_what_is_given_is_no_constant_of_any_program():
    family = heavy(weights_of(0))
    network = small(family)
    objective = losses.adjoint_matching(family, network, paths.uniform(4), replay=Replay(8, 8, 2, 4))
    trainer = train.trainer(objective, network, optax.adam(1e-3))
    state = jax.eval_shape(trainer.init, family.given, KEY)
    programs = [jax.jit(trainer.init).lower(family.given, KEY), jax.jit(trainer.step).lower(family.given, state)]
    sampler = tj.sampling.sampler(family, network, network.init(KEY), paths.uniform)
    programs.append(sampler.forward.lower(sampler.learned, sampler.given, jax.random.split(KEY, 4), paths.uniform(4), ()))
    for program in programs:
        assert largest_constant(program.compile().as_text()) < 10_000
    # closed over, the array is a constant: the test could have failed
    smuggled = jax.jit(lambda state: trainer.step(family.given, state)).lower(state)
    assert largest_constant(smuggled.compile().as_text()) >= 200_000


def test_other_arrays_of_the_same_shape_run_the_same_programs():
    """Nothing is compiled for them, in draws and in a step of training; and draws are those of a fresh sampler, to the bit."""
    first, second = heavy(weights_of(0)), heavy(weights_of(1))
    network = small(first)
    params = network.init(KEY)
    sampler = tj.sampling.sampler(first, network, params, paths.uniform)
    fresh = tj.sampling.sampler(second, network, params, paths.uniform).sample(KEY, 8, num_steps=5)
    objective = losses.adjoint_matching(first, network, paths.uniform(4), replay=Replay(8, 8, 2, 4))
    trainer = train.trainer(objective, network, optax.adam(1e-3))
    step = jax.jit(trainer.step)
    state = jax.jit(trainer.init)(first.given, KEY)
    jax.block_until_ready((sampler.sample(KEY, 8, num_steps=5), step(first.given, state)))
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    drawn = sampler._replace(given=second.given).sample(KEY, 8, num_steps=5)
    moved, _ = step(second.given, state)
    assert not compiled
    np.testing.assert_array_equal(drawn.x, fresh.x)
    np.testing.assert_array_equal(drawn.log_weight, fresh.log_weight)
    before, _ = step(first.given, state)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before.params, moved.params)), strict=True))


@pytest.mark.slow
def test_what_is_given_is_part_of_a_run_s_identity_and_not_of_its_checkpoint(tmp_path):
    options = {**SMALL, "loss": losses.adjoint_matching, "network": small, "num_updates": 4, "checkpoint": tmp_path / "run"}
    options |= {"replay": Replay(8, 8, 2, 4), "checkpoint_seconds": 0.0}
    fit(KEY, heavy(weights_of(0)), **options)
    assert sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file()) < weights_of(0).nbytes
    with pytest.raises(ValueError, match="another run"):
        fit(KEY, heavy(weights_of(1)), **options)


# -------------------------------------------------------------------------------------------- many contexts


def test_weights_are_compared_within_a_context_alone():
    """Two contexts whose normalizing constants differ by e^50: weights, ESS and log Z of each, and what the buffer draws."""
    family = tempered()
    inner = jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4] * 4))
    log_weight = jnp.concatenate([inner, inner + 50.0])
    relative = contexts.relative(family, log_weight)
    np.testing.assert_allclose(relative[:16], relative[16:], rtol=1e-12)
    np.testing.assert_allclose(jnp.mean(jnp.exp(relative[:16])), 1.0, rtol=1e-12)
    mean, ess, worst = contexts.summary(family, log_weight)
    np.testing.assert_allclose(mean, jnp.log(0.25) + 25.0, rtol=1e-12)
    np.testing.assert_allclose([ess, worst], tj.weights.ess(inner), rtol=1e-12)
    even = log_weight.at[16:].set(0.0)
    _, ess, worst = contexts.summary(family, even)
    np.testing.assert_allclose([ess, worst], [(1 + tj.weights.ess(inner)) / 2, tj.weights.ess(inner)], rtol=1e-12)
    lost = contexts.relative(family, log_weight.at[:16].set(-jnp.inf))
    assert np.all(lost[:16] == -np.inf) and np.isfinite(lost[16:]).all()
    # a plain problem: one group, as it is
    np.testing.assert_array_equal(contexts.relative(at((), 1.0), log_weight), log_weight)


def test_a_round_has_its_contexts_and_each_particle_its_own():
    """X_1 of zero control is the base's for all; its label and weight are those of its own context."""
    family = tempered()
    network = small(family)
    objective = losses.novel_score_matching(family, network, paths.uniform(4), replay=REPLAY)
    held = tj.types.Held(tj.types.Learned(network.init(KEY), None))
    batch, _ = jax.jit(lambda key: contexts.collect(objective, held, key, 64))(KEY)
    b = np.asarray(batch.context).reshape(4, 16)
    assert (b == b[:, :1]).all() and len(np.unique(b)) == 4 and b.min() >= 0.4 and b.max() <= 1.0
    reward = jax.vmap(lambda b, x: at((), b).reward(x))(batch.context, batch.data.x)
    np.testing.assert_allclose(batch.log_weight, reward, rtol=1e-9)
    slope = jax.vmap(lambda b, x: jax.grad(at((), b).reward)(x))(batch.context, batch.data.x)
    np.testing.assert_allclose(batch.data.slope, slope, rtol=1e-9)


@functools.cache
def fitted(name="minimum_variance"):
    network = functools.partial(tj.networks.mlp, width=48, depth=2)
    options = {**SMALL, "replay": Replay(128)} if name == "log_variance" else SMALL
    return fit(KEY, tempered(), loss=getattr(losses, name), network=network, num_updates=1500, **options)


@pytest.mark.slow
def test_one_sampler_serves_all_contexts():
    """log Z of each by its own weights; the ESS is high where a control of one context alone would fail."""
    sampler, b = fitted(), jnp.asarray([0.45, 0.7, 0.95])
    draws = sampler.sample(jax.random.key(1), 4000, context=b)
    assert draws.x.shape == (3, 4000, 2) and draws.log_weight.shape == (3, 4000)
    for i in range(3):
        assert float(tj.diagnostics.ess(draws.log_weight[i])) > 0.7
        assert abs(z_scores(np.exp(np.asarray(draws.log_weight[i]) - log_z(b[i])), 1.0)) < 5
    one = sampler.sample(jax.random.key(1), 4000, context=b[1])
    assert one.x.shape == (4000, 2) and abs(z_scores(np.exp(np.asarray(one.log_weight) - log_z(b[1])), 1.0)) < 5
    # the control is one of its context: the coldest one's loses at the warmest
    cold = jnp.full(4000, 0.95)
    here = lambda x: families.of(sampler.problem).here((), jnp.asarray(0.45))  # noqa: E731
    control = sampler.network.control(sampler.params, families.of(sampler.problem).here((), cold[0]))
    wrong = jax.jit(jax.vmap(lambda k: tj.dynamics.simulate(here(0).problem, control, sampler.grid(40), k).log_weight))(
        jax.random.split(KEY, 4000)
    )
    assert float(tj.diagnostics.ess(wrong)) < float(tj.diagnostics.ess(draws.log_weight[0])) - 0.1
    history = sampler.report.history
    assert np.all(np.asarray(history.worst_ess) <= np.asarray(history.ess) + 1e-12)


@pytest.mark.slow
def test_log_variance_is_taken_within_a_context():
    """Its own optimum has no variance within a context, though log Z differs between them: the loss goes down to it."""
    family, network = tempered(), small(tempered())
    objective = losses.log_variance(family, network, paths.uniform(8), replay=Replay(64))
    trainer = train.trainer(objective, network, optax.adam(1e-2))
    history = run.run(trainer, KEY, 150, chunk=50, progress=False).history
    assert float(jnp.mean(history.loss[-20:])) < 0.3 * float(jnp.mean(history.loss[:20]))


@pytest.mark.slow
def test_a_family_is_saved_refined_and_loaded(tmp_path):
    sampler = fitted().refine(jax.random.key(2), num_particles=256, num_steps=60)
    sampler.save(tmp_path / "there")
    back = tj.load(tmp_path / "there", tempered(), network=functools.partial(tj.networks.mlp, width=48, depth=2))
    mine, loaded = (one.sample(KEY, 100, context=0.6) for one in (sampler, back))
    np.testing.assert_array_equal(mine.log_weight, loaded.log_weight)
    x = mine.x[:50]
    assert np.isfinite(sampler.backward(KEY, x, context=0.6).log_weight).all()


def test_what_does_not_fit_a_family_says_so():
    family = tempered()
    sampler = tj.sampling.sampler(family, small(family), small(family).init(KEY), paths.uniform)
    with pytest.raises(ValueError, match="needs a context; got none"):
        sampler.sample(KEY, 5)
    with pytest.raises(
        ValueError, match=r"one of the family's contexts, of shape \(\), or several stacked; got of shape \(2, 3\)"
    ):
        sampler.sample(KEY, 5, context=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="context is for samplers of a family"):
        tj.sampling.sampler(at((), 1.0), small(at((), 1.0)), (), paths.uniform).sample(KEY, 5, context=1.0)
    for name in ("trajectory_balance", "nets"):
        with pytest.raises(ValueError, match=f"{name} compares particles of one problem; got a family"):
            getattr(losses, name)(family, small(family), paths.uniform(4))
    with pytest.raises(ValueError, match=r"log_variance of a family .* capacity=0"):
        losses.log_variance(family, small(family), paths.uniform(4), replay=Replay(16, 32, 1, 8))
    with pytest.raises(TypeError, match="must give a problem"):
        problems.family(lambda given, b: b, lambda key: jnp.zeros(()))
    with pytest.raises(ValueError, match="one frame and one resolution"):
        wide = lambda given, b: problems.make_tilt(processes.gaussian(paths.linear(), (2,), float(b)), jnp.sum, 0.1)  # noqa: E731
        problems.family(wide, lambda key: 1.0 + jax.random.uniform(key))
    with pytest.raises(ValueError, match="a multiple of the particles of a context"):
        fit(KEY, family, network=small, **{**SMALL, "replay": Replay(100, 500, 20, 64)})


def test_a_variance_within_contexts_does_not_see_what_differs_between_them():
    values = jnp.repeat(jnp.asarray([0.0, 3.0, -2.0, 7.0]), 16)  # constant within a context
    assert float(contexts.mean_within(tempered(), lambda v: jnp.var(v, ddof=1), values)) == 0.0
    assert float(contexts.mean_within(at((), 1.0), lambda v: jnp.var(v, ddof=1), values)) > 1.0


def test_draws_of_each_context_have_its_own_weights():
    """Without a control, E[w] = Z of each of two contexts that are stacked, and of one that is not."""
    network = tj.networks.zero(tempered())
    sampler = tj.sampling.sampler(tempered(), network, (), paths.uniform)
    stacked = sampler.sample(KEY, 8000, context=jnp.asarray([0.5, 0.9]), num_steps=4)
    single = sampler.sample(KEY, 8000, context=0.7, num_steps=4)
    found = zip((*stacked.log_weight, single.log_weight), (0.5, 0.9, 0.7), strict=True)
    for log_weight, b in found:
        assert abs(z_scores(np.exp(np.asarray(log_weight) - log_z(b)), 1.0)) < 5, b
    assert abs(log_z(0.5) - log_z(0.9)) > 0.2, "the test has no power"


def test_exact_pairs_take_the_place_of_a_family_s_own_paths():
    """A context each, labelled by the slope of its own reward, of equal weight: and no ESS, which would be of nothing."""
    family = tempered()
    pairs = lambda key: (jnp.asarray(0.4) + 0.5 * jax.random.uniform(key), jax.random.normal(key, (2,)))  # noqa: E731
    family = family._replace(many=family.many._replace(pairs=pairs))
    network = tj.networks.zero(family)
    objective = losses.novel_score_matching(family, network, paths.uniform(4), replay=REPLAY)
    batch, _ = jax.jit(lambda key: contexts.collect(objective, Held(Learned((), None)), key, 32))(KEY)
    assert len(np.unique(batch.context)) == 32 and not np.any(batch.log_weight)
    slope = jax.vmap(lambda b, x: jax.grad(at((), b).reward)(x))(batch.context, batch.data.x)
    np.testing.assert_allclose(batch.data.slope, slope, rtol=1e-9)
    assert all(np.isnan(value) for value in contexts.summary(family, batch.log_weight))


def test_contexts_that_do_not_match_one_another_are_refused():
    family = problems.family(lambda given, c: at(given, c["b"]), lambda key: {"b": jnp.ones(()), "y": jnp.zeros(3)})
    sampler = tj.sampling.sampler(family, tj.networks.zero(family), (), paths.uniform)
    for context, message in (
        (jnp.ones(()), "context must be one of the family's contexts"),
        ({"b": jnp.ones(2), "y": jnp.zeros(3)}, "stacked in different ways"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.sample(KEY, 5, context=context)
    with pytest.raises(ValueError, match="backward takes one context"):
        sampler.backward(KEY, jnp.zeros((4, 2)), context={"b": jnp.ones(2), "y": jnp.zeros((2, 3))})
