"""NETS, the non-equilibrium transport sampler: a drift g that does the work of the tilt path without fluctuations.

On an annealed problem, with c = d/dt r_t + v.grad r_t and the score s + grad r_t of rho_t, the exact g has
    c + div g + g.(s + grad r_t) = d/dt log Z_t    at every (t, x).
What c and the score need of the density is computed once a walker, when it is collected: the losses evaluate networks only.
Source: Albergo & Vanden-Eijnden (2024), arXiv 2410.02711; for tilts, Domingo-Enrich, Du, Albergo (2026), arXiv 2605.00229.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import dynamics, families, validate, weights
from tiltjax.losses.collect import labelled_paths, nothing
from tiltjax.types import Batch, Family, Held, Here, Key, Learned, Network, Objective, Params, Path, Problem, Rates, Replay

REPLAY = Replay(num_particles=512, capacity=2048, gradient_steps=10, batch_size=256)


class Walk(NamedTuple):
    """States of a path (N+1, *shape), their `Rates`, the log weight exp(A_t) there (N+1,), and the last step to learn from."""

    x: Array
    rates: Rates
    work: Array
    horizon: Array


@validate.needs("single", "rates")
def nets(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = REPLAY,
    num_times: int = 8,
    hutchinson: bool = False,
    bins: int = 32,
    rate: float = 30.0,
    ess_floor: float = 0.0,
) -> Objective:
    """PINN form: E |c + div g + g.(s + grad r_t) - F(t)|^2 on walkers of the current drift, F a learned scalar, d/dt log Z_t.

    F is piecewise linear on `bins` intervals; `rate` is its speed against the network's. hutchinson: random-sign divergence
    (two probes, whose product keeps the square unbiased) in place of the exact one, for high dimension. ess_floor > 0 is a
    curriculum in time: only times up to which the walkers' weights exp(A_t) keep that ESS are learned from, so the
    horizon advances as the drift learns. Any walkers will do, so they are kept in a replay buffer, weighted or not.
    When not to use it: densities with walls so steep that c is dominated by a few walkers; use a gentler tilt path.
    """

    family = families.of(problem)

    def free_energy(extra: Array, t: Array) -> Array:
        return rate * jnp.interp(t * bins, jnp.arange(bins + 1, dtype=t.dtype), extra)

    def one(params: Learned, here: Here, key: Key, walk: Walk) -> Array:
        control = network.control(params.control, here)
        key_times, key_probe = jax.random.split(key)

        def residual(k: Array, probe: Array | None) -> Array:
            rates = jax.tree.map(lambda leaf: leaf[k], walk.rates)
            value = dynamics.work_rate(control, times[k], walk.x[k], rates, probe)
            return value - free_energy(params.extra, times[k])

        chosen = _times(key_times, num_times, walk.horizon)
        if not hutchinson:
            return jnp.mean(jnp.square(jax.vmap(lambda k: residual(k, None))(chosen)))
        probes = jax.random.rademacher(key_probe, (2, num_times, *problem.frame.shape), walk.x.dtype)
        first, second = jax.vmap(jax.vmap(residual), (None, 0))(chosen, probes)
        return jnp.mean(first * second)

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        here, keys = family.here(held.given, ()), jax.random.split(key, batch.data.work.shape[0])
        return jnp.mean(jax.vmap(lambda key, walk: one(held.params, here, key, walk))(keys, batch.data))

    return _objective(problem, network, times, replay, lambda: jnp.zeros(bins + 1), loss, ess_floor)


@validate.needs("single", "rates", "potential")
def action_matching(
    problem: Problem | Family,
    network: Network,
    times: Array,
    *,
    replay: Replay = REPLAY,
    num_times: int = 8,
    ess_floor: float = 0.0,
) -> Objective:
    """E_{rho_t}[ |grad phi|^2 / 2 - (c_t - mean c_t) phi ], g = grad phi, walkers weighted by exp(A_t): no divergence.

    network must be a gradient (`networks.potential`). ess_floor: as in `nets`. When not to use it: poor walkers, whose weights
    make rho_t; `nets` takes any walkers. Raises ValueError for a weighted replay: walkers drawn by the weight of their end are
    no draws of rho_t when weighted by exp(A_t) once more.
    Source: Neklyudov et al. (2023), arXiv 2210.06662; Albergo & Vanden-Eijnden (2024), arXiv 2410.02711.
    """
    if replay.weighting is not None and replay.weighting is not weights.unweighted:
        raise ValueError(
            "action_matching weighs its walkers itself, time by time; got a replay that weighs them by their ends. "
            "Pass replay with weighting=None, or use losses.nets, which takes any walkers."
        )
    phi = validate.potential(network, "action_matching")

    family = families.of(problem)

    def at_time(params: Learned, here: Here, k: Array, data: Walk) -> Array:
        w = weights.normalize(data.work[:, k])
        c = data.rates.work[:, k]
        value = jax.vmap(lambda x: phi(params.control, times[k], x))(data.x[:, k])
        g = jax.vmap(lambda x: network.control(params.control, here)(times[k], x))(data.x[:, k])
        speed = jnp.sum(jnp.square(g).reshape(len(w), -1), axis=1)
        return jnp.sum(w * (0.5 * speed - (c - jnp.sum(w * c)) * value))

    def loss(held: Held, key: Key, batch: Batch) -> Array:
        here, chosen = family.here(held.given, ()), _times(key, num_times, jnp.min(batch.data.horizon))
        return jnp.mean(jax.vmap(lambda k: at_time(held.params, here, k, batch.data))(chosen))

    return _objective(problem, network, times, replay, nothing, loss, ess_floor)


def _objective(
    problem: Problem | Family,
    network: Network,
    times: Array,
    replay: Replay,
    init: Callable[[], Params],
    loss: Callable[[Held, Key, Batch], Array],
    ess_floor: float,
) -> Objective:
    """Walkers labelled once, the horizon set by their weights."""

    def collect(here: Here, held: Held, key: Key, n: int) -> tuple[Batch, Any]:
        of, rates = here.problem.dynamics, validate.rates(here.problem, "this loss")
        control = network.control(held.params.control, here)

        def label(path: Path, known: Any) -> Walk:
            steps = of.increments(control, path, known)
            work = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
            return Walk(path.x, jax.vmap(rates)(path.times, path.x), work, jnp.zeros((), int))

        batch = labelled_paths(here, network, times, held, key, n, label)
        effective = jax.vmap(weights.ess, 1)(batch.data.work)
        fine = jnp.cumprod((effective >= ess_floor).astype(jnp.int32))
        horizon = jnp.maximum(jnp.sum(fine), 2) - 1  # the last time before the ESS first falls
        return batch._replace(data=batch.data._replace(horizon=jnp.full_like(batch.data.horizon, horizon))), held.carried

    energies, gradients = families.example(problem).dynamics.evaluations(len(times) - 1)
    return Objective(init, collect, loss, replay, energies, gradients + len(times), family=families.of(problem))


def _times(key: Key, num: int, horizon: Array) -> Array:
    """Indices of times, uniform in 0..horizon."""
    return jax.random.randint(key, (num,), 0, horizon + 1)
