"""Models of NumPyro whose data are a context, and long runs of NUTS on one data set."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

CHAINS, WARM_UP, KEPT = 4, 1000, 5000


class Reference(NamedTuple):
    """Means and standard deviations (d,) of the unconstrained latent sites; the largest r-hat, the least ESS, seconds."""

    mean: np.ndarray
    sd: np.ndarray
    r_hat: float
    ess: float
    seconds: float


SPREADS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)  # Rubin (1981): the standard errors of the eight schools


def schools(spreads: Array, y: Array | None = None) -> None:
    """Eight schools: y_i ~ N(mu + tau z_i, spread_i^2), the non-centred form."""
    import numpyro
    from numpyro import distributions as dist

    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    z = numpyro.sample("z", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(mu + tau * z, spreads).to_event(1), obs=y)


def logistic(design: Array, y: Array | None = None) -> None:
    """A logistic regression with ten coefficients, N(0, 1) each."""
    import numpyro
    from numpyro import distributions as dist

    w = numpyro.sample("w", dist.Normal(jnp.zeros(design.shape[1]), 1.0).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=design @ w).to_event(1), obs=y)


def _design() -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(60, 10)), jnp.float32)


MODELS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "schools": (schools, (jnp.asarray(SPREADS),)),
    "logistic": (logistic, (_design(),)),
}


def by_nuts(
    model: Callable[..., None], arguments: tuple[Any, ...], y: Array, *, warm_up: int = WARM_UP, kept: int = KEPT
) -> Reference:
    """CHAINS chains in one vmapped program, of `kept` draws each."""
    from numpyro.diagnostics import effective_sample_size, gelman_rubin
    from numpyro.infer import MCMC, NUTS

    with jax.numpy_dtype_promotion("standard"):
        kernel = NUTS(model, target_accept_prob=0.9)
        sampler = MCMC(
            kernel, num_warmup=warm_up, num_samples=kept, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
        )
        began = time.perf_counter()
        sampler.run(jax.random.key(0), *arguments, y=y)
        states = sampler.last_state
        jax.block_until_ready(states.z)
        seconds = time.perf_counter() - began
        constrained = sampler.get_samples(group_by_chain=True)
        z = jax.vmap(jax.vmap(lambda one: ravel_pytree(_unconstrained(model, arguments, y, one))[0]))(constrained)
    chains = np.asarray(z, np.float64)
    flat = chains.reshape(-1, chains.shape[-1])
    r_hat, ess = float(np.max(gelman_rubin(chains))), float(np.min(effective_sample_size(chains)))
    return Reference(flat.mean(0), flat.std(0), r_hat, ess, seconds)


def _unconstrained(
    model: Callable[..., None], arguments: tuple[Any, ...], y: Array, sites: dict[str, Array]
) -> dict[str, Array]:
    from numpyro.infer.util import unconstrain_fn

    return unconstrain_fn(model, arguments, {"y": y}, sites)
