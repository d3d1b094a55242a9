"""Eight schools: the smallest hierarchical model that is hard to sample."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Key, Target
from ._particle import default_float, particle
from ._tabulate import Table, draw, tabulate

# Estimated effects of coaching on a test's score in eight schools, and their standard errors (Rubin 1981, table 1).
_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
_PRIOR = 5.0  # the scale of both priors
_FAR = 30.0  # |log tau| above it has a mass of 1e-13; exp(60) x^2 stays finite in float32


def eight_schools(*, centred: bool = True) -> Target:
    """The posterior of eight schools' effects, their mean mu and their spread tau; shape (10,).

    mu ~ N(0, 5^2),   tau ~ HalfCauchy(5),   theta_j ~ N(mu, tau^2),   y_j ~ N(theta_j, error_j^2).

    centred: x = (mu, log tau, theta), a funnel where tau is small; else x = (mu, log tau, z), theta = mu + tau z, which is
    easy. Jacobian included, so log_z = -31.31135 is the log evidence of the effects y in both, with mu integrated in closed
    form and log tau by quadrature; `sample` draws log tau by inverse CDF, then mu and theta from their normals. log tau is
    held within +-30 where it scales (mass 1e-13 outside), which keeps gradients finite in float32.
    `constrain(x)` is {"mu", "tau", "theta"}.

    The priors are those of posteriordb; others' (N(0, 10^2) and a log normal in Inference Gym) give another log_z.
    Source: Rubin 1981, J. Educational Statistics 6 (4); Gelman et al. 2013, Bayesian Data Analysis, 5.5.
    """
    shape = (2 + _EFFECTS.size,)
    constant = math.log(2 / (math.pi * _PRIOR)) - 0.5 * math.log(2 * math.pi * _PRIOR**2)
    constant += -_EFFECTS.size * math.log(2 * math.pi) - float(np.log(_ERRORS).sum())

    def log_density(x: Array) -> Array:
        x = particle(x, shape)
        y, inverse = jnp.asarray(_EFFECTS, x.dtype), jnp.asarray(1 / _ERRORS, x.dtype)
        mu, log_tau, school = x[0], x[1], x[2:]
        bounded = jnp.clip(log_tau, -_FAR, _FAR)
        if centred:
            theta = school
            log_prior = -0.5 * jnp.sum(((theta - mu) * jnp.exp(-bounded)) ** 2) - _EFFECTS.size * bounded
        else:
            theta = mu + jnp.exp(bounded) * school
            log_prior = -0.5 * jnp.sum(school**2)
        # HalfCauchy(5) on tau, as a density of log tau
        log_prior = log_prior + log_tau - jax.nn.softplus(2 * (log_tau - math.log(_PRIOR))) - 0.5 * (mu / _PRIOR) ** 2
        return constant + log_prior - 0.5 * jnp.sum(((y - theta) * inverse) ** 2)

    def sample(key: Key, n: int) -> Array:
        mu, log_tau, z = _draw(key, n)
        school = mu + jnp.exp(log_tau) * z if centred else z
        return jnp.concatenate([mu, log_tau, school], 1)

    def constrain(x: Array) -> dict[str, Array]:
        mu, tau, school = x[0], jnp.exp(x[1]), x[2:]
        return {"mu": mu, "tau": tau, "theta": school if centred else mu + tau * school}

    return Target(log_density, shape, _table().log_z, sample, constrain=constrain)


def _draw(key: Key, n: int) -> tuple[Array, Array, Array]:
    """mu (n, 1), log tau (n, 1) and z (n, 8): tau given y, mu given (y, tau), z given (y, tau, mu)."""
    key_tau, key_mu, key_z = jax.random.split(key, 3)
    dtype = default_float()
    y, error2 = jnp.asarray(_EFFECTS[None, :], dtype), jnp.asarray(_ERRORS[None, :] ** 2, dtype)
    log_tau = draw(_table(), key_tau, (n, 1))
    tau2 = jnp.exp(2 * log_tau)
    precision = 1 / (error2 + tau2)
    variance = 1 / (jnp.sum(precision, 1, keepdims=True) + _PRIOR**-2)
    mu = variance * jnp.sum(precision * y, 1, keepdims=True) + jnp.sqrt(variance) * jax.random.normal(key_mu, (n, 1), dtype)
    xi = jax.random.normal(key_z, (n, _EFFECTS.size), dtype)
    return mu, log_tau, jnp.exp(log_tau) * (y - mu) * precision + jnp.sqrt(error2 * precision) * xi


@functools.cache
def _table() -> Table:
    """Of log tau given y. Given tau, y is normal: of variances error^2 + tau^2, and 25 in the direction of all alike."""

    def log_f(log_tau: np.ndarray) -> np.ndarray:
        variance = _ERRORS[:, None] ** 2 + np.exp(2 * log_tau)
        total, mean = (1 / variance).sum(0), (_EFFECTS[:, None] / variance).sum(0)
        square = (_EFFECTS[:, None] ** 2 / variance).sum(0) - mean**2 / (total + _PRIOR**-2)
        log_evidence = -0.5 * (np.log(2 * np.pi * variance).sum(0) + np.log1p(_PRIOR**2 * total) + square)
        return log_evidence + math.log(2 / (math.pi * _PRIOR)) - np.log1p(np.exp(2 * log_tau) / _PRIOR**2) + log_tau

    return tabulate(log_f, _FAR)
