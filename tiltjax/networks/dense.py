"""Networks of dense layers on the flattened particle.

`dtype` is that of the hidden layers' products (jnp.bfloat16 on an accelerator made for it; default the working precision).
Parameters, positions, time features and sums stay in the working precision, and weights are those of the control as computed.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from tiltjax import families
from tiltjax.types import Family, Here, Network, Params, Problem

from ._shared import NUM_FREQUENCIES, Gate, clip_norm, clock_features, init_of, linear, natural, seeing, split, time_features


class _Residual(nnx.Module):
    """D + G * y for d inputs y and a time embedding: D and G come from residual layers h + act(W h).

    The product with y is what a mode centred anywhere asks of a control, -(y - centre) / variance: layers alone must build it
    from bends.
    """

    def __init__(self, dim: int, width: int, depth: int, dtype: DTypeLike | None, rngs: nnx.Rngs, context: int = 0):
        features = 2 * NUM_FREQUENCIES + 1 + context
        self.state = linear(dim, width, rngs)
        self.time = linear(features, width, rngs)
        self.hidden = nnx.List([linear(width, width, rngs, dtype=dtype) for _ in range(depth)])
        self.out = linear(width, 2 * dim, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, y: Array, features: Array) -> Array:
        shift, slope = self.parts(y, features)
        return shift + slope * y

    def parts(self, y: Array, features: Array) -> tuple[Array, Array]:
        """D and G."""
        # the time features do not depend on the particle: under vmap over particles at one time they are computed once
        h = jax.nn.gelu(self.state(y) + self.time(features))
        for layer in self.hidden:
            h = h + jax.nn.gelu(layer(h)).astype(h.dtype)
        shift, slope = jnp.split(self.out(h), 2)
        return shift, slope


def mlp(problem: Problem | Family, width: int = 192, depth: int = 3, dtype: DTypeLike | None = None) -> Network:
    """u = gain_t [D + G * m / s](m / s, log(R_t + q)) / sqrt(R_t + q),  m = Phi_t x: D and G see the same on every path.

    q is the problem's resolution: grad log h has the size 1 / sqrt(R + q) where the target has structure at variance q. For a
    family D and G see the context too, as one vector: give it numbers of size one.
    When not to use it: particle systems (no symmetry is built in).
    """
    dim, size = math.prod(problem.frame.shape), families.context_size(problem)

    def build(rngs: nnx.Rngs) -> _Residual:
        return _Residual(dim, width, depth, dtype, rngs, size)

    graph = split(build)

    def control(params: Params, t: Array, x: Array, here: Here) -> Array:
        m, gain, level = natural(problem, t, x)
        features = time_features(level)
        features = jnp.concatenate([features, families.seen(problem, here, x.dtype)]) if size else features
        out = nnx.merge(graph, params)(m.reshape(-1), features)
        return (gain / jnp.sqrt(level)) * out.reshape(x.shape)

    return seeing(problem, Network(init_of(build), control))


def score_informed(
    problem: Problem | Family, width: int = 192, depth: int = 3, clip: float = 10.0, dtype: DTypeLike | None = None
) -> Network:
    """`mlp` plus a gate of time for each coordinate on the target's own gradient at the predicted end point:

        u = gain_t [ D / sqrt(R_t + q) + gate_t grad r(m) ],  m = Phi_t x = E_base[X_1 | X_t = x].

    The gradient's norm is clipped at clip sqrt(d / q). Each evaluation costs one gradient of the density, in training
    and in sampling: use it where energies are cheap and the target is sharp. Source: Zhang & Chen (2022), arXiv 2111.15141.
    """
    dim, scale, size = math.prod(problem.frame.shape), problem.frame.scale, families.context_size(problem)
    limit = clip * math.sqrt(dim / problem.resolution)

    def build(rngs: nnx.Rngs) -> nnx.Dict:
        return nnx.Dict(body=_Residual(dim, width, depth, dtype, rngs, size), gate=Gate(dim, rngs))

    graph = split(build)

    def control(params: Params, t: Array, x: Array, here: Here) -> Array:
        m, gain, level = natural(problem, t, x)
        features = time_features(level)
        seen = jnp.concatenate([features, families.seen(problem, here, x.dtype)]) if size else features
        net, slope = nnx.merge(graph, params), jax.grad(here.problem.reward)(scale * m)
        out = net["body"](m.reshape(-1), seen).reshape(x.shape) / jnp.sqrt(level)
        return gain * (out + net["gate"](features).reshape(x.shape) * clip_norm(slope, limit))

    return seeing(problem, Network(init_of(build), control, gradient_evaluations=1))


def corrector(problem: Problem | Family, width: int = 192, depth: int = 3, dtype: DTypeLike | None = None) -> Network:
    """The corrector h(t, x) = grad_m log phi_hat_t of a Schroedinger bridge, `mlp` with its clock reversed:

        h = -m / V_t + [D + G * m / s](m / s, log(V_t + q)) / sqrt(V_t + q),   V_t = s^2 - R_t = Var m_t of the base.

    NOT zero at initialization: the first term is the score of the base, which is h where there is no control. When not to
    use it: as a control.
    """
    dim, scale2 = math.prod(problem.frame.shape), problem.frame.scale**2
    residual = problem.frame.residual
    graph = split(lambda rngs: _Residual(dim, width, depth, dtype, rngs))

    def apply(params: Params, t: Array, x: Array) -> Array:
        y, _, _ = natural(problem, t, x)
        variance = jnp.maximum(scale2 - residual(t), 1e-6 * scale2)
        level = variance + problem.resolution
        out = nnx.merge(graph, params)(y.reshape(-1), time_features(level)).reshape(x.shape)
        return out / jnp.sqrt(level) - y * (math.sqrt(scale2) / variance)

    return Network(init_of(lambda rngs: _Residual(dim, width, depth, dtype, rngs)), apply)


def drift(problem: Problem | Family, width: int = 192, depth: int = 3, dtype: DTypeLike | None = None) -> Network:
    """g = s [D + G * x / s](x / s, t): the drift of an annealed problem, with no other singularity or scale than the base's."""
    dim, s = math.prod(problem.frame.shape), problem.frame.scale
    graph = split(lambda rngs: _Residual(dim, width, depth, dtype, rngs))

    def apply(params: Params, t: Array, x: Array) -> Array:
        return s * nnx.merge(graph, params)(x.reshape(-1) / s, clock_features(t)).reshape(x.shape)

    return Network(init_of(lambda rngs: _Residual(dim, width, depth, dtype, rngs)), apply)


def potential(problem: Problem | Family, width: int = 192, depth: int = 3, dtype: DTypeLike | None = None) -> Network:
    """g = grad phi, phi = s^2 sum_i [D y + G y^2 / 2]_i (y = x / s, t): for action matching, which needs phi itself."""
    dim, s = math.prod(problem.frame.shape), problem.frame.scale
    graph = split(lambda rngs: _Residual(dim, width, depth, dtype, rngs))

    def phi(params: Params, t: Array, x: Array) -> Array:
        y = x.reshape(-1) / s
        shift, slope = nnx.merge(graph, params).parts(y, clock_features(t))
        return s**2 * jnp.sum(shift * y + 0.5 * slope * jnp.square(y))

    return Network(
        init_of(lambda rngs: _Residual(dim, width, depth, dtype, rngs)),
        lambda params, t, x: jax.grad(phi, argnums=2)(params, t, x),
        potential=phi,
    )


def zero(problem: Problem | Family) -> Network:
    """u = 0: the uncontrolled base. Its weights are plain importance weights."""
    del problem
    return Network(lambda key: (), lambda params, t, x: jnp.zeros_like(x))
