"""An equivariant graph network for systems of particles, on all pairs at once."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from tiltjax import families, particles
from tiltjax.types import Family, Here, Network, Params, Problem

from ._shared import NUM_FREQUENCIES, clip_norm, init_of, natural, seeing, split, time_features

NUM_RADIAL = 24
REACH = 4.0  # of the radial functions, in standard deviations of the base: farther pairs see d itself


def egnn(
    problem: Problem | Family,
    width: int = 64,
    depth: int = 3,
    informed: bool = False,
    clip: float = 10.0,
    dtype: DTypeLike | None = None,
) -> Network:
    """A control that turns with the configuration, for centred configurations x = H^T y (`particles`): z = H^T Phi_t y / s,

        u = gain_t H [ v(z, log(R_t + q)) / sqrt(R_t + q) + gate_i grad_i r ],
        v_i = sum_l sum_j (z_i - z_j) a_l.m^l_ij / n + b.h_i z_i,     m^l_ij = silu(A_l h_i + B_l h_j + C_l e(|z_i - z_j|)),
        h_i <- h_i + D_l silu(E_l sum_j m^l_ij / sqrt(n)),            h_i = silu(time features) at first,

    e: 24 Gaussians of the distance and the distance itself. Rotations, reflections and permutations of the particles commute
    with it, translations drop out. Zero at initialization.

    informed: with the gradient of the reward at the predicted end point, clipped as in `score_informed`, times gate_i = c.h_i;
    one gradient of the density in each evaluation. dtype: of the messages m (jnp.bfloat16 on an accelerator made for it: the
    symmetries then hold to its rounding, 4e-3, not to 1e-5); parameters, distances and sums stay in the working precision.
    When not to use it: particles that are told apart, or an outer field.

    Raises ValueError for a reward without these symmetries. Source: Satorras, Hoogeboom, Welling (2021), arXiv 2102.09844.
    """
    if families.context_size(problem):
        raise ValueError(
            "egnn knows particles by their distances alone; got a family, whose contexts it would not see. Use mlp."
        )
    _needs_symmetry(families.example(problem))
    scale, limit = problem.frame.scale, clip * math.sqrt(math.prod(problem.frame.shape) / problem.resolution)

    def build(rngs: nnx.Rngs) -> _Egnn:
        return _Egnn(width, depth, 2 if informed else 1, dtype, rngs)

    graph = split(build)

    def apply(params: Params, t: Array, y: Array, here: Here) -> Array:
        m, gain, level = natural(problem, t, y)
        z = particles.embed(m)
        pulled, own = nnx.merge(graph, params)(z, time_features(level))
        out = (pulled + own[:, :1] * z) / jnp.sqrt(level)
        if informed:
            slope = jax.grad(here.problem.reward)(scale * m)
            out = out + own[:, 1:] * particles.embed(clip_norm(slope, limit))
        return gain * particles.project(out)

    at_once = _at_once(problem.frame.shape[0] + 1, width)
    return seeing(problem, Network(init_of(build), apply, gradient_evaluations=int(informed), at_once=at_once))


class _Dense(nnx.Module):
    """x -> W x + b over the last axis, W (outputs, inputs): factors in the precision of x, sums in `result`'s (default x's).

    In this order, unlike nnx.Linear's, the gradient by W needs no transposed copy of x: half the time, on a CPU, for pairs.
    """

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True, zero: bool = False):
        real = jax.dtypes.canonicalize_dtype(float)
        size = 0.0 if zero else 1 / math.sqrt(inputs)
        self.kernel = nnx.Param(size * jax.random.truncated_normal(rngs.params(), -2.0, 2.0, (outputs, inputs), real))
        self.bias = nnx.Param(jnp.zeros(outputs, real)) if bias else None

    def __call__(self, x: Array, result: DTypeLike | None = None) -> Array:
        where = (((x.ndim - 1,), (1,)), ((), ()))
        out = jax.lax.dot_general(x, self.kernel[...].astype(x.dtype), where, preferred_element_type=result)
        return out if self.bias is None else out + self.bias[...].astype(out.dtype).reshape(*(1,) * (x.ndim - 1), -1)


class _Layer(nnx.Module):
    """(h (n or 1, width), e (n, n, radial)) -> the next h, and the weights (n, n) of the pairs' vectors.

    The first layer of a pair's message is a sum of parts of its ends and of its distance: what costs n^2 width is the bend
    alone.
    """

    def __init__(self, width: int, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.dtype = dtype
        self.ends = _Dense(width, 2 * width, rngs)
        self.edge = _Dense(NUM_RADIAL + 1, width, rngs, bias=False)
        self.pull = _Dense(width, 1, rngs, bias=False, zero=True)
        self.gather = _Dense(width, width, rngs)
        self.node = _Dense(width, width, rngs)

    def __call__(self, h: Array, e: Array) -> tuple[Array, Array]:
        own = h.dtype
        h_pairs, e = (a if self.dtype is None else a.astype(self.dtype) for a in (h, e))
        receive, send = jnp.split(self.ends(h_pairs), 2, axis=-1)
        message = jax.nn.silu(receive[:, None, :] + send[None, :, :] + self.edge(e))
        gathered = jnp.sum(message, axis=1, dtype=own) / math.sqrt(e.shape[0])
        return h + self.node(jax.nn.silu(self.gather(gathered))), self.pull(message, own)[..., 0]


class _Egnn(nnx.Module):
    def __init__(self, width: int, depth: int, gates: int, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.time = _Dense(2 * NUM_FREQUENCIES + 1, width, rngs)
        self.layers = nnx.List([_Layer(width, dtype, rngs) for _ in range(depth)])
        self.own = _Dense(width, gates, rngs, zero=True)

    def __call__(self, z: Array, features: Array) -> tuple[Array, Array]:
        """The pairs' share of v (n, d), and the gates (n, gates)."""
        n = z.shape[0]
        time = jax.nn.silu(self.time(features))
        h = time[None]  # one row for all: the first layer tells them apart
        gap = z[:, None, :] - z[None, :, :]
        e = _radial(gap)
        pulls = jnp.zeros((n, n), z.dtype)
        for layer in self.layers:
            h, pull = layer(h, e)
            pulls = pulls + pull
        return jnp.sum(pulls[..., None] * gap, axis=1) / n, self.own(h)


def _radial(gap: Array) -> Array:
    """(n, n, d) -> (n, n, NUM_RADIAL + 1)."""
    # rounded off, so that the gradient is finite where particles coincide, as each does with itself
    distance = jnp.sqrt(jnp.sum(jnp.square(gap), axis=-1, keepdims=True) + 1e-12)
    width = REACH / (NUM_RADIAL - 1)
    centres = width * jnp.arange(NUM_RADIAL, dtype=distance.dtype)[None, None, :]
    return jnp.concatenate([jnp.exp(-0.5 * jnp.square((distance - centres) / width)), distance / REACH], axis=-1)


def _at_once(n: int, width: int, cache: int = 2**19) -> int | None:
    """On a CPU: configurations, a power of two, whose messages of one layer fill half a mebibyte; elsewhere any number."""
    if jax.default_backend() != "cpu":
        return None
    return 2 ** max(0, int(math.log2(cache / (4 * n * n * width))))


def _needs_symmetry(problem: Problem) -> None:
    """Raises ValueError when the reward changes as the particles of a random configuration are turned or exchanged."""
    shape = tuple(problem.process.shape)
    if len(shape) != 2:
        raise ValueError(
            "networks.egnn needs centred configurations of n particles in d dimensions, a process of shape (n - 1, d); got "
            f"shape {shape}. Give the target shape (n, d) and centred=True, or use networks.mlp."
        )
    n, dim = shape[0] + 1, shape[1]
    real = jax.dtypes.canonicalize_dtype(float)
    key_x, key_turn = jax.random.split(jax.random.key(0))
    x = 0.7 * problem.frame.scale * jax.random.normal(key_x, (n, dim), real)
    turn = jnp.linalg.qr(jax.random.normal(key_turn, (dim, dim), real))[0]
    moved = {
        "as they were": x,
        "turned": jnp.matmul(x, turn, precision="highest"),
        "reflected": x.at[:, 0].multiply(-1),
        "exchanged": jnp.concatenate([x[1::-1], x[2:]]),
        "shifted by one": jnp.roll(x, 1, axis=0),  # with the exchange of two it makes every permutation
    }
    rewards = {how: float(problem.reward(particles.project(x))) for how, x in moved.items()}
    first = rewards["as they were"]
    if not all(abs(r - first) <= 1e-3 * (1 + abs(first)) for r in rewards.values() if math.isfinite(first)):
        raise ValueError(
            "networks.egnn needs a reward that does not change when all particles are turned, reflected or exchanged; got "
            + ", ".join(f"{r:.6g} {how}" for how, r in rewards.items())
            + ". Use networks.mlp, or networks.score_informed."
        )
