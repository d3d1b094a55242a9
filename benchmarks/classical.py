"""`python -m benchmarks classical`: log Z by a learned sampler against tempered SMC with the same pilot, seed by seed.

Both sides start from the pilot's coordinates. Classical: `smc.run` with a zero drift on a static base, which is tempered SMC
with Hamiltonian moves at every step. Learned: `fit`, then weighted draws, each of one energy. A line says what a seed cost in
evaluations of the density and of its gradient, training and sampling apart. The table says after how many answers of the
learned error training is paid back: the classical errors, extrapolated as the root of the evaluations, say what one costs.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import tiltjax as tj
from benchmarks.cases import CASES
from benchmarks.runner import provenance
from tiltjax import smc
from tiltjax.types import Key, Problem

LINES = "classical.jsonl"


class Tempered(NamedTuple):
    """Tempered SMC: particles, temperatures, moves at each."""

    num_particles: int
    num_steps: int
    moves: smc.Moves

    @property
    def evaluations(self) -> int:
        a_step = 2 + self.moves.num * (self.moves.leapfrog + 1)  # where it arrives, its moves, where they end
        return self.num_particles * (1 + self.num_steps * a_step)


SETTINGS = (
    Tempered(1000, 25, smc.Moves(1, 5)),
    Tempered(1000, 100, smc.Moves(1, 5)),
    Tempered(1000, 100, smc.Moves(3, 5)),
)


def classical(cases: Sequence[str], seeds: Sequence[int], updates: int, draws: int, out: Path, console: Console) -> None:
    """Runs what `out` lacks, a JSON line a case and a seed, and prints the table."""
    out.mkdir(parents=True, exist_ok=True)
    lines = read(out)
    for case in cases:
        for seed in seeds:
            if any((line["case"], line["seed"], line["updates"]) == (case, seed, updates) for line in lines):
                continue
            with console.status(f"{case}, seed {seed}"):
                lines.append(line := one(case, seed, updates, draws))
            with (out / LINES).open("a") as file:
                file.write(json.dumps(line) + "\n")
    console.print(table(lines))


def read(out: Path) -> list[dict[str, Any]]:
    """The lines that a directory holds."""
    file = out / LINES
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def one(case: str, seed: int, updates: int, draws: int) -> dict[str, Any]:
    """Both sides of one seed."""
    target = CASES[case].target()
    key_fit, key_draw, key_prepare, key_run = jax.random.split(jax.random.key(seed), 4)
    sampler = tj.fit(key_fit, target, num_updates=updates, progress=False)
    log_z = tj.diagnostics.log_z((weighted := sampler.sample(key_draw, draws)).log_weight)
    report = sampler.report
    problem = tj.prepare(key_prepare, target, path=tj.paths.trigonometric())
    rows = [tempered(problem, target.log_z or 0.0, setting, key_run) for setting in SETTINGS]
    return {
        "case": case,
        "seed": seed,
        "updates": updates,
        "learned_error": float(log_z.value) - (target.log_z or 0.0),
        "learned_stderr": float(log_z.stderr),
        "learned_ess": float(tj.diagnostics.ess(weighted.log_weight)),
        "learned_sampling_evaluations": draws,
        "learned_training_evaluations": report.energy_evaluations + report.gradient_evaluations,
        "learned_seconds": report.pilot_seconds + report.train_seconds,
        "classical": rows,
        **provenance(),
    }


def tempered(problem: Problem, log_z: float, setting: Tempered, key: Key) -> dict[str, Any]:
    """One run of tempered SMC: hardly any noise of the dynamics, so that what moves particles is their moves alone."""
    annealed = tj.problems.annealed(problem, noise=0.02)
    times = tj.paths.uniform(setting.num_steps)

    @jax.jit
    def run(key: Key) -> smc.Ensemble:
        return smc.run(annealed, lambda t, x: jnp.zeros_like(x), times, key, setting.num_particles, moves=setting.moves)

    jax.block_until_ready(run(key))
    began = time.perf_counter()
    out = jax.block_until_ready(run(key))
    return {
        "num_steps": setting.num_steps,
        "moves": setting.moves.num,
        "error": float(out.log_z) - log_z,
        "evaluations": setting.evaluations,
        "seconds": time.perf_counter() - began,
        "acceptance": float(jnp.mean(out.acceptance)),
    }


def table(lines: Sequence[dict[str, Any]]) -> Table:
    """Medians over seeds of |error|, with the range, and what the learned error would cost classically."""
    columns = (
        "case",
        "method",
        "seeds",
        "|log Z error|: median (range)",
        "evaluations to sample",
        "to train",
        "paid back after",
    )
    shown = Table(*columns)
    for case in dict.fromkeys(line["case"] for line in lines):
        of_case = [line for line in lines if line["case"] == case]
        learned = np.abs([line["learned_error"] for line in of_case])
        training = int(np.median([line["learned_training_evaluations"] for line in of_case]))
        draws = of_case[0]["learned_sampling_evaluations"]
        shown.add_row(case, "learned", str(len(of_case)), _spread(learned), f"{draws:,}", f"{training:,}", "")
        for i, setting in enumerate(of_case[0]["classical"]):
            errors = np.abs([line["classical"][i]["error"] for line in of_case])
            # the root mean square over seeds: a median of few errors is too lucky a scale for an extrapolation
            equal = setting["evaluations"] * np.mean(errors**2) / np.mean(learned**2)
            back = f"{training / (equal - draws):.2g} answers" if equal > draws else "never"
            name = f"tempered SMC, {setting['num_steps']} steps, {setting['moves']} moves"
            shown.add_row("", name, str(len(of_case)), _spread(errors), f"{setting['evaluations']:,}", "", back)
    return shown


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.4f} ({values.min():.4f} to {values.max():.4f})"
