"""The map between a process's natural units and the user's coordinates, with its log determinant."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

CORRELATION_TIME = 5.0  # of the particles of a pilot, in particles
REACH = 10.0  # in standard deviations of a leading coordinate, where the log scale that it sets levels off


class Coordinates(NamedTuple):
    """x_user = location + scale z,   z = y exp(slopes phi(y)),   phi(y) = REACH tanh(y / REACH), on the flattened particle.

    scale is (d,), by coordinate, or a matrix (d, d). slopes (d, d), or None for an affine map: row i says how the log scale of
    coordinate i depends on the others. Coordinates that others depend on depend on none themselves (their rows are zero), so
    the inverse is as direct: y = z exp(-slopes phi(z)). With it a hierarchical model is sampled in its non-centred form.
    Source: Papaspiliopoulos, Roberts, Skoeld (2007), Statist. Sci. 22 (non-centring).
    """

    location: Array
    scale: Array
    slopes: Array | None = None

    def forward(self, y: Array) -> Array:
        z = y.reshape(-1)
        if self.slopes is not None:
            z = z * jnp.exp(self.log_stretch(z))
        moved = self.scale * z if self.scale.ndim == 1 else self.scale @ z
        return (self.location + moved).reshape(y.shape)

    def inverse(self, x: Array) -> Array:
        moved = x.reshape(-1) - self.location
        z = moved / self.scale if self.scale.ndim == 1 else jnp.linalg.solve(self.scale, moved)
        if self.slopes is not None:
            z = z * jnp.exp(-self.log_stretch(z))
        return z.reshape(x.shape)

    def log_determinant(self, y: Array) -> Array:
        """log |det d x_user / d y|."""
        constant = jnp.sum(jnp.log(jnp.abs(self.scale))) if self.scale.ndim == 1 else jnp.linalg.slogdet(self.scale)[1]
        return constant if self.slopes is None else constant + jnp.sum(self.log_stretch(y.reshape(-1)))

    def log_stretch(self, z: Array) -> Array:
        """slopes phi(z), (d,): the same of y and of z, for it reads coordinates that it does not move."""
        if self.slopes is None:
            return jnp.zeros_like(z)
        return jnp.matmul(self.slopes, REACH * jnp.tanh(z / REACH), precision="highest")


def spread(x: np.ndarray) -> np.ndarray:
    """Standard deviations (d,) of particles (n, d), or a root (d, d) of their covariance where correlations exceed chance."""
    n, dim = x.shape
    sd = x.std(0)
    correlation = np.atleast_2d(np.corrcoef(x, rowvar=False))
    gain = -0.5 * np.linalg.slogdet(correlation)[1]
    if not gain > CORRELATION_TIME * dim * (dim - 1) / (2 * n):
        return sd
    return sd[:, None] * np.linalg.cholesky(correlation)
