"""The mixture of Student's t distributions of the samplers' literature."""

from pathlib import Path

import numpy as np

from ..types import Target
from .student_mixture import student_mixture

# Generators differ between libraries and versions, so the means are kept as constants.
_MEANS = Path(__file__).with_name("mos_means.npz")


def mos(dim: int = 50, *, threefry_partitionable: bool = False) -> Target:
    """Ten equal modes of 2 degrees of freedom, the "MoS" of "Beyond ELBOs": means in [-10, 10]^dim.

    log_density(x) = log sum_k prod_i t(x_i - m_ki; 2) / 10,  shape (dim,), dim = 2 or 50;   log_z = 0.

    The product of one t a coordinate, as in the authors' code, not the multivariate t. The means are float32 uniform draws
    from PRNGKey(0), which depend on JAX's flag `jax_threefry_partitionable`: the published runs had False (then the
    default), the same code run today draws the means of True.
    In the plane the modes overlap, and `mode` tells them apart less often than `mode_weights` say; in 50 dimensions never.

    Raises ValueError for another dim.
    Source: Blessing, Jia, Esslinger, Vargas, Neumann 2024, arXiv 2406.07423.
    """
    if dim not in (2, 50):
        raise ValueError(f"got dim={dim}, expected 2 or 50: use student_mixture(means) for a mixture of your own")
    return student_mixture(mos_means(dim, threefry_partitionable), 2.0)


def mos_means(dim: int, threefry_partitionable: bool) -> np.ndarray:
    """The (10, dim) means, dim = 2 or 50."""
    with np.load(_MEANS) as means:
        if threefry_partitionable:
            # that generator numbers its draws: the means in the plane are the first 20 numbers
            return means["d50_partitionable"].reshape(-1)[: 10 * dim].reshape(10, dim)
        return means[f"d{dim}"]
