"""Control networks u_theta(t, x), zero at initialization, in the units of the process's Gaussian.

A flax module is split once, so that what flows through `jit` and `grad` is a plain tree of arrays. Your own network needs no
flax: any `types.Network(init, apply)` with `apply(params, t, x) -> u` will do.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tiltjax.types import Key, Network, Params, Problem

NUM_FREQUENCIES = 16


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """In the working precision (flax's own default is float32 also where x64 is enabled)."""
    return nnx.Linear(inputs, outputs, rngs=rngs, param_dtype=jax.dtypes.canonicalize_dtype(float), **options)


class _Residual(nnx.Module):
    """D + G * y for d inputs y and a time embedding: D and G come from residual layers h + act(W h).

    The product with y is what a mode centred anywhere asks of a control, -(y - centre) / variance: layers alone must build it
    from bends.
    """

    def __init__(self, dim: int, width: int, depth: int, rngs: nnx.Rngs):
        features = 2 * NUM_FREQUENCIES + 1
        self.state = _linear(dim, width, rngs)
        self.time = _linear(features, width, rngs)
        self.hidden = nnx.List([_linear(width, width, rngs) for _ in range(depth)])
        self.out = _linear(width, 2 * dim, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, y: Array, features: Array) -> Array:
        shift, slope = self.parts(y, features)
        return shift + slope * y

    def parts(self, y: Array, features: Array) -> tuple[Array, Array]:
        """D and G."""
        # the time features do not depend on the particle: under vmap over particles at one time they are computed once
        h = jax.nn.gelu(self.state(y) + self.time(features))
        for layer in self.hidden:
            h = h + jax.nn.gelu(layer(h))
        shift, slope = jnp.split(self.out(h), 2)
        return shift, slope


class _Gate(nnx.Module):
    """A time embedding -> one number a coordinate, zero at initialization."""

    def __init__(self, dim: int, rngs: nnx.Rngs, width: int = 64):
        self.hidden = _linear(2 * NUM_FREQUENCIES + 1, width, rngs)
        self.out = _linear(width, dim, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, features: Array) -> Array:
        return self.out(jax.nn.gelu(self.hidden(features)))


def time_features(level: Array) -> Array:
    """sin and cos of 16 multiples of log(level), and log(level) itself. level = R_t + resolution, a variance."""
    log = jnp.log(level)
    waves = 0.35 * jnp.arange(1, NUM_FREQUENCIES + 1, dtype=log.dtype) * log
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves), log[None] / 5])


def mlp(problem: Problem, width: int = 192, depth: int = 3) -> Network:
    """u = gain_t [D + G * m / s](m / s, log(R_t + q)) / sqrt(R_t + q),  m = Phi_t x: D and G see the same on every path.

    q is the problem's resolution: grad log h has the size 1 / sqrt(R + q) where the target has structure at variance q.
    When not to use it: particle systems (no symmetry is built in).
    """
    dim = math.prod(problem.process.shape)
    graph = _split(lambda rngs: _Residual(dim, width, depth, rngs))

    def apply(params: Params, t: Array, x: Array) -> Array:
        m, gain, level = _coordinates(problem, t, x)
        out = nnx.merge(graph, params)(m.reshape(-1), time_features(level))
        return (gain / jnp.sqrt(level)) * out.reshape(x.shape)

    return Network(_init(lambda rngs: _Residual(dim, width, depth, rngs)), apply)


def score_informed(problem: Problem, width: int = 192, depth: int = 3, clip: float = 10.0) -> Network:
    """`mlp` plus a gate of time for each coordinate on the target's own gradient at the predicted end point:

        u = gain_t [ D / sqrt(R_t + q) + gate_t grad r(m) ],  m = Phi_t x = E_base[X_1 | X_t = x].

    The gradient's norm is clipped at clip sqrt(d / q). Each evaluation costs one gradient of the density, in training
    and in sampling: use it where energies are cheap and the target is sharp. Source: Zhang & Chen (2022), arXiv 2111.15141.
    """
    dim, scale = math.prod(problem.process.shape), problem.process.scale
    slope = jax.grad(problem.reward)
    limit = clip * math.sqrt(dim / problem.resolution)

    def build(rngs: nnx.Rngs) -> nnx.Dict:
        return nnx.Dict(body=_Residual(dim, width, depth, rngs), gate=_Gate(dim, rngs))

    graph = _split(build)

    def apply(params: Params, t: Array, x: Array) -> Array:
        m, gain, level = _coordinates(problem, t, x)
        features = time_features(level)
        net = nnx.merge(graph, params)
        out = net["body"](m.reshape(-1), features).reshape(x.shape) / jnp.sqrt(level)
        return gain * (out + net["gate"](features).reshape(x.shape) * _clip_norm(slope(scale * m), limit))

    return Network(_init(build), apply, gradient_evaluations=1)


def corrector(problem: Problem, width: int = 192, depth: int = 3) -> Network:
    """The corrector h(t, x) = grad_m log phi_hat_t of a Schroedinger bridge, `mlp` with its clock reversed:

        h = -m / V_t + [D + G * m / s](m / s, log(V_t + q)) / sqrt(V_t + q),   V_t = s^2 - R_t = Var m_t of the base.

    NOT zero at initialization: the first term is the score of the base, which is h where there is no control. When not to
    use it: as a control.
    """
    dim, scale2 = math.prod(problem.process.shape), problem.process.scale**2
    residual = problem.process.residual
    graph = _split(lambda rngs: _Residual(dim, width, depth, rngs))

    def apply(params: Params, t: Array, x: Array) -> Array:
        y, _, _ = _coordinates(problem, t, x)
        variance = jnp.maximum(scale2 - residual(t), 1e-6 * scale2)
        level = variance + problem.resolution
        out = nnx.merge(graph, params)(y.reshape(-1), time_features(level)).reshape(x.shape)
        return out / jnp.sqrt(level) - y * (math.sqrt(scale2) / variance)

    return Network(_init(lambda rngs: _Residual(dim, width, depth, rngs)), apply)


def drift(problem: Problem, width: int = 192, depth: int = 3) -> Network:
    """g = s [D + G * x / s](x / s, t): the drift of an annealed problem, with no other singularity or scale than the base's."""
    dim, s = math.prod(problem.process.shape), problem.process.scale
    graph = _split(lambda rngs: _Residual(dim, width, depth, rngs))

    def apply(params: Params, t: Array, x: Array) -> Array:
        return s * nnx.merge(graph, params)(x.reshape(-1) / s, clock_features(t)).reshape(x.shape)

    return Network(_init(lambda rngs: _Residual(dim, width, depth, rngs)), apply)


def potential(problem: Problem, width: int = 192, depth: int = 3) -> Network:
    """g = grad phi, phi = s^2 sum_i [D y + G y^2 / 2]_i (y = x / s, t): for action matching, which needs phi itself."""
    dim, s = math.prod(problem.process.shape), problem.process.scale
    graph = _split(lambda rngs: _Residual(dim, width, depth, rngs))

    def phi(params: Params, t: Array, x: Array) -> Array:
        y = x.reshape(-1) / s
        shift, slope = nnx.merge(graph, params).parts(y, clock_features(t))
        return s**2 * jnp.sum(shift * y + 0.5 * slope * jnp.square(y))

    return Network(
        _init(lambda rngs: _Residual(dim, width, depth, rngs)),
        lambda params, t, x: jax.grad(phi, argnums=2)(params, t, x),
        potential=phi,
    )


def clock_features(t: Array) -> Array:
    """sin and cos of 16 multiples of pi t, and t itself."""
    waves = math.pi * jnp.arange(1, NUM_FREQUENCIES + 1, dtype=t.dtype) * t
    return jnp.concatenate([jnp.sin(waves), jnp.cos(waves), t[None]])


def zero(problem: Problem) -> Network:
    """u = 0: the uncontrolled base. Its weights are plain importance weights."""
    del problem
    return Network(lambda key: (), lambda params, t, x: jnp.zeros_like(x))


def _coordinates(problem: Problem, t: Array, x: Array) -> tuple[Array, Array, Array]:
    """m / s, the gain, and R_t + q."""
    process = problem.process
    return process.response(t) * x / process.scale, process.gain(t), process.residual(t) + problem.resolution


def _clip_norm(v: Array, limit: float) -> Array:
    v = jnp.where(jnp.isfinite(v), v, 0.0)
    return v * jnp.minimum(1.0, limit * jax.lax.rsqrt(jnp.sum(jnp.square(v)) + 1e-30))


def _split(build: Any) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]


def _init(build: Any) -> Any:
    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key))))

    return init
