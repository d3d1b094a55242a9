"""Problems: a reference process and a reward, p*(x) proportional to p_base(x) exp(r(x))."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import annealing, families, memoryless, particles, processes, validate
from tiltjax.coordinates import Coordinates
from tiltjax.types import Family, LogDensity, Many, Problem, Process, Target

RESOLUTION = 1e-3
STABLE_STEPS = 50  # sigma^2 dt / 2 <= resolution / 2 from this number of steps on


def sampling(
    target: Target, process: Process, *, resolution: float | None = None, coordinates: Coordinates | None = None
) -> Problem:
    """Sample gamma = exp(log_density): r = log gamma - log p_base, so that Z = int gamma exactly.

    resolution: the smallest variance at which the target has structure, in the process's units (default 1e-3 scale^2).
    coordinates: the process lives in y with x_user = coordinates.forward(y); the log determinant is in the reward, so Z is the
    same. A centred target of shape (n, d) has a process of shape (n - 1, d), that of `particles.embed`'s y.
    Raises ValueError when target and process disagree in shape, when the density is no scalar, or the base has no density.
    """
    validate.density(process, "problems.sampling")
    validate.target(target)
    free = particles.free(target)
    if tuple(free.shape) != tuple(process.shape):
        what = f"={tuple(target.shape)}" + (", centred, so that one particle fewer moves freely" if target.centred else "")
        raise ValueError(
            f"target and process differ in the shape of a particle: got target.shape{what}, "
            f"process.shape={tuple(process.shape)}. Build the process with shape={tuple(free.shape)}."
        )
    validate.scalar(traced_once(target.log_density), target.shape, "log_density")
    once = target._replace(log_density=traced_once(target.log_density))
    return make_sampling(once, process, _resolution(resolution, process), coordinates)._replace(target=target)


def make_sampling(target: Target, process: Process, resolution: float, coordinates: Coordinates | None = None) -> Problem:
    """`sampling` without checks, to be called inside `jit` too."""
    log_density, base = target.log_density, validate.density(process, "problems.make_sampling")
    forward = _identity if coordinates is None else coordinates.forward
    inverse = _identity if coordinates is None else coordinates.inverse

    def decode(y: Array) -> Array:
        return particles.embed(forward(y)) if target.centred else forward(y)

    def encode(x: Array) -> Array:
        return inverse(particles.project(x) if target.centred else x)

    def reward(y: Array) -> Array:
        stretch = 0.0 if coordinates is None else coordinates.log_determinant(y)
        return log_density(decode(y)) + stretch - base(y)

    return make_tilt(process, reward, resolution)._replace(decode=decode, encode=encode, target=target)


def tilt(process: Process, reward: Callable[[Array], Array], *, resolution: float | None = None) -> Problem:
    """Tilt the base of `process` by any reward (kT units: reward / temperature), Z = E_base[exp r].

    Raises ValueError when the reward is not a scalar for one particle.
    """
    validate.scalar(traced_once(reward), process.shape, "reward")
    return make_tilt(process, traced_once(reward), _resolution(resolution, process))


def make_tilt(process: Process, reward: LogDensity, resolution: float) -> Problem:
    """`tilt` without checks, to be called inside `jit` too. Particles make the base's own steps (`memoryless`)."""
    return Problem(process, reward, resolution, memoryless.dynamics)


def annealed(
    problem: Problem,
    tilt: annealing.Tilt | None = None,
    noise: Callable[[Array], Array] | float | None = None,
) -> Problem:
    """The same tilt, reached along rho_t proportional to p_t exp(r_t): what is learned is then a drift g (CMCD, NETS, SMC).

    tilt(t, x) -> r_t(x), r_1 = reward and r_0 constant (default t * reward: `annealing.scaled`); noise: sigma_t > 0, a number
    or a function of t, free to change after training (default: the process's scale, or where that is less sigma^2 = 50
    resolution, which keeps the Langevin steps stable at 50 steps and more). The base's p_0 must have a density.

    Raises ValueError when r_1 is not the reward, r_0 is not constant, or the noise is not positive.
    """
    validate.memoryless(problem, "problems.annealed")
    base = problem.process
    level = min(base.frame.scale, math.sqrt(STABLE_STEPS * problem.resolution)) if noise is None else noise
    sigma = level if callable(level) else (lambda t: jnp.full_like(t, level))
    tilt = annealing.scaled(problem.reward) if tilt is None else tilt
    _check_anneal(problem, tilt, sigma)
    return make_annealed(problem, tilt, sigma)


def make_annealed(problem: Problem, tilt: annealing.Tilt, sigma: Callable[[Array], Array]) -> Problem:
    """`annealed` without checks, to be called inside `jit` too."""
    return problem._replace(motion=annealing.motion(tilt, sigma))


def _check_anneal(problem: Problem, tilt: annealing.Tilt, sigma: Callable[[Array], Array]) -> None:
    base, real = problem.process, jax.dtypes.canonicalize_dtype(float)
    zero, one = jnp.zeros((), real), jnp.ones((), real)
    if not float(base.frame.variance(0.0)) > 0:
        raise ValueError(
            "the base starts from a point (X_0 = 0); annealing needs a p_0 with a density. Use paths.trigonometric()."
        )
    for t in (zero, 0.5 * one, one):
        if not float(sigma(t)) > 0:
            raise ValueError(f"noise is sigma_t of the dynamics and must be positive; got {float(sigma(t))} at t = {float(t)}.")
    x = 0.3 * base.frame.scale * jax.random.normal(jax.random.key(0), (3, *base.shape), real)
    first = jax.vmap(lambda x: tilt(zero, x))(x)
    last, reward = jax.vmap(lambda x: tilt(one, x))(x), jax.vmap(problem.reward)(x)
    if not bool(jnp.allclose(last, reward, rtol=1e-2, atol=1e-3)):
        raise ValueError(f"a tilt path ends in the reward, r_1 = r; got r_1 = {last} where r = {reward}.")
    if not bool(jnp.ptp(first) <= 1e-4 * (1 + jnp.max(jnp.abs(reward)))):
        raise ValueError(f"a tilt path starts constant (r_0 = 0, say); got r_0 = {first} at three points.")


OVERSHOOT = 0.3  # of the resolution: the least R that regressions see


def level_bin(problem: Problem | Family, bins: int) -> Callable[[Array], Array]:
    """t -> the bin of log R_t, () int32: of `bins` even ones from scale^2 down to OVERSHOOT resolution."""
    residual, scale = problem.frame.residual, problem.frame.scale
    depth = jnp.log(scale**2 / (OVERSHOOT * problem.resolution))

    def where(t: Array) -> Array:
        place = (2 * jnp.log(scale) - jnp.log(jnp.maximum(residual(t), 1e-30))) / depth * bins
        return jnp.clip(place.astype(jnp.int32), 0, bins - 1)

    return where


def narrowed(problem: Problem, ratio: Array) -> Problem:
    """The same tilt by narrower steps: ratio (bins, ...) is Var*[X_1 | X_t] / R_t, by `level_bin` (`processes.narrowed`)."""
    where = level_bin(problem, len(ratio))
    return problem._replace(process=processes.narrowed(problem.process, lambda t: ratio[where(t)]))


def is_centred(problem: Problem | Family) -> bool:
    """True for a system of particles whose process lives in centred configurations (`particles`)."""
    return families.of(problem).centred


def user_shape(problem: Problem | Family) -> tuple[int, ...]:
    """The shape of one particle in the user's coordinates."""
    return tuple(jax.eval_shape(families.example(problem).decode, validate.particle(problem.frame.shape)).shape)


def family(
    at: Callable[[Any, Any], Problem],
    draw: Callable[[Any], Any] | None = None,
    *,
    given: Any = (),
    per_context: int = 16,
) -> Family:
    """The problems at(given, context) for one sampler: a context for each particle, drawn by draw(key) in training.

    `at` is called inside the traced function. It builds its problem there (`make_sampling`, `make_tilt`, `make_annealed`, or
    the checked constructors), and closes over no array that may change: what all share is in `given`, what a particle has of
    its own in its context. All problems have one frame and one resolution. A round of n particles has n / per_context
    contexts. draw=None: no contexts, one problem whose arrays are `given`. Wrap a density that is dear to trace by `jax.jit`
    outside `at`, with what it needs of the context as arguments: Python then runs it once.

    Raises ValueError where contexts lead to problems of another frame, TypeError where `at` gives none.
    """
    context = () if draw is None else draw(jax.random.key(0))
    first = at(given, context)
    validate.family(first, at, given, draw, per_context)
    many = None if draw is None else Many(draw, per_context, families.flat)
    centred = first.target is not None and first.target.centred
    return Family(at, first.frame, float(first.resolution), given, many, centred)


def traced_once(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """f behind its own `jit`: vmapped, differentiated and scanned over without being traced by Python again."""
    return f if isinstance(f, type(_TRACED)) else jax.jit(f)


def _resolution(resolution: float | None, process: Process) -> float:
    value = RESOLUTION * process.frame.scale**2 if resolution is None else float(resolution)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"resolution is a variance and must be positive and finite; got {resolution}.")
    return value


def _identity(x: Array) -> Array:
    return x


_TRACED = jax.jit(_identity)
