"""Training as it is run: jitted chunks of rounds, a progress bar, checkpoints, an end when nothing works."""

import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status

from tiltjax import checkpoints
from tiltjax.types import Key, Learned, Metrics, Trainer, TrainState


class Run(NamedTuple):
    """The last state, what to draw with, the metrics of all rounds (leaves (rounds,)), and where the seconds went.

    Filling the buffer counts as training. Of a run that went on from a checkpoint, seconds until that checkpoint are included;
    rounds that were lost are not.
    """

    state: TrainState
    learned: Learned
    history: Metrics
    compile_seconds: float
    train_seconds: float


def run(
    trainer: Trainer,
    key: Key,
    num_rounds: int,
    *,
    chunk: int = 1,
    checkpoint: str | pathlib.Path | None = None,
    checkpoint_seconds: float = 30.0,
    fingerprint: str = "",
    progress: bool = True,
) -> Run:
    """`num_rounds` rounds in jitted chunks of `chunk` rounds (a scan; the state is donated).

    With `checkpoint`, a directory, the state is saved there every `checkpoint_seconds` and at the end, and a run that finds
    one there goes on from it: to bitwise the same result as an unbroken run. Raises FloatingPointError when a whole chunk
    made only non-finite updates, ValueError when the checkpoint is of another run; `fingerprint` is what tells it from
    others beside the key, the length and the shapes. The progress bar counts updates. `Trainer.given` and `Trainer.start`
    are arguments of the programs: never donated, never saved.
    """
    if not checkpoint_seconds >= 0:
        raise ValueError(f"checkpoint_seconds is the time between saves, 0 or more; got {checkpoint_seconds}.")
    num_chunks, given = -(-num_rounds // chunk), trainer.given
    begin = (given, key) if trainer.start is None else (given, key, trainer.start)
    shape = jax.eval_shape(trainer.init, *begin)
    identity = checkpoints.identity(shape, key, num_chunks * chunk, fingerprint)
    store = None if checkpoint is None else checkpoints.open_store(checkpoint, identity)
    found = None if store is None else store.restore(shape)
    if found is not None and int(found[0].round) >= num_chunks * chunk:
        return Run(found[0], trainer.learned(found[0]), _join(found[1]), *found[2])
    began = time.perf_counter()
    rounds = jax.jit(
        lambda given, state: jax.lax.scan(lambda s, _: trainer.step(given, s), state, length=chunk), donate_argnums=1
    )
    with stage(progress, "compiling, and filling the buffer"):
        advance = rounds.lower(given, shape).compile()
        init = jax.jit(trainer.init).lower(*begin).compile() if found is None else trainer.init
        started = time.perf_counter()
        state, history, (before, trained) = (init(*begin), [], (0.0, 0.0)) if found is None else found
        jax.block_until_ready(state)
    saved, compiling = time.perf_counter(), before + started - began
    first = int(state.round) // chunk
    with _bar(progress, num_chunks * chunk, int(state.round), trainer.updates) as bar:
        for i in range(first, num_chunks):
            state, metrics = advance(given, state)
            # the host reads a chunk only when the next is under way, so the device never waits for it
            if i > first:
                _watch(history[-1], trainer, bar, i, chunk)
            history.append(metrics)
            if store and (time.perf_counter() - saved > checkpoint_seconds or i == num_chunks - 1):
                _watch(metrics, trainer, None, i + 1, chunk)
                store.save(state, _join(history), (compiling, trained + time.perf_counter() - started))
                saved = time.perf_counter()
        if num_chunks > first:
            _watch(history[-1], trainer, bar, num_chunks, chunk)
    jax.block_until_ready(state)
    return Run(state, trainer.learned(state), _join(history), compiling, trained + time.perf_counter() - started)


def _watch(metrics: Metrics, trainer: Trainer, bar: Any, chunks: int, chunk: int) -> None:
    """Reads one chunk's metrics: moves the bar, and stops a run that no longer learns, of one seed or of one among several."""
    values = jax.tree.map(np.asarray, metrics)
    if bar is not None:
        bar.show(chunks * chunk, values)
    dead = np.atleast_1d(np.all(np.isnan(values.loss), axis=0))
    if np.any(dead):
        i = int(np.argmax(dead))
        bad, lost = (int(leaf.reshape(chunk, -1)[0, i]) for leaf in (values.first_bad, values.nonfinite_particles))
        seed = f"of key {i} " if values.loss.ndim > 1 else ""
        name = trainer.quantities[bad] if bad >= 0 else "log_weight (no particle in the buffer has a finite weight)"
        raise FloatingPointError(
            f"every update {seed}of rounds {(chunks - 1) * chunk} to {chunks * chunk - 1} was non-finite and was skipped; the "
            f"first quantity to go bad was {name} ({lost} particles of the round had a non-finite "
            "label or weight). Check the density there, lower the learning rate, or set a smaller `clip`."
        )


def stage(visible: bool, text: str) -> Status:
    """A spinner with `text` while the block runs; nothing where progress is off or the output is no terminal."""
    return Console(quiet=not visible).status(text)


class _bar:
    """A rich progress bar of updates, or nothing."""

    def __init__(self, visible: bool, rounds: int, done: int, updates: int) -> None:
        self.updates = updates
        columns = (
            TextColumn("fit"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(*columns, disable=not visible)
        self.task = self.progress.add_task("fit", total=rounds * updates, completed=done * updates, note="")

    def __enter__(self) -> "_bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, rounds: int, metrics: Metrics) -> None:
        loss, log_z, ess = (np.median(leaf[-1]) for leaf in (metrics.loss, metrics.log_z, metrics.ess))
        note = f"loss {loss:.3g}  log Z {log_z:.3f}  ESS {ess:.2f}"
        skipped = int(np.sum(metrics.nonfinite_updates))
        self.progress.update(
            self.task, completed=rounds * self.updates, note=note + (f"  non-finite {skipped}" if skipped else "")
        )


def _join(history: list[Metrics]) -> Metrics:
    if not history:
        raise ValueError("no rounds were run: num_rounds must be positive.")
    return jax.tree.map(lambda *leaves: jnp.concatenate([jnp.atleast_1d(leaf) for leaf in leaves]), *history)
