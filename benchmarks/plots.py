"""Plots of a report: quality against what it cost, a panel a case."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from benchmarks.cases import CASES
from benchmarks.picture import BLUE, GREY, STYLE
from benchmarks.report import EQUAL_SECONDS, Line, grouped

# Okabe and Ito's palette, and a marker for each, so that colour is not needed
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c6d1f")
FILLED: dict[str, Any] = {"linewidth": 1.2}
OPEN: dict[str, Any] = {"linewidth": 1.2, "markerfacecolor": "white", "linestyle": ":", "alpha": 0.8}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Quality(NamedTuple):
    """A figure that is better when smaller: its name, its value of a line, that of raw draws, its floor.

    published: the key of published figures to compare with, which are of raw draws.
    """

    name: str
    value: Callable[[Line], float | None]
    raw: Callable[[Line], float | None] = lambda line: None
    floor: Callable[[Line], float | None] = lambda line: None
    published: str = ""


QUALITIES = (
    Quality(
        "energy W2 (kT), open: raw draws",
        lambda line: line.get("energy_w2_resampled"),
        lambda line: line.get("energy_w2"),
        lambda line: line.get("energy_w2_floor"),
        "energy_w2",
    ),
    Quality("|log Z error|", lambda line: None if line.get("log_z_error") is None else abs(line["log_z_error"])),
)


def evaluations(line: Line) -> float | None:
    """Of density and gradient, pilot included."""
    found = [line.get("energy_evaluations"), line.get("gradient_evaluations")]
    return None if None in found else float(sum(found))  # type: ignore[arg-type]


def seconds(line: Line) -> float | None:
    """Pilot, training and drawing; compilation apart."""
    found = [line.get(f"{name}_seconds") for name in ("pilot", "train", "sample")]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


COSTS: dict[str, tuple[str, Callable[[Line], float | None]]] = {
    "evaluations": ("evaluations of density and gradient, pilot included", evaluations),
    "seconds": ("seconds: pilot, training and drawing, compilation apart", seconds),
}


def save(directory: Path, cases: dict[str, list[Line]]) -> list[Path]:
    """Writes directory/evaluations.png and seconds.png; none where no line has a quality."""
    paths = [directory / f"{cost}.png" for cost in COSTS]
    return [path for path in paths if save_one(path, cases, path.stem)]


def save_one(path: Path, cases: dict[str, list[Line]], cost: str) -> bool:
    """Writes the plot against one of COSTS; False where no line has a quality."""
    panels = {case: quality for case, lines in cases.items() if (quality := quality_of(lines)) is not None}
    if panels:
        labels = list(dict.fromkeys(curve(name) for case in panels for name, _ in grouped(cases[case])))
        with matplotlib.rc_context(STYLE):
            figure(cases, panels, labels, *COSTS[cost]).savefig(path, dpi=110)
    return bool(panels)


def curve(name: str) -> str:
    """The method of a row: at equal seconds it is the same, at another cost."""
    return name.removesuffix(", " + EQUAL_SECONDS)


def quality_of(lines: Sequence[Line]) -> Quality | None:
    """The first that any line has."""
    return next((q for q in QUALITIES if any(q.value(line) is not None for line in lines)), None)


def figure(
    cases: dict[str, list[Line]],
    panels: dict[str, Quality],
    labels: Sequence[str],
    title: str,
    cost: Callable[[Line], float | None],
) -> Figure:
    """One panel a case, one legend."""
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    out = Figure(figsize=(4.6 * across, 3.6 * down + 0.9), layout="constrained")
    axes = np.asarray(out.subplots(down, across, squeeze=False)).ravel()
    handles: dict[str, Any] = {}
    for ax, (case, quality) in zip(axes, panels.items(), strict=False):
        panel(ax, case, cases[case], quality, cost, labels, handles)
        ax.set(title=case, ylabel=quality.name, xscale="log", yscale="log")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[: len(panels)][-across:]:
        ax.set_xlabel(title, fontsize=8.5)
    for ax in axes[: len(panels)]:
        ax.tick_params(which="both", labelsize=8)
        for axis, form in ((ax.xaxis, EngFormatter(sep="")), (ax.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(form)
            axis.set_minor_formatter(NullFormatter())
    out.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    return out


def spread(
    lines: Sequence[Line], cost: Callable[[Line], float | None], value: Callable[[Line], float | None]
) -> dict[str, np.ndarray]:
    """Method -> (least, median, greatest; points; cost and value), points by cost."""
    points: dict[str, list[np.ndarray]] = {}
    for (name, _), group in grouped(lines).items():
        known = [(cost(line), value(line)) for line in group]
        pairs = np.asarray([pair for pair in known if None not in pair], float)
        if len(pairs):
            points.setdefault(curve(name), []).append(np.stack([pairs.min(0), np.median(pairs, 0), pairs.max(0)]))
    return {name: np.stack(found, 1)[:, np.argsort([point[1, 0] for point in found])] for name, found in points.items()}


def panel(
    ax: Axes,
    case: str,
    lines: Sequence[Line],
    quality: Quality,
    cost: Callable[[Line], float | None],
    labels: Sequence[str],
    handles: dict[str, Any],
) -> None:
    """Medians over seeds with their ranges both ways; budgets and seconds of one method joined; floor and best published lines.

    Where raw draws are judged apart, theirs are the open markers.
    """
    for judged, style in ((quality.raw, OPEN), (quality.value, FILLED)):
        for name, (low, middle, high) in spread(lines, cost, judged).items():
            i = labels.index(name) % len(COLOURS)
            below, above = (middle - low).T, (high - middle).T
            x, y = middle.T
            bars: dict[str, Any] = {"xerr": [below[0], above[0]], "yerr": [below[1], above[1]], "capsize": 2.5}
            handles[name] = ax.errorbar(x, y, **bars, color=COLOURS[i], marker=MARKERS[i], markersize=6, **style)
    theirs = [figure.value for figure in CASES[case].published if figure.metric == quality.published] if case in CASES else []
    if theirs:
        handles["best published, raw draws"] = ax.axhline(min(theirs), color=BLUE, linewidth=1, linestyle="-.")
    most = max((line.get("num_draws") or 0) for line in lines)  # fewer draws have a higher floor
    floors = [value for line in lines if line.get("num_draws") == most and (value := quality.floor(line)) is not None]
    if floors:
        handles["floor: exact draws"] = ax.axhline(np.median(floors), color=GREY, linewidth=1, linestyle="--")
