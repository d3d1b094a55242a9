"""States: tuples of arrays, passed through `jit`."""

from typing import Any, NamedTuple

from jax import Array

from .base import Key, Params


class Learned(NamedTuple):
    """What is trained: the control network's parameters, and a loss's own."""

    control: Params
    extra: Params


class Held(NamedTuple):
    """What an objective is handed: what is learned, what is carried from round to round, what is given once and for all."""

    params: Learned
    carried: Any = ()
    given: Any = ()


class Path(NamedTuple):
    """A stored trajectory of N steps: times (N+1,), x (N+1, *shape), control u (N, *shape), noise xi (N, *shape)."""

    times: Array
    x: Array
    control: Array
    noise: Array


class Walker(NamedTuple):
    """A particle on its way: where it is, what was seen of the density there, its drift if that is kept, log w so far."""

    x: Array
    seen: Any
    drift: Any
    log_weight: Array


class Rates(NamedTuple):
    """At one state of an annealed path: work = d/dt r_t + v.grad r_t, and score = s + grad r_t, the score of rho_t."""

    work: Array
    score: Array


class Samples(NamedTuple):
    """Weighted draws: x (n, *shape), log_weight (n,). E[exp(log_weight)] = Z."""

    x: Array
    log_weight: Array


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: Array
    stderr: Array


class Batch(NamedTuple):
    """Collected particles: data (a tree of leaves (n, ...)), log_weight (n,) of their paths, clipped (n,) where a label was.

    context: that of each particle, leaves (n, ...); () of a plain problem.
    """

    data: Any
    log_weight: Array
    clipped: Array
    context: Any = ()


class TrainState(NamedTuple):
    key: Key
    round: Array
    params: Learned
    average: Learned
    opt_state: Any
    carried: Any
    buffer: Any


class Metrics(NamedTuple):
    """Of one round. Counts are of updates (nonfinite: skipped; clipped: scaled down) and of collected particles.

    log_z and ess are those of the newly collected particles' weights: of a family the means over its contexts, and `worst_ess`
    the least of them. `first_bad` indexes `Trainer.quantities`, -1 if all is finite.
    """

    loss: Array
    log_z: Array
    ess: Array
    worst_ess: Array
    gradient_norm: Array
    clipped_updates: Array
    nonfinite_updates: Array
    clipped_particles: Array
    nonfinite_particles: Array
    first_bad: Array
