"""The Adjoint Schroedinger Bridge Sampler: two regressions that alternate (`fit_bridge` does it).

The bridge is the process nearest to the base that starts in p_0 (any source, `process.initial`) and ends in p*. In the
coordinate m = Phi_t X_t, with R_t = Var[X_1 | X_t] of the base, it has two potentials, phi_t(m) = E_base[phi_1(X_1) | m_t = m]
and phi_hat_t, which the base carries forward from phi_hat_0:
    p_0 = phi_0 phi_hat_0,   p* = phi_1 phi_hat_1,   u* = gain grad_m log phi,   h = grad_m log phi_hat (the corrector).
The two gradients are the conditional means, over the bridge, of
    grad log gamma(X_1) - h(1, X_1)     (the adjoint match, for u / gain: minus the lean adjoint)
    -(m_t - m_0) / (R_0 - R_t)          (the corrector match, for h: the base's score of m_t given X_0).
(X_0, X_1) come from the present control and X_t from the base's bridge between them, which every control of this form keeps.
On a memoryless process h = grad log p_base at once, and the adjoint match is `adjoint_sampling`.
Source: Liu, Choi, Chen, Miller, Chen (2025), arXiv 2506.22565.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, bridges, families, networks, paths, processes, sde, validate, weights
from tiltjax.losses.collect import clip_slope, draw_level, nothing
from tiltjax.types import Batch, Held, Here, Key, Learned, Network, Objective, Params, Problem, Replay

REPLAY = Replay(num_particles=1000, capacity=5000, gradient_steps=100, batch_size=512)
CLIP = 10.0


class Pairs(NamedTuple):
    """X_0 and X_1 (n, *shape) of controlled paths."""

    start: Array
    end: Array


class Pulled(NamedTuple):
    """Pairs, and grad log gamma(X_1), the reward's part of it clipped."""

    start: Array
    end: Array
    slope: Array


@validate.needs("single", "density", "gradient")
def adjoint_bridge_matching(
    problem: Problem,
    network: Network,
    times: Array,
    *,
    corrector: Network,
    replay: Replay = REPLAY,
    clip: float = CLIP,
) -> Objective:
    """E[ (R + q) |u_theta(t, X_t) / gain - grad log gamma(X_1) + h(1, X_1)|^2 ],  R uniform in its logarithm, as elsewhere.

    gamma = p_base exp(reward) is the density to end in, and -h its correction for a start that X_1 remembers. The corrector's
    parameters are carried (`Held.carried`). With `networks.corrector` as it starts, h = grad log p_base and this is adjoint
    matching to the reward: the first stage. Path weights are those of `weights.girsanov`. When not to use it: alone, where X_0
    and X_1 depend on one another. Raises ValueError for a process that is not Gaussian, and for a replay with weights: those of
    the paths are for the tilt of the base, not for the bridge. Source: Liu et al. (2025), arXiv 2506.22565.
    """
    _check(problem, replay)
    process = problem.process
    base, gain = validate.density(process, "a Schroedinger bridge"), process.frame.gain
    residual = process.frame.residual

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        def one(key: Key) -> Batch:
            start, end = _pair(here, network, held.params.control, times, key)
            reward, slope = jax.value_and_grad(here.problem.reward)(end.x)
            slope, clipped = clip_slope(problem, slope, clip)
            return Batch(Pulled(start, end.x, slope + jax.grad(base)(end.x)), end.log_ratio + reward, clipped)

        return batching.each(one, (jax.random.split(key, n),), network.at_once), held.carried

    def one(params: Learned, key: Key, pair: Pulled, frozen: Params) -> Array:
        key_time, key_noise = jax.random.split(key)
        t, _ = draw_level(problem, key_time)
        x = processes.bridge(process, t, pair.start, pair.end, jax.random.normal(key_noise, pair.end.shape))
        target = pair.slope - corrector.apply(frozen, jnp.ones_like(t), pair.end)
        return (residual(t) + problem.resolution) * jnp.sum(jnp.square(network.apply(params.control, t, x) / gain(t) - target))

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        def of_one(params: Learned, key: Key, pair: Pulled) -> Array:
            return one(params, key, pair, held.carried)

        keys = jax.random.split(key, batch.data.end.shape[0])
        return batching.mean(of_one, held.params, (keys, batch.data), network.at_once)

    return Objective(nothing, collect, loss, replay, family=families.of(problem), carry=corrector.init)


@validate.needs("single", "density")
def corrector_matching(
    problem: Problem, network: Network, times: Array, *, control: Network, replay: Replay = REPLAY, terminal: float = 0.5
) -> Objective:
    """E[ (R_0 - R_t) |h_phi(t, X_t) + (m_t - m_0) / (R_0 - R_t)|^2 ],  `network` is h_phi, `control` makes the pairs.

    At t = 1 this is the paper's corrector match, of h to grad log p_base(X_1 | X_0); it takes a fraction `terminal` of the
    batch. The other times, R_t uniform in (0, R_0), give the backward control of the bridge, for weights of less spread
    (`processes.backward_controlled`); terminal=1 leaves them out. The control's parameters are carried. No energy is
    evaluated. When not to use it: with a source of width 0, where h = grad log p_base needs no learning.
    Raises ValueError as `adjoint_bridge_matching` does. Source: Liu et al. (2025), arXiv 2506.22565.
    """
    _check(problem, replay)
    process = problem.process
    response, residual = process.frame.response, process.frame.residual
    first = paths.top_level(process.frame)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        def one(key: Key) -> Pairs:
            start, end = _pair(here, control, held.carried, times, key)
            return Pairs(start, end.x)

        pairs = batching.each(one, (jax.random.split(key, n),), control.at_once)
        return Batch(pairs, jnp.zeros(n), jnp.zeros(n, bool)), held.carried

    def one(params: Learned, key: Key, pair: Pairs) -> Array:
        key_time, key_end, key_noise = jax.random.split(key, 3)
        level = first * jax.random.uniform(key_time, (), first.dtype, minval=1e-6)
        inner = paths.time_at(process.frame, level)
        t = jnp.where(jax.random.bernoulli(key_end, terminal), jnp.ones_like(inner), inner)
        x = processes.bridge(process, t, pair.start, pair.end, jax.random.normal(key_noise, pair.end.shape))
        spent = jnp.maximum(residual(jnp.zeros_like(t)) - residual(t), 1e-6 * residual(jnp.zeros_like(t)))
        score = -(response(t) * x - response(jnp.zeros_like(t)) * pair.start) / spent
        return spent * jnp.sum(jnp.square(network.apply(params.control, t, x) - score))

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        keys = jax.random.split(key, batch.data.end.shape[0])
        return batching.mean(one, held.params, (keys, batch.data), network.at_once)

    return Objective(
        nothing,
        collect,
        loss,
        replay,
        energy_evaluations=0,
        gradient_evaluations=0,
        weighted=False,
        family=families.of(problem),
        carry=control.init,
    )


def schroedinger(
    problem: Problem,
    network: Network,
    times: Array,
    *,
    corrector: Callable[[Problem], Network] | Network = networks.corrector,
    replay: Replay = REPLAY,
) -> Objective:
    """What draws of a bridge are made with: `problem(problem, the corrector's parameters)` has the dynamics of the bridge.

    Not to be trained alone: `fit_bridge` alternates the two objectives above.
    """
    other = corrector if isinstance(corrector, Network) else corrector(problem)

    def bridged(problem: Problem, params: Params) -> Problem:
        return problem._replace(motion=bridges.motion(lambda t, x: other.apply(params, t, x)))

    adjoint = adjoint_bridge_matching(problem, network, times, corrector=other, replay=replay)
    return adjoint._replace(init=lambda: other.init(jax.random.key(0)), problem=bridged)


def _pair(here: Here, network: Network, params: Params, times: Array, key: Key) -> tuple[Array, sde.End]:
    key_start, key_path = jax.random.split(key)
    process = here.problem.process
    start = process.initial(key_start)
    return start, sde.simulate(process, network.control(params, here), times, key_path, x0=start)


def _check(problem: Problem, replay: Replay) -> None:
    if replay.weighting not in (None, weights.unweighted):
        raise ValueError(
            "the bridge is learned from its own pairs, unweighted (path weights are for the tilt of the base); got a replay "
            "with a weighting. Leave it out."
        )
