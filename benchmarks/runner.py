"""One case, one method, one seed -> one line of results with all that is needed to run it again."""

import inspect
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import tiltjax as tj
from benchmarks import metrics
from benchmarks.cases import BUDGETS, CASES, METHODS, Case, Components, fit_arguments
from tiltjax.types import Key

RESULTS = "results.jsonl"
NAMES = """
    case method seed budget num_draws num_steps
    ess ess_ceiling log_z log_z_stderr log_z_error elbo elbo_stderr eubo eubo_stderr forward_ess
    mode_entropy mode_total_variation mode_total_variation_resampled mode_total_variation_floor
    energy_w2 energy_w2_resampled energy_w2_floor
    pair_distance_w2 pair_distance_w2_resampled pair_distance_w2_floor
    geometric_w2 geometric_w2_resampled geometric_w2_floor
    sinkhorn sinkhorn_resampled sinkhorn_floor w2 w2_resampled w2_floor mmd mmd_resampled mmd_floor
    pilot_seconds compile_seconds train_seconds sample_seconds energy_evaluations gradient_evaluations
    nonfinite_updates peak_memory_mb device revision versions arguments
"""
KEYS = tuple(NAMES.split())


class Trial(NamedTuple):
    """A fitted sampler, its draws, the draws resampled, and the result line."""

    sampler: tj.Sampler
    draws: tj.Samples
    resampled: jax.Array
    line: dict[str, Any]


def trial(case: str, method: str, seed: int, budget: str, *, console: Console | None = None, **extra: Any) -> Trial:
    """Fits and judges one sampler. `extra` overrides arguments of `fit`; the seed decides everything random."""
    console = console or Console(quiet=True)
    entry, size = CASES[case], BUDGETS[budget]
    key_fit, key_judge = jax.random.split(jax.random.key(seed))
    target = entry.target()
    arguments = {**fit_arguments(case, method, budget), **extra}
    sampler = tj.fit(key_fit, target, progress=not console.quiet, **arguments)
    with console.status("drawing, and comparing with exact draws"):
        draws, resampled, figures = judge(sampler, entry, key_judge, size.num_draws, size.floor_pairs)
    line = {
        **dict.fromkeys(KEYS),
        "case": case,
        "method": method,
        "seed": seed,
        "budget": budget,
        **figures,
        **costs(sampler),
        **provenance(),
        "arguments": _plain({**_defaults(tj.fit), **arguments}),
    }
    return Trial(sampler, draws, resampled, line)


def judge(
    sampler: tj.Sampler, case: Case, key: Key, n: int, floor_pairs: int
) -> tuple[tj.Samples, jax.Array, dict[str, float | None]]:
    """Draws, resampled draws, and the figures of both."""
    key_draw, key_resample, key_reference, key_back, key_exact, key_metrics = jax.random.split(key, 6)
    target = case.target()
    began = time.perf_counter()
    draws = jax.block_until_ready(sampler.sample(key_draw, n))
    seconds = time.perf_counter() - began
    resampled = sampler.resample(key_resample, draws)
    log_z, elbo = tj.diagnostics.log_z(draws.log_weight), tj.diagnostics.elbo(draws.log_weight)
    figures: dict[str, float | None] = {
        "num_draws": n,
        "num_steps": sampler.num_steps,
        "ess": float(tj.diagnostics.ess(draws.log_weight)),
        "log_z": float(log_z.value),
        "log_z_stderr": float(log_z.stderr),
        "log_z_error": None if target.log_z is None else float(log_z.value) - target.log_z,
        "elbo": float(elbo.value),
        "elbo_stderr": float(elbo.stderr),
        "sample_seconds": seconds,
        **metrics.distances(target, draws, resampled, key_metrics, floor_pairs),
    }
    if target.sample is not None:
        back = sampler.backward(key_back, target.sample(key_reference, n)).log_weight
        eubo = tj.diagnostics.eubo(back)
        figures |= {"eubo": float(eubo.value), "eubo_stderr": float(eubo.stderr)}
        figures["forward_ess"] = float(tj.diagnostics.forward_ess(back))
    if case.components is not None:
        perfect = exact_sampler(sampler, case.components())
        figures["ess_ceiling"] = float(tj.diagnostics.ess(perfect.sample(key_exact, n).log_weight))
    return draws, resampled, figures


def exact_sampler(sampler: tj.Sampler, components: Components) -> tj.Sampler:
    """The exact control of a Gaussian mixture on the same process and grid: its ESS is the ceiling that the grid sets.

    `fit` samples x with x_user = location + L x, where the mixture has means L^-1 (m - location) and covariance v L^-1 L^-T.
    """
    problem, means = sampler.problem, components.means
    inverse = jax.jacobian(problem.encode)(means[0])
    weights = jnp.full(len(means), 1.0 / len(means), means.dtype)
    covariance = components.variance * jnp.matmul(inverse, inverse.T, precision="highest")
    exact = tj.exact.mixture_target(problem.process, jax.vmap(problem.encode)(means), covariance, weights)
    network = tj.Network(lambda key: (), lambda params, t, x: exact.control(t, x))
    return tj.sampling.sampler(problem, network, (), sampler.grid, num_steps=sampler.num_steps)


def costs(sampler: tj.Sampler) -> dict[str, float | int | None]:
    """Seconds, evaluations and the process's peak memory so far."""
    report = sampler.report
    return {
        "pilot_seconds": report.pilot_seconds,
        "compile_seconds": report.compile_seconds,
        "train_seconds": report.train_seconds,
        "energy_evaluations": report.energy_evaluations,
        "gradient_evaluations": report.gradient_evaluations,
        "nonfinite_updates": report.nonfinite_updates,
        "peak_memory_mb": peak_memory_mb(),
    }


def peak_memory_mb() -> float:
    """Of this process, on the host, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def provenance() -> dict[str, Any]:
    """Device, revision of the code, versions."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy")}
    return {
        "device": f"{jax.devices()[0].device_kind} ({platform.machine()})",
        "revision": revision(),
        "versions": {"python": platform.python_version(), "tiltjax": tj.__version__, **versions},
    }


def revision() -> str | None:
    """The commit, with a + when tracked files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def run(case: str, method: str, budget: str, seeds: list[int], out: Path, console: Console) -> None:
    """Appends one JSON line a seed to out/results.jsonl, and leaves out the seeds that it has a line for."""
    _known(case, CASES, "case")
    _known(method, METHODS, "method")
    out.mkdir(parents=True, exist_ok=True)
    done = {identity(line) for line in read(out)}
    for seed in seeds:
        name = f"{case}  {method}  seed {seed}  ({budget})"
        if (case, method, seed, budget) in done:
            console.print(f"{name}: there already")
            continue
        console.print(name)
        line = trial(case, method, seed, budget, console=console).line
        with (out / RESULTS).open("a") as file:
            file.write(json.dumps(finite(line)) + "\n")
        console.print(f"  ESS {line['ess']:.3f}   log Z {line['log_z']:.4f} ± {line['log_z_stderr']:.4f}")


def read(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of out/results.jsonl, none if there is no such file."""
    path = out / RESULTS
    if path.is_file():
        yield from (json.loads(text) for text in path.read_text().splitlines() if text.strip())


def identity(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["case"], line["method"], line["seed"], line["budget"]


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _known(name: str, table: Any, what: str) -> None:
    if name not in table:
        raise SystemExit(f"there is no {what} {name!r}; there are: {', '.join(table)}")


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    left_out = ("progress", "checkpoint", "checkpoint_seconds")  # no part of the result
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in left_out}


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Functions by their names, the rest as JSON has it."""

    def plain(value: Any) -> Any:
        if callable(value) and not isinstance(value, tuple):
            return getattr(value, "__name__", repr(value))
        return value if isinstance(value, str | int | float | bool | None) else repr(value)

    return {name: plain(value) for name, value in arguments.items()}
