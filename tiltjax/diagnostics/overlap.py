"""log Z from weights of both directions: paths of the sampler (forward) and paths of the tilt (backward).

Crooks: the densities of log w under the two differ by exactly the weight, p_tilt(log w) / p_sampler(log w) = exp(log w) / Z.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.diagnostics.estimates import checked
from tiltjax.types import Estimate


class Side(NamedTuple):
    """Log weights (K,), how often each was drawn (K,), and of how many draws in all."""

    log_weight: Array
    drawn: Array
    total: int


def bennett(forward_log_weight: Array, backward_log_weight: Array) -> Estimate:
    """Bennett's acceptance ratio: log Z from log w on the sampler's paths (n_f,) and on paths of the tilt (n_b,).

    The c that solves, with M = log(n_f / n_b),
        sum_forward sigmoid(log w - c - M) = sum_backward sigmoid(M + c - log w),
    the likeliest log Z given which path came from where: of all estimators from these weights the one of least asymptotic
    variance (never worse than `log_z` of the forward or minus `log_z` of the negated backward weights). Bisection in
    logarithms, between bounds that always hold the root. stderr by the delta method, sqrt(sum of Var(f) / (n E[f]^2)) over the
    two sides; both sides must overlap for it to mean anything. Forward weights may be -inf (lost particles count as draws);
    backward ones must be finite, else NaN.

    When not to use it: without exact draws of p*, from which the backward paths must start (`Sampler.backward`).
    Sources: Bennett (1976), J. Comp. Phys. 22, 245; Shirts & Chodera (2008), arXiv 0801.1426.
    """
    forward, backward = checked(forward_log_weight, "forward log weights"), checked(backward_log_weight, "backward log weights")
    alive = jnp.isfinite(forward)
    value = _root(
        Side(jnp.where(alive, forward, 0.0), alive.astype(forward.dtype), forward.size),
        Side(backward, jnp.ones_like(backward), backward.size),
    )
    excess = value + math.log(forward.size / backward.size)
    variance = _relative_variance(jax.nn.log_sigmoid(forward - excess)) + _relative_variance(
        jax.nn.log_sigmoid(excess - backward)
    )
    fine = jnp.any(alive) & jnp.all(alive | (forward == -jnp.inf)) & jnp.all(jnp.isfinite(backward))
    return Estimate(jnp.where(fine, value, jnp.nan), jnp.where(fine, jnp.sqrt(variance), jnp.nan))


def _root(forward: Side, backward: Side) -> Array:
    """The c of Bennett's equation, of weights with multiplicity.

    With n of all n_f forward draws counted, the left side is the greater one at the least log weight less log(n_f / n), and the
    right one in the same way at the other end.
    """
    shift = math.log(forward.total / backward.total)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + 0.5 * (high - low)
        left = jax.nn.logsumexp(jax.nn.log_sigmoid(forward.log_weight - middle - shift), b=forward.drawn)
        right = jax.nn.logsumexp(jax.nn.log_sigmoid(shift + middle - backward.log_weight), b=backward.drawn)
        return jnp.where(left > right, middle, low), jnp.where(left > right, high, middle)

    def lost(side: Side) -> Array:
        return jnp.log(side.total / jnp.maximum(jnp.sum(side.drawn), 1.0))

    w = jnp.concatenate([forward.log_weight, backward.log_weight])
    seen = jnp.concatenate([forward.drawn, backward.drawn]) > 0
    low = jnp.min(w, where=seen, initial=jnp.inf) - lost(forward)
    high = jnp.max(w, where=seen, initial=-jnp.inf) + lost(backward)
    low, high = jax.lax.fori_loop(0, jnp.finfo(w.dtype).nmant + 8, halve, (low, high))
    return 0.5 * (low + high)


def _relative_variance(log_f: Array) -> Array:
    """Var(f) / (n E[f]^2), from log f."""
    f = jnp.exp(log_f - jax.nn.logsumexp(log_f)) * log_f.size
    return jnp.var(f, ddof=1) / log_f.size


class Crossing(NamedTuple):
    """Histograms of log w under the sampler (forward) and the tilt (backward), and where they cross.

    edges (K+1,), densities (K,). Densities integrate to the share of draws within the edges.
    """

    edges: Array
    forward: Array
    backward: Array
    log_z: Estimate


def work_crossing(forward: Array, backward: Array, bins: int | Array = 40) -> Crossing:
    """Histograms of log w of both sides, (n_f,) and (n_b,), and the log Z at which they cross (Crooks).

    log (p_backward / p_forward)(w) = w - log Z: log Z by logistic regression of slope 1 of the counts of the two sides in each
    bin, which is Bennett's equation of the binned weights. Within a bin w is the average of its two mean log weights (the error
    of that is of third order in the bin's width). `bins` is their number, equally wide over all finite draws, or their edges.
    Where no bin has draws of both sides log_z is (NaN, inf). Raises ValueError for fewer than 2 bins.

    For the number alone use `bennett`, which is this without bins.
    Source: Crooks (1999), arXiv cond-mat/9901352; Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229.
    """
    forward, backward = checked(forward, "forward log weights"), checked(backward, "backward log weights")
    edges = _edges(jnp.concatenate([forward, backward]), bins) if isinstance(bins, int) else bins
    if edges.ndim != 1 or edges.size < 3:
        raise ValueError(f"bins are at least 2, or their edges, at least 3; got edges of shape {edges.shape}.")
    (n_f, mean_f), (n_b, mean_b) = _binned(edges, forward), _binned(edges, backward)
    # a bin with draws of one side has one mean
    w = jnp.where(n_b == 0, mean_f, jnp.where(n_f == 0, mean_b, 0.5 * (mean_f + mean_b)))
    wide = edges[1:] - edges[:-1]
    log_z = _cross(Side(w, n_f, forward.size), Side(w, n_b, backward.size), wide)
    return Crossing(edges, n_f / (forward.size * wide), n_b / (backward.size * wide), log_z)


def _cross(forward: Side, backward: Side, wide: Array) -> Estimate:
    value = _root(forward, backward)
    p = jax.nn.sigmoid(forward.log_weight - value - math.log(forward.total / backward.total))
    precision = (forward.drawn + backward.drawn) * p * (1 - p)
    total = jnp.sum(precision)
    # the mean of the two means within a bin varies too; counts of one histogram share their total, which takes 1 / n off
    variance = jnp.sum(precision * (1 + jnp.square(wide) / 48)) / jnp.square(total) - 1 / forward.total - 1 / backward.total
    known = jnp.any((forward.drawn > 0) & (backward.drawn > 0))
    return Estimate(jnp.where(known, value, jnp.nan), jnp.where(known, jnp.sqrt(jnp.maximum(variance, 0.0)), jnp.inf))


def _edges(values: Array, bins: int) -> Array:
    finite = jnp.isfinite(values)
    low, high = jnp.min(values, where=finite, initial=jnp.inf), jnp.max(values, where=finite, initial=-jnp.inf)
    return jnp.linspace(low, jnp.where(high > low, high, low + 1), bins + 1, dtype=values.dtype)


def _binned(edges: Array, values: Array) -> tuple[Array, Array]:
    """Counts and means by bin, (K,); a mean of 0 where there is none."""
    bins = edges.size - 1
    place = jnp.searchsorted(edges, values, side="right") - 1
    place = jnp.where(values == edges[-1], bins - 1, place)
    place = jnp.where(place < 0, bins, place)  # dropped, as those above
    zero = jnp.zeros(bins, values.dtype)
    count = zero.at[place].add(1.0, mode="drop")
    return count, zero.at[place].add(values, mode="drop") / jnp.maximum(count, 1.0)
