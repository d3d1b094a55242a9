"""`python -m benchmarks families`: one sampler for many problems, beside fits of single ones and long runs of NUTS.

Densities (`tempered`, `lattice`): at each of five contexts, the ESS and log Z of the sampler of the family; of a fit to that
context alone, with as many updates and a pilot of its own; of the family with a network that does not see the context.
Posteriors (`schools`, `logistic`): for new data sets from the prior predictive, means and standard deviations beside NUTS, log
evidence, and what one data set costs by the family, by NUTS, and by a fit of its own.
A JSON line a context goes to OUT/families.jsonl, with a seed in each; the tables are medians.
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

import tiltjax as tj
from benchmarks.posteriors import MODELS, Reference, by_nuts
from benchmarks.runner import provenance
from tiltjax.types import Family, Key

LINES = "families.jsonl"
DATA_SETS, MOST = 20, 16


class Densities(NamedTuple):
    """A family, five of its contexts, the target of each alone; truth(context) -> (log Z, its standard error)."""

    family: Callable[[], Family]
    contexts: Sequence[float]
    target: Callable[[Any], tj.Target]
    truth: Callable[[float], tuple[float, float]]


# ------------------------------------------------------------------------------------------------- densities

MODES, DIM, VARIANCE = 5, 8, 0.3
HOPPINGS = (0.22, 0.30)


def _centres() -> Array:
    return 6.0 * jax.random.normal(jax.random.key(11), (MODES, DIM)) / jnp.sqrt(DIM)


@jax.jit
def _mixture(b: Array, x: Array) -> Array:
    return b * jax.nn.logsumexp(-0.5 * jnp.sum(jnp.square(x[None] - _centres()), axis=1) / VARIANCE)


def tempered() -> Family:
    """A mixture of five Gaussians in eight dimensions with all its energies times b, b in [0.3, 1].

    Coordinates are those that the pilot finds at the least b, where the density is widest. Curvatures grow as b, so the
    smallest variance is 0.3 of what it is there.
    """
    _, found = tj.preparing.piloted(jax.random.key(0), _tempered_target(0.3))
    process = tj.processes.gaussian(tj.paths.linear(), (DIM,), tj.preparing.BASE_SCALE)

    def at(given: Any, b: Array) -> tj.Problem:
        target = tj.Target(functools.partial(_mixture, b), (DIM,))
        return tj.problems.make_sampling(target, process, 0.3 * found.resolution, found.coordinates)

    return tj.problems.family(at, lambda key: jax.random.uniform(key, (), minval=0.3, maxval=1.0))


def _tempered_target(b: float) -> tj.Target:
    return tj.Target(functools.partial(_mixture, jnp.asarray(b)), (DIM,))


def _tempered_log_z(b: float) -> tuple[float, float]:
    """By 2 10^6 draws of the mixture of the same modes as wide as tempered ones: the ratio is nearly constant."""
    variance = VARIANCE / b
    key_mode, key_noise = jax.random.split(jax.random.key(5))
    n, centres = 2_000_000, _centres()
    x = centres[jax.random.randint(key_mode, (n,), 0, MODES)]
    x = x + jnp.sqrt(variance) * jax.random.normal(key_noise, (n, DIM))

    @jax.jit
    @jax.vmap
    def log_weight(x: Array) -> Array:
        energies = -0.5 * jnp.sum(jnp.square(x[None] - centres), axis=1) / variance
        return _mixture(jnp.asarray(b), x) - jax.nn.logsumexp(energies)

    estimate = tj.diagnostics.log_z(log_weight(x))
    constant = np.log(MODES) + 0.5 * DIM * np.log(2 * np.pi * variance)
    return float(estimate.value) + float(constant), float(estimate.stderr)


@jax.jit
def _field(hopping: Array, phi: Array) -> Array:
    square, neighbours = phi**2, jnp.roll(phi, -1, 0) + jnp.roll(phi, -1, 1)
    return jnp.sum(2 * hopping * phi * neighbours - (1 - 2 * 0.022) * square - 0.022 * square**2)


def lattice() -> Family:
    """phi^4 on 8 x 8 sites at couplings around its transition, in the pilot's coordinates at the largest."""
    widest = tj.targets.phi4(hopping=HOPPINGS[1])
    _, found = tj.preparing.piloted(jax.random.key(0), widest)
    process = tj.processes.gaussian(tj.paths.linear(), (8, 8), tj.preparing.BASE_SCALE)

    def at(given: Any, hopping: Array) -> tj.Problem:
        target = tj.Target(functools.partial(_field, hopping), (8, 8))
        return tj.problems.make_sampling(target, process, found.resolution, found.coordinates)

    return tj.problems.family(at, lambda key: jax.random.uniform(key, (), minval=HOPPINGS[0], maxval=HOPPINGS[1]))


def _lattice_log_z(hopping: float) -> tuple[float, float]:
    """By eight runs of tempered SMC, 2,000 walkers and 200 temperatures each."""
    problem = tj.prepare(jax.random.key(1), tj.targets.phi4(hopping=hopping), path=tj.paths.trigonometric())
    annealed, times = tj.problems.annealed(problem, noise=0.02), tj.paths.uniform(200)

    @jax.jit
    def run(key: Key) -> Array:
        return tj.smc.run(annealed, lambda t, x: jnp.zeros_like(x), times, key, 2000, moves=tj.smc.Moves(2, 5)).log_z

    log_z = np.asarray([float(run(key)) for key in jax.random.split(jax.random.key(2), 8)])
    return float(log_z.mean()), float(log_z.std(ddof=1) / np.sqrt(len(log_z)))


DENSITIES = {
    "tempered": Densities(
        tempered,
        (0.3, 0.475, 0.65, 0.825, 1.0),
        _tempered_target,
        _tempered_log_z,
    ),
    "lattice": Densities(lattice, (0.22, 0.24, 0.26, 0.28, 0.30), lambda k: tj.targets.phi4(hopping=k), _lattice_log_z),
}


def blind(family: Family) -> Family:
    """The same problems for a network that sees the same of every context."""
    assert family.many is not None
    return family._replace(many=family.many._replace(features=lambda context: jnp.zeros(1)))


def of_densities(name: str, seed: int, updates: int, draws: int, console: Console) -> list[dict[str, Any]]:
    """A line a context."""
    study, key = DENSITIES[name], jax.random.key(seed)
    made, fit = study.family(), functools.partial(tj.fit, num_updates=updates, progress=not console.quiet)
    contexts = jnp.asarray(study.contexts)
    everywhere, unseeing = fit(key, made), fit(key, blind(made))
    rows = []
    of_all, of_blind = (sampler.sample(jax.random.key(1), draws, context=contexts) for sampler in (everywhere, unseeing))
    for i, context in enumerate(study.contexts):
        alone = fit(key, study.target(context)).sample(jax.random.key(1), draws)
        truth, truth_stderr = study.truth(context)
        row = {"context": context, "log_z_truth": truth, "log_z_truth_stderr": truth_stderr}
        weights = {"family": of_all.log_weight[i], "alone": alone.log_weight, "blind": of_blind.log_weight[i]}
        for which, log_weight in weights.items():
            log_z = tj.diagnostics.log_z(log_weight)
            row |= {f"{which}_ess": float(tj.diagnostics.ess(log_weight)), f"{which}_log_z": float(log_z.value)}
            row[f"{which}_log_z_stderr"] = float(log_z.stderr)
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------- posteriors


def of_posteriors(name: str, seed: int, updates: int, draws: int, console: Console) -> list[dict[str, Any]]:
    """A line a data set."""
    model, arguments = MODELS[name]
    key_fit, key_data, key_draw = jax.random.split(jax.random.key(seed), 3)
    family = tj.integrations.from_numpyro(model, *arguments, observed="y")
    began = time.perf_counter()
    sampler = tj.fit(key_fit, family, num_updates=updates, progress=not console.quiet)
    fitting = time.perf_counter() - began
    assert family.many is not None
    data = jax.vmap(family.many.draw)(jax.random.split(key_data, DATA_SETS))
    jax.block_until_ready(sampler.sample(key_draw, draws, context=data[0]))  # compiles
    rows = []
    for y in data:
        began = time.perf_counter()
        drawn = jax.block_until_ready(_until_enough(sampler, key_draw, y, draws))
        seconds, log_z = time.perf_counter() - began, tj.diagnostics.log_z(drawn.log_weight)
        reference = by_nuts(model, arguments, y)
        rows.append(
            {
                "y": np.asarray(y).tolist(),
                "ess": float(tj.diagnostics.ess(drawn.log_weight)),
                "log_z": float(log_z.value),
                "log_z_stderr": float(log_z.stderr),
                "num_draws": drawn.log_weight.size,
                **differences(drawn, reference),
                "seconds": seconds,
                "nuts_seconds": reference.seconds,
                "nuts_r_hat": reference.r_hat,
                "nuts_ess": reference.ess,
                "fit_seconds": fitting,
            }
        )
    began = time.perf_counter()
    tj.fit(key_fit, family.at(family.given, data[0]), num_updates=updates, progress=not console.quiet)
    return [{**row, "alone_seconds": time.perf_counter() - began} for row in rows]


def _until_enough(sampler: tj.Sampler, key: Key, y: Array, draws: int) -> tj.Samples:
    """`draws` draws; where less than a quarter of them are effective as many more as make up for it, up to MOST times."""
    drawn = sampler.sample(key, draws, context=y)
    times = int(np.clip(np.ceil(0.25 / float(tj.diagnostics.ess(drawn.log_weight))), 1, MOST))
    return drawn if times == 1 else sampler.sample(jax.random.fold_in(key, 1), times * draws, context=y)


def differences(drawn: tj.Samples, reference: Reference) -> dict[str, float]:
    """The largest difference of a posterior mean from NUTS, and of a standard deviation, in its standard deviations."""
    weights = jnp.exp(drawn.log_weight - jax.nn.logsumexp(drawn.log_weight))[:, None]
    mean = jnp.sum(weights * drawn.x, axis=0)
    sd = jnp.sqrt(jnp.sum(weights * jnp.square(drawn.x - mean[None]), axis=0))
    off_mean, off_sd = (np.abs(a - b) / reference.sd for a, b in ((mean, reference.mean), (sd, reference.sd)))
    return {"mean_off": float(off_mean.max()), "sd_off": float(off_sd.max())}


# ------------------------------------------------------------------------------------------------- the command

STUDIES = (*DENSITIES, *MODELS)


def families(studies: Sequence[str], seeds: Sequence[int], updates: int, draws: int, out: Path, console: Console) -> None:
    """Runs what `out` lacks, a JSON line a context, and prints a table a study."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / LINES
    lines = [json.loads(text) for text in file.read_text().splitlines()] if file.exists() else []
    for study in studies:
        for seed in seeds:
            named = {"study": study, "seed": seed, "updates": updates, "draws": draws}
            if any(named.items() <= line.items() for line in lines):
                continue
            run = of_densities if study in DENSITIES else of_posteriors
            new = [{**named, **row, **provenance()} for row in run(study, seed, updates, draws, console)]
            lines += new
            with file.open("a") as opened:
                opened.writelines(json.dumps(line) + "\n" for line in new)
        console.print(
            table(study, [line for line in lines if (line["study"], line["updates"], line["draws"]) == (study, updates, draws)])
        )


def table(study: str, lines: Sequence[dict[str, Any]]) -> Table:
    """A row a line, and of posteriors the median and the worst."""
    if study in DENSITIES:
        shown = Table("context", "seed", "ESS", "alone", "blind", "log Z", "truth", "off, in stderr", title=study)
        for line in lines:
            ess = [f"{line[f'{which}_ess']:.3f}" for which in ("family", "alone", "blind")]
            both = np.hypot(line["family_log_z_stderr"], line["log_z_truth_stderr"])
            off = (line["family_log_z"] - line["log_z_truth"]) / both
            log_z = f"{line['family_log_z']:.4f} +- {line['family_log_z_stderr']:.4f}"
            truth = f"{line['log_z_truth']:.4f} +- {line['log_z_truth_stderr']:.4f}"
            shown.add_row(f"{line['context']:.3f}", str(line["seed"]), *ess, log_z, truth, f"{off:+.1f}")
        return shown
    names = (
        "ess",
        "mean_off",
        "sd_off",
        "log_z_stderr",
        "seconds",
        "nuts_seconds",
        "fit_seconds",
        "alone_seconds",
        "nuts_r_hat",
    )
    shown = Table("of data sets", *names, title=f"{study}: {len(lines)} data sets")
    values = {name: np.asarray([line[name] for line in lines]) for name in names}
    worst = {name: value.min() if name == "ess" else value.max() for name, value in values.items()}
    for label, row in (("median", {name: np.median(value) for name, value in values.items()}), ("worst", worst)):
        shown.add_row(label, *(f"{row[name]:.3g}" for name in names))
    return shown
