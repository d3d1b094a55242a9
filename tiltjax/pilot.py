"""The pilot: where the target is, how wide, how fine. Tempered sequential Monte Carlo, from a start that spans decades.

Particles from a Gaussian scale mixture are moved through  p_b proportional to start^(1-b) gamma^b,  b rising from 0 to 1 as
fast as the ESS of a step allows, by Hamiltonian moves in the units of the particles' own covariance. They set the map to
natural units (affine, and non-centred where the scale of a coordinate depends on another) and the resolution, and nothing
else: no sample of the pilot reaches the answer, whose weights are those of the sampler.
Sources: Del Moral, Doucet, Jasra (2006); Neal (2011), arXiv 1206.1901.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tiltjax import hamiltonian, noncentring, validate, weights
from tiltjax.coordinates import Coordinates, spread
from tiltjax.types import Key, LogDensity

SCALES = (1.0, 10.0, 100.0)
COARSER = 2.0


class Pilot(NamedTuple):
    """coordinates: natural units, in which the target is of unit size; resolution: its smallest variance in those units."""

    coordinates: Coordinates
    resolution: float
    particles: Array
    gradient_evaluations: int


class _State(NamedTuple):
    x: Array  # (n, d)
    inverse_temperature: Array
    step_size: Array
    key: Key
    stages: Array


def pilot(
    key: Key,
    log_density: LogDensity,
    shape: tuple[int, ...],
    *,
    location: Array | float = 0.0,
    scale: float = 1.0,
    num_particles: int = 2048,
    moves: int = 2,
    keep: float = 0.9,
    leapfrog: int = 5,
    final_moves: int = 20,
    again: int = 2,
    max_stages: int = 400,
    natural: Callable[[Array, LogDensity], Coordinates] | None = None,
) -> Pilot:
    """Runs the pilot on one compiled program.

    natural(particles (n, d), log_density) -> the map to natural units (default `by_covariance`; `isotropic`).
    location, scale: of the start, whose standard deviations are 1, 10 and 100 times `scale` (say where the target is if it is
    further than that). Raises FloatingPointError when the density is not finite at any start, or leads the particles to
    infinity; warns (UserWarning) when it is not finite at more than 1 % of the draws of a Gaussian of its mean and covariance.
    """
    dim = math.prod(shape)
    validate.positive("scale", "the pilot's idea of the target's width", scale)
    validate.location(location, shape)
    centre = jnp.broadcast_to(jnp.asarray(location, dtype=jax.dtypes.canonicalize_dtype(float)).reshape(-1), (dim,))

    def target(x: Array) -> Array:
        return log_density(x.reshape(shape))

    @jax.jit
    def search(key: Key) -> tuple[_State, Array, Array]:
        key_start, key_run = jax.random.split(key)
        x = _start(key_start, centre, scale, num_particles)
        value = jax.vmap(target)(x)
        state = _State(x, jnp.zeros(()), jnp.asarray(0.5), key_run, jnp.zeros((), jnp.int32))

        def temper(state: _State) -> _State:
            return _stage(state, target, lambda y: _log_start(y, centre, scale), keep, moves, leapfrog)

        def unfinished(state: _State) -> Array:
            return (state.inverse_temperature < 1) & (state.stages < max_stages) & jnp.any(jnp.isfinite(value))

        state = jax.lax.while_loop(unfinished, temper, state)
        state = _moved(state, target, final_moves, leapfrog)
        return state, jnp.cov(state.x, rowvar=False).reshape(dim, dim), jnp.mean(jnp.isfinite(value))

    state, covariance, finite = search(key)
    _check_found(state, covariance, float(finite), scale, location)
    coordinates_of = by_covariance if natural is None else natural
    x, coordinates, rounds = state.x, coordinates_of(state.x, target), 0
    while coordinates.slopes is not None and rounds < again:
        # in its own coordinates a funnel has no neck: the particles reach what they could not before
        key_again = jax.random.fold_in(key, 2 + rounds)
        x, rounds = _moved_within(key_again, coordinates, target, x, final_moves, leapfrog), rounds + 1
        coordinates = coordinates_of(x, target)
    _warn_of_holes(jax.random.fold_in(key, 1), target, coordinates, num_particles)
    calls = num_particles * (leapfrog * (moves * int(state.stages) + (1 + rounds) * final_moves) + 1)
    return Pilot(coordinates, _resolution(coordinates, target, x), x, calls)


def _check_found(state: _State, covariance: Array, finite: float, scale: float, location: Array | float) -> None:
    """FloatingPointError where the particles found nothing, or went to infinity."""
    if not finite > 0:
        raise FloatingPointError(
            f"log_density is not finite at any of {state.x.shape[0]} starting points with standard deviations "
            f"{', '.join(str(s * scale) for s in SCALES)} around {location}. Check its support (tiltjax works on all of R^d: "
            "transform bounded variables), or say where it lives: fit(..., training=Training(location=, scale=))."
        )
    arrived = float(state.inverse_temperature) >= 1
    if not (arrived and bool(jnp.all(jnp.isfinite(covariance))) and bool(jnp.all(jnp.diagonal(covariance) > 0))):
        raise FloatingPointError(
            f"the pilot did not find a target of finite width: after {int(state.stages)} stages the inverse temperature is "
            f"{float(state.inverse_temperature):.3g} (1 is expected) and the widths are up to "
            f"{float(jnp.sqrt(jnp.max(jnp.diagonal(covariance)))):.3g}. Is exp(log_density) integrable in every "
            "direction? If it is, say where it lives: fit(..., training=Training(location=, scale=))."
        )


def _moved_within(key: Key, coordinates: Coordinates, target: LogDensity, x: Array, num_moves: int, leapfrog: int) -> Array:
    """Hamiltonian moves in the coordinates."""

    @jax.jit
    def run(x: Array) -> Array:
        y = jax.vmap(coordinates.inverse)(x)
        step_size = jnp.asarray(0.5, x.dtype)
        out = hamiltonian.moves(key, lambda y: _natural(coordinates, target, y), y, step_size, num_moves, leapfrog)
        return jax.vmap(coordinates.forward)(out.x)

    return run(x)


def _natural(coordinates: Coordinates, target: LogDensity, y: Array) -> Array:
    """The target's log density of y."""
    return target(coordinates.forward(y)) + coordinates.log_determinant(y)


def _warn_of_holes(key: Key, target: LogDensity, coordinates: Coordinates, n: int, most: float = 0.01) -> None:
    """The particles never leave the support. The sampler starts from a Gaussian of their width: does that?"""
    centre = coordinates.location
    x = jax.vmap(coordinates.forward)(jax.random.normal(key, (n, centre.size), centre.dtype))
    lost = 1 - float(jnp.mean(jnp.isfinite(jax.jit(jax.vmap(target))(x))))
    if lost > most:
        warnings.warn(
            f"log_density is not finite at {lost:.1%} of the draws of a Gaussian of the target's own mean and covariance: its "
            "support is bounded or has holes, or it overflows. tiltjax works on all of R^d: a control has nothing to learn "
            "from there, and the ESS suffers. Transform bounded variables (x = exp(y) for x > 0, a sigmoid for an interval), "
            "and add the log Jacobian to log_density.",
            UserWarning,
            stacklevel=3,
        )


def _start(key: Key, centre: Array, scale: float, n: int) -> Array:
    key_scale, key_x = jax.random.split(key)
    sigma = scale * jnp.asarray(SCALES)[jax.random.randint(key_scale, (n, 1), 0, len(SCALES))]
    return centre[None] + sigma * jax.random.normal(key_x, (n, centre.size))


def _log_start(x: Array, centre: Array, scale: float) -> Array:
    sigma = scale * jnp.asarray(SCALES)
    return jax.nn.logsumexp(-0.5 * jnp.sum(jnp.square(x - centre)) / jnp.square(sigma) - x.size * jnp.log(sigma))


def _stage(state: _State, target: LogDensity, start: LogDensity, keep: float, moves: int, leapfrog: int) -> _State:
    """Raise b until the ESS of the incremental weights falls to `keep`, resample, move."""
    key, key_resample = jax.random.split(state.key)
    gap = jax.vmap(target)(state.x) - jax.vmap(start)(state.x)
    gap = jnp.where(jnp.isfinite(gap), gap, -jnp.inf)
    rest = 1 - state.inverse_temperature
    # b may have to begin far below machine precision of 1: bisection in its logarithm
    fractions = jnp.exp(jnp.linspace(-40.0, 0.0, 200))
    effective = jax.vmap(lambda f: weights.ess(jnp.where(jnp.isfinite(gap), f * rest * gap, -jnp.inf)))(fractions)
    increment = rest * fractions[jnp.maximum(jnp.sum(effective >= keep) - 1, 0)]
    at = jnp.where(increment >= rest, 1.0, state.inverse_temperature + increment)
    index = weights.resample(key_resample, jnp.where(jnp.isfinite(gap), increment * gap, -jnp.inf), state.x.shape[0])
    moved = state._replace(x=state.x[index], inverse_temperature=at, key=key, stages=state.stages + 1)
    return _moved(moved, lambda y: (1 - at) * start(y) + at * target(y), moves, leapfrog)


def _moved(state: _State, density: LogDensity, moves: int, leapfrog: int) -> _State:
    key, key_moves = jax.random.split(state.key)
    out = hamiltonian.moves(key_moves, density, state.x, state.step_size, moves, leapfrog)
    return state._replace(x=out.x, step_size=out.step_size, key=key)


def isotropic(x: Array, target: LogDensity) -> Coordinates:
    """One scale and no shift: the only map that keeps the symmetries of a system of particles (`particles`)."""
    del target
    dim = x.shape[1]
    return Coordinates(jnp.zeros(dim, x.dtype), jnp.broadcast_to(jnp.sqrt(jnp.mean(jnp.square(x))), (dim,)))


def by_covariance(x: Array, target: LogDensity) -> Coordinates:
    """The map that makes the particles of unit size: affine, or non-centred where that makes the finest structure coarser.

    Separated modes can look like a hierarchy; its coordinates then bend them finer, where a hierarchy's are coarser by orders.
    """
    affine = _affine(x)
    n, dim = x.shape
    found = None if dim == 1 or dim > n // 10 else noncentring.find(np.asarray(x, np.float64))
    if found is None:
        return affine
    bent = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), found)
    return bent if _resolution(bent, target, x) > COARSER * _resolution(affine, target, x) else affine


def _affine(x: Array) -> Coordinates:
    """Location and scale of the particles: by coordinate, or a matrix where there are enough of them to tell."""
    n, dim = x.shape
    scale = jnp.std(x, axis=0) if dim > n // 10 else jnp.asarray(spread(np.asarray(x, np.float64)), x.dtype)
    return Coordinates(jnp.mean(x, axis=0), scale)


def _resolution(coordinates: Coordinates, target: LogDensity, x: Array) -> float:
    """1 / the largest eigenvalue of the Fisher matrix E[grad log p grad log p^T] of the target in natural units."""
    slope_of = jax.grad(lambda y: _natural(coordinates, target, y))
    slope = jax.jit(lambda x: jax.vmap(slope_of)(jax.vmap(coordinates.inverse)(x)))(x)
    return finest(slope)


def finest(slope: Array) -> float:
    """The least variance of a density whose scores at n draws of it are `slope` (n, d): 1 / the largest Fisher eigenvalue."""
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    fisher = slope.T @ slope / slope.shape[0]
    largest = float(jnp.max(jnp.linalg.eigvalsh(fisher))) if fisher.shape[0] <= 512 else float(jnp.max(jnp.diagonal(fisher)))
    return min(max(1.0 / max(largest, 1e-30), 1e-5), 1.0)
