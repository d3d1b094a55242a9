"""From result lines to a report: medians over seeds with their spread, beside ceilings, floors and published figures."""

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import runner
from benchmarks.accelerator import fraction_of_peak
from benchmarks.cases import CASES
from benchmarks.methods import CHIP

EQUAL_SECONDS = "equal seconds"
Line = dict[str, Any]
Rows = list[list[str]]


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
    Column("draws", _key("num_draws"), "{:,.0f}"),
    Column("ESS", _key("ess")),
    Column("ceiling", _key("ess_ceiling")),
    Column("forward ESS", _key("forward_ess")),
    Column("log Z", lambda line: line.get("log_z") if line.get("log_z_error") is None else None, "{:.3f}"),
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
    Column("pilot s", _key("pilot_seconds"), "{:.0f}"),
    Column("compile s", _key("compile_seconds"), "{:.0f}"),
    Column("train s", _key("train_seconds"), "{:.0f}"),
    Column("draw s", _key("sample_seconds"), "{:.1f}"),
    Column("draws a second", lambda line: line["num_draws"] / line["sample_seconds"] if line.get("ess") else None, "{:,.0f}"),
    Column("of the chip's peak", fraction_of_peak, "{:.2%}"),
    Column("memory MB", _key("peak_memory_mb"), "{:,.0f}"),
    Column("non-finite", _key("nonfinite_updates"), "{:.0f}"),
)
NOTES = """Median over seeds (least to greatest). `floor`: as many exact draws against exact
draws (fewer draws, higher floor: SMC has as many as its particles). `ceiling`: the ESS of the
exact control on the same grid. Energies in kT. Calls include the pilot's, which every method runs; a call that gives value and
gradient counts as one of each. `equal seconds`: a classical method with the time that the default took to train and to draw.
Published figures are of raw draws; (p): read in the paper or its code, (n): in a secondary source. In the plots open
markers are raw draws, full ones draws resampled by their weights.
"""


def label(line: Line) -> str:
    """The method as a row names it."""
    words = [line["method"], "tuned" if line.get("tuned") else "", EQUAL_SECONDS if line.get("matched") == "seconds" else ""]
    words += [
        line["arguments"][name] if name == "precision" else f"batch x{line['arguments'][name]}"
        for name in CHIP
        if name in line["arguments"]
    ]
    return ", ".join(filter(None, words))


def grouped(lines: Iterable[Line]) -> dict[tuple[str, str], list[Line]]:
    """(label, budget) -> its lines, one a seed, in order."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in sorted(lines, key=lambda line: (label(line), line["budget"])):
        groups.setdefault((label(line), line["budget"]), []).append(line)
    return groups


def by_case(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """case -> its lines, in the order of the table of cases."""
    known = list(CASES)
    cases: dict[str, list[Line]] = {}
    for line in sorted(
        lines, key=lambda line: (known.index(line["case"]) if line["case"] in known else len(known), line["case"])
    ):
        cases.setdefault(line["case"], []).append(line)
    return cases


def table(lines: Sequence[Line], columns: Sequence[Column] = COLUMNS) -> Rows:
    """Of one case: a row a method and budget, without the columns that apply to none of them."""
    shown = [column for column in columns if any(column.value(line) is not None for line in lines)]
    rows = [["method", "budget", "seeds", *(column.heading for column in shown)]]
    for (name, budget), group in grouped(lines).items():
        failed = sum(bool(line.get("error")) for line in group)
        seeds = f"{len(group)}" if not failed else f"{failed} of {len(group)} failed"
        rows.append([name, budget, seeds, *(cell(column, group) for column in shown)])
    return rows


def cell(column: Column, lines: Sequence[Line]) -> str:
    """Lines without the number are left out, and counted."""
    known = [value for value in map(column.value, lines) if value is not None]
    if not known:
        return "-"
    middle, low, high = (column.form.format(f(known)) for f in (np.median, min, max))
    spread = "" if low == high else f" ({low} to {high})"
    return middle + spread + ("" if len(known) == len(lines) else f" [{len(known)} of {len(lines)}]")


def beside_published(case: str, lines: Sequence[Line]) -> Rows:
    """Each published figure beside ours, raw and resampled, and the floor; empty where nothing is published."""
    published = CASES[case].published if case in CASES else ()
    rows: Rows = []
    for metric in dict.fromkeys(figure.metric for figure in published):
        ours: Rows = []
        for (name, budget), group in grouped(lines).items():
            columns = (Column("", _magnitude(metric + suffix), "{:.4g}") for suffix in ("", "_resampled", "_floor"))
            cells = [cell(column, group) for column in columns]
            ours += [[_readable(metric), f"{name} ({budget})", *cells]] if cells != ["-"] * 3 else []
        rows += ours or [[_readable(metric), "ours: none yet", "-", "-", "-"]]
        theirs = [figure for figure in published if figure.metric == metric]
        rows += [[_readable(metric), f"published: {f.source} ({f.mark})", f"{f.value:.4g}", "", ""] for f in theirs]
    return [["figure", "whose", "raw", "resampled", "floor"], *rows] if rows else []


def _magnitude(name: str) -> Callable[[Line], float | None]:
    return lambda line: None if line.get(name) is None else abs(line[name])


def _readable(metric: str) -> str:
    return {"ess": "ESS", "mmd": "MMD", "log_z_error": "|log Z error|"}.get(
        metric, metric.replace("_", " ").replace("w2", "W2")
    )


def failures(lines: Sequence[Line]) -> list[str]:
    """What went wrong, seed by seed."""
    return [f"{label(line)}, {line['budget']}, seed {line['seed']}: {line['error']}" for line in lines if line.get("error")]


# ---------------------------------------------------------------------------------------------- pages


def markdown_table(rows: Rows) -> str:
    """Numbers to the right; a bar within a cell is escaped."""
    rule = ["---", *("---:" for _ in rows[0][1:])]
    escaped = [[text.replace("|", r"\|") for text in row] for row in [rows[0], rule, *rows[1:]]]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def markdown(cases: dict[str, list[Line]], pictures: Sequence[Path], notes: str) -> str:
    """The report as markdown; pictures beside it."""
    text = "# Results\n\n" + notes + "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures)
    for case, lines in cases.items():
        text += f"\n## {case}\n\n" + markdown_table(table(lines))
        if published := beside_published(case, lines):
            text += "\n" + markdown_table(published)
        text += "".join(f"\n- failed: {failure}" for failure in failures(lines)) + ("\n" if failures(lines) else "")
    return text


STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } img { max-width: 100% } section { overflow-x: auto }
th, td { border-bottom: 1px solid #ccc; padding: .25em .7em; text-align: right; white-space: nowrap }
th { border-bottom: 2px solid #666 } th:first-child, td:first-child { text-align: left } .failed { color: #b00 }"""


def page(cases: dict[str, list[Line]], pictures: Sequence[Path], notes: str) -> str:
    """The report as one HTML file that needs no other."""
    parts = ["<h1>Results</h1>", f"<p>{html.escape(notes)}</p>"]
    for path in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>')
    for case, lines in cases.items():
        parts += [f"<section><h2>{html.escape(case)}</h2>", _html_table(table(lines))]
        if published := beside_published(case, lines):
            parts.append(_html_table(published))
        parts += [f'<p class="failed">failed: {html.escape(failure)}</p>' for failure in failures(lines)]
        parts.append("</section>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Results</title><style>{STYLE}</style>'
    return "\n".join([head, *parts, "</html>"]) + "\n"


def _html_table(rows: Rows) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"

    return "<table>" + row(rows[0], "th") + "".join(row(cells, "td") for cells in rows[1:]) + "</table>"


def write(directory: Path, console: Console) -> str:
    """Prints the report and writes it to directory/report.md and report.html, with its plots."""
    from benchmarks import plots

    lines = list(runner.read(directory))
    if not lines:
        raise SystemExit(
            f"no results in {directory / runner.RESULTS}: run `python -m benchmarks run CASE METHOD --out {directory}`"
        )
    cases = by_case(lines)
    pictures = plots.save(directory, cases)
    devices, revisions = (sorted({str(line[name]) for line in lines}) for name in ("device", "revision"))
    notes = NOTES + f"Device: {', '.join(devices)}. Revision: {', '.join(revisions)}.\n"
    text = markdown(cases, pictures, notes)
    (directory / "report.md").write_text(text)
    (directory / "report.html").write_text(page(cases, pictures, notes))
    console.print(Markdown(text))
    console.print(f"{directory / 'report.md'}   {directory / 'report.html'}", highlight=False)
    return text
