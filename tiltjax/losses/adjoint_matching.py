"""Adjoint Matching."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, families, sde, validate
from tiltjax.losses.collect import ON_POLICY_RATE, clip_slope, labelled_paths, nothing
from tiltjax.types import Batch, Family, Held, Here, Key, Learned, Network, Objective, Path, Problem, Regression, Replay


class Labelled(NamedTuple):
    """The states of a path (N, *shape), and the control to regress on there."""

    x: Array
    target: Array


@validate.needs("memoryless", "gradient")
def adjoint_matching(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = Replay(num_particles=512, capacity=512, gradient_steps=4, batch_size=256),
    num_times: int = 20,
    clip: float = 10.0,
) -> Objective:
    """E[ int |u_theta(X_t, t) + sigma_t a_t|^2 / 2 dt ], X and the lean adjoint a constants; its only critical point is u*.

    On the grid: dt = clock_k and sigma_t a_t = std_k a_{k+1} / sqrt(clock_k), which for the exact steps of a Gaussian process
    is -gain grad r(X_1) without discretization error. Its `regression` knows the grid's times alone: t is that of its step. Of
    the N steps of a path `num_times` are drawn for an update.
    Paths drawn with w^tau have the law P_u^(1-tau) P*^tau: at tau = 1 that is P*, where E[-sigma_t a_t | X_t] = u* whatever
    drew them; at u = u* the weights are constant, so u* is a fixed point at every tau.
    When not to use it: separated modes without such weights (on-policy it forgets them; give it a buffer of a few thousand
    paths and `weighting=weights.tempered(0.2)`); a Gaussian base with expensive energies (`adjoint_sampling` uses an end point
    at all times). Source: Domingo-Enrich et al. (2024), arXiv 2409.08861, eq. 37-40.
    """
    family, steps = families.of(problem), len(times) - 1
    clock = families.example(problem).process.clock  # of the frame alone, hence of all contexts
    chosen = min(num_times, steps)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        batch = labelled_paths(here, network, times, held, key, n, lambda path, _: labelled(here.problem, path, clip))
        return batch._replace(data=batch.data[0], clipped=batch.data[1]), held.carried

    def label(held: Held, key: Key, here: Here, x1: Array) -> Labelled:  # a noising path of a draw of p* is one of the tilt
        path = sde.simulate_backward(here.problem.process, lambda t, x: jnp.zeros_like(x), times, key, x1)
        return labelled(here.problem, path, clip)[0]

    def at(params: Learned, here: Here, k: Array, item: Labelled) -> Array:
        u = network.control(params.control, here)(times[k], item.x[k])
        return 0.5 * clock(times[k], times[k + 1]) * jnp.sum(jnp.square(u - item.target[k]))

    def step_at(t: Array) -> Array:  # the step that holds t
        return jnp.clip(jnp.searchsorted(times, t, side="right") - 1, 0, steps - 1)

    def target(params: Learned, here: Here, key: Key, t: Array, item: Labelled) -> tuple[Array, Array]:
        del params, here, key
        return item.x[step_at(t)], item.target[step_at(t)]

    def term(params: Learned, here: Here, key: Key, t: Array, item: Labelled) -> Array:
        del key
        return steps * at(params, here, step_at(t), item)

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        def one(params: Learned, key: Key, item: Labelled, context: Any) -> Array:
            here, ks = family.here(held.given, context), jax.random.permutation(key, steps)[:chosen]
            return steps * jnp.mean(jax.vmap(lambda k: at(params, here, k, item))(ks))

        keys = jax.random.split(key, batch.data.x.shape[0])
        return batching.mean(one, held.params, (keys, batch.data, batch.context), network.at_once)

    made = Objective(nothing, collect, loss, replay, family=family, label=label)
    return made._replace(regression=Regression(target, term), learning_rate=ON_POLICY_RATE)


def labelled(problem: Problem, path: Path, clip: float) -> tuple[Labelled, Array]:
    """-sigma_t a_t at every state of a path, from grad r(X_1) clipped; and whether it was."""
    process, times = problem.process, path.times
    slope, clipped = clip_slope(problem, jax.grad(problem.reward)(path.x[-1]), clip)
    adjoint = sde.lean_adjoint(process, path, -slope)

    def target(t: Array, t1: Array, x: Array, a: Array) -> Array:
        return -process.transition(t, t1, x)[1] / jnp.sqrt(process.clock(t, t1)) * a

    return Labelled(path.x[:-1], jax.vmap(target)(times[:-1], times[1:], path.x[:-1], adjoint[1:])), clipped
