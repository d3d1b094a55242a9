"""Estimates from log weights, each with its standard error. ELBO <= log Z <= EUBO."""

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import weights
from tiltjax.types import Estimate, Target


def ess(log_weight: Array) -> Array:
    """Effective sample size as a fraction, (sum w)^2 / (n sum w^2) in (0, 1]. It does not see a mode that no particle found."""
    return weights.ess(checked(log_weight))


def ess_along(log_weight: Array) -> Array:
    """ESS at every time of the paths' weights so far, cumulative log weights (n, N+1) -> (N+1,); 1 at the start.

    Of `weights.along` it shows at which times the control spends the sample size. These are weights back to the *base*, so
    where base and tilt differ it falls for a perfect control too; the last entry with the rewards added is the ESS of `ess`.
    Raises TypeError or ValueError when it is not given a matrix of at least 2 paths.
    """
    if not hasattr(log_weight, "ndim"):
        raise TypeError(f"log weights along paths are an array (n, N+1); got {type(log_weight).__name__}. See weights.along.")
    if log_weight.ndim != 2 or log_weight.shape[0] < 2:
        raise ValueError(f"log weights along paths are (n, N+1) of at least 2 paths; got shape {log_weight.shape}.")
    return jax.vmap(weights.ess, in_axes=1)(log_weight)


def log_z(log_weight: Array) -> Estimate:
    """log of the mean weight. stderr = sd(w) / (mean(w) sqrt(n)), the delta method: trust it when the ESS is not tiny."""
    log_weight = checked(log_weight)
    n = log_weight.size
    value = jax.nn.logsumexp(log_weight) - jnp.log(n)
    relative = jnp.exp(log_weight - value)
    return Estimate(value, jnp.std(relative, ddof=1) / jnp.sqrt(n))


def elbo(log_weight: Array) -> Estimate:
    """E[log w] under the sampler: a lower bound of log Z."""
    return _mean(checked(log_weight))


def eubo(log_weight: Array) -> Estimate:
    """E[log w] on paths of the tilt (`Sampler.backward` from target samples): an upper bound of log Z.

    It sees missing modes.
    """
    return _mean(checked(log_weight))


def forward_ess(log_weight: Array) -> Array:
    """1 / (E_{p*}[w] E_{p*}[1/w]) on paths of the tilt: small when the sampler misses a mode. In (0, 1]."""
    log_weight = checked(log_weight)
    n = log_weight.size
    log_mean = jax.nn.logsumexp(log_weight) - jnp.log(n)
    log_inverse = jax.nn.logsumexp(-log_weight) - jnp.log(n)
    return jnp.exp(-log_mean - log_inverse)


def expectation(values: Array, log_weight: Array) -> Estimate:
    """Self-normalized E_{p*}[f] of values (n, ...): sum w f / sum w, with the standard error of the ratio.

    Source: Owen (2013), Monte Carlo theory, methods and examples, section 9.2.
    """
    w = weights.normalize(checked(log_weight))
    _one_each(values, w, "values")
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
    log_weight = jnp.zeros(len(x)) if log_weight is None else checked(log_weight)
    _one_each(x, log_weight, "draws")
    w = weights.normalize(log_weight)
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


def checked(log_weight: Array, name: str = "log weights") -> Array:
    """log_weight, when it is a vector of at least 2; else a TypeError or ValueError that says what to pass."""
    if not hasattr(log_weight, "ndim"):
        raise TypeError(f"{name} are an array (n,), one a particle; got {type(log_weight).__name__}. Pass samples.log_weight.")
    if log_weight.ndim != 1 or log_weight.size < 2:
        raise ValueError(
            f"{name} are a vector of at least 2, one a particle; got shape {log_weight.shape}. Pass samples.log_weight."
        )
    return log_weight


def _one_each(x: Array, log_weight: Array, name: str) -> None:
    if not hasattr(x, "ndim"):
        raise TypeError(
            f"{name} are an array (n, ...), one a particle; got {type(x).__name__}. Pass samples.x, or a function of it."
        )
    if x.ndim < 1 or x.shape[0] != log_weight.size:
        raise ValueError(f"{name} and log weights are of the same particles; got shapes {x.shape} and {log_weight.shape}.")
