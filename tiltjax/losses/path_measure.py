"""Losses on path measures: log w of a path under the present control, as a function of the control.

On a stored path `dynamics.log_weight` is differentiable in the control for any path, whichever control drew it: log variance
and trajectory balance are right on paths of any law, those drawn from a buffer with w^tau too. On an annealed problem
(`problems.annealed`) these are the losses of CMCD, Controlled Monte Carlo Diffusions: Vargas et al. (2024), arXiv
2307.01050; the same three functions, with the drift g in place of the control u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, contexts, dynamics, families, validate
from tiltjax.losses.collect import labelled_paths, nothing
from tiltjax.types import Batch, Family, Held, Here, Key, Learned, Network, Objective, Params, Path, Problem, Replay


class Stored(NamedTuple):
    """A path, and what its weight needs of the density (`Dynamics.known`)."""

    path: Path
    known: Any


@validate.needs()
def log_variance(
    problem: Problem | Family, network: Network, times: Array, *, replay: Replay = Replay(num_particles=512)
) -> Objective:
    """Var(log w) over a batch of paths of the detached control: zero if and only if u = u*.

    Needs no gradient of the density. When not to use it: high dimension with a poor start (the variance of log w is then
    that of a few paths). Source: Nuesken & Richter (2021), arXiv 2005.05409; Richter & Berner (2024), arXiv 2307.01198.
    """

    validate.by_context(problem, replay, "log_variance")

    def loss(log_weight: Array, extra: None) -> Array:
        return contexts.mean_within(problem, lambda log_weight: jnp.var(log_weight, ddof=1), log_weight)

    return _on_paths(problem, network, times, replay, nothing, loss)


@validate.needs("single")
def trajectory_balance(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = Replay(num_particles=512),
    log_z: float = 0.0,
    rate: float = 30.0,
) -> Objective:
    """E[(log w - log Z_theta)^2], log Z_theta learned from the guess `log_z`; `rate` is its speed against the network's.

    When not to use it: without any guess of a large |log Z| (`log_variance` needs none).

    Source: Malkin et al. (2022), arXiv 2201.13259; Berner et al. (2025), arXiv 2501.06148.
    """

    def loss(log_weight: Array, extra: Array) -> Array:
        return jnp.mean(jnp.square(log_weight - log_z - rate * extra))

    return _on_paths(problem, network, times, replay, lambda: jnp.zeros(()), loss)


@validate.needs("unbiased", "gradient")
def relative_entropy(
    problem: Problem | Family, network: Network, times: Array, *, replay: Replay = Replay(num_particles=256)
) -> Objective:
    """KL(P_u || P*) - log Z = -E[log w], differentiated through the path; the step is rematerialised: memory of N states.

    Refused (ValueError) on an annealed problem whose base has no density: the mean of its relative log weight is a bound only
    as the step goes to 0, and training finds the steps where it is not (log w grows without end).

    When not to use it: separated modes (reverse KL drops them), many steps (time grows with them; `adjoint_matching` has the
    same optimum without a backward pass through the network). Sources: Zhang & Chen (2022), arXiv 2111.15141; Vargas et al.
    (2023), arXiv 2302.13834; Berner et al. (2024), arXiv 2211.01364.
    """

    family = families.of(problem)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        batch = Batch(jax.random.split(key, n), jnp.zeros(n), jnp.zeros(n, bool))  # a particle is its key: the loss simulates
        return batch, held.carried

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        del key

        def one(params: Learned, key: Key, context: Any) -> Array:
            here = family.here(held.given, context)
            return -dynamics.simulate(here.problem, network.control(params.control, here), times, key).log_weight

        return batching.mean(one, held.params, (batch.data, batch.context), network.at_once)

    energies, gradients = families.example(problem).dynamics.evaluations(len(times) - 1)
    return Objective(nothing, collect, loss, replay, energies, gradients + 1, weighted=False, family=family)


def _on_paths(
    problem: Problem | Family,
    network: Network,
    times: Array,
    replay: Replay,
    init: Callable[[], Params],
    value: Callable[[Array, Params], Array],
) -> Objective:
    family = families.of(problem)

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        return labelled_paths(here, network, times, held, key, n, Stored), held.carried

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        del key

        def one(stored: Stored, context: Any) -> Array:
            here = family.here(held.given, context)
            return dynamics.log_weight(here.problem, network.control(held.params.control, here), *stored)

        return value(jax.vmap(one)(batch.data, batch.context), held.params.extra)

    energies, gradients = families.example(problem).dynamics.evaluations(len(times) - 1)
    return Objective(init, collect, loss, replay, energies, gradients, family=family)
