"""Kept result lines, brought to the names of today's arguments: figures stay as they are.

A line is known by the arguments of its method (`runner.identity`). Where an argument moves, old lines are moved with it here,
once and for all, so that a sweep that finds them does not run them again.
"""

import json
from pathlib import Path
from typing import Any

import tiltjax as tj

IN_TRAINING = ("optimizer", "learning_rate", "average", "max_norm", "replay", "grid", "sampling_steps", "location", "scale")


def migrated(line: dict[str, Any]) -> dict[str, Any]:
    """The line with the settings of `fit` that were arguments of their own once under "training", where they stand now."""
    old = line.get("arguments")
    if old is None or "loss" not in old or "training" in old:
        return line
    flat = {name: old[name] for name in IN_TRAINING if name in old}
    optimizer = flat.pop("optimizer", None) or "adam"  # None was Adam
    training = {"optimizer": optimizer, **flat, "checkpoint_seconds": tj.Training().checkpoint_seconds}
    kept = {name: value for name, value in old.items() if name not in IN_TRAINING}
    return {**line, "arguments": {**kept, "training": training}}


def migrate(path: Path) -> int:
    """Rewrites a file of lines; how many changed."""
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    after = [migrated(line) for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in after))
    return sum(a != b for a, b in zip(lines, after, strict=True))
