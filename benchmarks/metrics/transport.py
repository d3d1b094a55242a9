"""Exact and entropic transport between draws, squared Euclidean cost."""

import functools
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

EPSILON = 1e-3


def squared_distances(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """|a_i - b_j|^2, (n, m), of draws (n, *shape) and (m, *shape), in float64."""
    from scipy.spatial.distance import cdist

    a, b = _of_one_shape(a, b)
    return cdist(a.reshape(len(a), -1), b.reshape(len(b), -1), "sqeuclidean")


def _of_one_shape(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) == 0:
        raise ValueError(f"got draws of shapes {a.shape} and {b.shape}, expected (n, *shape) and (m, *shape) of one shape")
    return a, b


def w2(a: ArrayLike, b: ArrayLike) -> float:
    """(min over plans of E|a - b|^2)^(1/2), exact: a linear program. In the unit of x.

    Biased: n draws of one distribution against n others are n^(-1/d) apart, and it takes the floor to see by how much.
    """
    a, b = _of_one_shape(a, b)
    return float(np.sqrt(plan_between(*distinct(a), *distinct(b)).value))


class Plan(NamedTuple):
    """An optimal plan: its cost; the pairs of points it moves mass between, and how much, (k,), k < n + m; a potential (m,)."""

    value: float
    source: np.ndarray
    sink: np.ndarray
    moved: np.ndarray
    g: np.ndarray


def exact_transport(cost: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None) -> Plan:
    """Of the linear program with masses a (n,), b (m,), equal ones by default.

    Raises RuntimeError where the network simplex stops before the optimum.
    """
    import ot

    plan, log = ot.emd([] if a is None else a, [] if b is None else b, cost, log=True, numItermax=10_000_000)
    if log["warning"] is not None:
        raise RuntimeError(f"POT found no optimal plan between {cost.shape} draws: {log['warning']}")
    source, sink = np.nonzero(plan > 0)
    return Plan(float(log["cost"]), source, sink, plan[source, sink], log["v"])


def plan_between(a: np.ndarray, mass_a: np.ndarray, b: np.ndarray, mass_b: np.ndarray) -> Plan:
    """`exact_transport` of points (n, d), (m, d): `sinkhorn` and `w2` of the same draws ask for it, and it is solved once."""
    return _kept_plan(a.tobytes(), mass_a.tobytes(), b.tobytes(), mass_b.tobytes())


@functools.lru_cache(maxsize=16)  # the pairs of one judging: raw, resampled and those of the floor
def _kept_plan(a: bytes, mass_a: bytes, b: bytes, mass_b: bytes) -> Plan:
    masses = np.frombuffer(mass_a), np.frombuffer(mass_b)
    points = (np.frombuffer(x).reshape(len(mass), -1) for x, mass in zip((a, b), masses, strict=True))
    return exact_transport(squared_distances(*points), *masses)


def sinkhorn(
    a: ArrayLike, b: ArrayLike, epsilon: float = EPSILON, tolerance: float = 1e-3, max_iterations: int = 5000
) -> float:
    """The Sinkhorn divergence S = OT(a, b) - OT(a, a)/2 - OT(b, b)/2, squared Euclidean cost, no root; in squared units of x.

    OT(a, b) = min over plans P of <P, C> + epsilon KL(P | masses of a x masses of b), to about `tolerance`, epsilon absolute.
    For epsilon far below the costs this is W2^2: OT - epsilon log n <= W2^2 <= OT, so S is within epsilon log n of it.
    The potentials of the exact plan start the iteration, so that no small epsilon is out of reach. It ends when the dual value
    is within `tolerance` of what the exact plan costs with its entropy, a bound from the other side, or when a sweep adds less
    than tolerance / 100.

    Raises RuntimeError after max_iterations, ValueError for an epsilon that is not positive. Not for telling samplers apart
    where the floor is of the order of their scores: n = 2000 draws in tens of dimensions.
    Source: Feydy et al. 2019, arXiv 1810.08278; as a benchmark: Blessing et al. 2024, arXiv 2406.07423.
    """
    if not epsilon > 0:
        raise ValueError(f"got epsilon={epsilon}, expected a positive one: w2 is the limit epsilon = 0")
    # copies are one point of their mass: a plan that may share them out is what the bound by the exact plan must know of
    a, b = _of_one_shape(a, b)
    (a, mass_a), (b, mass_b) = distinct(a), distinct(b)
    how = (epsilon, tolerance, max_iterations)
    between = entropic_transport(squared_distances(a, b), mass_a, mass_b, plan_between(a, mass_a, b, mass_b), *how)
    return between - 0.5 * (
        _to_itself(squared_distances(a, a), mass_a, *how) + _to_itself(squared_distances(b, b), mass_b, *how)
    )


def distinct(x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The different draws, as vectors, and their masses."""
    x = np.asarray(x, np.float64)
    points, count = np.unique(x.reshape(len(x), -1), axis=0, return_counts=True)
    return points, count / len(x)


def entropic_transport(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, plan: Plan, epsilon: float, tolerance: float, max_iterations: int
) -> float:
    """OT of `sinkhorn` for masses a (n,), b (m,), by its dual <a, f> + <b, g>: every sweep raises it and no plan goes below."""
    i, j, moved = plan.source, plan.sink, plan.moved
    bound = np.sum(moved * (cost[i, j] + epsilon * np.log(moved / (a[i] * b[j]))))
    g, value = plan.g, -np.inf
    for _ in range(max_iterations):
        f = soft_minimum(cost, g, b, epsilon)
        g = soft_minimum(cost.T, f, a, epsilon)
        before, value = value, float(a @ f + b @ g)
        if bound - value < tolerance or value - before < 0.01 * tolerance:
            return value
    raise _unfinished(epsilon, max_iterations)


def _to_itself(cost: np.ndarray, a: np.ndarray, epsilon: float, tolerance: float, max_iterations: int) -> float:
    """OT(a, a): one potential, averaged with its update (Feydy et al. 2019, eq. 25), which converges in a few sweeps."""
    f = np.zeros(len(cost))
    for _ in range(max_iterations):
        after = soft_minimum(cost, f, a, epsilon)
        if a @ np.abs(after - f) < 0.01 * tolerance:
            return float(a @ (after + f))
        f = 0.5 * (f + after)
    raise _unfinished(epsilon, max_iterations)


def soft_minimum(cost: np.ndarray, g: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    """-epsilon log sum_j b_j exp((g_j - C_ij) / epsilon), (n,)."""
    exponent = g - cost
    exponent /= epsilon
    top = exponent.max(1, keepdims=True)
    exponent -= top
    return -epsilon * (top[:, 0] + np.log(np.exp(exponent, out=exponent) @ b))


def _unfinished(epsilon: float, max_iterations: int) -> RuntimeError:
    return RuntimeError(
        f"Sinkhorn's iteration did not converge in {max_iterations} sweeps at epsilon={epsilon}: "
        "pass a smaller one (the exact plan is then close), a larger one, or a larger tolerance"
    )
