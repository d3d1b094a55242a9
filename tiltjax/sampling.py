"""Drawing from a trained control."""

import operator
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, checkpoints, dynamics, paths, problems, weights
from tiltjax.sde import ControlFn
from tiltjax.types import Key, Metrics, Network, Params, Problem, Samples, is_key


class Report(NamedTuple):
    """What a fit did.

    Seconds of compiling and of running apart; evaluations of the density and of its gradient, pilot included.
    """

    history: Metrics | None = None
    compile_seconds: float = 0.0
    train_seconds: float = 0.0
    pilot_seconds: float = 0.0
    energy_evaluations: int = 0
    gradient_evaluations: int = 0
    nonfinite_updates: int = 0

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in zip(self._fields[1:], self[1:], strict=True))
        return f"Report(history: {'none' if self.history is None else len(self.history.loss)} rounds, {values})"


class Sampler(NamedTuple):
    """A trained control with its problem: what `fit` returns.

    `grid(num_steps) -> times`; `num_steps` is the default for sampling. Draws are in the user's coordinates.
    """

    problem: Problem
    network: Network
    params: Params
    grid: Callable[[int], Array]
    num_steps: int
    forward: Callable[[Params, Key, Array], Samples]
    back: Callable[[Params, Key, Array, Array], Samples]
    record: dict[str, Any]
    report: Report = Report()

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        shape = problems.user_shape(self.problem)
        return f"Sampler(shape={shape}, num_steps={self.num_steps}, {size} parameters, {self.report!r})"

    def sample(self, key: Key, num_particles: int, *, num_steps: int | None = None, batch_size: int = 2048) -> Samples:
        """Samples(x (n, *shape), log_weight (n,)), E[exp(log_weight)] = Z without bias at any number of steps.

        A particle depends on its own key alone, so `batch_size` (particles at once) changes memory, not draws. More steps than
        in training raise the ESS. Raises TypeError for counts that are not ints, ValueError where they are not positive.
        """
        positive_int("num_particles", num_particles)
        times = self._times(key, num_steps)
        keys = jax.random.split(key, num_particles)
        return _batched(lambda k: self.forward(self.params, k, times), (keys,), batch_size)

    def backward(self, key: Key, x: Array, *, num_steps: int | None = None, batch_size: int = 2048) -> Samples:
        """Weights of noising paths that start from given points x (n, *shape), draws of the target in the user's coordinates.

        For exact draws the mean log weight is the EUBO and `diagnostics.forward_ess` sees modes that the sampler misses.
        """
        shape = problems.user_shape(self.problem)
        if x.shape[1:] != shape:
            raise ValueError(f"x must be (n, *{shape}); got shape {x.shape}.")
        positive_int("the number of particles in x", x.shape[0])
        times = self._times(key, num_steps)
        keys = jax.random.split(key, x.shape[0])
        return _batched(lambda k, y: self.back(self.params, k, times, y), (keys, x), batch_size)

    def resample(self, key: Key, samples: Samples, num_particles: int | None = None) -> Array:
        """Equally weighted draws (n, *shape) by systematic resampling of weighted ones."""
        n = samples.log_weight.size if num_particles is None else positive_int("num_particles", num_particles)
        return samples.x[weights.resample(key, samples.log_weight, n)]

    def refine(self, key: Key, *, num_particles: int = 1024, num_steps: int = 400) -> "Sampler":
        """The same sampler on a grid of equal dissipation, measured on its own paths: a higher ESS at equal steps.

        num_particles paths of num_steps steps (finer than the grids that will be asked for) are drawn and stored in batches.
        Draws stay unbiased: the grid is fixed before they are made.
        """
        positive_int("num_particles", num_particles)
        times = self._times(key, num_steps)

        def measure(params: Params, key: Key) -> Array:
            return dynamics.dissipation(self.problem, lambda t, x: self.network.apply(params, t, x), times, key, num_particles)

        spent = jax.jit(measure)(self.params, key)
        record = {**self.record, "grid": {"times": times.tolist(), "dissipation": spent.tolist()}}
        return self._replace(grid=refined_grid(record["grid"]), record=record)

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes a new directory that `tiltjax.load` reads. ValueError if it exists and is not empty."""
        checkpoints.save_arrays(directory, {**self.record, "num_steps": self.num_steps}, self.params)

    def _times(self, key: Key, num_steps: int | None) -> Array:
        if not is_key(key):
            raise TypeError(f"key must be a typed PRNG key, jax.random.key(0); got {type(key).__name__}.")
        return self.grid(positive_int("num_steps", self.num_steps if num_steps is None else num_steps))


def refined_grid(measured: dict[str, list[float]]) -> Callable[[int], Array]:
    """num_steps -> the grid of equal dissipation, from what `Sampler.refine` recorded."""
    times, spent = jnp.asarray(measured["times"]), jnp.asarray(measured["dissipation"])
    return lambda num_steps: paths.equal_dissipation(times, spent, num_steps)


def sampler(
    problem: Problem,
    network: Network,
    params: Params,
    grid: Callable[[int], Array],
    *,
    num_steps: int = 200,
    record: dict[str, Any] | None = None,
    report: Report = Report(),
) -> Sampler:
    """Compiles nothing yet: a program is built at the first draw of each size and kept."""

    def forward(params: Params, keys: Key, times: Array) -> Samples:
        def one(key: Key) -> Samples:
            return draw(problem, lambda t, x: network.apply(params, t, x), times, key)

        return batching.each(one, (keys,), network.at_once)

    def back(params: Params, keys: Key, times: Array, x: Array) -> Samples:
        def one(key: Key, x: Array) -> Samples:
            def control(t: Array, y: Array) -> Array:
                return network.apply(params, t, y)

            path = dynamics.simulate_backward(problem, control, times, key, problem.encode(x))
            return Samples(x, dynamics.own_log_weight(problem, control, path))

        return batching.each(one, (keys, x), network.at_once)

    record = record or {"format": 1, "shape": list(problems.user_shape(problem))}
    return Sampler(problem, network, params, grid, num_steps, jax.jit(forward), jax.jit(back), record, report)


def draw(problem: Problem, control: ControlFn, times: Array, key: Key) -> Samples:
    """One particle and its log weight, r(X_1) + log dP_base/dP_u; a non-finite weight counts for nothing (-inf)."""
    x, log_weight = dynamics.simulate(problem, control, times, key)
    return Samples(problem.decode(x), jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf))


def _batched(f: Callable[..., Samples], inputs: tuple[Array, ...], batch_size: int) -> Samples:
    """f over slices of `batch_size`, the last one padded: one compiled program, dispatched without waiting."""
    n = inputs[0].shape[0]
    size = min(n, positive_int("batch_size", batch_size))
    index = jnp.arange(-(-n // size) * size) % n
    parts = [f(*(leaf[index[i : i + size]] for leaf in inputs)) for i in range(0, len(index), size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:n], *parts)


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
