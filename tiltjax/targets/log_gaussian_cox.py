"""Log-Gaussian Cox processes: counts of points on a grid, whose log intensity is a Gaussian field."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from ..types import Target
from ._particle import exp_then_tangent, particle

# Generators differ between libraries and versions, so the counts are kept as constants.
_COUNTS = Path(__file__).with_name("log_gaussian_cox_simulated.txt")
_VARIANCE = 1.91
_LENGTH = 1.0 / 33.0
_MEAN = math.log(126.0) - 0.5 * _VARIANCE


def log_gaussian_cox(
    counts: ArrayLike, *, whitened: bool = False, variance: float = _VARIANCE, length: float = _LENGTH, mean: float = _MEAN
) -> Target:
    """The posterior of the log intensity f, given the points counted in each bin of an n x n grid on the unit square.

    f ~ N(mean, K),   K_ij = variance exp(-|s_i - s_j| / length),   counts_i ~ Poisson(area exp(f_i)),   area = 1 / n^2.
    log_density(f) = log N(f; mean, K) + sum_i [counts_i f_i - area exp(f_i)];   shape (n^2,), rows of the grid in turn.

    `counts` (n, n). As published, sum_i [counts_i log area - log counts_i!] is left out, which moves log_z by a constant.
    whitened=False is the published form, x = f; with whitened=True x = L^-1 (f - mean), K = L L^T, has a standard normal
    prior and the same log_z, and `constrain(x)` is f. log_z is not known and `sample` is None.

    L and its inverse are computed once, on the host in float64, and need no jitter: with the published constants K has
    condition number 28. Above f = 30 (a likelihood of exp(-10^13 area)) the exponential goes on as its tangent, which
    keeps gradients finite in float32.

    Raises ValueError for counts that are not whole numbers on a square grid, or constants that are not positive. Not for
    n much above 40: the factors are dense, of n^4 numbers.
    Source: Møller, Syversveen, Waagepetersen 1998, Scand. J. Statistics 25 (3).
    """
    counts_ = np.asarray(counts, np.float64)
    if counts_.ndim != 2 or counts_.shape[0] != counts_.shape[1] or counts_.size == 0:
        raise ValueError(f"got counts of shape {counts_.shape}, expected a square grid (n, n)")
    if not (np.isfinite(counts_).all() and (counts_ >= 0).all() and (counts_ == np.round(counts_)).all()):
        raise ValueError("got counts that are negative, fractional or not finite, expected the number of points in each bin")
    if not (0 < variance < math.inf and 0 < length < math.inf and math.isfinite(mean)):
        raise ValueError(f"got variance={variance}, length={length}, mean={mean}, expected finite ones, the first two positive")
    prior = _prior(counts_.shape[0], float(variance), float(length))
    size, area = counts_.size, 1.0 / counts_.size
    flat = counts_.reshape(-1)
    constant = -0.5 * size * math.log(2 * math.pi) - (0.0 if whitened else float(np.log(np.diag(prior.factor)).sum()))

    def field(z: Array) -> Array:
        return mean + jnp.matmul(jnp.asarray(prior.factor, z.dtype), z, precision="highest")

    def log_density(x: Array) -> Array:
        x = particle(x, (size,))
        # some accelerators multiply float32 matrices in fewer bits unless told
        z = x if whitened else jnp.matmul(jnp.asarray(prior.inverse, x.dtype), x - mean, precision="highest")
        f = field(x) if whitened else x
        return constant - 0.5 * jnp.sum(z**2) + jnp.sum(jnp.asarray(flat, x.dtype) * f - area * exp_then_tangent(f))

    return Target(log_density, (size,), constrain=field if whitened else None)


def log_gaussian_cox_simulated(*, whitened: bool = False) -> Target:
    """`log_gaussian_cox` on 40 x 40 counts drawn from the model itself, with the published constants; shape (1600,).

    The constants are those of the benchmark on the Finnish pines (variance 1.91, length 1/33, mean log 126 - 1.91/2), the
    counts are not: those points are in no package. Do not compare with figures on the pines. They were drawn by
    `numpy.random.RandomState(0)`: field first, then the counts.

    Source of the constants: Møller, Syversveen, Waagepetersen 1998, Scand. J. Statistics 25 (3).
    """
    return log_gaussian_cox(np.loadtxt(_COUNTS), whitened=whitened)


class _Prior(NamedTuple):
    """K = factor factor^T, and the inverse of factor; both (n^2, n^2), lower triangular, float64."""

    factor: np.ndarray
    inverse: np.ndarray


@functools.lru_cache(maxsize=4)
def _prior(n: int, variance: float, length: float) -> _Prior:
    site = np.stack(np.divmod(np.arange(n * n), n), 1) / n
    distance = np.sqrt(((site[:, None, :] - site[None, :, :]) ** 2).sum(2))
    factor = np.linalg.cholesky(variance * np.exp(-distance / length))
    return _Prior(factor, np.tril(np.linalg.inv(factor)))
