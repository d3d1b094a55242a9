"""What fills an accelerator: products in bfloat16, larger rounds and batches; what share of its peak the draws reach."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import tiltjax as tj
from tiltjax.types import Network, Objective, Problem

PRECISIONS = ("f32", "bf16")
# dense products, in 1e12 operations a second, by a part of the device's name: f32 as JAX multiplies it there by default (TF32)
PEAKS = {"H100": {"f32": 494.0, "bf16": 989.0}, "H200": {"f32": 494.0, "bf16": 989.0}, "A100": {"f32": 156.0, "bf16": 312.0}}

Loss = Callable[..., Objective]


def arguments(target: tj.Target, *, loss: Loss, precision: str = "f32", batch: int = 1, **given: Any) -> dict[str, Any]:
    """Arguments of `fit`: those given, networks multiplying in `precision`, rounds, buffer and batches `batch` times as large.

    Updates and learning rate stay as they are.
    """
    changed = {"loss": loss, **given}
    if precision == "bf16":
        network: Callable[..., Network] = given.get("network") or tj.preparing.default_network(target)
        changed["network"] = functools.partial(network, dtype=jnp.bfloat16)
    if batch > 1:
        changed["loss"] = functools.partial(_in_larger_rounds, loss, batch)
    training = given.get("training", tj.Training())
    if batch > 1 and training.replay is not None:
        changed["training"] = training._replace(replay=larger(training.replay, batch))
    return changed


def larger(replay: tj.Replay, batch: int) -> tj.Replay:
    """All its numbers of particles times `batch`."""
    counts = ("num_particles", "capacity", "batch_size")
    return replay._replace(**{name: batch * getattr(replay, name) for name in counts})


def _in_larger_rounds(loss: Loss, batch: int, problem: Problem, network: Network, times: jax.Array) -> Objective:
    objective = loss(problem, network, times)
    return objective._replace(replay=larger(objective.replay, batch))


def flops_of_a_draw(sampler: tj.Sampler) -> float | None:
    """Of the control alone, all steps, by XLA's count of one evaluation; None where the platform does not count."""
    family = tj.families.of(sampler.problem)
    here, t, x = family.here(family.given, ()), jnp.zeros(()), jnp.zeros(family.frame.shape)
    counted = (
        jax.jit(lambda params, t, x: sampler.network.control(params, here)(t, x)).lower(sampler.params, t, x).cost_analysis()
    )
    flops = (counted or {}).get("flops")
    return None if flops is None else float(flops) * sampler.num_steps


def fraction_of_peak(line: dict[str, Any]) -> float | None:
    """Of the products that the device can make a second, what the draws of a line reached; None for a device not in PEAKS."""
    name, precision = str(line.get("device")), line["arguments"].get("precision", "f32")
    peak = next((peaks[precision] for part, peaks in PEAKS.items() if part in name), None)
    if peak is None or not line.get("flops_of_a_draw") or not line.get("sample_seconds"):
        return None
    return line["flops_of_a_draw"] * line["num_draws"] / line["sample_seconds"] / (1e12 * peak)
