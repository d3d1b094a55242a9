"""A Brownian motion of unknown scales whose middle was not observed."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Key, Target
from ._particle import default_float, particle
from ._tabulate import Plane, draw_plane, tabulate_plane

# The data of Inference Gym (Sountsov et al. 2020): locations 0 to 9 and 20 to 29 of a path of scales 0.1 and 0.15, with noise.
_TIMES = np.r_[0:10, 20:30]
# fmt: off
_OBSERVED = np.array([
    0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845,
    -0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782,
    -0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566,
    -0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789,
])
# fmt: on
_STEPS = 30
_PRIOR = 2.0  # the standard deviation of each log scale
_FAR = 30.0  # |log scale| above it is 15 standard deviations out; exp(60) x^2 stays finite in float32


def brownian_motion() -> Target:
    """A random walk of 30 steps seen at its first and last ten, with both scales to be found; shape (32,).

    log q ~ N(0, 2^2),   log r ~ N(0, 2^2),   l_0 ~ N(0, q^2),   l_t ~ N(l_{t-1}, q^2),   y_t ~ N(l_t, r^2) for the 20 seen.

    x = (log q, log r, l_0 ... l_29). log_z = 1.18775, the log evidence: given the scales everything is normal, and the
    two log scales are integrated by quadrature; `sample` draws them from that table (to 0.1 % of their variances) and the
    path given them exactly. The log scales are held within +-30 where they scale, for finite gradients in float32.
    `constrain(x)` is {"innovation_noise_scale", "observation_noise_scale", "locs"}.

    Inference Gym's own unconstrained coordinates have the softplus in place of the exponential: same log_z, another density.
    Source: Sountsov, Radul et al. 2020, Inference Gym: model and data "brownian motion unknown scales missing middle
    observations".
    """
    shape = (2 + _STEPS,)
    constant = -math.log(2 * math.pi * _PRIOR**2) - 0.5 * (_STEPS + _TIMES.size) * math.log(2 * math.pi)

    def log_density(x: Array) -> Array:
        x = particle(x, shape)
        log_scales, path = x[:2], x[2:]
        bounded = jnp.clip(log_scales, -_FAR, _FAR)
        steps = jnp.diff(path, prepend=jnp.zeros(1, x.dtype))
        errors = jnp.concatenate([path[:10], path[20:]]) - jnp.asarray(_OBSERVED, x.dtype)
        square = jnp.exp(-2 * bounded) * jnp.stack([jnp.sum(steps**2), jnp.sum(errors**2)])
        log_scale = _STEPS * bounded[0] + _TIMES.size * bounded[1]
        return constant - 0.5 * jnp.sum((log_scales / _PRIOR) ** 2) - log_scale - 0.5 * jnp.sum(square)

    def sample(key: Key, n: int) -> Array:
        key_scales, key_path = jax.random.split(key)
        log_scales = draw_plane(_table(), key_scales, n)
        return jnp.concatenate([log_scales, _draw_path(key_path, jnp.exp(log_scales))], 1)

    def constrain(x: Array) -> dict[str, Array]:
        return {"innovation_noise_scale": jnp.exp(x[0]), "observation_noise_scale": jnp.exp(x[1]), "locs": x[2:]}

    return Target(log_density, shape, _table().log_z, sample, constrain=constrain)


class _Spectrum(NamedTuple):
    """Of the covariance of the seen locations at q = 1, U diag(values) U^T: what makes every pair of scales easy."""

    values: np.ndarray  # (20,)
    vectors: np.ndarray  # (20, 20)
    cross: np.ndarray  # (30, 20), the covariance of all locations with the seen ones


def _draw_path(key: Key, scales: Array) -> Array:
    """Paths (n, 30) given y and scales (n, 2): a draw of path and data from the prior, moved by what its data miss.

    l + q^2 K (q^2 C + r^2)^-1 (y - l_seen - r xi) (Matheron's rule), with matrices that are the same for all scales.
    """
    n, dtype = scales.shape[0], default_float()
    q, r = scales[:, :1], scales[:, 1:]
    key_path, key_noise = jax.random.split(key)
    path = q * jnp.cumsum(jax.random.normal(key_path, (n, _STEPS), dtype), 1)
    missed = (
        jnp.asarray(_OBSERVED[None, :], dtype) - path[:, _TIMES] - r * jax.random.normal(key_noise, (n, _TIMES.size), dtype)
    )
    values, vectors, cross = (jnp.asarray(part, dtype) for part in _spectrum())
    along = jnp.matmul(missed, vectors, precision="highest") / (values[None, :] + (r / q) ** 2)
    return path + jnp.matmul(along, (cross @ vectors).T, precision="highest")


@functools.cache
def _spectrum() -> _Spectrum:
    covariance = 1.0 + np.minimum(np.arange(_STEPS)[:, None], _TIMES[None, :])
    return _Spectrum(*np.linalg.eigh(covariance[_TIMES]), covariance)


@functools.cache
def _table() -> Plane:
    """Of (log q, log r) given y; the mass outside is 1e-13."""
    values, vectors, _ = _spectrum()

    def log_f(log_q: np.ndarray, log_r: np.ndarray) -> np.ndarray:
        log_density = -0.5 * (log_q**2 + log_r**2) / _PRIOR**2 - math.log(2 * math.pi * _PRIOR**2)
        for value, square in zip(values, (vectors.T @ _OBSERVED) ** 2, strict=True):
            variance = np.exp(2 * log_q) * value + np.exp(2 * log_r)
            log_density = log_density - 0.5 * (square / variance + np.log(2 * np.pi * variance))
        return log_density

    return tabulate_plane(log_f, np.linspace(-7.5, 2.5, 501), np.linspace(-17.0, 5.0, 1101))
