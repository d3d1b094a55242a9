"""Single arguments: keys, targets, grids, replays, contexts."""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import families
from tiltjax.types import Family, Network, Problem, Replay, Target, Training, is_key

from .findings import Findings, as_number, between, positive, positive_int, type_name


def key(value: Any, call: str) -> None:
    """TypeError for all but one typed key."""
    if not is_key(value):
        raise TypeError(f"key must be a typed PRNG key, jax.random.key(0); got {type_name(value)}. It comes first: {call}.")
    if value.ndim:
        raise TypeError(f"key must be ONE key; got keys of shape {value.shape}. Call it once for each.")


def one_or_more_keys(value: Any, call: str) -> None:
    """TypeError for all but a typed key, or keys of shape (S,)."""
    if not is_key(value) or not value.ndim:
        key(value, call)
    elif value.ndim != 1 or not value.size:
        raise TypeError(
            f"key must be one key, or keys of shape (S,), jax.random.split(key, S); got keys of shape {value.shape}."
        )


def target(value: Any) -> None:
    """Raises at once when `value` cannot be a target."""
    if not isinstance(value, Target):
        hint = "tiltjax.Target(log_density, shape=(d,))"
        raise TypeError(f"a target is needed; got {type(value).__name__}. Wrap your log density: {hint}.")
    if not callable(value.log_density):
        raise TypeError(f"log_density must be a function of one particle; got {type(value.log_density).__name__}.")
    shape = value.shape
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n > 0 for n in shape) or not shape:
        raise ValueError(f"shape is the shape of ONE particle, a tuple of positive ints; got {shape!r}. For d numbers: (d,).")


def scalar(f: Callable[[Array], Array], shape: tuple[int, ...], name: str) -> None:
    """Raises ValueError unless f maps one particle of `shape` to a real scalar. f is traced, not run."""
    try:
        out = jax.eval_shape(f, particle(shape))
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{name} failed on one particle of shape {shape}: {error}. It must take ONE particle (the library vmaps) of the "
            "shape given."
        ) from error
    got = getattr(out, "shape", None)
    if got is None:
        raise ValueError(f"{name} must return an array scalar for one particle of shape {shape}; got {type(out).__name__}.")
    if got != ():
        raise ValueError(
            f"{name} must return a scalar for ONE particle of shape {shape}; got shape {got}. Sum over the last axes, or drop "
            "the batch axis: the library vmaps."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"{name} must return a real floating-point number; got dtype {out.dtype}.")


def particle(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """One particle to trace with."""
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(float))


def location(value: Any, shape: tuple[int, ...], centred: bool = False) -> None:
    """ValueError unless it is a finite number, or one particle; of a centred target 0."""
    got = jnp.asarray(value)
    if got.size not in (1, math.prod(shape)):
        raise ValueError(
            f"location says where the target is: a number, or one particle of shape {shape}; got shape {got.shape}."
        )
    if not bool(jnp.all(jnp.isfinite(got))):
        raise ValueError(f"location says where the target is and must be finite; got {value}.")
    if centred and bool(jnp.any(got != 0)):
        raise ValueError(
            f"a centred target is around 0, where its draws have their centre; got location={value}. Leave it out."
        )


def times(grid: Any, num_steps: int) -> None:
    """Raises unless grid(num_steps) gives ascending times (num_steps + 1,) from 0 to 1."""
    if not callable(grid):
        raise TypeError(
            f"grid must be a function num_steps -> times (N+1,), paths.uniform say; got {type(grid).__name__}. "
            "For times of your own: grid=lambda num_steps: times, with num_steps=len(times) - 1."
        )
    made = jnp.asarray(grid(num_steps))
    if made.shape != (num_steps + 1,) or not bool(jnp.all(jnp.diff(made) > 0)) or float(made[0]) != 0 or float(made[-1]) != 1:
        raise ValueError(
            f"grid(num_steps) must be {num_steps + 1} ascending times from 0 to 1 for {num_steps} steps; got {made}."
        )


def replay(value: Any, findings: Findings) -> None:
    """Notes what cannot work of a `Replay`."""
    if not isinstance(value, Replay):
        findings.unless(
            False,
            f"replay must be a types.Replay(num_particles, capacity, ...); got {type(value).__name__} {value!r}.",
            TypeError,
        )
        return
    findings.unless(
        value.num_particles >= 1 and value.gradient_steps >= 1,
        f"num_particles and gradient_steps must be positive; got {value.num_particles} and {value.gradient_steps}.",
    )
    findings.unless(
        not value.capacity or (value.num_particles >= 1 and not value.capacity % value.num_particles and value.batch_size >= 1),
        "a replay buffer needs a capacity that is a multiple of num_particles, and a positive batch_size; "
        f"got capacity={value.capacity}, num_particles={value.num_particles}, batch_size={value.batch_size}.",
    )
    findings.unless(
        value.weighting is None or value.capacity,
        "a weighting needs a replay buffer to draw from; got capacity=0, where the batch is used whole. Pass "
        "Replay(..., capacity=, batch_size=, weighting=), or leave weighting out.",
    )
    findings.unless(
        value.weighting is None or callable(value.weighting),
        f"weighting must be a function of log weights, weights.tempered(0.2) say; got {value.weighting!r}.",
        TypeError,
    )


def rounds_of(problem: Problem | Family | None, of: Replay) -> None:
    """ValueError where the particles of a round are no whole number of contexts."""
    many = None if problem is None else families.of(problem).many
    if many is not None and of.num_particles % many.per_context:
        raise ValueError(
            f"the particles of a round must be a multiple of the particles of a context, {many.per_context}; got "
            f"num_particles={of.num_particles}. Pass another Replay, or problems.family(..., per_context=)."
        )


def training(value: Any, findings: Findings) -> None:
    """Notes what cannot work of a `Training`."""
    if not isinstance(value, Training):
        findings.unless(
            False, f"training must be a tiltjax.Training(learning_rate=..., ...); got {type_name(value)} {value!r}.", TypeError
        )
        return
    findings.within(positive_int, "sampling_steps", value.sampling_steps)
    if value.learning_rate is not None:
        findings.within(positive, "learning_rate", "where the schedule starts", value.learning_rate)
    averaging(value.average, value.max_norm, findings)
    if value.replay is not None:
        replay(value.replay, findings)
    findings.within(positive, "scale", "the pilot's idea of the target's width", value.scale)
    number = findings.within(as_number, "checkpoint_seconds", value.checkpoint_seconds)
    findings.unless(
        number is None or number >= 0,
        f"checkpoint_seconds is the time between saves, 0 or more; got {value.checkpoint_seconds}.",
    )
    optimizer = value.optimizer
    findings.unless(
        hasattr(optimizer, "update") or callable(optimizer),
        f"optimizer must be a constructor, optax.adam say, or what one made, optax.adam(1e-3); got {type_name(optimizer)}.",
        TypeError,
    )


def averaging(average: Any, max_norm: Any, findings: Findings) -> None:
    """Notes what cannot work of the average of parameters and of the cut of the gradient."""
    findings.within(
        functools.partial(between, ends="[)", note=" (0: no averaging)"),
        "average",
        "the decay of the averaged parameters",
        average,
        0,
        1,
    )
    number = findings.within(as_number, "max_norm", max_norm)
    findings.unless(
        number is None or number > 0,
        f"max_norm is the largest gradient norm and must be positive (inf: no clipping); got {max_norm}.",
    )


def checkpoint(value: Any, findings: Findings) -> None:
    """Notes what cannot be a directory to save in."""
    findings.unless(
        value is None or isinstance(value, str | os.PathLike),
        f"checkpoint must be a directory, a str or a path; got {type(value).__name__} {value!r}.",
        TypeError,
    )


def recipes(loss: Any, network: Any, findings: Findings) -> None:
    """Notes what is neither a constructor nor what one made."""
    findings.unless(
        callable(loss),
        f"loss must be a constructor, losses.minimum_variance say; got {type(loss).__name__} {loss!r}.",
        TypeError,
    )
    findings.unless(
        network is None or isinstance(network, Network) or callable(network),
        f"network must be a constructor (networks.mlp, say) or a types.Network(init, apply); got {type(network).__name__}.",
        TypeError,
    )


def context(problem: Problem | Family, value: Any) -> int | None:
    """How many contexts are stacked in `value`, None for one. ValueError unless they are the family's."""
    many = families.of(problem).many
    if many is None:
        if value is not None:
            raise ValueError(
                "context is for samplers of a family of problems; got one for a sampler of one problem. Leave it out."
            )
        return None
    like = jax.eval_shape(many.draw, jax.random.key(0))
    expected = f"one of the family's contexts, {_shapes(like)}, or several stacked"
    if value is None:
        raise ValueError(f"a sampler of a family needs a context; got none. Pass context= {expected}.")
    if str(jax.tree.structure(value)) != str(jax.tree.structure(like)):
        raise ValueError(f"context must be {expected}; got {jax.tree.structure(value)}.")
    extra = set()
    for leaf, known in zip(jax.tree.leaves(value), jax.tree.leaves(like), strict=True):
        shape = jnp.shape(leaf)
        if shape[len(shape) - known.ndim :] != known.shape or len(shape) - known.ndim not in (0, 1):
            raise ValueError(f"context must be {expected}; got {_shapes(value)}.")
        extra.add(shape[: len(shape) - known.ndim])
    if len(extra) != 1:
        raise ValueError(f"context must be {expected}; got {_shapes(value)}, stacked in different ways.")
    (stacked,) = extra
    return stacked[0] if stacked else None


def _shapes(tree: Any) -> str:
    shapes = [str(tuple(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree)]
    return "of shape " + ", ".join(shapes)


def family(first: Any, at: Callable[..., Any], given: Any, draw: Any, per_context: Any) -> None:
    """Raises unless contexts lead to problems of one frame and resolution."""
    if not isinstance(first, Problem):
        raise TypeError(f"at(given, context) must give a problem, problems.tilt(...) say; got {type(first).__name__}.")
    positive_int("per_context", per_context)
    if draw is None:
        return
    other = at(given, draw(jax.random.key(1)))
    same = [(of.frame.shape, float(of.frame.scale), float(of.resolution)) for of in (first, other)]
    if same[0] != same[1]:
        raise ValueError(
            "all problems of a family must have one frame and one resolution; got shape, scale and resolution "
            f"{same[0]} and {same[1]} for two contexts. Build them with the same path, scale= and resolution=."
        )
