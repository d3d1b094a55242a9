"""The normal distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Key, Target
from ._particle import default_float, particle


def gaussian(mean: ArrayLike = (0.0, 0.0), scale: ArrayLike = 1.0, *, covariance: ArrayLike | None = None) -> Target:
    """N(mean, diag(scale^2)), or N(mean, covariance): the target whose every answer is known.

    log_density(x) = -|L^-1 (x - mean)|^2 / 2 - log det L - d/2 log(2 pi),   L L^T = covariance;   log_z = 0.

    `mean` (d,); `scale`, a standard deviation, () or (d,); `covariance` (d, d), in the place of `scale`.

    Raises ValueError for a mean that is no vector, a scale that is not positive, a covariance that is not
    symmetric positive definite, or both of scale and covariance. Parameters are constants: to differentiate
    in them, write a density of your own. Not with a covariance for d in the thousands: L^-1 is dense.
    """
    mean_ = np.asarray(mean, np.float64)
    if mean_.ndim != 1 or mean_.size == 0 or not np.isfinite(mean_).all():
        raise ValueError(f"got mean of shape {mean_.shape}, expected a finite vector (d,): pass mean=jnp.zeros(d), say")
    d = mean_.size
    if covariance is None:
        scale_ = np.asarray(scale, np.float64)
        if scale_.shape not in ((), (d,)):
            raise ValueError(f"got scale of shape {scale_.shape}, expected () or ({d},): a matrix goes into covariance=")
        if not (np.isfinite(scale_).all() and (scale_ > 0).all()):
            raise ValueError(f"got scale = {scale_}, expected positive standard deviations: pass scale > 0")
        factor: np.ndarray = np.broadcast_to(scale_, (d,))
        whiten, diagonal = 1.0 / factor, factor
    else:
        factor = _cholesky(np.asarray(covariance, np.float64), scale, d)
        whiten, diagonal = np.linalg.inv(factor), np.diag(factor)
    constant = -float(np.log(diagonal).sum()) - 0.5 * d * math.log(2 * math.pi)

    def log_density(x: Array) -> Array:
        x = particle(x, (d,))
        centred = x - jnp.asarray(mean_, x.dtype)
        return -0.5 * jnp.sum(_apply(whiten, centred) ** 2) + constant

    def sample(key: Key, n: int) -> Array:
        xi = jax.random.normal(key, (n, d), default_float())
        return jax.vmap(lambda z: jnp.asarray(mean_, z.dtype) + _apply(factor, z))(xi)

    return Target(log_density, (d,), 0.0, sample)


def _apply(factor: np.ndarray, x: Array) -> Array:
    """factor @ x, for a matrix (d, d) or the diagonal (d,) of one."""
    constant = jnp.asarray(factor, x.dtype)
    if factor.ndim == 1:
        return constant * x
    # some accelerators multiply float32 matrices in fewer bits unless told
    return jnp.matmul(constant, x, precision="highest")


def _cholesky(covariance: np.ndarray, scale: ArrayLike, d: int) -> np.ndarray:
    if np.ndim(scale) != 0 or scale != 1.0:
        raise ValueError("got both scale and covariance, expected one of them: leave scale out")
    if covariance.shape != (d, d) or not np.allclose(covariance, covariance.T, rtol=1e-5, atol=0.0):
        raise ValueError(
            f"got covariance of shape {covariance.shape}, expected a symmetric ({d}, {d}) matrix: "
            "symmetrize it as (C + C.T) / 2, or pass standard deviations as scale="
        )
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(covariance).min())
        raise ValueError(
            f"got covariance with smallest eigenvalue {smallest:.3g}, expected positive definite: add a small diagonal"
        ) from None
