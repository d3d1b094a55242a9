"""The norm of the lean adjoint along paths, and its bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import sde
from tiltjax.types import ControlFn, GaussianPath, Key, Path, Problem, Process, Scalar


class AdjointNorms(NamedTuple):
    """Of n paths at the N+1 times: |a_k| and its bound, both (n, N+1). bound >= norm, with equality at the last."""

    norm: Array
    bound: Array


def adjoint_norm(problem: Problem, control: ControlFn, times: Array, key: Key, n: int) -> AdjointNorms:
    """|a_k| of the lean adjoint (`sde.lean_adjoint`) on n paths of the control, a_N = -grad r(X_N), and its bound.

        Groenwall: bound_k = |grad r(X_N)| prod_{j >= k} |d mean_j / d x|,   mean_j = process.transition(t_j, t_{j+1}, x)[0]

    with the largest singular value of each step's Jacobian at X_j: exact for the steps taken, and as they shrink exp(int_t^1
    mu) |grad r(X_1)|, mu the largest eigenvalue of the symmetric part of grad b along the path. For a Gaussian base the two are
    equal. It costs d pullbacks and a singular value decomposition of d x d a step, and memory of n d^2: not for large d. Raises
    ValueError unless n is positive. Source: Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229.
    """
    if n < 1:
        raise ValueError(f"n is the number of paths and must be positive; got {n}.")

    def one(key: Key) -> AdjointNorms:
        path = sde.simulate_path(problem.process, control, times, key)
        adjoint = sde.lean_adjoint(problem.process, path, -jax.grad(problem.reward)(path.x[-1]))
        norm = jnp.sqrt(jnp.sum(jnp.square(adjoint.reshape(len(times), -1)), axis=1))
        return AdjointNorms(norm, norm[-1] * _growth(problem.process, path))

    return jax.vmap(one)(jax.random.split(key, n))


def _growth(process: Process, path: Path) -> Array:
    """prod_{j >= k} of the steps' largest singular values, (N+1,)."""
    size = path.x[0].size

    def step(product: Array, k: Array) -> tuple[Array, Array]:
        jacobian = jax.jacrev(lambda x: process.transition(path.times[k], path.times[k + 1], x)[0])(path.x[k])
        product = product * jnp.linalg.norm(jacobian.reshape(size, size), ord=2)
        return product, product

    one = jnp.ones((), path.x.dtype)
    _, before = jax.lax.scan(step, one, jnp.arange(len(path.times) - 1), reverse=True)
    return jnp.concatenate([before, one[None]])


def log_concave_bound(path: GaussianPath, m: float, t: Scalar) -> Array:
    """|a_t| / |grad r(X_1)| <= alpha / (alpha^2 + m beta^2) for an m-strongly log-concave base: 0 at t = 0, 1 at t = 1.

    (m the smallest eigenvalue of -grad^2 log p_base, in 1 / units of x^2.) With equality for a Gaussian base, m = 1 / s^2,
    where it is the response Phi_t. Finite on the Brownian path at t = 0 too. Raises ValueError unless m >= 0: a base that is
    not log-concave has no such bound (`adjoint_norm` gives that of each path). Source: Domingo-Enrich, Du, Albergo (2026),
    arXiv 2605.00229.
    """
    if not m >= 0:
        raise ValueError(f"m is a lower bound of the curvature of -log p_base and must be at least 0; got {m}.")
    return path.lift(t) / (path.signal2(t) + m * path.noise2(t))
