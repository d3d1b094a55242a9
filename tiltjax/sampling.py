"""Drawing from a trained control."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, checkpoints, dynamics, paths, problems, validate, weights
from tiltjax.types import ControlFn, Key, Learned, Metrics, Network, Params, Problem, Samples


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
    `extra` are learned arrays that the dynamics are made of, `remade(problem, extra)` the problem with them
    (`Objective.problem`); for most losses there are none, and it is the problem itself.
    """

    problem: Problem
    network: Network
    params: Params
    grid: Callable[[int], Array]
    num_steps: int
    forward: Callable[[Learned, Key, Array], Samples]
    back: Callable[[Learned, Key, Array, Array], Samples]
    record: dict[str, Any]
    report: Report = Report()
    extra: Params = None
    remade: Callable[[Problem, Params], Problem] = lambda problem, extra: problem

    @property
    def learned(self) -> Learned:
        """The control's parameters, and what the dynamics are made of."""
        return Learned(self.params, self.extra)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.learned))
        shape = problems.user_shape(self.problem)
        return f"Sampler(shape={shape}, num_steps={self.num_steps}, {size} parameters, {self.report!r})"

    def sample(self, key: Key, num_particles: int, *, num_steps: int | None = None, batch_size: int = 2048) -> Samples:
        """Samples(x (n, *shape), log_weight (n,)), E[exp(log_weight)] = Z without bias at any number of steps.

        A particle depends on its own key alone, so `batch_size` (particles at once) changes memory, not draws. More steps than
        in training raise the ESS. Raises TypeError for counts that are not ints, ValueError where they are not positive.
        """
        times = self._times("sample", key, num_steps, num_particles=num_particles, batch_size=batch_size)
        keys = jax.random.split(key, num_particles)
        return _batched(lambda k: self.forward(self.learned, k, times), (keys,), batch_size)

    def backward(self, key: Key, x: Array, *, num_steps: int | None = None, batch_size: int = 2048) -> Samples:
        """Weights of noising paths that start from given points x (n, *shape), draws of the target in the user's coordinates.

        For exact draws the mean log weight is the EUBO and `diagnostics.forward_ess` sees modes that the sampler misses.
        """
        shape = problems.user_shape(self.problem)
        if x.shape[1:] != shape:
            raise ValueError(f"x must be (n, *{shape}); got shape {x.shape}.")
        times = self._times("backward", key, num_steps, **{"the number of particles in x": x.shape[0]}, batch_size=batch_size)
        keys = jax.random.split(key, x.shape[0])
        return _batched(lambda k, y: self.back(self.learned, k, times, y), (keys, x), batch_size)

    def resample(self, key: Key, samples: Samples, num_particles: int | None = None) -> Array:
        """Equally weighted draws (n, *shape) by systematic resampling of weighted ones."""
        n = samples.log_weight.size if num_particles is None else validate.positive_int("num_particles", num_particles)
        return samples.x[weights.resample(key, samples.log_weight, n)]

    def refine(self, key: Key, *, num_particles: int = 1024, num_steps: int = 400) -> "Sampler":
        """The same sampler on a grid of equal dissipation, measured on its own paths: a higher ESS at equal steps.

        num_particles paths of num_steps steps (finer than the grids that will be asked for) are drawn and stored in batches.
        Draws stay unbiased: the grid is fixed before they are made.
        """
        times = self._times("refine", key, num_steps, num_particles=num_particles)

        def measure(learned: Learned, key: Key) -> Array:
            problem = self.remade(self.problem, learned.extra)
            return dynamics.dissipation(problem, _control(self.network, learned), times, key, num_particles)

        spent = jax.jit(measure)(self.learned, key)
        record = {**self.record, "grid": {"times": times.tolist(), "dissipation": spent.tolist()}}
        return self._replace(grid=refined_grid(record["grid"]), record=record)

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes a new directory that `tiltjax.load` reads. ValueError if it exists and is not empty."""
        checkpoints.save_arrays(directory, {**self.record, "num_steps": self.num_steps}, self.learned._asdict())

    def _times(self, call: str, key: Key, num_steps: int | None, **counts: int) -> Array:
        """The grid of a call whose key and counts have been checked."""
        num_steps = self.num_steps if num_steps is None else num_steps
        findings = validate.Findings(f"Sampler.{call}")
        findings.within(validate.key, key, f"{call}(key, ...)")
        for name, count in {**counts, "num_steps": num_steps}.items():
            findings.within(validate.positive_int, name, count)
        findings.stop()
        return self.grid(num_steps)


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
    remade: Callable[[Problem, Params], Problem] = lambda problem, extra: problem,
) -> Sampler:
    """Compiles nothing yet: a program is built at the first draw of each size and kept.

    remade: as in `Sampler`, whose `extra` is then to be set (`_replace(extra=...)`).
    """

    def forward(learned: Learned, keys: Key, times: Array) -> Samples:
        own, control = remade(problem, learned.extra), _control(network, learned)
        return batching.each(lambda key: draw(own, control, times, key), (keys,), network.at_once)

    def back(learned: Learned, keys: Key, times: Array, x: Array) -> Samples:
        own, control = remade(problem, learned.extra), _control(network, learned)

        def one(key: Key, x: Array) -> Samples:
            path = dynamics.simulate_backward(own, control, times, key, own.encode(x))
            return Samples(x, dynamics.own_log_weight(own, control, path))

        return batching.each(one, (keys, x), network.at_once)

    record = record or {"format": checkpoints.FORMAT, "loss": None, "shape": list(problems.user_shape(problem))}
    programs = jax.jit(forward), jax.jit(back)
    return Sampler(problem, network, params, grid, num_steps, *programs, record, report, None, remade)


def _control(network: Network, learned: Learned) -> ControlFn:
    return lambda t, x: network.apply(learned.control, t, x)


def draw(problem: Problem, control: ControlFn, times: Array, key: Key) -> Samples:
    """One particle and its log weight, r(X_1) + log dP_base/dP_u; a non-finite weight counts for nothing (-inf)."""
    x, log_weight = dynamics.simulate(problem, control, times, key)
    return Samples(problem.decode(x), jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf))


def _batched(f: Callable[..., Samples], inputs: tuple[Array, ...], batch_size: int) -> Samples:
    """f over slices of `batch_size`, the last one padded: one compiled program, dispatched without waiting."""
    n = inputs[0].shape[0]
    size = min(n, batch_size)
    index = jnp.arange(-(-n // size) * size) % n
    parts = [f(*(leaf[index[i : i + size]] for leaf in inputs)) for i in range(0, len(index), size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:n], *parts)
