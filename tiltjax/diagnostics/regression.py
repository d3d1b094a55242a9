"""How noisy a loss's labels are, as a function of time: of the regression target itself, and of the gradient it gives.

Both read `Objective.regression`, of which the loss is made, so what is measured is what is trained on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import families, weights
from tiltjax.diagnostics.estimates import expectation
from tiltjax.types import Batch, Estimate, Here, Key, Learned, Objective, Regression


class TargetVariance(NamedTuple):
    """At times (T,): E|u - u_reference|^2 by coordinate (T, *shape), and its sum, the trace (T,), in units of u^2."""

    times: Array
    coordinate: Estimate
    trace: Estimate


class GradientVariance(NamedTuple):
    """At times (T,): the trace of the gradient's covariance (T,), one particle; and the squared norm of its mean (T,)."""

    times: Array
    variance: Estimate
    square: Array


def target_variance(
    objective: Objective,
    params: Learned,
    batch: Batch,
    times: Array,
    key: Key,
    reference: Callable[[Array, Array], Array],
) -> TargetVariance:
    """E_{p*}|u - u_reference(t, X_t)|^2 at each of times (T,), u the target that the loss regresses on at X_t.

    With the exact control as the `reference` (t, x) -> u it is the variance of the target given X_t, E[Var(u | t, X_t)]; any
    other, the trained one say, adds its own E|u* - u_reference|^2. The batch is weighted by its log weights:
    `contexts.collect(objective, held, key, n)[0]`, or draws of the target itself (`losses.collect.known_end_points`).

    Units are those of the control u for every loss. u = gain_t g, with g = grad_m log h the quantity that the networks and the
    score matching losses speak of: divide by frame.gain(t)^2 for the variance in units of g. The tilted score is s* = s +
    Phi_t g: from units of g multiply by frame.response(t)^2 for that of a score target. Closed form, for X_1 ~ N(mu, v) and a
    mixture of weight gamma, a coordinate: gain^2 (gamma / R - (1 - gamma) / q')^2 P, with 1/q' = 1/v - 1/s^2 and 1/P = 1/v +
    alpha^2/beta^2.

    Standard errors are those of a weighted mean: trust them when the batch's ESS is not tiny. Losses that know the grid alone
    (adjoint_matching) take a time for the step that holds it, and the reference there: pass times of the grid. Raises
    ValueError for a loss that does not regress. Sources: De Bortoli et al. (2024), arXiv 2402.08667; Domingo-Enrich, Du,
    Albergo (2026), arXiv 2605.00229.
    """
    target, here = _of(objective).target, _here(objective)

    def at(given: tuple[Array, Key]) -> tuple[Estimate, Estimate]:
        t, key = given

        def one(key: Key, item: object) -> Array:
            x, u = target(params, here, key, t, item)
            return jnp.square(u - reference(t, x))

        square = jax.vmap(one)(_keys(key, batch), batch.data)
        trace = jnp.sum(square.reshape(square.shape[0], -1), axis=1)
        return expectation(square, batch.log_weight), expectation(trace, batch.log_weight)

    coordinate, trace = jax.lax.map(at, (times, jax.random.split(key, times.size)))
    return TargetVariance(times, coordinate, trace)


def gradient_variance(
    objective: Objective, params: Learned, batch: Batch, times: Array, key: Key, batch_size: int = 64
) -> GradientVariance:
    """The trace of Cov[grad `term`] at each of times (T,), the gradient that one particle gives the network's parameters there.

    `term` is what the loss is the mean of; a batch of B particles has a B-th of this variance. The particles are drawn by the
    batch's log weights, as a weighted replay does. `square` is |E grad|^2 less its bias from noise (it may be negative): about
    0 everywhere when training is done. variance / square is the noise-to-signal ratio of one particle.

    One gradient a particle and time, `batch_size` at once (memory: as many copies of the parameters). Of the parameters of the
    control alone, not of a loss's own. Raises ValueError for a loss that does not regress.
    """
    term, w, here = _of(objective).term, weights.normalize(batch.log_weight), _here(objective)
    spread = 1 - jnp.sum(jnp.square(w))  # (n - 1) / n for equal weights

    def slope(control: object, t: Array, key: Key, item: object) -> object:
        return jax.grad(lambda control: term(params._replace(control=control), here, key, t, item))(control)

    def at(given: tuple[Array, Key]) -> tuple[Estimate, Array]:
        t, keys = given[0], _keys(given[1], batch)

        def mean(control: object) -> Array:
            terms = jax.vmap(lambda k, item: term(params._replace(control=control), here, k, t, item))(keys, batch.data)
            return jnp.sum(w * terms)

        centre = jax.grad(mean)(params.control)

        def distance(given: tuple[Key, object]) -> Array:
            return _norm2(jax.tree.map(jnp.subtract, slope(params.control, t, *given), centre))

        square = jax.lax.map(distance, (keys, batch.data), batch_size=batch_size)
        value, stderr = expectation(square, batch.log_weight)
        variance = Estimate(value / spread, stderr / spread)
        return variance, _norm2(centre) - variance.value * jnp.sum(jnp.square(w))

    variance, square = jax.lax.map(at, (times, jax.random.split(key, times.size)))
    return GradientVariance(times, variance, square)


def _norm2(tree: object) -> Array:
    return jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]))


def _keys(key: Key, batch: Batch) -> Array:
    return jax.random.split(key, batch.log_weight.size)


def _here(objective: Objective) -> Here:
    """Of a plain problem; ValueError for a family, whose contexts are to be looked at one by one."""
    family = families.of(objective.family)
    if family.many is not None:
        raise ValueError("this diagnostic is of one problem; got a family. Make the objective of one of its problems.")
    return family.here(family.given, ())


def _of(objective: Objective) -> Regression:
    if objective.regression is None:
        raise ValueError(
            "this loss does not regress the control on a target, so there is no variance of one: log_variance, "
            "trajectory_balance and relative_entropy are functions of whole paths. Compare the spread of their log weights."
        )
    return objective.regression
