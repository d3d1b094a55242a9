"""A program in a process of its own: its peak memory is its own, and what kills it kills nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def in_child(jobs: Sequence[Any], cores: list[int] | None, out: Path) -> list[dict[str, Any]]:
    """The lines of `runner.Job`s that differ in the seed alone, made by a fresh Python on the given cores (None: all).

    Several are run as one program; where that does not end, for want of memory say, each by itself. Training keeps its
    checkpoints under `out`.
    """
    from benchmarks import runner

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lines.json"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "benchmarks.workers", json.dumps(jobs), json.dumps(cores), str(out), str(file)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if file.is_file():
            lines: list[dict[str, Any]] = json.loads(file.read_text())
            return lines
    if len(jobs) > 1:
        return [line for job in jobs for line in in_child([job], cores, out)]
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return [runner.failure(jobs[0], f"the process ended with {done.returncode}: {last}") | {"peak_memory_mb": None}]


def shares(workers: int) -> list[list[int] | None]:
    """The cores of each worker, evenly divided where the system can pin them and there is one for each."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * workers
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i::workers] or None for i in range(workers)]


def main(jobs: str, cores: str, out: str, file: str) -> None:
    """The child: pinned before JAX counts the cores."""
    if json.loads(cores) is not None:
        os.sched_setaffinity(0, json.loads(cores))
    from benchmarks import runner

    todo = [runner.Job(*job) for job in json.loads(jobs)]
    alone = len(todo) == 1
    lines = [runner.attempt(todo[0], Path(out))] if alone else [trial.line for trial in runner.trials(todo, out=Path(out))]
    Path(file).write_text(json.dumps([runner.finite(line) for line in lines]))


if __name__ == "__main__":
    main(*sys.argv[1:])
