"""`python -m benchmarks reference CASE`: draws by long Markov chains for targets that cannot be drawn from exactly.

A reference is CASE.npz with draws, thinned to fixed point, and CASE.json: where they are from, and why they may be trusted.
Small ones are kept beside this file with their checksums; the command makes them again, and larger ones.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

import tiltjax as tj
from benchmarks.chains import Chains, Ladder, Run, nuts, replica_exchange
from benchmarks.metrics import energies, pair_distances
from tiltjax.types import Key, LogDensity

KEPT = Path(__file__).parent / "references"
MADE = Path("references")  # where the command writes
CHECKSUMS = "SHA256SUMS"


class Recipe(NamedTuple):
    """How a case's chains run: `run` from num_chains starts N(0, scale^2 I), which should be wider than the target."""

    run: Run
    num_chains: int = 16
    scale: float = 3.0
    draws: int = 20_000


DEFAULT = Recipe(nuts(warm_up=1000, thin=2))
# two phases, apart by the field's sign; the chains are long, and few draws kept
LATTICE = Recipe(replica_exchange(Ladder((1.0, 0.8, 0.65, 0.5, 0.4, 0.3), thin=200)), draws=4000)
POSTERIOR = Recipe(nuts(warm_up=1000, thin=4), draws=4000)  # kept too
RECIPES: Mapping[str, Recipe] = {
    **dict.fromkeys(("logistic_breast_cancer", "logistic_digits", "logistic_iris"), POSTERIOR),
    "seeds26": POSTERIOR._replace(run=nuts(warm_up=2000, thin=20, acceptance=0.95)),  # a neck, where its scale is small
    "phi4_8x8": LATTICE,
    "phi4_16x8": LATTICE,
    "dw4": Recipe(replica_exchange(Ladder((1.0, 0.5, 0.25), warm_up=3000, thin=20, relax=1000))),
    "lj13": Recipe(replica_exchange(Ladder((1.0, 0.8, 0.6), warm_up=5000, thin=50, relax=500)), scale=1.5, draws=4000),
    "lj55": Recipe(replica_exchange(Ladder((1.0, 0.9, 0.8, 0.7), warm_up=20_000, thin=100, relax=2000)), scale=2.5, draws=4000),
}


class Space(NamedTuple):
    """What a target is free of. The chains sample log_density(x) + confine(x); `project` removes what was confined.

    scramble(key, x): one draw of the maps that leave the target the same. watch(x) (n, ...) -> (n, k): what r-hat is of.
    """

    confine: Callable[[Array], Array]
    project: Callable[[Array], Array]
    scramble: Callable[[Key, Array], Array]
    watch: Callable[[Array], np.ndarray]


FREE = Space(lambda x: jnp.zeros((), x.dtype), lambda x: x, lambda key, x: x, lambda x: np.asarray(x).reshape(len(x), -1))


def particles() -> Space:
    """(particles, d) free of their centre, which a harmonic term holds while the chains run: it is independent of the rest.

    Equal particles: the density is invariant under permutations and orthogonal maps, so one of each, drawn at random, may be
    applied to every draw. All images of a minimum then weigh the same in the reference, whichever of them the chains went to.
    r-hat is of the sorted distances, which do not change.
    """

    def scramble(key: Key, x: Array) -> Array:
        key_order, key_map = jax.random.split(key)
        return jax.random.permutation(key_order, x) @ jax.random.orthogonal(key_map, x.shape[1], dtype=x.dtype)

    return Space(
        lambda x: -0.5 * x.size * jnp.mean(jnp.mean(x, 0) ** 2),
        lambda x: x - x.mean(0),
        scramble,
        lambda x: np.sort(pair_distances(x).reshape(len(x), -1), 1),
    )


def space_of(target: tj.Target) -> Space:
    return particles() if target.centred else FREE


class Reference(NamedTuple):
    """Draws (n, *shape) in no order, and their record."""

    x: np.ndarray
    record: dict[str, Any]


def make(target: tj.Target, recipe: Recipe, key: Key, draws: int | None = None, space: Space | None = None) -> Reference:
    """Chains from over-dispersed starts, thinned, projected, scrambled; with r-hat, bulk ESS and the energy's moments.

    In float64, whatever the session's precision. Raises RuntimeError where a chain is not finite.
    """
    space = space or space_of(target)
    each = -(-(draws or recipe.draws) // recipe.num_chains)
    began = time.perf_counter()
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        key_start, key_run, key_scramble = jax.random.split(key, 3)
        start = recipe.scale * jax.random.normal(key_start, (recipe.num_chains, *target.shape), jnp.float64)
        chains = recipe.run(_confined(target.log_density, space), start, key_run, each)
        x = jax.vmap(jax.vmap(space.project))(chains.x)
        if not bool(jnp.all(jnp.isfinite(x))):
            raise RuntimeError(
                "a chain of the reference is not finite: start closer (Recipe.scale) or relax longer (Ladder.relax)"
            )
        flat = x.reshape(-1, *target.shape)
        energy = energies(target, flat)
        record = {**statistics(x, energy, space), **_rates(chains), "seconds": round(time.perf_counter() - began, 1)}
        key_map, key_order = jax.random.split(key_scramble)
        flat = jax.vmap(space.scramble)(jax.random.split(key_map, len(flat)), flat)
        out = np.asarray(jax.random.permutation(key_order, flat))
    return Reference(out, {"draws": len(out), "chains": recipe.num_chains, **record})


def _confined(log_density: LogDensity, space: Space) -> LogDensity:
    return lambda x: log_density(x) + space.confine(x)


def statistics(x: Array, energy: np.ndarray, space: Space) -> dict[str, float]:
    """Of x (chains, draws, *shape). r-hat (rank-normalised, split) and bulk ESS, the worst of energy and what is watched.

    rhat_coordinates is of the coordinates themselves: for particles, whether labels and orientations mix without scrambling.
    Source: Vehtari et al. 2021, arXiv 1903.08008.
    """
    from blackjax.diagnostics import ess_bulk, rhat

    num, each = x.shape[:2]
    watched = space.watch(x.reshape(num * each, *x.shape[2:])).reshape(num, each, -1)
    values = jnp.asarray(np.concatenate([energy.reshape(num, each, 1), watched], -1))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        r, n = np.atleast_1d(jax.jit(rhat)(values)), np.atleast_1d(jax.jit(ess_bulk)(values))
        raw = np.atleast_1d(jax.jit(rhat)(x.reshape(num, each, -1)))
    return {
        "rhat": float(r.max()),
        "rhat_energy": float(r[0]),
        "rhat_coordinates": float(raw.max()),
        "ess_bulk": float(n.min()),
        "ess_bulk_energy": float(n[0]),
        "energy_mean": float(energy.mean()),
        "energy_stderr": float(energy.std() / np.sqrt(max(1.0, float(n[0])))),
        "energy_sd": float(energy.std()),
        "energy_min": float(energy.min()),
    }


def _rates(chains: Chains) -> dict[str, Any]:
    fields = ("acceptance", "step_size", "swaps")
    return {name: [round(float(v), 4) for v in np.ravel(getattr(chains, name))] for name in fields}


# ---------------------------------------------------------------------------------------------------- files


def write(directory: Path, case: str, reference: Reference, centred: bool) -> None:
    """CASE.npz, CASE.json, and their line in SHA256SUMS. int16 by coordinate; of centred particles all but the last."""
    directory.mkdir(parents=True, exist_ok=True)
    x = reference.x
    stored = (x[:, :-1] if centred else x).reshape(len(x), -1)
    unit = np.maximum(np.abs(stored).max(0), np.finfo(np.float64).tiny) / 32767
    arrays = {"x": np.rint(stored / unit).astype(np.int16), "unit": unit, "shape": np.asarray(x.shape[1:]), "centred": centred}
    np.savez_compressed(directory / f"{case}.npz", allow_pickle=False, **arrays)
    (directory / f"{case}.json").write_text(json.dumps(reference.record, indent=1) + "\n")
    sums = checksums(directory) | {name: digest(directory / name) for name in (f"{case}.npz", f"{case}.json")}
    (directory / CHECKSUMS).write_text("".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def read(directory: Path, case: str) -> Reference:
    with np.load(directory / f"{case}.npz") as file:
        shape, centred = tuple(int(n) for n in file["shape"]), bool(file["centred"])
        x = file["x"] * file["unit"]
    x = x.reshape(len(x), -1, *shape[1:]) if centred else x.reshape(len(x), *shape)
    x = np.concatenate([x, -x.sum(1, keepdims=True)], 1) if centred else x
    return Reference(x, json.loads((directory / f"{case}.json").read_text()))


def checksums(directory: Path) -> dict[str, str]:
    """{file: sha256} as SHA256SUMS has it."""
    file = directory / CHECKSUMS
    lines = file.read_text().splitlines() if file.is_file() else []
    return {name: value for value, name in (line.split("  ") for line in lines)}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def reference(case: str, made: Path = MADE) -> Reference:
    """The draws that the command made, else those that are kept. Raises FileNotFoundError where there are none."""
    for directory in (made, KEPT):
        if (directory / f"{case}.npz").is_file():
            return read(directory, case)
    raise FileNotFoundError(f"there are no reference draws of {case}: make them with `python -m benchmarks reference {case}`")


@dataclass(frozen=True)
class Kept:
    """A `Target.sample` of kept draws: n of them without repetition while there are as many.

    Beyond that all of them once more, and so on: standard errors are then too small (`at_most`).
    """

    x: np.ndarray

    def __call__(self, key: Key, n: int) -> Array:
        rounds = jax.random.split(key, -(-n // len(self.x)))
        index = jnp.concatenate([jax.random.permutation(one, len(self.x)) for one in rounds])[:n]
        return jnp.asarray(self.x, jnp.result_type(float))[index]


def at_most(target: tj.Target, n: int) -> int:
    """n, or as many different reference draws as there are."""
    return min(n, len(target.sample.x)) if isinstance(target.sample, Kept) else n


def equip(case: str, target: tj.Target, made: Path = MADE) -> tj.Target:
    """The target with reference draws as its `sample`, where it has none of its own and there are any."""
    if target.sample is not None:
        return target
    try:
        return target._replace(sample=Kept(reference(case, made).x))
    except FileNotFoundError:
        return target


def command(case: str, target: tj.Target, seed: int, draws: int | None, out: Path, console: Console) -> Reference:
    """Makes and writes one reference, and prints its record."""
    from benchmarks.runner import provenance

    with console.status(f"{case}: chains"):
        x, record = make(target, RECIPES.get(case, DEFAULT), jax.random.key(seed), draws)
    made = Reference(x, {"case": case, "seed": seed, **record, **provenance()})
    write(out, case, made, target.centred)
    console.print_json(json.dumps(made.record))
    if record["rhat"] > 1.01:
        console.print(f"[red]r-hat is {record['rhat']:.3f}, above 1.01: no reference. More draws, or a longer warm-up")
    return made
