"""The tables of docs/results.md, from the lines in benchmarks/results: between `<!-- table: NAME -->` and `<!-- end -->`.

Its picture too, which no test compares: matplotlib's bytes differ between versions.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks import classical, plots, report
from benchmarks.cases import CASES, SUITES
from benchmarks.report import Column, Line

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "particles.png"
PICTURED = ("dw4", "lj13")
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

# fewer than in a report
COLUMNS = (
    Column("draws", lambda line: line.get("num_draws"), "{:,.0f}"),
    Column("ESS", lambda line: line.get("ess"), "{:.2f}"),
    Column("log Z", lambda line: line.get("log_z") if line.get("log_z_error") is None else None, "{:.2f}"),
    Column("log Z error", lambda line: line.get("log_z_error"), "{:+.3f}"),
    Column("its stderr", lambda line: line.get("log_z_stderr"), "{:.3f}"),
    Column("mode TV resampled", lambda line: line.get("mode_total_variation_resampled")),
    Column("floor", lambda line: line.get("mode_total_variation_floor")),
    Column("energy W2 raw", lambda line: line.get("energy_w2"), "{:.2f}"),
    Column("resampled", lambda line: line.get("energy_w2_resampled"), "{:.2f}"),
    Column("floor", lambda line: line.get("energy_w2_floor"), "{:.2f}"),
    Column("evaluations", plots.evaluations, "{:,.0f}"),
    Column("seconds", plots.seconds, "{:.0f}"),
)


def lines(name: str) -> list[Line]:
    """Of benchmarks/results/NAME.jsonl."""
    text = (RESULTS / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def suite(name: str) -> str:
    """Every case of one file of lines, with its devices and revisions."""
    found = lines(name)
    of = {key: ", ".join(sorted({str(line[key]) for line in found})) for key in ("device", "revision")}
    text = f"Device: {of['device']}. Revision: {of['revision']}.\n"
    for case, group in report.by_case(found).items():
        text += f"\n**{case}**\n\n" + report.markdown_table(report.table(group, COLUMNS))
        text += "".join(f"\n- failed: {failure}" for failure in report.failures(group)) + "\n" * bool(report.failures(group))
    return text


def published(*names: str) -> str:
    """Published figures beside those of our files, for all cases that have any; - where we have no line yet."""
    ours = report.by_case([line for name in names for line in lines(name)])
    rows = [["case", "figure", "whose", "raw", "resampled", "floor"]]
    for case in CASES:
        rows += [[case, *row] for row in report.beside_published(case, ours.get(case, []))[1:]]
    return report.markdown_table(rows)


def cases() -> str:
    """The table of cases."""
    rows = [["case", "shape", "log Z", "exact draws", "suites", "overrides"]]
    for name, case in CASES.items():
        target = case.target()
        log_z = "-" if target.log_z is None else f"{target.log_z:.5f}"
        shape = " x ".join(map(str, target.shape))
        changed = ", ".join(case.overrides) or "none"
        suites = ", ".join(suite for suite, of in SUITES.items() if name in of.cases) or "-"
        rows.append([name, shape, log_z, "no" if target.sample is None else "yes", suites, changed])
    return report.markdown_table(rows)


def paid_back() -> str:
    """The table of `python -m benchmarks classical`."""
    table = classical.table(lines("classical"))
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return report.markdown_table([list(row) for row in zip(*columns, strict=True)])


TABLES: dict[str, Callable[..., str]] = {"cases": cases, "suite": suite, "published": published, "paid_back": paid_back}


def filled(text: str) -> str:
    """The page with its tables made anew: `suite NAME` and `published NAME ...` of the lines in NAME.jsonl.

    Raises KeyError for a table that is not known.
    """

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        kind, *of = name.split()
        return begin + TABLES[kind](*of) + end

    return BLOCK.sub(fill, text)


def write_page(console: Console) -> None:
    """Writes the tables of docs/results.md and its picture."""
    PAGE.write_text(filled(PAGE.read_text()))
    found = report.by_case([line for name in ("quick", "beyond") for line in lines(name)])
    plots.save_one(PICTURE, {case: found[case] for case in PICTURED}, "evaluations")
    console.print(f"{PAGE}   {PICTURE}", highlight=False)
