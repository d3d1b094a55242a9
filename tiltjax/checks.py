"""The arguments of a fit: refused at once where they cannot work, and told from others by what can be said of them."""

import functools
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tiltjax import sampling
from tiltjax.types import Network, Problem, is_key


def check_key(key: Any) -> None:
    """TypeError for all but one typed key."""
    if not is_key(key):
        got = type_name(key)
        raise TypeError(f"key must be a typed PRNG key, jax.random.key(0); got {got}. It comes first: fit(key, target).")
    if key.ndim:
        raise TypeError(f"key must be ONE key; got keys of shape {key.shape}. Several fits at once: fit_seeds(keys, target).")


def check_counts(num_updates: int, num_steps: int, sampling_steps: int, learning_rate: float | None) -> None:
    """ValueError or TypeError for counts and a rate that are not positive."""
    for name, value in (("num_updates", num_updates), ("num_steps", num_steps), ("sampling_steps", sampling_steps)):
        sampling.positive_int(name, value)
    if learning_rate is not None and not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate must be positive and finite; got {learning_rate}.")


def check_recipes(loss: Any, network: Any, optimizer: Any) -> None:
    """TypeError for what is neither a constructor nor what one made."""
    if not callable(loss):
        raise TypeError(f"loss must be a constructor, losses.minimum_variance say; got {type(loss).__name__} {loss!r}.")
    if not isinstance(network, Network) and not callable(network):
        raise TypeError(
            f"network must be a constructor (networks.mlp, say) or a types.Network(init, apply); got {type(network).__name__}."
        )
    if not isinstance(optimizer, optax.GradientTransformation) and not callable(optimizer):
        raise TypeError(
            f"optimizer must be a constructor, optax.adam say, or what one made, optax.adam(1e-3); got {type_name(optimizer)}."
        )


def type_name(key: Any) -> str:
    """Of what stands where a key should."""
    raw = getattr(key, "dtype", None) == jnp.uint32
    return "an old-style jax.random.PRNGKey" if raw else type(key).__name__


def name_of(function: Any) -> str:
    """That of the function within a functools.partial too."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def told(function: Any) -> str:
    """Its name, with the plain arguments of a functools.partial, and its functions by their names."""
    plain = int | float | str | type
    arguments = getattr(function, "keywords", {}).items()
    given = {name: value for name, value in arguments if isinstance(value, plain)}
    given |= {name: told(value) for name, value in arguments if inspect.isroutine(value) or hasattr(value, "func")}
    return f"{name_of(function)} {given or ''}"


def same_network(saved: str, network: Any) -> str:
    """What `load` was given beside what it needs, where both have a name."""
    got, anonymous = name_of(network), ("", "Network", "partial", "<lambda>")
    if got == saved or got in anonymous or saved in anonymous:
        return "Pass load the network that the sampler was fitted with, of the same width and depth."
    return f"The sampler was fitted with the network {saved}; got {got}. Pass load that of the fit."


def probe(problem: Problem) -> list[float]:
    """The reward at two fixed points: two problems of one shape hardly ever agree there."""
    shape = problem.process.shape
    return [float(problem.reward(jnp.full(shape, value, jax.dtypes.canonicalize_dtype(float)))) for value in (0.1, -0.7)]
