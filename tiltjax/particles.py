"""Systems of particles: centred configurations as an ordinary vector space.

A configuration x (n, d) with sum_i x_i = 0 is x = H^T y, y (n - 1, d), the n - 1 orthonormal rows of H being orthogonal to
(1, ..., 1). The map is an isometry and its Jacobian is 1. So a process that lives in y has, with nothing added, the noise, base
density, bridge, weights and log Z of the (n - 1) d dimensions of centred configurations.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from tiltjax.coordinates import Coordinates
from tiltjax.types import Target


def helmert(n: int) -> np.ndarray:
    """H (n - 1, n) in float64: row k is (1, ..., 1, -k, 0, ..., 0) / sqrt(k (k + 1)), k ones. H H^T = I, H 1 = 0."""
    if n < 2:
        raise ValueError(f"centred configurations need two particles or more; got {n}.")
    k = np.arange(1, n)[:, None]
    column = np.arange(n)[None, :]
    return np.where(column < k, 1.0, np.where(column == k, -k, 0.0)) / np.sqrt(k * (k + 1))


def embed(y: Array) -> Array:
    """H^T y: (n - 1, d) -> the centred configuration (n, d)."""
    return _times(helmert(y.shape[0] + 1).T, y)


def project(x: Array) -> Array:
    """H x: (n, d) -> (n - 1, d), of the centred part of x; the inverse of `embed` there, and its transpose."""
    return _times(helmert(x.shape[0]), x)


def free(target: Target) -> Target:
    """A centred target as an ordinary one in y, of shape (n - 1, d); any other as it stands. log_z is the same.

    Raises ValueError when a centred target's shape is not (n, d).
    """
    if not target.centred:
        return target
    if len(target.shape) != 2 or target.shape[0] < 2:
        raise ValueError(
            f"a centred target is of configurations (n, d) of two particles or more; got shape {tuple(target.shape)}. "
            "Reshape them, or leave centred out."
        )
    n, dim = target.shape
    log_density, sample, mode, constrain = target.log_density, target.sample, target.mode, target.constrain
    return target._replace(
        log_density=lambda y: log_density(embed(y)),
        shape=(n - 1, dim),
        sample=None if sample is None else lambda key, m: jax.vmap(project)(sample(key, m)),
        mode=None if mode is None else lambda y: mode(embed(y)),
        constrain=None if constrain is None else lambda y: constrain(embed(y)),
        centred=False,
    )


def harmonic(laplacian: ArrayLike, dim: int) -> Coordinates:
    """Coordinates in which N(0, I) is the harmonic source exp(-sum_ij L_ij x_i.x_j / 2): springs between particles.

    laplacian (n, n): symmetric, of a connected graph, its rows sum to 0 (off the diagonal minus the stiffness of a spring).
    Pass it as `problems.sampling(target, process, coordinates=harmonic(...))`, for a centred target of shape (n, dim) and a
    process of scale 1 and shape (n - 1, dim). On the complete graph, L = k (n I - 1 1^T), it is isotropic, of variance
    1 / (k n). On any other it is not: particles are then told apart, and `networks.egnn` refuses it.
    Raises ValueError for a matrix that is no such Laplacian. Source: Jing et al. (2023), arXiv 2304.02198 (EigenFold).
    """
    springs = np.asarray(laplacian, np.float64)
    n = springs.shape[0] if springs.ndim == 2 else 0
    size = np.abs(springs).max(initial=0.0)
    if n < 2 or springs.shape != (n, n) or not np.allclose(springs, springs.T, atol=1e-6 * size):
        raise ValueError(f"got a Laplacian of shape {springs.shape}, expected a symmetric (n, n) matrix with n >= 2")
    stiffness = helmert(n) @ springs @ helmert(n).T
    smallest = float(np.linalg.eigvalsh(stiffness).min())
    if np.abs(springs.sum(1)).max() > 1e-6 * size or smallest <= 1e-9 * size:
        raise ValueError(
            "expected the Laplacian of a connected graph with positive stiffness: rows that sum to 0 (got up to "
            f"{np.abs(springs.sum(1)).max():.3g}) and no further direction without a spring (least eigenvalue {smallest:.3g})"
        )
    root = np.linalg.inv(np.linalg.cholesky(stiffness)).T
    scale = np.kron(root, np.eye(dim))
    diagonal = np.diagonal(scale)
    flat = np.allclose(scale, np.diag(diagonal), atol=1e-9 * diagonal.max())
    return Coordinates(jnp.zeros((n - 1) * dim), jnp.asarray(diagonal if flat else scale, jnp.result_type(float)))


def _times(matrix: np.ndarray, x: Array) -> Array:
    # some accelerators multiply float32 matrices in fewer bits unless told
    return jnp.matmul(jnp.asarray(matrix, x.dtype), x, precision="highest")
