"""Saved states, by orbax: a training run that can be killed, a sampler that can be loaded."""

import json
import pathlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tiltjax.types import Key, Metrics, TrainState, is_key

FORMAT = 2
RECORD = "tiltjax.json"
ARRAYS = "arrays"


class Store:
    """The checkpoints of one training run in a directory. A save is complete or absent, whenever the process dies.

    `identity` is a number of the run: a checkpoint of another one is refused.
    """

    def __init__(self, directory: pathlib.Path, identity: int) -> None:
        import orbax.checkpoint as ocp

        self._args = ocp.args
        self.directory = directory
        self.identity = identity
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager(directory, options=options)

    def save(self, state: TrainState, history: Metrics, seconds: tuple[float, float]) -> None:
        """`seconds`: of compiling and of training, by all runs until here."""
        tree = {
            "state": _plain(state),
            "history": history._asdict(),
            "seconds": np.asarray(seconds),
            "identity": np.asarray(self.identity, np.uint32),
        }
        args = self._args.StandardSave(jax.tree.map(np.asarray, tree))
        self.manager.save(int(state.round), args=args, force=True)
        self.manager.wait_until_finished()

    def restore(self, shape: TrainState) -> tuple[TrainState, list[Metrics], tuple[float, float]] | None:
        """The newest state, the metrics and the seconds until then; None when there is none.

        ValueError when it is of another run.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        tree = self.manager.restore(step, args=self._args.StandardRestore())
        if int(tree["identity"]) != self.identity:
            raise ValueError(
                f"the checkpoint in {self.directory} is of another run (other key, density, network, settings or number of "
                "rounds), so going on from it would not give the result of an unbroken run. Pass an empty directory, or the "
                "arguments that it was made with."
            )
        history = Metrics(**{name: jnp.asarray(leaf) for name, leaf in tree["history"].items()})
        compiling, training = map(float, tree["seconds"])
        return _typed(tree["state"], shape), [history], (compiling, training)


def open_store(directory: str | pathlib.Path, identity: int) -> Store:
    """Makes the directory if it is not there. ValueError when a saved sampler is in it."""
    path = pathlib.Path(directory).absolute()
    if (path / RECORD).exists():
        raise ValueError(f"{path} holds a saved sampler; give checkpoint a directory of its own.")
    return Store(path, identity)


def save_arrays(directory: str | pathlib.Path, record: dict[str, Any], arrays: Any) -> None:
    """A new directory with a JSON record and a tree of arrays. ValueError if it is there and not empty."""
    import orbax.checkpoint as ocp

    path = pathlib.Path(directory).absolute()
    if path.exists() and any(path.iterdir()):
        raise ValueError(f"{path} exists and is not empty; give save a new directory.")
    path.mkdir(parents=True, exist_ok=True)
    if jax.tree.leaves(arrays):  # orbax refuses an empty tree, that of networks.zero
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path / ARRAYS, jax.tree.map(np.asarray, arrays))
    (path / RECORD).write_text(json.dumps(record, indent=1))


def load_record(directory: str | pathlib.Path) -> dict[str, Any]:
    """The JSON record of a saved sampler. FileNotFoundError or ValueError when the directory holds none."""
    path = pathlib.Path(directory).absolute()
    if not (path / RECORD).is_file():
        seen = (
            "which does not exist"
            if not path.exists()
            else "which holds " + (", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing")
        )
        raise FileNotFoundError(f"load needs a directory that Sampler.save wrote (with {RECORD} in it); got {path}, {seen}.")
    record = json.loads((path / RECORD).read_text())
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path / RECORD} has format {record.get('format')!r}, expected {FORMAT}: it was written by another version of "
            "tiltjax. Fit again, or use that version."
        )
    return record


def load_arrays(directory: str | pathlib.Path, like: Any, hint: str = "") -> Any:
    """The saved tree of arrays, in the structure of `like`. ValueError, ending in `hint`, when the two do not fit."""
    import orbax.checkpoint as ocp

    path, tree = pathlib.Path(directory).absolute() / ARRAYS, {}
    if path.exists():
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(path)
    # by name: orbax returns dicts of strings, whose order is another than that of fields and of more than ten layers
    found, wanted = _named(tree), _named(like)
    if _shapes(found) != _shapes(wanted):
        differ = _difference(_shapes(found), _shapes(wanted))
        raise ValueError(f"the saved parameters do not fit the network: {differ}. {hint}".rstrip())
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(found[name]) for name in wanted])


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(where, simple=True, separator="."): leaf for where, leaf in jax.tree.leaves_with_path(tree)}


def _shapes(named: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: jnp.shape(leaf) for name, leaf in named.items()}


def _difference(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], most: int = 4) -> str:
    """The first `most` arrays that differ in shape, or that only one side has, and how many do."""
    differ = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    parts = [f"{name}: saved {found.get(name, 'nothing')}, expected {wanted.get(name, 'nothing')}" for name in differ[:most]]
    return f"{len(differ)} arrays differ ({'; '.join(parts)}{'; ...' if len(differ) > most else ''})"


def _plain(tree: Any) -> Any:
    """As nested dicts and lists of arrays that orbax keeps: typed keys as their words."""
    leaves = jax.tree.leaves(tree)
    return {str(i): jax.random.key_data(leaf) if is_key(leaf) else leaf for i, leaf in enumerate(leaves)}


def _typed(plain: dict[str, Any], shape: Any) -> Any:
    def leaf(i: int, like: Any) -> Any:
        value = jnp.asarray(plain[str(i)])
        return jax.random.wrap_key_data(value) if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key) else value

    leaves, structure = jax.tree.flatten(shape)
    return jax.tree.unflatten(structure, [leaf(i, like) for i, like in enumerate(leaves)])


def identity(shape: Any, key: Key, num_rounds: int, fingerprint: str) -> int:
    """A number of a run: its key, its length, the shapes of all that it holds, and what else its maker says of it."""
    shapes = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves(shape)]
    text = f"{np.asarray(jax.random.key_data(key)).tolist()} {num_rounds} {shapes} {fingerprint}"
    return zlib.crc32(text.encode())
