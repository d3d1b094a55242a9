"""Transport between configurations of equal particles, up to what leaves them alike."""

import itertools

import numpy as np
from jax.typing import ArrayLike

from benchmarks.metrics.one_dimensional import configurations
from benchmarks.metrics.transport import exact_transport

ENUMERATED = 5  # up to 5! = 120 permutations in one array; from there on, one assignment problem after another
CHUNK = 200_000  # pairs of configurations held at a time


def geometric_w2(a: ArrayLike, b: ArrayLike) -> float:
    """(min over plans of E D(a, b)^2)^(1/2), exact, of configurations (n, particles, d). In the unit of length.

    D of one pair: both are centred; the particles of one are matched to the other's with the least sum of distances (not of
    their squares), in the orientation that they have; then the orthogonal matrix, reflections among them, that brings the
    matched particles closest (Kabsch). Once each, in this order, as published: an upper bound of the distance between orbits,
    which a search over permutations and rotations together would give. So it depends on orientations: a set is not at 0 from
    the set of its draws turned, each in its own way.

    On DW-4 and LJ-13 published values are the floor of this metric: rank samplers by energies and pair distances.
    Source: Klein, Krämer, Noé 2023, arXiv 2306.15030; protocol of Havens et al. 2025, arXiv 2504.11713.
    """
    return float(np.sqrt(exact_transport(aligned_squared_distances(a, b)).value))


def aligned_squared_distances(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """D(a_i, b_j)^2, (n, m)."""
    a, b = _centred(a), _centred(b)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"got configurations of shapes {a.shape} and {b.shape}, expected (n, particles, d) of one system")
    rows = max(1, CHUNK // len(b))
    return np.concatenate([_block(a[i : i + rows], b) for i in range(0, len(a), rows)])


def _centred(x: ArrayLike) -> np.ndarray:
    x = configurations(x)
    return x - x.mean(1, keepdims=True)


def _block(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    matched = b[np.arange(len(b))[None, :, None], matching(a, b)]  # (n, m, particles, d)
    correlation = np.swapaxes(a, 1, 2)[:, None] @ matched
    # max over orthogonal R of tr(R correlation) is the sum of its singular values
    squared = np.sum(a**2, (1, 2))[:, None] + np.sum(b**2, (1, 2)) - 2 * nuclear_norm(correlation)
    return np.maximum(squared, 0.0)


def matching(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m, particles): particle k of a_i goes with particle [i, j, k] of b_j, sum_k |a_ik - b_jl| least."""
    num = a.shape[1]
    if num <= ENUMERATED:
        orders = np.asarray(list(itertools.permutations(range(num))))
        distance = [[np.linalg.norm(a[:, None, k] - b[None, :, j], axis=-1) for j in range(num)] for k in range(num)]
        best, index = np.full(distance[0][0].shape, np.inf), np.zeros(distance[0][0].shape, int)
        for i, order in enumerate(orders):
            total = sum(distance[k][j] for k, j in enumerate(order))
            index, best = np.where(total < best, i, index), np.minimum(total, best)
        return orders[index]
    from scipy.optimize import linear_sum_assignment

    out = np.empty((len(a), len(b), num), int)
    for i, x in enumerate(a):
        cost = np.linalg.norm(x[None, :, None] - b[:, None], axis=-1)
        for j, one in enumerate(cost):
            out[i, j] = linear_sum_assignment(one)[1]
    return out


def nuclear_norm(matrix: np.ndarray) -> np.ndarray:
    """Sum of the singular values of (..., d, d) matrices."""
    if matrix.shape[-1] == 2:  # (s_1 + s_2)^2 = |M|^2 + 2 |det M|, ten times as fast
        determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
        return np.sqrt(np.sum(matrix**2, (-2, -1)) + 2 * np.abs(determinant))
    return np.linalg.svd(matrix, compute_uv=False).sum(-1)
