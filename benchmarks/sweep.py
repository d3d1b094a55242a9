"""Many jobs: those that have a line are left out, the rest run one after another or by several workers at once."""

import json
import queue
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import runner, workers
from benchmarks.cases import BUDGETS, CASES, Suite, overrides
from benchmarks.methods import CHIP, METHODS
from benchmarks.runner import Job

Perform = Callable[[Sequence[Job], list[int] | None, Path], list[dict[str, Any]]]


def jobs(case: str, method: str, budget: str, seeds: Iterable[int], extra: dict[str, Any] | None = None) -> list[Job]:
    """One a seed; where the case has overrides for the method, one without them and one with.

    Raises SystemExit for unknown names, and for evaluations or seconds of a learned method, which `budget` sets.
    """
    _known(case, CASES, "case")
    _known(method, METHODS, "method")
    _known(budget, BUDGETS, "budget")
    given, of = extra or {}, METHODS[method]
    if not of.timed and (refused := [name for name in given if name not in CHIP]):
        names = ", ".join(name for name, other in METHODS.items() if other.timed)
        raise SystemExit(f"{' and '.join(refused)} can be set for the classical methods, {names}; {method} takes --budget.")
    if of.timed and (refused := [name for name in given if name in CHIP]):
        raise SystemExit(f"{' and '.join(refused)} can be set for the learned methods; {method} trains no network.")
    variants = (False, True) if overrides(case, method) else (False,)
    return [Job(case, method, seed, budget, tuned, given) for seed in seeds for tuned in variants]


def run(
    todo: Sequence[Job],
    out: Path,
    console: Console,
    num_workers: int = 1,
    together: int = 1,
    perform: Perform = workers.in_child,
) -> None:
    """Appends a line to out/results.jsonl as each job ends, figures or failure, and leaves out the jobs that have one.

    Up to `together` seeds of a learned method are one vmapped program.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = {runner.identity(line): line for line in runner.read(out)}
    left = []
    for job in todo:
        there = done.get(runner.identity(runner.finite(runner.begun(job))))
        if there is None:
            left.append(job)
        else:
            failed = "; it failed: delete its line to try again" if there.get("error") else ""
            console.print(f"{job}: there already{failed}")
    cores: queue.Queue[list[int] | None] = queue.Queue()
    for share in workers.shares(num_workers):
        cores.put(share)

    def one(group: list[Job]) -> list[dict[str, Any]]:
        share = cores.get()
        try:
            return perform(group, share, out)
        finally:
            cores.put(share)

    with _bar(console) as bar, ThreadPoolExecutor(num_workers) as pool:
        task = bar.add_task("sweep", total=len(left))
        futures = {pool.submit(one, group): group for group in groups(left, together)}
        try:
            for future in as_completed(futures):
                for job, line in zip(futures[future], map(runner.finite, future.result()), strict=True):
                    with (out / runner.RESULTS).open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    console.print(f"{job}   {summary(line)}")
                    bar.advance(task)
                _forget(futures[future], future.result(), out)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _forget(group: list[Job], lines: list[dict[str, Any]], out: Path) -> None:
    """Removes the checkpoints of jobs that have their figures: of the group, and of those that were run by themselves."""
    if (cache := runner.cache_of(out)) is None:
        return
    ended = [job for job, line in zip(group, lines, strict=True) if not line.get("error")]
    for some in [*([job] for job in ended), *([group] if len(ended) == len(group) else [])]:
        shutil.rmtree(runner.checkpoint_of(some, cache), ignore_errors=True)


def groups(jobs: Iterable[Job], together: int) -> list[list[Job]]:
    """Jobs that one program can do, at most `together` each: those that differ in the seed alone, of a learned method."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(repr(job if METHODS[job.method].together is None else job._replace(seed=-1)), []).append(job)
    return [some[i : i + together] for some in alike.values() for i in range(0, len(some), together)]


def suite(
    of: Suite,
    out: Path,
    console: Console,
    num_workers: int = 1,
    together: int = 1,
    chip: dict[str, Any] | None = None,
    perform: Perform = workers.in_child,
) -> None:
    """All methods at the suite's budget, then its classical ones again with the seconds that the default took.

    chip: arguments of `accelerator.arguments` for the learned ones.
    """
    pairs = [(case, method, {} if METHODS[method].timed else chip or {}) for case in of.cases for method in of.methods]
    todo = [job for case, method, extra in pairs for job in jobs(case, method, of.budget, of.seeds, extra)]
    run(todo, out, console, num_workers, together, perform)
    again = [
        job
        for case in of.cases
        if (seconds := default_seconds(case, of.budget, out, chip)) is not None
        for method in of.at_equal_seconds
        for job in jobs(case, method, of.budget, of.seeds, {"seconds": seconds})
    ]
    run(again, out, console, num_workers, together, perform)


def default_seconds(case: str, budget: str, out: Path, chip: dict[str, Any] | None = None) -> float | None:
    """Median over seeds of what the default took to train and to draw, compilation and pilot apart; None if it has no line."""
    found = [
        line["train_seconds"] + line["sample_seconds"]
        for line in runner.read(out)
        if (line["case"], line["method"], line["budget"]) == (case, "default", budget)
        and {name: line["arguments"][name] for name in CHIP if name in line["arguments"]} == (chip or {})
        and not line.get("tuned")
        and not line.get("error")
    ]
    return float(np.median(found)) if found else None


def summary(line: dict[str, Any]) -> str:
    """A line in a few words."""
    if line.get("error"):
        return f"[red]failed[/]: {line['error']}"
    shown = (("ESS", "ess", "{:.3f}"), ("log Z", "log_z", "{:.4f}"), ("±", "log_z_stderr", "{:.4f}"))
    words = [f"{label} {form.format(line[name])}" for label, name, form in shown if line[name] is not None]
    return "  ".join([*words, f"{seconds(line):.0f} s"])


def seconds(line: dict[str, Any]) -> float:
    """Pilot, compilation, training and drawing together."""
    return sum(line.get(f"{name}_seconds") or 0.0 for name in ("pilot", "compile", "train", "sample"))


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("sweep"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=console.quiet)


def _known(name: str, table: Any, what: str) -> None:
    if name not in table:
        raise SystemExit(f"there is no {what} {name!r}; there are: {', '.join(table)}")
