"""Timings of the core as ratios to a bare `lax.scan` of the same arithmetic, taken in turn in one process; compiling apart.

A figure is the least of its repetitions, which other work on the machine disturbs least, and a ratio that of two such, taken
in turn; the medians stand beside them. Two compilations of the same arithmetic differ by a few hundredths by chance.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from rich.console import Console
from rich.table import Table

import tiltjax as tj
from benchmarks import runner
from tiltjax.types import Key, Network, Params, Problem

STEPS = 100
SIMULATE_BATCH = 2048
GRADIENT_BATCH = 256
SECONDS = 12.0  # for the repetitions of one comparison
LIMITS = {
    "simulate_ratio": 1.1,
    "gradient_ratio": 1.0,
    "gradient_memory_ratio": 1.5,
    "update_cpu_seconds": 0.075,
    "import_seconds": 3.0,
}


class Size(NamedTuple):
    """Dimension of a particle; depth and width of the network."""

    dim: int
    depth: int
    width: int

    def __str__(self) -> str:
        return f"d = {self.dim}, net {self.depth}x{self.width}"


SIZES = (Size(2, 2, 64), Size(32, 2, 64), Size(2, 4, 256), Size(32, 4, 256))


class Comparison(NamedTuple):
    """Seconds of two programs, compiling apart, and the bytes that they need beside arguments and results."""

    seconds: tuple[list[float], list[float]]
    compile_seconds: tuple[float, float]
    temporary_bytes: tuple[int, int]

    @property
    def ratio(self) -> float:
        ours, bare = self.seconds
        return min(ours) / min(bare)

    def record(self) -> dict[str, Any]:
        (ours, bare), (ours_bytes, bare_bytes) = self.seconds, self.temporary_bytes
        return {
            "ratio": self.ratio,
            "ratio_of_medians": statistics.median(ours) / statistics.median(bare),
            "seconds": min(ours),
            "bare_seconds": min(bare),
            "compile_seconds": self.compile_seconds[0],
            "bare_compile_seconds": self.compile_seconds[1],
            "memory_ratio": ours_bytes / max(bare_bytes, 1),
            "temporary_bytes": ours_bytes,
            "bare_temporary_bytes": bare_bytes,
        }


def compare(ours: Callable[..., Any], bare: Callable[..., Any], arguments: tuple[Any, ...], budget: float) -> Comparison:
    """Runs the two in turn for `budget` seconds (5 to 60 pairs), either first every other time, compiled and warm."""
    programs, compile_seconds = [], []
    for function in (ours, bare):
        began = time.perf_counter()
        programs.append(jax.jit(function).lower(*arguments).compile())
        compile_seconds.append(time.perf_counter() - began)
        jax.block_until_ready(programs[-1](*arguments))
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(60):
        if i >= 5 and sum(map(sum, seconds)) > budget:
            break
        for which in (i % 2, 1 - i % 2):
            began = time.perf_counter()
            jax.block_until_ready(programs[which](*arguments))
            seconds[which].append(time.perf_counter() - began)
    return Comparison(seconds, (compile_seconds[0], compile_seconds[1]), (_temporary(programs[0]), _temporary(programs[1])))


def _temporary(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


# ---------------------------------------------------------------------------------------------- the two programs


def problem_of(dim: int) -> Problem:
    """A standard normal in dim dimensions, to be reached from the linear path's base."""
    process = tj.processes.gaussian(tj.paths.linear(), (dim,))
    return tj.problems.sampling(tj.targets.gaussian([0.0] * dim, 0.5), process, resolution=1e-2)


def bare_end(problem: Problem, network: Network, times: Array, remat: bool) -> Callable[[Params, Key], tuple[Array, Array]]:
    """What `sde.simulate` computes, from the same keys, with nothing between it and `lax.scan`."""
    process = problem.process

    def end(params: Params, key: Key) -> tuple[Array, Array]:
        key_start, key_noise = jax.random.split(key)

        def step(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
            x, log_ratio = carry
            t, t1 = times[k], times[k + 1]
            xi = jax.random.normal(jax.random.fold_in(key_noise, k), process.shape)
            mean, std = process.transition(t, t1, x)
            c = jnp.sqrt(process.clock(t, t1)) * network.apply(params, t, x)
            return (mean + std * (c + xi), log_ratio - jnp.sum(c * xi) - 0.5 * jnp.sum(jnp.square(c))), None

        body = jax.checkpoint(step, prevent_cse=False) if remat else step
        start = (process.initial(key_start), jnp.zeros(()))
        return jax.lax.scan(body, start, jnp.arange(len(times) - 1))[0]

    return end


def diffrax_end(problem: Problem, network: Network, times: Array) -> Callable[[Params, Key], tuple[Array, Array]]:
    """`sde.simulate`."""

    def end(params: Params, key: Key) -> tuple[Array, Array]:
        path_end = tj.sde.simulate(problem.process, lambda t, x: network.apply(params, t, x), times, key)
        return path_end.x, path_end.log_ratio

    return end


def simulation(size: Size, batch: int, steps: int, budget: float) -> Comparison:
    """Forward simulation of a batch."""
    problem, network, arguments, times = _setting(size, batch, steps)
    ours, bare = (
        jax.vmap(end, (None, 0)) for end in (diffrax_end(problem, network, times), bare_end(problem, network, times, False))
    )
    return compare(ours, bare, arguments, budget)


def gradient(size: Size, batch: int, steps: int, budget: float) -> Comparison:
    """The gradient of the relative entropy, -E[log w], through the trajectory; the bare step has `jax.checkpoint` too."""
    problem, network, arguments, times = _setting(size, batch, steps)

    def slope(end: Callable[[Params, Key], tuple[Array, Array]]) -> Callable[[Params, Key], Params]:
        def loss(params: Params, keys: Key) -> Array:
            x, log_ratio = jax.vmap(end, (None, 0))(params, keys)
            return -jnp.mean(log_ratio + jax.vmap(problem.reward)(x))

        return jax.grad(loss)

    ours, bare = slope(diffrax_end(problem, network, times)), slope(bare_end(problem, network, times, True))
    return compare(ours, bare, arguments, budget)


def _setting(size: Size, batch: int, steps: int) -> tuple[Problem, Network, tuple[Params, Key], Array]:
    problem = problem_of(size.dim)
    network = tj.networks.mlp(problem, width=size.width, depth=size.depth)
    arguments = (network.init(jax.random.key(0)), jax.random.split(jax.random.key(1), batch))
    return problem, network, arguments, tj.paths.log_snr(problem.frame, steps, problem.resolution)


# ------------------------------------------------------------------------------------------------- one update


def update(repetitions: int = 40) -> dict[str, float]:
    """One relative-entropy update: score-informed 2x64 network, GMM-40, batch 256, 128 steps. CPU seconds of this process.

    The affine map has the location and scale that a pilot finds.
    """
    process = tj.processes.gaussian(tj.paths.linear(), (2,), 1.3)
    affine = tj.coordinates.Coordinates(jnp.zeros(2), 20.0 * jnp.ones(2))
    problem = tj.problems.sampling(tj.targets.gmm40(), process, resolution=4e-3, coordinates=affine)
    network = tj.networks.score_informed(problem, width=64, depth=2)
    times = tj.paths.log_snr(process.frame, 128, problem.resolution)
    objective = tj.losses.relative_entropy(problem, network, times, replay=tj.Replay(num_particles=256))
    trainer = tj.train.trainer(objective, network, optax.adam(1e-3))
    state = jax.jit(trainer.init)((), jax.random.key(0))
    began = time.perf_counter()
    step = jax.jit(trainer.step, donate_argnums=1).lower((), state).compile()
    state, _ = jax.block_until_ready(step((), state))
    first = time.perf_counter() - began
    seconds = []
    for _ in range(repetitions):
        cpu = time.process_time()
        state, _ = jax.block_until_ready(step((), state))
        seconds.append(time.process_time() - cpu)
    return {
        "update_cpu_seconds": min(seconds),
        "update_cpu_seconds_median": statistics.median(seconds),
        "first_step_seconds": first,
    }


def on_one_core(expression: str) -> Any:
    """The value (JSON) of an expression of this module, in a fresh process on one core of the CPU."""
    code = (
        "import os, json\n"
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        f"from benchmarks import speed\nprint(json.dumps(speed.{expression}))"
    )
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    return json.loads(_python(code, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"))


def import_seconds(repetitions: int = 3) -> dict[str, float]:
    """The least time of `import tiltjax` in a fresh process: of the wall's clock and of the CPU's."""
    now = "time.perf_counter(), time.process_time()"
    code = f"import time; w, c = {now}; import tiltjax; v, d = {now}; print(v - w, d - c)"
    wall, cpu = zip(*(map(float, _python(code).split()) for _ in range(repetitions)), strict=True)
    return {"import_seconds": min(wall), "import_cpu_seconds": min(cpu)}


def _python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints last."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


# -------------------------------------------------------------------------------------------------- the command


def speed(out: Path | None, console: Console, *, sizes: tuple[Size, ...] = SIZES, budget: float = SECONDS) -> dict[str, Any]:
    """Prints a table, and the figures as JSON (to `out` if given). The headline ratios are those of the worst size."""
    load = os.getloadavg()[0]
    with console.status("importing, and one update on one core"):
        figures: dict[str, Any] = {**import_seconds(), **on_one_core("update()")}
    forward, backward = {}, {}
    for size in sizes:
        with console.status(f"forward, {size}"):
            forward[str(size)] = simulation(size, SIMULATE_BATCH, STEPS, budget).record()
        with console.status(f"gradient, {size}"):
            backward[str(size)] = gradient(size, GRADIENT_BATCH, STEPS, budget).record()
    figures |= {
        "simulate_ratio": max(record["ratio"] for record in forward.values()),
        "gradient_ratio": max(record["ratio"] for record in backward.values()),
        "gradient_memory_ratio": max(record["memory_ratio"] for record in backward.values()),
        "load_average": load,
        "cpus": os.cpu_count(),
        "details": {"simulate": forward, "gradient": backward},
        **runner.provenance(),
    }
    console.print(sizes_table(forward, f"Forward: {SIMULATE_BATCH} particles, {STEPS} steps, against a bare lax.scan"))
    console.print(
        sizes_table(backward, f"Gradient: {GRADIENT_BATCH} particles, {STEPS} steps, against lax.scan of a checkpointed step")
    )
    console.print(headline(figures))
    text = json.dumps(figures, indent=1)
    if out is None:
        console.print_json(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    return figures


def sizes_table(records: dict[str, dict[str, Any]], title: str) -> Table:
    grid = Table("size", "ms", "bare ms", "ratio", "of medians", "compile s", "bare", "memory ratio", title=title)
    for name, record in records.items():
        milliseconds = (f"{1e3 * record[key]:.1f}" for key in ("seconds", "bare_seconds"))
        ratios = (f"{record[key]:.3f}" for key in ("ratio", "ratio_of_medians"))
        compiling = (f"{record[key]:.1f}" for key in ("compile_seconds", "bare_compile_seconds"))
        grid.add_row(name, *milliseconds, *ratios, *compiling, f"{record['memory_ratio']:.2f}")
    return grid


def headline(figures: dict[str, Any]) -> Table:
    grid = Table("figure", "value", "limit", title=f"Speed ({figures['device']}, load {figures['load_average']:.1f})")
    for name in ("simulate_ratio", "gradient_ratio", "gradient_memory_ratio", "update_cpu_seconds", "first_step_seconds"):
        grid.add_row(name, f"{figures[name]:.3f}", str(LIMITS.get(name, "")))
    grid.add_row("import_seconds", f"{figures['import_seconds']:.2f}", str(LIMITS["import_seconds"]))
    return grid
