"""What a change of the code must leave as it is: hashes of trained parameters, and of every figure of one benchmark line.

Run it before and after on one machine with the same flags. `hashes` are equal to the bit or they are not; `values` are compared
to a tolerance, for methods whose arithmetic may be ordered anew: in float64, since Adam's first steps make of a rounding error
in a gradient near 0 a step of full size.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import tiltjax as tj
from benchmarks import runner

TOLERANCE = 1e-5  # of `values`, relative to the largest of them
UPDATES = 300
FEW = 10
NO_FIGURES = (
    "seconds",
    "memory",
    "revision",
    "versions",
    "device",
    "arguments",
)  # what a line says of the machine and the call


def fitted(target: tj.Target | tj.Problem, **arguments: Any) -> tj.Sampler:
    """From key 0."""
    return tj.fit(jax.random.key(0), target, progress=False, **arguments)


def few(target: tj.Target | tj.Problem, loss: Callable[..., Any], **arguments: Any) -> tj.Sampler:
    """Ten updates, on a small buffer."""
    replay = tj.Replay(500, 2000, FEW, 256)
    return fitted(target, loss=functools.partial(loss, replay=replay), num_updates=FEW, num_steps=20, **arguments)


def annealed() -> tj.Problem:
    """GMM-40 on an annealed path, from the pilot of key 1."""
    return tj.problems.annealed(tj.prepare(jax.random.key(1), tj.targets.gmm40(), path=tj.paths.trigonometric()))


EXACT: dict[str, Callable[[], tj.Sampler]] = {
    "default": lambda: fitted(tj.targets.gmm40(), num_updates=UPDATES),
    "adjoint_matching": lambda: fitted(tj.targets.gmm40(), loss=tj.losses.adjoint_matching, num_updates=UPDATES),
    "dw4": lambda: fitted(tj.targets.double_well(), num_updates=UPDATES),
}
CLOSE: dict[str, Callable[[], tj.Sampler]] = {
    "learned_variance": lambda: few(tj.targets.gmm40(), tj.losses.learned_variance),
    "nets": lambda: few(annealed(), tj.losses.nets),
}


def digest(tree: Any) -> str:
    """Of the bytes of all leaves, in order."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()[:16]


def flat(tree: Any) -> Any:
    """All leaves as one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def line_of(case: str = "gmm40", method: str = "default") -> dict[str, Any]:
    """The figures of `benchmarks run CASE METHOD --budget smoke --seeds 0`, the machine and the call left out."""
    line = runner.finite(runner.trial(runner.Job(case, method, 0, "smoke")).line)
    return {name: value for name, value in line.items() if not any(word in name for word in NO_FIGURES)}


def bits(out: Path, against: Path | None, console: Console) -> bool:
    """Writes out/bits.json and out/bits.npz, prints them beside those of `against`; True where nothing differs."""
    out.mkdir(parents=True, exist_ok=True)
    hashes = {name: digest(make().params) for name, make in EXACT.items()}
    line = line_of()
    hashes["gmm40 smoke line"] = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:16]
    with jax.enable_x64(True):
        values = {name: flat(make().params) for name, make in CLOSE.items()}
    (out / "bits.json").write_text(json.dumps({"hashes": hashes, "line": line}, indent=1) + "\n")
    np.savez_compressed(out / "bits.npz", **values)
    table, same = compared(hashes, values, against)
    console.print(table)
    return same


def compared(hashes: dict[str, str], values: dict[str, Any], against: Path | None) -> tuple[Table, bool]:
    """A row each, and whether all agree with the earlier run (True without one)."""
    table = Table("what", "now", "before", "same")
    before = {} if against is None else json.loads((against / "bits.json").read_text())["hashes"]
    agree = []
    for name, value in hashes.items():
        agree.append(against is None or before.get(name) == value)
        table.add_row(name, value, before.get(name, "-"), "yes" if agree[-1] else "NO")
    earlier: Any = {} if against is None else np.load(against / "bits.npz")
    for name, now in values.items():
        off = float(np.abs(now - earlier[name]).max() / np.abs(earlier[name]).max()) if name in earlier else 0.0
        agree.append(off <= TOLERANCE)
        table.add_row(name, f"off by {off:.1e}", f"at most {TOLERANCE:.0e}", "yes" if agree[-1] else "NO")
    return table, all(agree)
