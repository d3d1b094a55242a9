"""`networks.egnn` beside the same network in eager PyTorch: equal values from equal weights, and the time of each.

    python -m benchmarks.egnn_torch [--batch 512] [--width 64] [--depth 3] [--threads 1] [--repeats 20]

prints one JSON line a system. Needs torch, which nothing else here does: install it beside the project to run this.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tiltjax as tj
from tiltjax.networks.egnn import NUM_RADIAL, REACH

SYSTEMS = {"dw4": (4, 2), "lj13": (13, 3), "lj55": (55, 3)}


def problem_of(n: int, dim: int) -> tj.Problem:
    """Of a cluster in natural units."""
    target = tj.targets.double_well(n, dim) if dim == 2 else tj.targets.lennard_jones(n, dim)
    return tj.problems.sampling(target, tj.processes.gaussian(tj.paths.linear(), (n - 1, dim), 1.3), resolution=0.01)


def torch_apply(problem: tj.Problem, params: Any) -> Callable[[Any, Any], Any]:
    """(t (b,), y (b, n - 1, d)) -> u in PyTorch, of the weights `params` (torch tensors), as one would write it there."""
    import torch
    from torch.nn.functional import linear, silu

    process, n = problem.process, problem.process.shape[0] + 1
    basis = torch.tensor(tj.particles.helmert(n), dtype=torch.float32)
    centres = REACH / (NUM_RADIAL - 1) * torch.arange(NUM_RADIAL)

    def dense(p: Any, x: Any) -> Any:
        return linear(x, p["kernel"], p.get("bias"))

    def apply(t: Any, y: Any) -> Any:
        # the linear path: S = t^2 s^2 + (1 - t)^2
        s2 = process.frame.scale**2
        spread = t**2 * s2 + (1 - t) ** 2
        level = s2 * (1 - t) ** 2 / spread + problem.resolution
        gain = (2 * t * (1 - t)).clamp(min=0) ** 0.5 * s2 / spread
        z = basis.T @ ((t * s2 / spread / process.frame.scale)[:, None, None] * y)
        waves = 0.35 * torch.arange(1, 17) * torch.log(level)[:, None]
        features = torch.cat([torch.sin(waves), torch.cos(waves), torch.log(level)[:, None] / 5], 1)
        h = silu(dense(params["time"], features))[:, None, :].expand(-1, n, -1)
        gap = z[:, :, None, :] - z[:, None, :, :]
        distance = torch.sqrt((gap**2).sum(-1, keepdim=True) + 1e-12)
        e = torch.cat([torch.exp(-0.5 * ((distance - centres) / centres[1]) ** 2), distance / REACH], -1)
        pulls = 0.0
        for layer in params["layers"].values():
            receive, send = dense(layer["ends"], h).chunk(2, -1)
            message = silu(receive[:, :, None] + send[:, None] + dense(layer["edge"], e))
            pulls = pulls + dense(layer["pull"], message)
            h = h + dense(layer["node"], silu(dense(layer["gather"], message.sum(2) / math.sqrt(n))))
        v = (pulls * gap).sum(2) / n + dense(params["own"], h) * z
        return (gain / torch.sqrt(level))[:, None, None] * (basis @ v)

    return apply


def compare(n: int, dim: int, batch: int, width: int, depth: int, repeats: int) -> dict[str, float | int]:
    """Milliseconds of a batch, best of `repeats`; the largest difference of values over the largest value."""
    import torch

    problem = problem_of(n, dim)
    network = tj.networks.egnn(problem, width=width, depth=depth)
    leaves, structure = jax.tree.flatten(network.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(structure, moved)
    y = jax.random.normal(jax.random.key(2), (batch, n - 1, dim))
    t = jax.random.uniform(jax.random.key(3), (batch,), minval=0.05, maxval=0.95)

    def forward(params: Any, t: jax.Array, y: jax.Array) -> jax.Array:
        return tj.batching.each(lambda t, y: network.apply(params, t, y), (t, y), network.at_once)

    def error(params: Any, t: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(network.apply(params, t, y) - y))

    def loss(params: Any, t: jax.Array, y: jax.Array) -> jax.Array:
        return tj.batching.mean(error, params, (t, y), network.at_once)

    weights = jax.tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), params)
    theirs = torch_apply(problem, weights)
    tensors = [torch.tensor(np.asarray(a)) for a in (t, y)]

    def torch_forward() -> Any:
        with torch.no_grad():
            return theirs(*tensors)

    def torch_gradient() -> Any:
        return torch.autograd.grad(((theirs(*tensors) - tensors[1]) ** 2).mean(), jax.tree.leaves(weights))

    ours_forward, ours_gradient = jax.jit(forward), jax.jit(jax.grad(loss))
    expected, got = np.asarray(ours_forward(params, t, y)), torch_forward().numpy()
    pairs = zip(jax.tree.leaves(ours_gradient(params, t, y)), torch_gradient(), strict=True)
    out: dict[str, float | int] = {
        "num_particles": n,
        "dim": dim,
        "batch": batch,
        "value_difference": float(np.abs(got - expected).max() / np.abs(expected).max()),
        "gradient_difference": max(float(np.abs(b.numpy() - a).max() / np.abs(a).max()) for a, b in pairs),
    }
    timed = {
        "forward_ms": lambda: jax.block_until_ready(ours_forward(params, t, y)),
        "torch_forward_ms": torch_forward,
        "gradient_ms": lambda: jax.block_until_ready(ours_gradient(params, t, y)),
        "torch_gradient_ms": torch_gradient,
    }
    seconds = best_of(timed, repeats)
    out |= {name: 1000 * value for name, value in seconds.items()}
    out["forward_ratio"] = seconds["torch_forward_ms"] / seconds["forward_ms"]
    out["gradient_ratio"] = seconds["torch_gradient_ms"] / seconds["gradient_ms"]
    return out


def best_of(timed: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds: the least of `repeats` of each, taken in turn, so that a busy minute slows all alike."""
    seconds = dict.fromkeys(timed, math.inf)
    for _ in range(repeats + 1):
        for name, run in timed.items():
            began = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 512), ("width", 64), ("depth", 3), ("threads", 1), ("repeats", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--systems", nargs="+", default=["dw4", "lj13"], choices=SYSTEMS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in chosen.systems:
        line = compare(*SYSTEMS[name], chosen.batch, chosen.width, chosen.depth, chosen.repeats)
        print(json.dumps({"system": name, "threads": chosen.threads, "torch": torch.__version__, **line}), flush=True)


if __name__ == "__main__":
    main()
