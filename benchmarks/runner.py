"""One case, one method, one seed -> one line of results with all that is needed to run it again."""

import contextlib
import functools
import json
import platform
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

import tiltjax as tj
from benchmarks import metrics
from benchmarks.cases import BUDGETS, CASES, Case, Components, overrides
from benchmarks.methods import CHIP, METHODS
from benchmarks.outcome import Outcome
from benchmarks.reference import at_most, equip
from tiltjax.types import Key

RESULTS = "results.jsonl"
CACHE = "cache"
NAMES = """
    case method seed seeds_together budget tuned matched error num_draws num_steps
    ess ess_ceiling log_z log_z_stderr log_z_error elbo elbo_stderr eubo eubo_stderr forward_ess
    mode_entropy mode_total_variation mode_total_variation_resampled mode_total_variation_floor
    energy_w2 energy_w2_resampled energy_w2_floor
    pair_distance_w2 pair_distance_w2_resampled pair_distance_w2_floor
    geometric_w2 geometric_w2_resampled geometric_w2_floor
    sinkhorn sinkhorn_resampled sinkhorn_floor w2 w2_resampled w2_floor mmd mmd_resampled mmd_floor
    pilot_seconds compile_seconds train_seconds sample_seconds energy_evaluations gradient_evaluations network_evaluations
    flops_of_a_draw
    nonfinite_updates peak_memory_mb diagnostics device revision versions arguments
"""
KEYS = tuple(NAMES.split())
A_BATCH = 2048  # of draws, to compile the program of all


class Job(NamedTuple):
    """What one line is of. `tuned`: with the case's overrides; extra: arguments that win over all others."""

    case: str
    method: str
    seed: int
    budget: str
    tuned: bool = False
    extra: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        words = [self.case, self.method, *(["tuned"] if self.tuned else []), f"seed {self.seed}", f"({self.budget})"]
        chip = [f"{name} {self.extra[name]}" for name in CHIP if name in self.extra]
        return "  ".join([*words, *chip, *(["at equal seconds"] if "seconds" in self.extra else [])])


class Trial(NamedTuple):
    """What a method gave, its draws, the draws resampled, and the result line. sampler: of a learned method."""

    sampler: tj.Sampler | None
    draws: tj.Samples
    resampled: jax.Array
    line: dict[str, Any]


def trial(job: Job, *, console: Console | None = None) -> Trial:
    """Runs and judges one method; the seed decides everything random."""
    return trials([job], console=console)[0]


def trials(jobs: Sequence[Job], *, console: Console | None = None, out: Path | None = None) -> list[Trial]:
    """Of jobs that differ in the seed alone: several are run as one program, which shares the pilot of the first.

    With `out`, training that was killed goes on from its checkpoint in `cache_of(out)`, and floors are computed once.
    """
    console, job = console or Console(quiet=True), jobs[0]
    size, target = BUDGETS[job.budget], equip(job.case, CASES[job.case].target())
    entry = CASES[job.case]._replace(target=lambda: target)
    keys = [jax.random.split(jax.random.key(job.seed)) for job in jobs]
    cache = None if out is None else cache_of(out)
    checkpoint = None if cache is None else checkpoint_of(jobs, cache)
    given = {"num_draws": size.num_draws, "progress": not console.quiet, "checkpoint": checkpoint, **arguments_of(job)}
    method, keys_fit = METHODS[job.method], [key_fit for key_fit, _ in keys]
    if len(jobs) > 1 and method.together is not None:
        outcomes = method.together(jnp.stack(keys_fit), target, **given)
    else:
        outcomes = [method.run(key, target, **given) for key in keys_fit]
    judged = []
    for job, outcome, (_, key_judge) in zip(jobs, outcomes, keys, strict=True):
        with console.status("drawing, and comparing with exact draws"):
            draws, resampled, figures = judge(outcome, entry, key_judge, size.num_draws, size.floor_pairs, cache)
        line = {**begun(job), **figures, **outcome.costs, "diagnostics": outcome.diagnostics}
        line["compile_seconds"] = (figures["compile_seconds"] or 0.0) + outcome.costs.get("compile_seconds", 0.0)
        line |= {"seeds_together": len(jobs), "peak_memory_mb": peak_memory_mb()}
        judged.append(Trial(outcome.sampler, draws, resampled, line))
    return judged


def attempt(job: Job, out: Path | None = None) -> dict[str, Any]:
    """The line of a job; when it fails, one with the error in it and no figures."""
    try:
        return trials([job], out=out)[0].line
    except Exception as error:
        return failure(job, f"{type(error).__name__}: {error}")


def failure(job: Job, error: str) -> dict[str, Any]:
    """A line without figures."""
    return {**begun(job), "error": error, "peak_memory_mb": peak_memory_mb()}


def begun(job: Job) -> dict[str, Any]:
    """What a line has before anything is run."""
    arguments = {**METHODS[job.method].defaults, **arguments_of(job)}
    named = {name: getattr(job, name) for name in ("case", "method", "seed", "budget", "tuned")}
    return {
        **dict.fromkeys(KEYS),
        **named,
        "matched": next((name for name in ("seconds", "evaluations") if name in arguments), None),
        **provenance(),
        "arguments": _plain(arguments),
    }


def arguments_of(job: Job) -> dict[str, Any]:
    """What the method is called with: the budget's, the case's overrides if tuned, the job's own; a later one wins."""
    changed = overrides(job.case, job.method) if job.tuned else {}
    return {**METHODS[job.method].arguments(BUDGETS[job.budget]), **changed, **job.extra}


def judge(
    outcome: Outcome, case: Case, key: Key, n: int, floor_pairs: int, cache: Path | None = None
) -> tuple[tj.Samples, jax.Array, dict[str, float | None]]:
    """Draws, resampled draws, and the figures of both. The draws are timed; for the rest, `cache` has what trials share."""
    key_draw, *keys = jax.random.split(key, 6)
    began = time.perf_counter()
    jax.block_until_ready(outcome.draw(key_draw, min(n, A_BATCH)))
    compiled = time.perf_counter()
    draws = jax.block_until_ready(outcome.draw(key_draw, n))
    costs = {"compile_seconds": compiled - began, "sample_seconds": time.perf_counter() - compiled}
    with programs_kept(cache):
        resampled, figures = _compared(outcome, case, draws, keys, floor_pairs, cache)
    return draws, resampled, {**figures, **costs}


@contextlib.contextmanager
def programs_kept(cache: Path | None) -> Iterator[None]:
    """In here compiled programs are read from the folder `cache`, and left there: judging is much the same for every trial."""
    if cache is None:
        yield
        return
    given = {"jax_compilation_cache_dir": str(cache / "programs"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in given}
    _configure(given)
    try:
        yield
    finally:
        _configure(before)


def _configure(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else JAX goes on with the folder that it has opened


def _compared(
    outcome: Outcome, case: Case, draws: tj.Samples, keys: Sequence[Key], floor_pairs: int, cache: Path | None
) -> tuple[jax.Array, dict[str, float | None]]:
    key_resample, key_reference, key_back, key_exact, key_metrics = keys
    target, sampler, n = case.target(), outcome.sampler, draws.log_weight.size
    resampled = draws.x[tj.weights.resample(key_resample, draws.log_weight, n)]
    log_z = outcome.log_z if sampler is None else tj.diagnostics.log_z(draws.log_weight)
    figures: dict[str, float | None] = {
        "num_draws": n,
        **metrics.distances(target, draws, resampled, key_metrics, floor_pairs, None if cache is None else cache / "floors"),
    }
    if log_z is not None:
        figures |= {"log_z": float(log_z.value), "log_z_stderr": float(log_z.stderr)}
        figures["log_z_error"] = None if target.log_z is None else float(log_z.value) - target.log_z
    if sampler is None:
        return resampled, figures
    elbo = tj.diagnostics.elbo(draws.log_weight)
    figures |= {
        "num_steps": sampler.num_steps,
        "ess": float(tj.diagnostics.ess(draws.log_weight)),
        "elbo": float(elbo.value),
        "elbo_stderr": float(elbo.stderr),
    }
    if target.sample is not None:
        back = sampler.backward(key_back, target.sample(key_reference, at_most(target, n))).log_weight
        eubo = tj.diagnostics.eubo(back)
        figures |= {"eubo": float(eubo.value), "eubo_stderr": float(eubo.stderr)}
        figures["forward_ess"] = float(tj.diagnostics.forward_ess(back))
    if case.components is not None and (perfect := exact_sampler(sampler, case.components())) is not None:
        figures["ess_ceiling"] = float(tj.diagnostics.ess(perfect.sample(key_exact, n).log_weight))
    return resampled, figures


def exact_sampler(sampler: tj.Sampler, components: Components) -> tj.Sampler | None:
    """The exact control of a Gaussian mixture on the same process and grid: its ESS is the ceiling that the grid sets.

    None where a component is wider than the base in some direction: its control is not known in closed form.

    `fit` samples x with x_user = location + L x, where the mixture has means L^-1 (m - location) and covariance v L^-1 L^-T.
    """
    problem, means = tj.families.example(sampler.problem), components.means
    inverse = jax.jacobian(problem.encode)(means[0])
    weights = jnp.full(len(means), 1.0 / len(means), means.dtype)
    covariance = components.variance * jnp.matmul(inverse, inverse.T, precision="highest")
    if float(jnp.linalg.eigvalsh(covariance)[-1]) >= problem.frame.scale**2:
        return None
    exact = tj.exact.mixture_target(problem.process, jax.vmap(problem.encode)(means), covariance, weights)
    network = tj.Network(lambda key: (), lambda params, t, x: exact.control(t, x))
    return tj.sampling.sampler(problem, network, (), sampler.grid, num_steps=sampler.num_steps)


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


def read(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of out/results.jsonl, none if there is no such file."""
    path = out / RESULTS
    if path.is_file():
        yield from (json.loads(text) for text in path.read_text().splitlines() if text.strip())


def identity(line: dict[str, Any]) -> str:
    """What tells a line from others, whatever the revision. Equal seconds are measured: that they were asked for counts."""
    arguments = {name: value for name, value in line["arguments"].items() if name != "seconds"}
    names = ("case", "method", "seed", "budget", "tuned", "matched")
    return json.dumps([*(line.get(name) for name in names), arguments], sort_keys=True)


def cache_of(out: Path) -> Path | None:
    """What trials of this revision leave for each other; None where files differ from it: it would mix two codes."""
    here = revision()
    return None if here is None or here.endswith("+") else out / CACHE / here


def checkpoint_of(jobs: Sequence[Job], cache: Path) -> Path:
    """A directory for the training of these jobs."""
    text = json.dumps([identity(finite(begun(job))) for job in jobs])
    return cache / "checkpoints" / f"{jobs[0].case}-{jobs[0].method}-{zlib.crc32(text.encode()):08x}"


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Functions by their names (with the arguments that they were given), recipes by their fields, the rest as JSON has it."""

    def plain(value: Any) -> Any:
        if isinstance(value, functools.partial):
            return {"function": plain(value.func), **_plain(value.keywords)}
        if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        if callable(value) and not isinstance(value, tuple):
            return getattr(value, "__name__", repr(value))
        return value if isinstance(value, str | int | float | bool | None) else repr(value)

    return {name: plain(value) for name, value in arguments.items()}
