"""A job in a process of its own: its peak memory is its own, and what kills it kills nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def in_child(job: Any, cores: list[int] | None = None) -> dict[str, Any]:
    """The line of a `runner.Job`, made by a fresh Python on the given cores (None: all)."""
    from benchmarks import runner

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "line.json"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "benchmarks.workers", json.dumps(job), json.dumps(cores), str(file)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if file.is_file():
            line: dict[str, Any] = json.loads(file.read_text())
            return line
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return runner.failure(job, f"the process ended with {done.returncode}: {last}") | {"peak_memory_mb": None}


def shares(workers: int) -> list[list[int] | None]:
    """The cores of each worker, evenly divided where the system can pin them and there is one for each."""
    if workers == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * workers
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i::workers] or None for i in range(workers)]


def main(job: str, cores: str, file: str) -> None:
    """The child: pinned before JAX counts the cores."""
    if json.loads(cores) is not None:
        os.sched_setaffinity(0, json.loads(cores))
    from benchmarks import runner

    line = runner.attempt(runner.Job(*json.loads(job)))
    Path(file).write_text(json.dumps(runner.finite(line)))


if __name__ == "__main__":
    main(*sys.argv[1:])
