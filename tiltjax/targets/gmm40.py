"""The two 40-mode Gaussian mixtures of the samplers' literature."""

import math
from pathlib import Path

import numpy as np

from ..types import Target
from .gmm import gmm

# Generators differ between libraries and versions, so the means are kept as constants.
_MEANS = Path(__file__).with_name("gmm40_means.npz")


def gmm40_means(name: str) -> np.ndarray:
    """The (40, d) means of a form: "fab", "be2", "be50"."""
    with np.load(_MEANS) as means:
        return means[name]


def gmm40() -> Target:
    """Forty equal modes in the plane, FAB's form: means in [-40, 40]^2, scale softplus(1) = 1.3133.

    log_density(x) = log sum_k N(x; m_k, scale^2 I) / 40,  shape (2,);   log_z = 0.

    Some modes overlap: the mass nearest to a mean is 1/40 to within 2.7 % of itself (total variation 0.0011
    from the equal `mode_weights`). Not the target of `gmm40_be()`: figures of the two do not compare.

    Source: Midgley, Stimper, Simm, Schölkopf, Hernández-Lobato 2022, arXiv 2208.01893.
    """
    return gmm(gmm40_means("fab"), math.log1p(math.e))


def gmm40_be(dim: int = 2, *, threefry_partitionable: bool = False) -> Target:
    """Forty equal modes of unit scale, the form of "Beyond ELBOs": means in [-40, 40]^dim.

    log_density(x) = log sum_k N(x; m_k, I) / 40,  shape (dim,), dim = 2 or 50;   log_z = 0.

    The means are uniform draws from PRNGKey(0), which depend on JAX's flag `jax_threefry_partitionable`: the
    published runs had False (then the default), the same code run today draws the means of True.

    Raises ValueError for another dim.
    Source: Blessing, Jia, Esslinger, Vargas, Neumann 2024, arXiv 2406.07423.
    """
    if dim not in (2, 50):
        raise ValueError(f"got dim={dim}, expected 2 or 50, the published ones: use gmm(means) for a mixture of your own")
    if threefry_partitionable:
        # that generator numbers its draws: the means in the plane are the first 80 numbers
        return gmm(gmm40_means("be50_partitionable").reshape(-1)[: 40 * dim].reshape(40, dim))
    return gmm(gmm40_means(f"be{dim}"))
