"""A run killed with SIGKILL goes on to bitwise the same parameters as an unbroken one."""

import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from resumable import ROUNDS, go, saved, trainer

from tiltjax import checkpoints, run

PROGRAM = pathlib.Path(__file__).with_name("resumable.py")


@pytest.fixture(scope="module")
def unbroken():
    return go()


def start(directory, *args):
    return subprocess.Popen([sys.executable, "-W", "ignore", PROGRAM, directory, *args], stderr=subprocess.PIPE, text=True)


def kill_after_first_checkpoint(directory, seen, delay):
    """Polls for a checkpoint newer than `seen`, waits `delay` seconds, kills."""
    child, began = start(directory), time.monotonic()
    while not (directory.is_dir() and any(step > seen for step in saved(directory))):
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() - began < 120
        time.sleep(0.005)
    time.sleep(delay)
    child.kill()
    child.communicate()
    return child.returncode


def same(a, b):
    leaves = [jax.tree.leaves(tree) for tree in (a, b)]
    for x, y in zip(*leaves, strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(tmp_path, unbroken):
    """Twice at a random moment, once in the middle of a save."""
    directory = tmp_path / "run"
    code = kill_after_first_checkpoint(directory, 0, random.uniform(0.0, 0.3))
    assert code == -signal.SIGKILL
    at = saved(directory)[-1]
    assert 0 < at < ROUNDS, "the kill came too late to test anything"
    child = start(directory, "die-while-saving")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, errors
    held = sorted(p.name for p in directory.iterdir())
    assert any(not name.isdigit() for name in held), f"killed before a save was under way: {held}"
    assert at <= saved(directory)[-1] < ROUNDS
    resumed = go(directory)
    assert int(resumed.state.round) == ROUNDS
    same(resumed.state, unbroken.state)
    same(resumed.history, unbroken.history)


def test_a_finished_run_is_returned_and_another_is_refused(tmp_path, unbroken):
    first = go(tmp_path, rounds=3)
    again = go(tmp_path, rounds=3)
    assert 0 < again.train_seconds <= first.train_seconds and again.compile_seconds == first.compile_seconds > 0
    same(first.state, again.state)
    same(first.history, again.history)
    same(jax.tree.map(lambda leaf: leaf[:3], unbroken.history), first.history)
    for other in ({"seed": 1, "rounds": 3}, {"rounds": 4}):
        with pytest.raises(ValueError, match=r"of another run \(other key.*Pass an empty directory"):
            go(tmp_path, **other)


@pytest.mark.float32
@pytest.mark.slow
def test_goes_on_in_float32(tmp_path, monkeypatch):
    spent, save = [], checkpoints.Store.save

    def watched(store, state, history, seconds):
        spent.append(seconds)
        save(store, state, history, seconds)

    monkeypatch.setattr(checkpoints.Store, "save", watched)
    whole = go(tmp_path / "a", rounds=4)
    shutil.rmtree(tmp_path / "a" / "4")
    assert saved(tmp_path / "a") == [3]  # two are kept
    again = go(tmp_path / "a", rounds=4)
    assert again.compile_seconds > whole.compile_seconds  # both runs compiled
    assert len(spent) == 5 and again.train_seconds > spent[2][1]  # three rounds of the first, one of its own
    same(again.state, whole.state)
    same(again.history, whole.history)


@pytest.mark.slow
def test_filling_the_buffer_counts_as_training():
    """A start that takes a second longer: the second is in train_seconds, whatever else the machine does."""
    plain = trainer()

    def slow(given, key):
        state = plain.init(given, key)
        wait = jax.pure_callback(lambda round: (time.sleep(1.0), round)[1], state.round, state.round)
        return state._replace(round=wait)

    done = run.run(plain._replace(init=slow), jax.random.key(0), 1, progress=False)
    assert done.train_seconds > 1.0 and int(done.state.round) == 1
