"""Maximum mean discrepancy."""

import numpy as np
from jax.typing import ArrayLike

from benchmarks.metrics.transport import squared_distances


def mmd(a: ArrayLike, b: ArrayLike) -> float:
    """|mean of k(a_i, .) - mean of k(b_j, .)| in the kernel's space: (mean k(a, a) + mean k(b, b) - 2 mean k(a, b))^(1/2).

    k(x, y) = exp(-|x - y|^2 / (2 h^2)), h the median distance between two different draws of both sets together.
    The means are over all pairs, i = j among them: never negative, zero for equal sets, and about (2 (1 - E k) / n)^(1/2) for
    two sets of exact draws. Draws far off widen h, and so hide themselves: not for sets of which one has outliers.

    The code behind the published figures divides the first two sums, of all n^2 pairs, by n (n - 1): its square is larger by
    (mean k(a, a) + mean k(b, b)) / (n - 1).
    Source: Gretton et al. 2012, JMLR 13; as a benchmark: Blessing et al. 2024, arXiv 2406.07423.
    """
    aa, bb, ab = squared_distances(a, a), squared_distances(b, b), squared_distances(a, b)
    pairs = (aa[np.triu_indices(len(aa), 1)], bb[np.triu_indices(len(bb), 1)], ab.ravel())
    bandwidth2 = np.median(np.sqrt(np.concatenate(pairs))) ** 2
    if bandwidth2 == 0:
        raise ValueError("the median distance between draws is 0, so there is no bandwidth: most draws are copies of one")
    inside, across = [float(np.mean(np.exp(-0.5 * d / bandwidth2))) for d in (aa, bb)], np.mean(np.exp(-0.5 * ab / bandwidth2))
    return float(np.sqrt(max(0.0, sum(inside) - 2 * float(across))))
