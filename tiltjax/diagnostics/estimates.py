"""Estimates from log weights, each with its standard error. ELBO <= log Z <= EUBO."""

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import weights
from tiltjax.types import Estimate, Target


def ess(log_weight: Array) -> Array:
    """Effective sample size as a fraction, (sum w)^2 / (n sum w^2) in (0, 1]. It does not see a mode that no particle found."""
    return weights.ess(_checked(log_weight))


def log_z(log_weight: Array) -> Estimate:
    """log of the mean weight. stderr = sd(w) / (mean(w) sqrt(n)), the delta method: trust it when the ESS is not tiny."""
    log_weight = _checked(log_weight)
    n = log_weight.size
    value = jax.nn.logsumexp(log_weight) - jnp.log(n)
    relative = jnp.exp(log_weight - value)
    return Estimate(value, jnp.std(relative, ddof=1) / jnp.sqrt(n))


def elbo(log_weight: Array) -> Estimate:
    """E[log w] under the sampler: a lower bound of log Z."""
    return _mean(_checked(log_weight))


def eubo(log_weight: Array) -> Estimate:
    """E[log w] on paths of the tilt (`Sampler.backward` from target samples): an upper bound of log Z.

    It sees missing modes.
    """
    return _mean(_checked(log_weight))


def forward_ess(log_weight: Array) -> Array:
    """1 / (E_{p*}[w] E_{p*}[1/w]) on paths of the tilt: small when the sampler misses a mode. In (0, 1]."""
    log_weight = _checked(log_weight)
    n = log_weight.size
    log_mean = jax.nn.logsumexp(log_weight) - jnp.log(n)
    log_inverse = jax.nn.logsumexp(-log_weight) - jnp.log(n)
    return jnp.exp(-log_mean - log_inverse)


def expectation(values: Array, log_weight: Array) -> Estimate:
    """Self-normalized E_{p*}[f] of values (n, ...): sum w f / sum w, with the standard error of the ratio.

    Source: Owen (2013), Monte Carlo theory, methods and examples, section 9.2.
    """
    w = weights.normalize(_checked(log_weight))
    w = w.reshape(-1, *(1,) * (values.ndim - 1))
    mean = jnp.sum(w * values, axis=0)
    return Estimate(mean, jnp.sqrt(jnp.sum(jnp.square(w * (values - mean[None])), axis=0)))


def mode_histogram(target: Target, x: Array, log_weight: Array | None = None) -> Array:
    """The fraction of draws x (n, *shape) in each mode of the target, (K,), weighted if weights are given.

    Raises ValueError for a target whose modes are not known.
    """
    if target.mode is None or target.mode_weights is None:
        raise ValueError(
            "mode_histogram needs a target that names its modes; this one has no `mode`. "
            "Pass Target(..., mode=, mode_weights=)."
        )
    w = jnp.full(x.shape[0], 1.0 / x.shape[0]) if log_weight is None else weights.normalize(log_weight)
    return jnp.zeros(len(target.mode_weights), w.dtype).at[jax.vmap(target.mode)(x)].add(w)


def mode_entropy(histogram: Array) -> Array:
    """Entropy of the mode histogram over log K: 1 when all modes are equally often visited, 0 when one is."""
    p = jnp.where(histogram > 0, histogram, 1.0)
    return -jnp.sum(histogram * jnp.log(p)) / jnp.log(histogram.size)


def total_variation(histogram: Array, truth: Array) -> Array:
    """sum |p - q| / 2. Its floor at n draws is that of n exact draws, not 0."""
    return 0.5 * jnp.sum(jnp.abs(histogram - truth))


def _mean(values: Array) -> Estimate:
    return Estimate(jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(values.size))


def _checked(log_weight: Array) -> Array:
    if log_weight.ndim != 1 or log_weight.size < 2:
        raise ValueError(
            f"log weights are a vector of at least 2, one a particle; got shape {log_weight.shape}. Pass samples.log_weight."
        )
    return log_weight
