"""What the losses share: paths under the current control, labelled without gradient."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import paths, sde, weights
from tiltjax.types import Batch, Key, Learned, Network, Path, Problem


class EndPoints(NamedTuple):
    """X_1 (n, *shape) and grad r(X_1), clipped."""

    x: Array
    slope: Array


def nothing() -> None:
    """No learned quantities beside the network."""


def end_points(problem: Problem, network: Network, times: Array, params: Learned, key: Key, n: int, clip: float) -> Batch:
    """n controlled paths: where they end, the reward's gradient there, the path weight. One energy and gradient a particle.

    The norm of a gradient is cut at clip sqrt(d / resolution): a density that is smooth at the resolution has
    gradients of size sqrt(d / resolution), far away they only say where the density is not.
    """

    def one(key: Key) -> Batch:
        end = sde.simulate(problem.process, lambda t, x: network.apply(params.control, t, x), times, key)
        reward, slope = jax.value_and_grad(problem.reward)(end.x)
        slope, clipped = clip_slope(problem, slope, clip)
        return Batch(EndPoints(end.x, slope), end.log_ratio + reward, clipped)

    return jax.vmap(one)(jax.random.split(key, n))


def clip_slope(problem: Problem, slope: Array, clip: float) -> tuple[Array, Array]:
    """A gradient with its norm cut at clip sqrt(d / resolution), and whether it was."""
    limit = clip * math.sqrt(math.prod(problem.process.shape) / problem.resolution)
    norm = jnp.sqrt(jnp.sum(jnp.square(slope)))
    return slope * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30)), norm > limit


def labelled_paths(
    problem: Problem, network: Network, times: Array, params: Learned, key: Key, n: int, label: Callable[[Path], Any]
) -> Batch:
    """n whole controlled paths: label(path) of each, and the path weight. One energy a particle, and what `label` costs."""

    def one(key: Key) -> tuple[Any, Array]:
        path = sde.simulate_path(problem.process, lambda t, x: network.apply(params.control, t, x), times, key)
        return label(path), weights.girsanov(problem.process, problem.reward, path)

    data, log_weight = jax.vmap(one)(jax.random.split(key, n))
    return Batch(data, log_weight, jnp.zeros(n, bool))


def draw_level(problem: Problem, key: Key, overshoot: float = 0.3) -> tuple[Array, Array]:
    """t with R_t uniform in its logarithm from R_0 down to overshoot * resolution; and the fraction of the way, in [0, 1)."""
    assert problem.process.scale is not None
    first = paths.top_level(problem.process)
    last = overshoot * problem.resolution / problem.process.scale**2
    fraction = jax.random.uniform(key, (), jax.dtypes.canonicalize_dtype(float))
    level = first * jnp.exp(jnp.log(jnp.minimum(last / first, 0.5)) * fraction)
    return paths.time_at(problem.process, level), fraction
