"""NumPyro models as targets."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from ..targets._particle import particle
from ..types import Key, Target
from ._foreign import relaxed_promotion


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    key: Key | None = None,
    observed: str | None = None,
    per_context: int = 16,
    **kwargs: Any,
) -> Any:
    """The posterior of a NumPyro model, in the unconstrained space and unnormalized: a `Target`.

    log_density(x) = log p(T(x), data) + log |det T'(x)|,   x (d,) = the latent sites z, unconstrained and raveled,
    T = biject_to(support) site by site: minus the potential energy that NumPyro's own samplers use.
    exp(log_z) is then the evidence p(data). `constrain(x)` maps ONE particle to {site: value} with the latent
    and the deterministic sites in the model's own space; jax.vmap it over samples.

    `args` and `kwargs` are the model's (wrap a model with an argument `key` of its own in functools.partial).
    `key` seeds the run of the model that finds its sites; `numpyro.param` sites keep their value of that run.

    observed: the name of the site, and of the model's argument, that is the data. Then the result is the `Family` of the
    posteriors for all data sets: a context is a data set, `sampler.sample(key, n, context=y)` draws of p(z | y) with weights
    whose mean is p(y). Its pairs (y, z) from the prior predictive are exact draws, which training takes as they are.

    Raises ValueError for discrete latent sites (sum them out), Delta latent sites (use numpyro.deterministic),
    plates that subsample (their density is random), and models without a latent site.
    Not for models whose sites come and go between runs: the sites are those of the one run.

    Source: Phan, Pradhan, Jankowiak 2019, arXiv 1912.11554.
    """
    from numpyro import handlers
    from numpyro.distributions import biject_to
    from numpyro.infer import init_to_uniform
    from numpyro.infer.util import constrain_fn, potential_energy

    from .posteriors import family, joint_of

    key = jax.random.key(0) if key is None else key
    if observed is not None:
        return family(joint_of(model, args, kwargs, observed, key), key, per_context)
    with relaxed_promotion():
        # init_to_uniform stands in for priors that cannot be drawn from (ImproperUniform)
        start = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_uniform)
        sites = handlers.trace(start).get_trace(*args, **kwargs)
        latent = latent_sites(sites)
        shapes = {name: biject_to(site["fn"].support).inverse_shape(site["value"].shape) for name, site in latent.items()}
    # without this the model would draw its parameters anew at every call
    fixed = {name: site["value"] for name, site in sites.items() if site["type"] in ("param", "mutable")}
    model = handlers.seed(handlers.substitute(model, data=fixed), key)
    _, unravel = ravel_pytree({name: jnp.zeros(shape) for name, shape in shapes.items()})
    dim = sum(math.prod(shape) for shape in shapes.values())

    def log_density(x: Array) -> Array:
        with relaxed_promotion():
            x = particle(x, (dim,))
            return -jnp.asarray(potential_energy(model, args, kwargs, unravel(x)), x.dtype)

    def constrain(x: Array) -> dict[str, Array]:
        with relaxed_promotion():
            return constrain_fn(model, args, kwargs, unravel(particle(x, (dim,))), return_deterministic=True)

    return Target(log_density, (dim,), constrain=constrain)


def latent_sites(sites: dict[str, Any]) -> dict[str, Any]:
    """Those to sample. ValueError for what cannot be."""
    from numpyro.distributions import Delta

    latent = {name: site for name, site in sites.items() if site["type"] == "sample" and not site["is_observed"]}
    subsampled = [name for name, site in sites.items() if site["type"] == "plate" and _subsamples(site["args"])]
    if subsampled:
        raise ValueError(
            f"got plates {subsampled} that subsample, expected a density that is the same at every call: "
            "leave subsample_size out"
        )
    discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"got discrete latent sites {discrete}, expected continuous ones: sum them out in the model "
            "(with numpyro.distributions.MixtureSameFamily, say), or pass obs= for those that are known"
        )
    delta = [name for name, site in latent.items() if isinstance(site["fn"], Delta)]
    if delta:
        raise ValueError(f"got latent sites {delta} with a Delta distribution, expected a density: numpyro.deterministic")
    if not latent:
        raise ValueError(
            f"got a model with no latent site (its sites: {list(sites)}), expected at least one "
            "numpyro.sample without obs=: is a latent variable observed or conditioned by mistake?"
        )
    return latent


def _subsamples(plate_args: tuple[Any, ...]) -> bool:
    size, subsample_size = plate_args
    return subsample_size is not None and subsample_size < size
