"""The demonstration: `fit` on GMM-40, judged against exact answers; a table, a picture, the samples, the figures as JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import picture, runner


def demo(budget: str, out: Path, console: Console, **extra: Any) -> dict[str, Any]:
    """Writes out/demo.png, out/samples.npz and out/result.json, prints the table, and returns the result line."""
    out.mkdir(parents=True, exist_ok=True)
    console.print(
        "[bold]tiltjax[/]: 40 Gaussian modes in the plane, from their unnormalized density alone (GMM-40, FAB's form)"
    )
    trial = runner.trial(runner.Job("gmm40", "default", 0, budget, extra=extra), console=console)
    with console.status("drawing the picture"):
        picture.save(out / "demo.png", trial)
    line = {**trial.line, "peak_memory_mb": runner.peak_memory_mb()}
    x, log_weight = np.asarray(trial.draws.x), np.asarray(trial.draws.log_weight)
    np.savez_compressed(out / "samples.npz", x=x, log_weight=log_weight, resampled=np.asarray(trial.resampled))
    (out / "result.json").write_text(json.dumps(runner.finite(line), indent=1) + "\n")
    console.print(table(line))
    console.print(f"{out / 'demo.png'}   {out / 'samples.npz'}   {out / 'result.json'}", highlight=False)
    return line


def table(line: dict[str, Any]) -> Table:
    """Each figure beside what it is to be compared with: the exact value, the grid's ceiling, or the floor of exact draws."""
    grid = Table(title=f"{line['case']}: {line['num_draws']} draws in {line['num_steps']} steps", title_justify="left")
    grid.add_column("figure")
    grid.add_column("value", justify="right")
    grid.add_column("compare with", justify="right")
    grid.add_column("", style="dim")

    def number(name: str, digits: int = 3) -> str:
        value = line[name]
        return "-" if value is None else f"{value:.{digits}f}"

    def bounded(name: str) -> str:
        return f"{number(name, 4)} ± {number(name + '_stderr', 4)}"

    exact = "-" if line["log_z_error"] is None else f"{line['log_z'] - line['log_z_error']:.4f}"
    grid.add_row("log Z", bounded("log_z"), exact, "exact")
    grid.add_row("ELBO", bounded("elbo"), exact, "lower bound")
    grid.add_row("EUBO", bounded("eubo"), exact, "upper bound")
    grid.add_row("ESS", number("ess"), number("ess_ceiling"), "the grid's ceiling")
    grid.add_row("forward ESS", number("forward_ess"), "1", "sees missed modes", end_section=True)
    grid.add_row("mode entropy", number("mode_entropy", 4), "1", "all modes alike")
    for name, label, unit in (("mode_total_variation", "mode TV", ""), ("energy_w2", "energy W2", " kT")):
        floor = number(name + "_floor", 4) + unit
        grid.add_row(f"{label}, raw", number(name, 4) + unit, floor, "as many exact draws")
        grid.add_row(f"{label}, resampled", number(name + "_resampled", 4) + unit, floor, "")
    grid.add_section()
    grid.add_row("energy calls", f"{line['energy_evaluations']:,}")
    grid.add_row("gradient calls", f"{line['gradient_evaluations']:,}")
    grid.add_row("seconds: pilot", number("pilot_seconds", 1))
    grid.add_row("seconds: compiling", number("compile_seconds", 1))
    grid.add_row("seconds: training", number("train_seconds", 1))
    grid.add_row("seconds: drawing", number("sample_seconds", 1))
    grid.add_row("peak memory", number("peak_memory_mb", 0) + " MB")
    grid.add_row("non-finite updates", f"{line['nonfinite_updates']}", "0")
    return grid
