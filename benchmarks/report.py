"""From result lines to a markdown table: medians over seeds with their spread, beside ceilings and floors."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import runner

Line = dict[str, Any]


class Column(NamedTuple):
    """A heading, the number of a line (None: does not apply), its format."""

    heading: str
    value: Callable[[Line], float | None]
    form: str = "{:.3f}"


def _key(name: str) -> Callable[[Line], float | None]:
    return lambda line: line.get(name)


def _distance(name: str, heading: str) -> tuple[Column, ...]:
    """Raw, resampled, floor."""
    return (
        Column(f"{heading} raw", _key(name)),
        Column("resampled", _key(f"{name}_resampled")),
        Column("floor", _key(f"{name}_floor")),
    )


COLUMNS = (
    Column("ESS", _key("ess")),
    Column("ceiling", _key("ess_ceiling")),
    Column("forward ESS", _key("forward_ess")),
    Column("log Z error", _key("log_z_error"), "{:+.4f}"),
    Column("its stderr", _key("log_z_stderr"), "{:.4f}"),
    *_distance("mode_total_variation", "mode TV"),
    *_distance("energy_w2", "energy W2"),
    *_distance("pair_distance_w2", "pair W2"),
    *_distance("geometric_w2", "geometric W2"),
    *_distance("sinkhorn", "Sinkhorn"),
    *_distance("w2", "W2"),
    *_distance("mmd", "MMD"),
    Column("energy calls", _key("energy_evaluations"), "{:,.0f}"),
    Column("gradient calls", _key("gradient_evaluations"), "{:,.0f}"),
    Column("compile s", _key("compile_seconds"), "{:.0f}"),
    Column("train s", _key("train_seconds"), "{:.0f}"),
    Column("non-finite", _key("nonfinite_updates"), "{:.0f}"),
)


def table(lines: Iterable[Line]) -> str:
    """One row a case, method and budget: median (least to greatest) over seeds; - where nothing applies."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["case"], line["method"], line["budget"]), []).append(line)
    heads = ["case", "method", "budget", "seeds", *(column.heading for column in COLUMNS)]
    rows = [heads, ["---"] * 3 + ["---:"] * (len(heads) - 3)]
    for (case, method, budget), group in sorted(groups.items()):
        rows.append([case, method, budget, str(len(group)), *(cell(column, group) for column in COLUMNS)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(column: Column, lines: list[Line]) -> str:
    """Lines without the number are left out, and counted."""
    known = [value for value in map(column.value, lines) if value is not None]
    if not known:
        return "-"
    middle, low, high = (column.form.format(f(known)) for f in (np.median, min, max))
    spread = "" if low == high else f" ({low} to {high})"
    return middle + spread + ("" if len(known) == len(lines) else f" [{len(known)} of {len(lines)}]")


def write(directory: Path, console: Console) -> str:
    """Prints the table and writes it to directory/report.md."""
    lines = list(runner.read(directory))
    if not lines:
        raise SystemExit(
            f"no results in {directory / runner.RESULTS}: run `python -m benchmarks run CASE METHOD --out {directory}`"
        )
    devices, revisions = (sorted({str(line[name]) for line in lines}) for name in ("device", "revision"))
    text = (
        table(lines)
        + "\nMedian over seeds (least to greatest). `floor`: as many exact draws against exact draws. `ceiling`: the ESS "
        + "of the exact control on the same grid. Energies in kT.\n"
        + f"Device: {', '.join(devices)}. Revision: {', '.join(revisions)}.\n"
    )
    (directory / "report.md").write_text(text)
    console.print(Markdown(text))
    return text
