"""A target as a problem in its natural units, which the pilot finds; and the defaults that go by the problem."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from tiltjax import families, memoryless, particles, paths, pilot, problems, processes, validate
from tiltjax.coordinates import Coordinates
from tiltjax.types import Family, GaussianPath, Key, Network, Problem, Target

BASE_SCALE = 1.3


def prepare(
    key: Key,
    target: Target,
    *,
    path: GaussianPath | None = None,
    location: Array | float = 0.0,
    scale: float = 1.0,
    base_scale: float = BASE_SCALE,
) -> Problem:
    """A target as a problem in natural units: the pilot's coordinates, then a base N(0, I) on `path` (default linear).

    It is the tilt that `fit` trains on, for a start of one's own: several losses on one problem, SMC without training. For
    `problems.annealed` take path=paths.trigonometric(), on which the base does not move. base_scale is the base's standard
    deviation in units of the target's; the coordinates hold it.
    """
    validate.key(key, "prepare(key, target)")
    return on_unit_base(*piloted(key, target, location, scale), path, base_scale)


def piloted(key: Key, target: Target, location: Array | float = 0.0, scale: float = 1.0) -> tuple[Target, pilot.Pilot]:
    """The target, its density traced but once from here on, and what the pilot found of it."""
    validate.target(target)
    target = target._replace(log_density=problems.traced_once(target.log_density))
    validate.scalar(target.log_density, target.shape, "log_density")
    free = particles.free(target)
    if not target.centred:
        return target, pilot.pilot(key, free.log_density, free.shape, location=location, scale=scale)
    validate.location(location, free.shape, centred=True)
    return target, pilot.pilot(key, free.log_density, free.shape, scale=scale, natural=pilot.isotropic)


def whitened(target: Target, coordinates: Coordinates, resolution: float) -> Problem:
    """In the pilot's coordinates, with the base N(0, BASE_SCALE^2 I) at rest on the linear path."""
    process = processes.gaussian(paths.linear(), particles.free(target).shape, BASE_SCALE)
    return problems.sampling(target, process, resolution=resolution, coordinates=coordinates)


def stand_in(target: Target) -> Problem:
    """A problem of the kind that the pilot will lead to, in the place of the target a standard normal."""
    free = particles.free(target)
    process = processes.gaussian(paths.linear(), free.shape, BASE_SCALE)
    normal = problems.make_tilt(process, lambda x: -0.5 * jnp.sum(jnp.square(x)), 1.0)
    return normal._replace(target=target._replace(log_density=normal.reward))


def made(network: Any, problem: Problem | Family) -> Network:
    """A network from its constructor, or as it was given; the default where it is None."""
    network = default_network(problem) if network is None else network
    return network if isinstance(network, Network) else network(problem)


def on_unit_base(target: Target, found: pilot.Pilot, path: GaussianPath | None, base_scale: float = BASE_SCALE) -> Problem:
    """In coordinates in which the base, base_scale of the pilot's units, is N(0, I)."""
    coordinates = found.coordinates._replace(scale=base_scale * found.coordinates.scale)
    process = processes.gaussian(paths.linear() if path is None else path, particles.free(target).shape, 1.0)
    return problems.sampling(target, process, resolution=found.resolution / base_scale**2, coordinates=coordinates)


def default_network(problem: Target | Problem | Family) -> Callable[[Problem], Network]:
    """The network of the problem's dynamics (`Dynamics.network`); a target's are memoryless."""
    if isinstance(problem, Target):
        return memoryless.network(problem.centred)
    return families.example(problem).dynamics.network(problems.is_centred(problem))


def default_grid(problem: Problem | Family) -> Callable[[int], Array]:
    """The grid of the problem's dynamics (`Dynamics.grid`)."""
    grid = families.example(problem).dynamics.grid
    return lambda num_steps: grid(problem.resolution, num_steps)
