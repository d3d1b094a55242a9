"""A small training run with checkpoints, for `test_resume.py`: as a function, and as a program that is killed."""

import os
import pathlib
import signal
import sys

import conftest  # noqa: F401  the tests' precision
import jax
import optax
from support import gaussian, small

from tiltjax import losses, paths, problems, run, targets, train, weights
from tiltjax.types import Replay

ROUNDS = 40


def trainer():
    target = targets.gmm([[-1.5, 0.0], [1.0, 1.0]], 0.5)
    problem = problems.sampling(target, gaussian("linear", (2,), 2.0), resolution=0.25)
    network, times = small(problem), paths.log_snr(gaussian("linear", (2,), 2.0).frame, 6, 0.25)
    objective = losses.minimum_variance(problem, network, times, replay=Replay(64, 256, 5, 32, weights.tempered(0.3)), bins=4)
    return train.trainer(objective, network, optax.adam(1e-3))


def go(directory=None, seed=0, rounds=ROUNDS):
    return run.run(
        trainer(), jax.random.key(seed), rounds, chunk=1, checkpoint=directory, checkpoint_seconds=0.0, progress=False
    )


def saved(directory):
    """The rounds that have a checkpoint."""
    return sorted(int(p.name) for p in pathlib.Path(directory).iterdir() if p.name.isdigit())


def die_while_saving(directory):
    """SIGKILL in the place of the first rename after a second checkpoint: all is written, nothing is committed."""
    rename = os.rename

    def deadly(*args, **kwargs):
        if len(saved(directory)) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*args, **kwargs)

    os.rename = deadly


if __name__ == "__main__":
    if "die-while-saving" in sys.argv:
        die_while_saving(sys.argv[1])
    go(sys.argv[1])
