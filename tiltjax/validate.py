"""The gate: what cannot work is refused here, before any work, in one voice: X must be so; got this. Do that.

Only this module asks what a recipe lacks (a density, rates, a gradient, a potential); elsewhere what was checked is used.
Nothing here evaluates a density: functions are traced.
"""

import functools
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import families
from tiltjax.types import Dynamics, Family, LogDensity, Network, Objective, Problem, Process, Rates, Replay, Target, is_key


class Findings:
    """What is wrong with the arguments of one call: gathered, then said all at once."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.found: list[tuple[type[Exception], str]] = []

    def unless(self, fine: Any, message: str, kind: type[Exception] = ValueError) -> None:
        """Notes `message`, where `fine` is not true."""
        if not fine:
            self.found.append((kind, message))

    def within(self, check: Callable[..., Any], *arguments: Any) -> Any:
        """What a check gives; what it raises is noted."""
        try:
            return check(*arguments)
        except (TypeError, ValueError) as error:
            self.found.append((TypeError if isinstance(error, TypeError) else ValueError, str(error)))
            return None

    def stop(self) -> None:
        """Raises what was noted, if anything: TypeError where all of it is of types, else ValueError."""
        if not self.found:
            return
        kinds, lines = zip(*self.found, strict=True)
        kind = TypeError if all(kind is TypeError for kind in kinds) else ValueError
        if len(lines) == 1:
            raise kind(lines[0])
        raise kind("\n- ".join([f"{self.call} was called with {len(lines)} arguments that cannot work:", *lines]))


# ------------------------------------------------------------------------------------- single arguments


def key(value: Any, call: str) -> None:
    """TypeError for all but one typed key."""
    if not is_key(value):
        raise TypeError(f"key must be a typed PRNG key, jax.random.key(0); got {type_name(value)}. It comes first: {call}.")
    if value.ndim:
        raise TypeError(f"key must be ONE key; got keys of shape {value.shape}. Several fits at once: fit_seeds(keys, target).")


def keys(value: Any) -> None:
    """TypeError for all but typed keys of shape (S,)."""
    if not is_key(value) or value.ndim != 1 or not value.size:
        got = f"shape {value.shape}" if is_key(value) else type_name(value)
        raise TypeError(f"keys must be typed PRNG keys of shape (S,), jax.random.split(key, S); got {got}.")


def positive_int(name: str, value: Any) -> int:
    """`value`, checked to be a positive int (or a scalar integer array)."""
    try:
        count = operator.index(value)
    except TypeError:
        advice = f" Pass {name}={int(value)}." if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{name} must be a positive int; got {type(value).__name__} {value!r}.{advice}") from None
    if count < 1:
        raise ValueError(f"{name} must be a positive int; got {count}.")
    return count


def positive(name: str, what: str, value: Any, advice: str = "") -> float:
    """`value`, checked to be a positive and finite number."""
    number = _number(name, value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} is {what} and must be positive and finite; got {value}.{advice}")
    return number


def between(name: str, what: str, value: Any, low: float, high: float, *, ends: str = "[]", note: str = "") -> float:
    """`value`, checked to lie between two numbers; `ends` says which of them are allowed."""
    number = _number(name, value)
    fine = (number >= low if ends[0] == "[" else number > low) and (number <= high if ends[1] == "]" else number < high)
    if not fine:
        raise ValueError(f"{name} is {what}, in {ends[0]}{low:g}, {high:g}{ends[1]}{note}; got {value}.")
    return number


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number; got {type(value).__name__} {value!r}.") from None


def type_name(value: Any) -> str:
    """Of what stands where a key should."""
    raw = getattr(value, "dtype", None) == jnp.uint32
    return "an old-style jax.random.PRNGKey" if raw else type(value).__name__


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
    number = findings.within(_number, "max_norm", max_norm)
    findings.unless(
        number is None or number > 0,
        f"max_norm is the largest gradient norm and must be positive (inf: no clipping); got {max_norm}.",
    )


def storage(checkpoint: Any, seconds: Any, findings: Findings) -> None:
    """Notes what cannot work of where a run is saved, and how often."""
    number = findings.within(_number, "checkpoint_seconds", seconds)
    findings.unless(number is None or number >= 0, f"checkpoint_seconds is the time between saves, 0 or more; got {seconds}.")
    findings.unless(
        checkpoint is None or isinstance(checkpoint, str | os.PathLike),
        f"checkpoint must be a directory, a str or a path; got {type(checkpoint).__name__} {checkpoint!r}.",
        TypeError,
    )


def recipes(loss: Any, network: Any, optimizer: Any, findings: Findings) -> None:
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
    findings.unless(
        hasattr(optimizer, "update") or callable(optimizer),
        f"optimizer must be a constructor, optax.adam say, or what one made, optax.adam(1e-3); got {type_name(optimizer)}.",
        TypeError,
    )


# ------------------------------------------------------------------------------- what a method needs


def needs(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares what a loss needs of its problem and network: names of NEEDS. It is checked where the loss is made.

    `fit` checks it before the pilot, for a target on the problem that the pilot will lead to.
    """

    def declare(constructor: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(constructor)
        def checked(problem: Problem | Family, network: Network, times: Array, **options: Any) -> Any:
            findings = Findings(constructor.__name__)
            lacking(findings, names, constructor.__name__, problem, network)
            wrong_options(findings, options)
            findings.stop()
            return constructor(problem, network, times, **options)

        checked.needs = names  # type: ignore[attr-defined]
        return checked

    return declare


def wrong_options(findings: Findings, options: Mapping[str, Any]) -> None:
    """Notes what cannot work of a loss's options, by the names that all losses share."""
    for name, value in options.items():
        if name == "replay":
            replay(value, findings)
        elif name in OPTIONS:
            findings.within(OPTIONS[name], name, value)


def options_of(loss: Any) -> dict[str, Any]:
    """What a functools.partial sets of a loss's options."""
    found: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        found = {**loss.keywords, **found}
        loss = loss.func
    return found


def needs_of(loss: Any) -> tuple[str, ...]:
    """What a loss declares; of a functools.partial too."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "needs", ())


def lacking(findings: Findings, names: Iterable[str], what: str, problem: Problem | Family, network: Network | None) -> None:
    """Notes each need that problem and network do not meet; a network of None is not made yet."""
    one_of_them = families.example(problem)
    for name in names:
        if name == "single":
            findings.within(single, problem, what)
        elif name == "potential":
            if network is not None:
                findings.within(potential, network, what)
        else:
            findings.within(NEEDS[name], one_of_them, what)


def density(process: Process, what: str) -> LogDensity:
    """log p_base, which `what` needs. ValueError for a base known only by its velocity or score."""
    if process.log_density is None:
        raise ValueError(
            f"{what} needs a Gaussian process; got one known by its velocity or score, without a density. Use "
            "processes.gaussian(path, shape), or problems.tilt for a base that is a model."
        )
    return process.log_density


def has_density(process: Process) -> bool:
    """Whether log p_base is known."""
    return process.log_density is not None


def where_dense(process: Process, function: Any) -> Any:
    """`function`, or None where the base has no density: what `Dynamics.log_rho` is."""
    return function if has_density(process) else None


def memoryless(problem: Problem, what: str) -> None:
    """ValueError where the noising kernel depends on the control."""
    if not problem.dynamics.memoryless:
        raise ValueError(
            f"{what} needs a memoryless process; got an annealed problem. Use losses.nets, action_matching, log_variance, "
            "trajectory_balance or relative_entropy, or pass the problem that was annealed."
        )


def unbiased(problem: Problem, what: str) -> None:
    """ValueError where E[w] = Z only as the step goes to 0."""
    if not problem.dynamics.unbiased:
        raise ValueError(
            f"{what} on an annealed problem needs a base with a density; got one known by its velocity or score, "
            "whose relative weights are no bound of log Z at finite steps. Use log_variance, trajectory_balance or nets."
        )


def rates(problem: Problem, what: str) -> Callable[[Array, Array], Rates]:
    """`Dynamics.rates`. ValueError for a problem that is not annealed."""
    found = problem.dynamics.rates
    if found is None:
        raise ValueError(f"{what} needs an annealed problem; got a memoryless one. Use problems.annealed(problem).")
    return found


def rescaled(problem: Problem, what: str) -> Callable[[Array], Dynamics]:
    """`Dynamics.rescaled`. ValueError where the noise is not free."""
    found = problem.dynamics.rescaled
    if found is None:
        raise ValueError(f"{what} needs an annealed problem, whose noise is free; got one whose noise the base sets.")
    return found


def log_rho(problem: Problem, what: str) -> Callable[[Array, Array], Array]:
    """`Dynamics.log_rho`. ValueError where no density of the walkers is known."""
    found = problem.dynamics.log_rho
    if found is None:
        raise ValueError(
            f"{what} need the density of rho_t; this base has none (it is known by its velocity or score), or its dynamics "
            "do not follow one. Pass moves=None."
        )
    return found


MEMORYLESS = 1e-3  # the part of Var X_1 that X_0 explains, below which the tilt is the bridge


def bridge(problem: Problem) -> None:
    """ValueError where no bridge is to be learned: no Gaussian base, or one that forgets its start."""
    density(problem.process, "fit_bridge")
    frame = problem.frame
    if float(frame.residual(jnp.zeros(()))) > (1 - MEMORYLESS) * frame.scale**2:
        raise ValueError(
            "the process is memoryless: X_0 says nothing of X_1, so the tilt is the bridge already. Use fit, or a source: "
            "paths.brownian(sigma, source)."
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


def single(problem: Problem | Family, what: str) -> None:
    """ValueError for a family of more than one context."""
    if families.of(problem).many is not None:
        raise ValueError(
            f"{what} compares particles of one problem; got a family, whose contexts have a normalizing constant each. Use "
            "losses.minimum_variance, another of the score matching family, adjoint_matching or log_variance."
        )


def by_context(problem: Problem | Family, replay: Replay, what: str) -> None:
    """ValueError where the particles of one context would be scattered over a buffer."""
    if families.of(problem).many is not None and replay.capacity:
        raise ValueError(
            f"{what} of a family compares the particles of one context, which a buffer scatters; got a replay with capacity="
            f"{replay.capacity}. Pass Replay(num_particles=..., capacity=0)."
        )


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


def gradient(problem: Problem, what: str) -> None:
    """ValueError for a reward that JAX cannot differentiate. It is traced, not run."""
    try:
        jax.eval_shape(jax.grad(problem.reward), particle(problem.process.shape))
    except Exception as error:
        raise ValueError(
            f"{what} needs the gradient of the reward; got a reward that JAX cannot differentiate: {error}. Give it a rule "
            "(jax.custom_vjp), or use losses.conditional_score_matching, log_variance or trajectory_balance on a problem."
        ) from error


def label(objective: Objective) -> Callable[..., Any]:
    """`Objective.label`. ValueError for a loss that learns from its own paths alone."""
    if objective.label is None:
        raise ValueError(
            "draws from elsewhere need a loss that can label them; got one that learns from its own paths alone. Use "
            "losses.minimum_variance, another of the score matching family, or adjoint_matching."
        )
    return objective.label


def potential(network: Network, what: str) -> Callable[..., Array]:
    """`Network.potential`. ValueError for a network that is not known to be a gradient."""
    if network.potential is None:
        raise ValueError(f"{what} needs a network that is a gradient; got one without `potential`. Use networks.potential.")
    return network.potential


def _limit(name: str, value: Any) -> None:
    number = _number(name, value)
    if not number > 0:
        raise ValueError(f"{name} is where norms of gradients are cut and must be positive (inf: nowhere); got {value}.")


OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "bins": positive_int,
    "clip": _limit,
    "ess_floor": lambda name, value: between(name, "the ESS that ends the horizon, a fraction", value, 0, 1, ends="[)"),
    "num_times": positive_int,
    "rate": lambda name, value: positive(name, "the speed of what is learned beside the network", value),
    "terminal": lambda name, value: between(name, "the share of a batch at t = 1, a fraction", value, 0, 1),
}

NEEDS: dict[str, Callable[[Problem, str], Any]] = {
    "density": lambda problem, what: density(problem.process, what),
    "gradient": gradient,
    "memoryless": memoryless,
    "rates": rates,
    "unbiased": unbiased,
}
