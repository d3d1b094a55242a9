"""The first step of `fit`: a target as a problem in its natural units, which the pilot finds; and defaults by the problem."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from tiltjax import families, memoryless, particles, paths, pilot, problems, processes, run, validate
from tiltjax.coordinates import Coordinates
from tiltjax.types import Family, GaussianPath, Key, Network, Problem, Target, Training

BASE_SCALE = 1.3


class Ready(NamedTuple):
    """A problem, with what `fit` needs of it before the loss; `named` is the network as a checkpoint knows it.

    coordinates: of a target, those that the pilot found, as plain lists; gradient_evaluations and seconds: of the pilot.
    """

    problem: Problem | Family
    network: Network
    named: Any
    grid: Callable[[int], Array]
    coordinates: dict[str, Any]
    gradient_evaluations: int
    seconds: float


def ready(
    key: Key,
    problem: Target | Problem | Family,
    network: Any,
    training: Training,
    record: dict[str, Any] | None,
    progress: bool,
) -> Ready:
    """A problem as it stands, a target prepared: by the pilot, or as the record of an earlier sampler says."""
    began, named = time.perf_counter(), default_network(problem) if network is None else network
    coordinates, evaluations = dict[str, Any](), 0
    with run.stage(progress, "pilot: where the target is, and how wide"):
        if isinstance(problem, Target) and record is not None:
            coordinates = {name: record[name] for name in Coordinates._fields if name in record}
            problem = whitened(_traced_once(problem), recorded(record), record["resolution"])
        elif isinstance(problem, Target):
            target, found = piloted(key, problem, training.location, training.scale)
            parts = found.coordinates._asdict().items()
            coordinates = {name: part.tolist() for name, part in parts if part is not None}
            problem, evaluations = whitened(target, found.coordinates, found.resolution), found.gradient_evaluations
    grid = training.grid or default_grid(problem)
    return Ready(problem, made(named, problem), named, grid, coordinates, evaluations, time.perf_counter() - began)


def recorded(record: dict[str, Any]) -> Coordinates:
    """The pilot's coordinates, from the record of a sampler."""
    return Coordinates(**{name: jnp.asarray(record[name]) for name in Coordinates._fields if name in record})


def prepare(
    key: Key,
    target: Target,
    *,
    path: GaussianPath | None = None,
    location: Array | float = 0.0,
    scale: float = 1.0,
    base_scale: float = BASE_SCALE,
) -> Problem:
    """A target as a problem in its natural units, which the pilot finds: the first step of `fit`.

    Without a path it is the problem that `fit` trains on: a base N(0, base_scale^2 I) on the linear path, in the pilot's units.
    On a path of your own the base is N(0, I), and the coordinates hold base_scale: for `problems.annealed` take
    path=paths.trigonometric(), on which that base does not move. location, scale: where to look, as in `Training`.
    Use it for several losses on one problem, or for SMC without training.
    """
    validate.key(key, "prepare(key, target)")
    target, found = piloted(key, target, location, scale)
    if path is None:
        return whitened(target, found.coordinates, found.resolution, base_scale)
    return on_unit_base(target, found, path, base_scale)


def piloted(key: Key, target: Target, location: Array | float = 0.0, scale: float = 1.0) -> tuple[Target, pilot.Pilot]:
    """The target, its density traced but once from here on, and what the pilot found of it."""
    target = _traced_once(target)
    free = particles.free(target)
    if not target.centred:
        return target, pilot.pilot(key, free.log_density, free.shape, location=location, scale=scale)
    validate.location(location, free.shape, centred=True)
    return target, pilot.pilot(key, free.log_density, free.shape, scale=scale, natural=pilot.isotropic)


def _traced_once(target: Target) -> Target:
    validate.target(target)
    target = target._replace(log_density=problems.traced_once(target.log_density))
    validate.scalar(target.log_density, target.shape, "log_density")
    return target


def whitened(target: Target, coordinates: Coordinates, resolution: float, base_scale: float = BASE_SCALE) -> Problem:
    """In the pilot's coordinates, with the base N(0, base_scale^2 I) on the linear path."""
    process = processes.gaussian(paths.linear(), particles.free(target).shape, base_scale)
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


def on_unit_base(target: Target, found: pilot.Pilot, path: GaussianPath, base_scale: float = BASE_SCALE) -> Problem:
    """In coordinates in which the base, base_scale of the pilot's units, is N(0, I)."""
    coordinates = found.coordinates._replace(scale=base_scale * found.coordinates.scale)
    process = processes.gaussian(path, particles.free(target).shape, 1.0)
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
