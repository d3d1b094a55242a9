"""Problems: a reference process and a reward, p*(x) proportional to p_base(x) exp(r(x))."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax.types import Problem, Process, Target

RESOLUTION = 1e-3


class Affine(NamedTuple):
    """x_user = location + scale x (scale of shape (d,): by coordinate; (d, d): a matrix), on the flattened particle."""

    location: Array
    scale: Array

    def forward(self, x: Array) -> Array:
        flat = x.reshape(-1)
        moved = self.scale * flat if self.scale.ndim == 1 else self.scale @ flat
        return (self.location + moved).reshape(x.shape)

    def inverse(self, x: Array) -> Array:
        flat = x.reshape(-1) - self.location
        return (flat / self.scale if self.scale.ndim == 1 else jnp.linalg.solve(self.scale, flat)).reshape(x.shape)

    @property
    def log_determinant(self) -> Array:
        if self.scale.ndim == 1:
            return jnp.sum(jnp.log(jnp.abs(self.scale)))
        return jnp.linalg.slogdet(self.scale)[1]


def sampling(target: Target, process: Process, *, resolution: float | None = None, affine: Affine | None = None) -> Problem:
    """Sample gamma = exp(log_density): r = log gamma - log p_base, so that Z = int gamma exactly.

    resolution: the smallest variance at which the target has structure, in the process's units (default 1e-3 scale^2).
    affine: the process lives in x with x_user = location + scale x; the log determinant is in the reward, Z is unchanged.
    Raises ValueError when target and process disagree in shape, when the density is no scalar, or the base has no density.
    """
    if process.log_density is None:
        raise ValueError(
            "problems.sampling needs a Gaussian process; got one without a density. Use problems.tilt(process, reward)."
        )
    check_target(target)
    if tuple(target.shape) != tuple(process.shape):
        raise ValueError(
            f"target and process differ in the shape of a particle: got target.shape={tuple(target.shape)}, "
            f"process.shape={tuple(process.shape)}. Build the process with shape=target.shape."
        )
    check_scalar(target.log_density, process.shape, "log_density")
    log_density, base = traced_once(target.log_density), process.log_density
    log_determinant = 0.0 if affine is None else affine.log_determinant
    decode, encode = (_identity, _identity) if affine is None else (affine.forward, affine.inverse)

    def reward(x: Array) -> Array:
        return log_density(decode(x)) + log_determinant - base(x)

    return Problem(process, reward, _resolution(resolution, process), decode, encode, target)


def tilt(process: Process, reward: Callable[[Array], Array], *, resolution: float | None = None) -> Problem:
    """Tilt the base of `process` by any reward (kT units: reward / temperature), Z = E_base[exp r].

    Raises ValueError when the reward is not a scalar for one particle.
    """
    check_scalar(reward, process.shape, "reward")
    return Problem(process, traced_once(reward), _resolution(resolution, process))


def traced_once(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """f behind its own `jit`: vmapped, differentiated and scanned over without being traced by Python again."""
    return f if isinstance(f, type(_TRACED)) else jax.jit(f)


def check_target(target: Any) -> None:
    """Raises at once when `target` cannot be one."""
    if not isinstance(target, Target):
        hint = "tiltjax.Target(log_density, shape=(d,))"
        raise TypeError(f"a target is needed; got {type(target).__name__}. Wrap your log density: {hint}.")
    if not callable(target.log_density):
        raise TypeError(f"log_density must be a function of one particle; got {type(target.log_density).__name__}.")
    shape = target.shape
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n > 0 for n in shape) or not shape:
        raise ValueError(f"shape is the shape of ONE particle, a tuple of positive ints; got {shape!r}. For d numbers: (d,).")


def check_scalar(f: Callable[[Array], Array], shape: tuple[int, ...], name: str) -> None:
    """Raises ValueError unless f maps one particle of `shape` to a real scalar. f is traced, not run."""
    x = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(float))
    try:
        out = jax.eval_shape(traced_once(f), x)
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


def _resolution(resolution: float | None, process: Process) -> float:
    value = RESOLUTION * process.scale**2 if resolution is None else float(resolution)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"resolution is a variance and must be positive and finite; got {resolution}.")
    return value


def _identity(x: Array) -> Array:
    return x


_TRACED = jax.jit(_identity)
