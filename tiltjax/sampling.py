"""Drawing from a trained control."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from tiltjax import batching, checkpoints, dynamics, families, paths, problems, validate, weights
from tiltjax.types import ControlFn, Family, Key, Learned, Metrics, Network, Params, Problem, Samples


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
    (`Objective.problem`); for most losses there are none, and it is the problem itself. `given` are the arrays of a family that
    all particles share: others of the same shape (`_replace(given=...)`) draw with the same program.
    """

    problem: Problem | Family
    network: Network
    params: Params
    grid: Callable[[int], Array]
    num_steps: int
    forward: Callable[..., Samples]
    back: Callable[..., Samples]
    record: dict[str, Any]
    report: Report = Report()
    extra: Params = None
    remade: Callable[[Problem, Params], Problem] = lambda problem, extra: problem
    given: Any = ()

    @property
    def learned(self) -> Learned:
        """The control's parameters, and what the dynamics are made of."""
        return Learned(self.params, self.extra)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.learned))
        shape = problems.user_shape(self.problem)
        return f"Sampler(shape={shape}, num_steps={self.num_steps}, {size} parameters, {self.report!r})"

    def sample(
        self,
        key: Key,
        num_particles: int,
        *,
        context: Any = None,
        num_steps: int | None = None,
        batch_size: int = 2048,
    ) -> Samples:
        """Samples(x (n, *shape), log_weight (n,)), E[exp(log_weight)] = Z without bias at any number of steps.

        context: of a family, that of all n particles; or m contexts stacked, leaves (m, ...), for x (m, n, *shape) and
        log_weight (m, n). A particle depends on its own key alone, so `batch_size` (particles at once) changes memory, not
        draws. More steps than in training raise the ESS. Raises TypeError for counts that are not ints, ValueError where they
        are not positive or where the context is not one of the family's.
        """
        times = self._times("sample", key, num_steps, num_particles=num_particles, batch_size=batch_size)
        stacked = validate.context(self.problem, context)
        total = num_particles * (stacked or 1)
        keys, contexts = jax.random.split(key, total), _repeated(context, num_particles, stacked)
        drawn = _batched(lambda k, c: self.forward(self.learned, self.given, k, times, c), (keys, contexts), total, batch_size)
        if not stacked:
            return drawn
        return jax.tree.map(lambda leaf: leaf.reshape(stacked, num_particles, *leaf.shape[1:]), drawn)

    def backward(
        self, key: Key, x: Array, *, context: Any = None, num_steps: int | None = None, batch_size: int = 2048
    ) -> Samples:
        """Weights of noising paths that start from given points x (n, *shape), draws of the target in the user's coordinates.

        context: of a family, that of all of x. For exact draws the mean log weight is the EUBO and `diagnostics.forward_ess`
        sees modes that the sampler misses.
        """
        shape = problems.user_shape(self.problem)
        if x.shape[1:] != shape:
            raise ValueError(f"x must be (n, *{shape}); got shape {x.shape}.")
        n = x.shape[0]
        times = self._times("backward", key, num_steps, **{"the number of particles in x": n}, batch_size=batch_size)
        if validate.context(self.problem, context):
            raise ValueError("backward takes one context for all of x; got several. Call it once for each.")
        keys, contexts = jax.random.split(key, n), _repeated(context, n, None)
        return _batched(lambda k, y, c: self.back(self.learned, self.given, k, times, y, c), (keys, x, contexts), n, batch_size)

    def resample(self, key: Key, samples: Samples, num_particles: int | None = None) -> Array:
        """Equally weighted draws (n, *shape) by systematic resampling of weighted ones."""
        n = samples.log_weight.size if num_particles is None else validate.positive_int("num_particles", num_particles)
        return samples.x[weights.resample(key, samples.log_weight, n)]

    def refine(self, key: Key, *, num_particles: int = 1024, num_steps: int = 400) -> "Sampler":
        """The same sampler on a grid of equal dissipation, measured on its own paths: a higher ESS at equal steps.

        num_particles paths of num_steps steps (finer than the grids that will be asked for) are drawn and stored in batches, of
        a family each at a context of its own.
        Draws stay unbiased: the grid is fixed before they are made.
        """
        times = self._times("refine", key, num_steps, num_particles=num_particles)

        family = families.of(self.problem)

        def measure(learned: Learned, given: Any, key: Key) -> Array:
            def draw(key: Key) -> tuple[Problem, ControlFn]:
                context = () if family.many is None else family.many.draw(jax.random.fold_in(key, 0))
                here = family.here(given, context)
                own = here._replace(problem=self.remade(here.problem, learned.extra))
                return own.problem, self.network.control(learned.control, own)

            return dynamics.dissipation_of(draw, times, key, num_particles)

        spent = jax.jit(measure)(self.learned, self.given, key)
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
    problem: Problem | Family,
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
    family = families.of(problem)

    def here_of(learned: Learned, given: Any, context: Any) -> tuple[Problem, ControlFn]:
        here = family.here(given, context)
        here = here._replace(problem=remade(here.problem, learned.extra))
        return here.problem, network.control(learned.control, here)

    def forward(learned: Learned, given: Any, keys: Key, times: Array, contexts: Any) -> Samples:
        def one(key: Key, context: Any) -> Samples:
            return draw(*here_of(learned, given, context), times, key)

        return batching.each(one, (keys, contexts), network.at_once)

    def back(learned: Learned, given: Any, keys: Key, times: Array, x: Array, contexts: Any) -> Samples:
        def one(key: Key, x: Array, context: Any) -> Samples:
            own, control = here_of(learned, given, context)
            path = dynamics.simulate_backward(own, control, times, key, own.encode(x))
            return Samples(x, dynamics.own_log_weight(own, control, path))

        return batching.each(one, (keys, x, contexts), network.at_once)

    record = record or {"format": checkpoints.FORMAT, "loss": None, "shape": list(problems.user_shape(problem))}
    programs = jax.jit(forward), jax.jit(back)
    return Sampler(problem, network, params, grid, num_steps, *programs, record, report, None, remade, family.given)


def _repeated(context: Any, n: int, stacked: int | None) -> Any:
    """The context of each particle: one for all n, or n times each of those stacked."""
    if context is None:
        return ()

    def leaves(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        if stacked:
            return jnp.repeat(leaf, n, axis=0, total_repeat_length=stacked * n)
        return jnp.broadcast_to(leaf[None], (n, *leaf.shape))

    return jax.tree.map(leaves, context)


def draw(problem: Problem, control: ControlFn, times: Array, key: Key) -> Samples:
    """One particle and its log weight, r(X_1) + log dP_base/dP_u; a non-finite weight counts for nothing (-inf)."""
    x, log_weight = dynamics.simulate(problem, control, times, key)
    return Samples(problem.decode(x), jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf))


def _batched(f: Callable[..., Samples], inputs: tuple[Any, ...], n: int, batch_size: int) -> Samples:
    """f over slices of `batch_size` of n, the last one padded: one compiled program, dispatched without waiting."""
    size = min(n, batch_size)
    index = jnp.arange(-(-n // size) * size) % n
    parts = [f(*jax.tree.map(lambda leaf, i=i: leaf[index[i : i + size]], inputs)) for i in range(0, len(index), size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:n], *parts)
