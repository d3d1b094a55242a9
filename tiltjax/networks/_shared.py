"""What the networks share: layers in the working precision, time features, the units of the process's Gaussian."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tiltjax.types import Family, Here, Key, Network, Params, Problem

NUM_FREQUENCIES = 16


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """In the working precision (flax's own default is float32 also where x64 is enabled)."""
    return nnx.Linear(inputs, outputs, rngs=rngs, param_dtype=jax.dtypes.canonicalize_dtype(float), **options)


class Gate(nnx.Module):
    """A time embedding -> one number a coordinate, zero at initialization."""

    def __init__(self, dim: int, rngs: nnx.Rngs, width: int = 64):
        self.hidden = linear(2 * NUM_FREQUENCIES + 1, width, rngs)
        self.out = linear(width, dim, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, features: Array) -> Array:
        return self.out(jax.nn.gelu(self.hidden(features)))


def time_features(level: Array) -> Array:
    """sin and cos of 16 multiples of log(level), and log(level) itself. level = R_t + resolution, a variance."""
    log = jnp.log(level)
    waves = 0.35 * jnp.arange(1, NUM_FREQUENCIES + 1, dtype=log.dtype) * log
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves), log[None] / 5])


def clock_features(t: Array) -> Array:
    """sin and cos of 16 multiples of pi t, and t itself."""
    waves = math.pi * jnp.arange(1, NUM_FREQUENCIES + 1, dtype=t.dtype) * t
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves), t[None]])


def natural(problem: Problem | Family, t: Array, x: Array) -> tuple[Array, Array, Array]:
    """m / s, the gain, and R_t + q."""
    frame = problem.frame
    return frame.response(t) * x / frame.scale, frame.gain(t), frame.residual(t) + problem.resolution


def seeing(problem: Problem | Family, network: Network) -> Network:
    """A network whose apply takes `here`, for a family; for a plain problem one that holds it."""
    if isinstance(problem, Family):
        return network._replace(sees=True)
    here, apply = Here(problem), network.apply
    return network._replace(apply=lambda params, t, x: apply(params, t, x, here))


def clip_norm(v: Array, limit: float) -> Array:
    v = jnp.where(jnp.isfinite(v), v, 0.0)
    return v * jnp.minimum(1.0, limit * jax.lax.rsqrt(jnp.sum(jnp.square(v)) + 1e-30))


def split(build: Any) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]


def init_of(build: Any) -> Any:
    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key))))

    return init
