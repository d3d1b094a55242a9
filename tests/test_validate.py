"""The gate: all that is wrong in one error, before the density is evaluated; what methods need; recipes built in `jit`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import fit, small

import tiltjax as tj
from tiltjax import annealing, dynamics, frames, losses, paths, problems, processes, smc, validate

KEY = jax.random.key(0)


def counted():
    """A target that notes each call of its density."""
    calls = []

    def log_density(x):
        calls.append(x)
        return -0.5 * jnp.sum(jnp.square(x))

    return tj.Target(log_density, (2,)), calls


def lines(error):
    return str(error.value).split("\n- ")


def test_three_wrong_arguments_are_one_error_of_three_lines_and_no_evaluation():
    target, calls = counted()
    with pytest.raises(ValueError, match="fit was called with 3 arguments that cannot work") as error:
        fit(KEY, target, num_steps=0, replay={"capacity": 3}, max_norm=-1)
    rest = lines(error)[1:]
    assert len(rest) == 3 and not calls
    expected = ("num_steps must be a positive int; got 0", "max_norm is .* got -1", "replay must be a types.Replay")
    for words, line in zip(expected, rest, strict=True):
        assert re.search(words, line)


WRONG = {
    "a grid of times": ({"grid": jnp.linspace(0.0, 1.0, 11)}, TypeError, "grid must be a function num_steps -> times"),
    "a grid that does not fit": (
        {"grid": lambda n: jnp.linspace(0.0, 0.9, n + 1)},
        ValueError,
        "11 ascending times from 0 to 1",
    ),
    "a clip without a sign": (
        {"loss": functools.partial(losses.minimum_variance, clip=-1.0)},
        ValueError,
        "clip is where norms",
    ),
    "no bins": ({"loss": functools.partial(losses.learned_variance, bins=0)}, ValueError, "bins must be a positive int; got 0"),
    "a checkpoint that is no path": ({"checkpoint": 3}, TypeError, "checkpoint must be a directory"),
    "an average of words": ({"average": "much"}, TypeError, "average must be a number; got str 'much'"),
    "a location that is not finite": ({"location": jnp.nan}, ValueError, "location .* must be finite"),
    "an annealed loss": ({"loss": losses.nets}, ValueError, r"nets needs an annealed problem; got a memoryless one\. Use"),
    "a loss that needs a gradient network": (
        {"loss": losses.action_matching},
        ValueError,
        r"action_matching needs an annealed problem(.|\n)*needs a network that is a gradient",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_is_refused_before_the_pilot(name):
    options, kind, message = WRONG[name]
    target, calls = counted()
    with pytest.raises(kind, match=message):
        fit(KEY, target, num_steps=10, progress=False, **options)
    assert not calls


def test_other_calls_say_all_at_once_too():
    problem = problems.tilt(processes.gaussian(paths.linear(), (2,)), lambda x: jnp.sum(x))
    sampler = tj.sampling.sampler(problem, tj.networks.zero(problem), (), paths.uniform)
    with pytest.raises(ValueError, match=r"Sampler\.sample was called with 4 arguments") as error:
        sampler.sample(jnp.zeros(2, jnp.uint32), 0, num_steps=0, batch_size=-1)
    assert len(lines(error)) == 5
    with pytest.raises(ValueError, match=r"smc\.run was called with 4 arguments") as error:
        blind = processes.pretrained(paths.linear(), (2,), denoiser=lambda t, x: x)
        of = problems.annealed(problems.tilt(blind, lambda x: -jnp.sum(x**2)))
        smc.run(of, lambda t, x: x, paths.uniform(3), KEY, 0, ess_floor=3.0, moves=smc.Moves())
    assert len(lines(error)) == 5
    with pytest.raises(ValueError, match="fit_bridge was called with 3 arguments") as error:
        fit(KEY, problem, call=tj.fit_bridge, num_stages=0, learning_rate=-1.0)
    assert len(lines(error)) == 4
    with pytest.raises(ValueError, match=r"minimum_variance was called with 2 arguments"):
        losses.minimum_variance(problem, small(problem), paths.uniform(3), clip=0.0, bins=1.5)


def test_a_reward_that_cannot_be_differentiated_is_refused_where_its_gradient_is_needed():
    def blunt(x):
        return jax.pure_callback(lambda x: np.sum(x), jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    problem = problems.tilt(processes.gaussian(paths.linear(), (2,)), blunt)
    network, times = small(problem), paths.uniform(3)
    with pytest.raises(ValueError, match=r"adjoint_matching needs the gradient of the reward.*custom_vjp"):
        losses.adjoint_matching(problem, network, times)
    losses.log_variance(problem, network, times)  # needs its values alone


def test_every_loss_declares_what_it_needs_in_words_that_the_gate_knows():
    for name in losses.__all__:
        assert set(validate.needs_of(getattr(losses, name))) <= {*validate.NEEDS, "potential", "single"}


def test_recipes_are_built_inside_a_traced_function():
    """A model's weights, a reward and its strength, traced: one program serves them all, and draws as one built outside."""
    centre, times = jnp.asarray([0.3, -0.2]), paths.uniform(6)
    frame = frames.frame(paths.linear(), (2,), 1.2)

    def built(weight, strength, kind):
        model = lambda t, x: weight * frame.response(t) * x  # noqa: E731
        base = processes.make_pretrained(frame, "denoiser", model)
        if kind == "sampling":
            target = tj.Target(lambda x: -strength * jnp.sum(jnp.square(x - centre)), (2,))
            return problems.make_sampling(target, processes.make_gaussian(frame), 0.1)
        plain = problems.make_tilt(base, lambda x: -strength * jnp.sum(jnp.square(x - centre)), 0.1)
        if kind == "tilt":
            return plain
        return problems.make_annealed(plain, annealing.scaled(plain.reward), lambda t: 0.5 + 0.1 * t)

    @functools.partial(jax.jit, static_argnums=2)
    def draw(weight, strength, kind):
        of = built(weight, strength, kind)
        return jax.vmap(lambda k: dynamics.simulate(of, lambda t, x: 0.1 * x, times, k))(jax.random.split(KEY, 50))

    for kind in ("tilt", "annealed", "sampling"):
        for weight, strength in ((0.9, 0.5), (1.1, 2.0)):
            inside = draw(jnp.asarray(weight), jnp.asarray(strength), kind)
            of = built(weight, strength, kind)
            outside = jax.vmap(lambda k, of=of: dynamics.simulate(of, lambda t, x: 0.1 * x, times, k))(
                jax.random.split(KEY, 50)
            )
            np.testing.assert_allclose(inside.x, outside.x, rtol=1e-9)
            np.testing.assert_allclose(inside.log_weight, outside.log_weight, rtol=1e-8, atol=1e-9)
    assert draw._cache_size() == 3


def test_the_reward_is_not_evaluated_to_name_a_run_that_is_not_saved():
    """Without a checkpoint it is traced, never run eagerly: a callback in it would tell."""
    seen = []

    def reward(x):
        jax.debug.callback(lambda x: seen.append(np.shape(x)), x)
        return -jnp.sum(jnp.square(x))

    problem = problems.tilt(processes.gaussian(paths.linear(), (2,)), reward)
    options = {"network": small, "num_updates": 100, "num_steps": 2, "loss": losses.log_variance, "progress": False}
    fit(KEY, problem, replay=tj.Replay(4), **options)
    jax.effects_barrier()
    assert len(seen) == 100 * 4  # of the paths alone
