"""What the losses share: paths under the current control, labelled without gradient."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, dynamics, paths, sde
from tiltjax.problems import OVERSHOOT
from tiltjax.types import Batch, Family, Held, Here, Key, Network, Path, Problem

# of losses whose labels grad r(X_1) answer to the control that drew them: larger ones end in oscillations on stiff targets
ON_POLICY_RATE = 3e-4


class EndPoints(NamedTuple):
    """X_1 (n, *shape) and grad r(X_1) + g_base(1, X_1), clipped."""

    x: Array
    slope: Array


def nothing() -> None:
    """No learned quantities beside the network."""


def end_points(here: Here, network: Network, times: Array, held: Held, key: Key, n: int, clip: float) -> Batch:
    """n controlled paths: where they end, the reward's gradient there, the path weight. One energy and gradient a particle.

    The norm of a gradient is cut at clip sqrt(d / resolution): a density that is smooth at the resolution has
    gradients of size sqrt(d / resolution), far away they only say where the density is not.
    """

    problem, control = here.problem, network.control(held.params.control, here)

    def one(key: Key) -> Batch:
        end = sde.simulate(problem.process, control, times, key)
        reward, slope = end_slope(problem, end.x)
        slope, clipped = clip_slope(problem, slope, clip)
        return Batch(EndPoints(end.x, slope), end.log_ratio + reward, clipped)

    return batching.each(one, (jax.random.split(key, n),), network.at_once)


def end_slope(problem: Problem, x: Array) -> tuple[Array, Array]:
    """r(X_1), and grad r(X_1) + g_base(1, X_1): the gradient of the reward that tilts the Gaussian into p*."""
    reward, slope = jax.value_and_grad(problem.reward)(x)
    return reward, slope + problem.process.g_base(jnp.ones((), x.dtype), x)


def known_end_points(problem: Problem, x: Array) -> Batch:
    """Draws x (n, *shape) of p* itself, in the process's coordinates, labelled without a clip and equally weighted."""
    n = x.shape[0]
    _, slope = jax.vmap(lambda x: end_slope(problem, x))(x)
    return Batch(EndPoints(x, slope), jnp.zeros(n, x.dtype), jnp.zeros(n, bool))


def label_end(clip: float) -> Callable[[Held, Key, Here, Array], EndPoints]:
    """`Objective.label` of losses on end points: a draw of p* with the gradient there, clipped."""

    def label(held: Held, key: Key, here: Here, x1: Array) -> EndPoints:
        return EndPoints(x1, clip_slope(here.problem, end_slope(here.problem, x1)[1], clip)[0])

    return label


def clip_slope(problem: Problem, slope: Array, clip: float) -> tuple[Array, Array]:
    """A gradient with its norm cut at clip sqrt(d / resolution), and whether it was."""
    limit = clip * math.sqrt(math.prod(problem.process.shape) / problem.resolution)
    norm = jnp.sqrt(jnp.sum(jnp.square(slope)))
    return slope * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30)), norm > limit


def labelled_paths(
    here: Here, network: Network, times: Array, held: Held, key: Key, n: int, label: Callable[[Path, Any], Any]
) -> Batch:
    """n whole controlled paths: label(path, `Dynamics.known`) of each, and the path weight."""

    problem, control = here.problem, network.control(held.params.control, here)

    def one(key: Key) -> tuple[Any, Array]:
        path = dynamics.simulate_path(problem, control, times, key)
        known = problem.dynamics.known(path)
        return label(path, known), dynamics.own_log_weight(problem, control, path, known)

    data, log_weight = batching.each(one, (jax.random.split(key, n),), network.at_once)
    return Batch(data, log_weight, jnp.zeros(n, bool))


def draw_level(problem: Problem | Family, key: Key, overshoot: float = OVERSHOOT) -> tuple[Array, Array]:
    """t with R_t uniform in its logarithm from R_0 down to overshoot * resolution; and the fraction of the way, in [0, 1)."""
    first = paths.top_level(problem.frame)
    last = overshoot * problem.resolution / problem.frame.scale**2
    fraction = jax.random.uniform(key, (), jax.dtypes.canonicalize_dtype(float))
    level = first * jnp.exp(jnp.log(jnp.minimum(last / first, 0.5)) * fraction)
    return paths.time_at(problem.frame, level), fraction
