"""The family of posteriors of a NumPyro model: one sampler for every data set, learned from draws of the prior predictive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from tiltjax import paths, pilot, problems, processes
from tiltjax.coordinates import Coordinates, spread
from tiltjax.types import Family, Key, Problem, Target

from ._foreign import relaxed_promotion

BASE_SCALE = 1.3  # of the prior: posteriors are narrower
PILOT = 2048  # draws of the prior predictive


class Joint(NamedTuple):
    """draw(key) -> (y, x): of the model, x (d,) its latent sites, unconstrained; log_density(y, x), constrain(y, x)."""

    draw: Callable[[Key], tuple[Array, Array]]
    log_density: Callable[[Array, Array], Array]
    constrain: Callable[[Array, Array], dict[str, Array]]


def family(joint: Joint, key: Key, per_context: int) -> Family:
    """Base and coordinates are those of the prior; the resolution is that of the posteriors of its own data sets."""
    y, x = jax.jit(jax.vmap(joint.draw))(jax.random.split(key, PILOT))
    centre, width = np.asarray(x, np.float64).mean(0), spread(np.asarray(x, np.float64))
    coordinates = Coordinates(jnp.asarray(centre, x.dtype), jnp.asarray(width, x.dtype))
    slope = jax.jit(jax.vmap(jax.grad(joint.log_density, argnums=1)))(y, x)
    scale = coordinates.scale
    natural = slope * scale[None] if scale.ndim == 1 else jnp.matmul(slope, scale, precision="highest")
    resolution = pilot.finest(natural)
    process = processes.gaussian(paths.linear(), (x.shape[1],), BASE_SCALE)
    middle, width_of_y = _middle_and_width(np.asarray(y, np.float64))

    def features(y: Array) -> Array:  # of size one, and data far out near enough to be told apart
        return jnp.arcsinh((y - jnp.asarray(middle, y.dtype)) / jnp.asarray(width_of_y, y.dtype)).reshape(-1)

    def at(given: Any, y: Array) -> Problem:
        target = Target(lambda x: joint.log_density(y, x), (x.shape[1],), constrain=lambda one: joint.constrain(y, one))
        return problems.make_sampling(target, process, resolution, coordinates)

    def pairs(key: Key) -> tuple[Array, Array]:
        y, x = joint.draw(key)
        return y, coordinates.inverse(x)

    made = problems.family(at, lambda key: joint.draw(key)[0], per_context=per_context)
    assert made.many is not None
    return made._replace(many=made.many._replace(pairs=pairs, features=features))


def _middle_and_width(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread by number: from the quartiles, which heavy tails do not move; the sd where those agree."""
    low, middle, high = np.quantile(y, [0.25, 0.5, 0.75], axis=0)
    width = np.where(high > low, (high - low) / 1.35, y.std(0))
    return middle, np.where(width > 0, width, 1.0)


def joint_of(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], observed: str, key: Key) -> Joint:
    """Of a model whose argument and site `observed` is the data: None to draw it. ValueError where there is none."""
    from numpyro import handlers
    from numpyro.distributions import biject_to
    from numpyro.infer.util import constrain_fn, potential_energy

    from .numpyro import latent_sites

    free = {**kwargs, observed: None}

    def traced(key: Key) -> dict[str, Any]:
        return handlers.trace(handlers.seed(model, key)).get_trace(*args, **free)

    with relaxed_promotion():
        sites = traced(key)
    site = sites.get(observed)
    if site is None or site["type"] != "sample" or site["is_observed"]:
        known = [name for name, one in sites.items() if one["type"] == "sample"]
        raise ValueError(
            f"observed must name a site that is drawn when the model's argument of that name is None; got {observed!r}, and "
            f"the model draws {known}. Write numpyro.sample({observed!r}, ..., obs={observed}) in it, with {observed}=None."
        )
    latent = latent_sites({name: one for name, one in sites.items() if name != observed})

    def unconstrained(found: dict[str, Any]) -> dict[str, Array]:
        return {name: biject_to(found[name]["fn"].support).inv(found[name]["value"]) for name in latent}

    with relaxed_promotion():
        _, unravel = ravel_pytree(unconstrained(sites))

    def draw(key: Key) -> tuple[Array, Array]:
        with relaxed_promotion():
            found = traced(key)
            x, _ = ravel_pytree(unconstrained(found))
            return jnp.asarray(found[observed]["value"], x.dtype), x

    data = site["value"].dtype

    @jax.jit
    def log_density(y: Array, x: Array) -> Array:
        with relaxed_promotion():
            known = {**kwargs, observed: y.astype(data)}
            return -jnp.asarray(potential_energy(handlers.seed(model, key), args, known, unravel(x)), x.dtype)

    def constrain(y: Array, x: Array) -> dict[str, Array]:
        with relaxed_promotion():
            known = {**kwargs, observed: y.astype(data)}
            return constrain_fn(handlers.seed(model, key), args, known, unravel(x), return_deterministic=True)

    return Joint(draw, log_density, constrain)
