"""Seeds: a logistic regression with random effects."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..types import Target
from ._particle import exp_then_tangent, particle

# Seeds that germinated, of how many, on 21 plates: two kinds of seed by two root extracts (Crowder 1978, table 3).
_GERMINATED = np.array([10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3], np.float64)
_SEEDS = np.array([39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7], np.float64)
_KIND = np.repeat([0.0, 1.0], [11, 10])
_EXTRACT = np.repeat([0.0, 1.0, 0.0, 1.0], [5, 6, 5, 5])
_COEFFICIENT = 10.0  # prior standard deviation of each
_GAMMA = 0.01  # shape and rate of the precision's prior


def seeds() -> Target:
    """The posterior of germination rates on 21 plates, over-dispersed; shape (26,).

    a_k ~ N(0, 10^2),   tau ~ Gamma(0.01, 0.01),   b_i ~ N(0, 1 / tau),   r_i ~ Binomial(n_i, logistic(eta_i)),
    eta = a_0 + a_1 kind + a_2 extract + a_12 kind extract + b.

    x = (a_0, a_1, a_2, a_12, log tau, b_0 ... b_20), Jacobian included: centred, so a funnel where tau is large. log_z is not
    known and `sample` is None. Above log tau = 30 (where the prior is exp(-10^11)) tau goes on as its tangent, for finite
    gradients in float32. `constrain(x)` is {"coefficients", "tau", "effects"}.

    The priors are those of arXiv 2406.07423; BUGS' own example has flatter ones.
    Source: Crowder 1978, Applied Statistics 27 (1); Breslow, Clayton 1993, JASA 88 (421).
    """
    plates = _SEEDS.size
    shape = (5 + plates,)
    design = np.stack([np.ones(plates), _KIND, _EXTRACT, _KIND * _EXTRACT], 1)
    constant = -4 * math.log(_COEFFICIENT) - 0.5 * (4 + plates) * math.log(2 * math.pi)
    constant += _GAMMA * math.log(_GAMMA) - math.lgamma(_GAMMA)
    for r, n in zip(_GERMINATED, _SEEDS, strict=True):
        constant += math.lgamma(n + 1) - math.lgamma(r + 1) - math.lgamma(n - r + 1)

    def log_density(x: Array) -> Array:
        x = particle(x, shape)
        coefficients, log_tau, effects = x[:4], x[4], x[5:]
        tau = exp_then_tangent(log_tau)
        eta = jnp.matmul(jnp.asarray(design, x.dtype), coefficients, precision="highest") + effects
        germinated, count = jnp.asarray(_GERMINATED, x.dtype), jnp.asarray(_SEEDS, x.dtype)
        log_prior = -0.5 * jnp.sum((coefficients / _COEFFICIENT) ** 2) + _GAMMA * (log_tau - tau)
        log_prior = log_prior + 0.5 * (plates * log_tau - tau * jnp.sum(effects**2))
        return constant + log_prior + jnp.sum(germinated * eta - count * jax.nn.softplus(eta))

    def constrain(x: Array) -> dict[str, Array]:
        return {"coefficients": x[:4], "tau": jnp.exp(x[4]), "effects": x[5:]}

    return Target(log_density, shape, constrain=constrain)
