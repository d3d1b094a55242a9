"""What a method needs of a problem and a network: declared with it, and checked here."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import families
from tiltjax.types import Dynamics, Family, LogDensity, Network, Objective, Problem, Process, Rates, Replay

from .arguments import particle, replay
from .findings import Findings, as_number, between, positive, positive_int


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
    number = as_number(name, value)
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
