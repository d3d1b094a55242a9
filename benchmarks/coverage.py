"""Modes that are far apart: what keeps them, by loss.

Recipes: `plain` draws its own particles; `tempered` draws from the replay buffer with w^tau (`weights.tempered`); two rivals
raise the reward's strength b from 0 to 1, b' = b + tau (1 - b) a stage:
- `annealed`: particles of the present control, labels of the reward b' r, tau the largest with ESS(exp((b' - b) r)) >= FLOOR.
  In the spirit of arXiv 2506.18165 (NAAS).
- `trust_region`: the stage's target is P' proportional to P (dP*/dP)^tau, tau the largest with ESS(w^tau) >= FLOOR. From an
  uncontrolled start, and with every stage solved, P is the tilt by b r and P' that by b' r, so the labels are those of b' r, on
  particles drawn with w^tau. Source: Blessing et al. (2025), arXiv 2508.12511.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from rich.console import Console

import tiltjax as tj
from benchmarks import runner
from benchmarks.cases import CASES
from tiltjax import run as running
from tiltjax.types import Batch, Held, Here, Key

FLOOR = 0.5
LEARNING_RATE = 1e-3  # at the default's 4e-3 the plain losses diverge on quartic wells
FILE = "coverage.jsonl"
BUFFER = tj.Replay(num_particles=2000, capacity=20_000, gradient_steps=100, batch_size=512)
STAGE = BUFFER._replace(capacity=2000)  # a stage's particles are all of one control
TEMPERED = tj.weights.tempered(0.2)

Loss = Callable[..., tj.Objective]
Rule = Callable[[Array, Array], Array]  # log w against the present target, log w still missing -> what tau tempers


class Method(NamedTuple):
    """A loss, its batch, and how many times fewer particles its buffer holds."""

    loss: Loss
    batch_size: int
    shorter: int = 1


class Recipe(NamedTuple):
    """replay, and the rule of the stages (None: the full reward throughout)."""

    replay: tj.Replay
    rule: Rule | None = None


# an update looks at 512 states, whether they are of 512 end points or of 64 paths; whole paths need the memory of many points
METHODS = {
    "adjoint_sampling": Method(tj.losses.adjoint_sampling, 512),
    "minimum_variance": Method(tj.losses.minimum_variance, 512),
    "adjoint_matching": Method(functools.partial(tj.losses.adjoint_matching, num_times=8), 64, shorter=2),
    "log_variance": Method(tj.losses.log_variance, 32, shorter=2),
}
RECIPES = {
    "plain": Recipe(BUFFER),
    "tempered": Recipe(BUFFER._replace(weighting=TEMPERED)),
    "annealed": Recipe(STAGE, lambda log_weight, missing: missing),
    "trust_region": Recipe(
        STAGE._replace(weighting=tj.weights.tempered(FLOOR)), lambda log_weight, missing: log_weight + missing
    ),
}


def staged(loss: Loss, rule: Rule) -> Loss:
    """The same loss on a reward that grows: particles of one collection set the next strength, and are labelled with it.

    What is carried from round to round is the strength b of the reward.
    """

    def make(problem: tj.Problem, network: tj.Network, times: Array, *, replay: tj.Replay) -> tj.Objective:
        whole = loss(problem, network, times, replay=replay)

        def at(strength: Array) -> Here:
            return Here(problem._replace(reward=lambda x: strength * problem.reward(x)))

        def collect(_: Here, held: Held, key: Key, n: int) -> tuple[Batch, Array]:
            present = held.carried
            # a path does not know the reward, its log weight is linear in the strength: the slope is r
            log_weight, reward = jax.jvp(
                lambda b: whole.collect_on(at(b), held, key, n)[0].log_weight, (present,), (jnp.ones_like(present),)
            )
            missing = (1 - present) * reward
            following = present + (1 - present) * tj.weights.temper(rule(log_weight, missing), FLOOR)
            batch, _ = whole.collect_on(at(following), held, key, n)
            return batch._replace(log_weight=log_weight + missing), following

        return whole._replace(collect_on=collect, carry=lambda key: jnp.zeros(()), regression=None)

    return make


def train(
    key: Key, problem: tj.Problem, method: Method, recipe: Recipe, updates: int, console: Console
) -> tuple[tj.Sampler, dict[str, Any]]:
    """The sampler, seconds of training, and where the strength ended."""
    capacity = max(recipe.replay.capacity // method.shorter, recipe.replay.num_particles)
    replay = recipe.replay._replace(batch_size=method.batch_size, capacity=capacity)
    loss = method.loss if recipe.rule is None else staged(method.loss, recipe.rule)
    network, grid = tj.networks.mlp(problem), tj.preparing.default_grid(problem)
    objective = loss(problem, network, grid(60), replay=replay)
    made = tj.train.trainer(objective, network, optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, updates)))
    done = running.run(made, key, -(-updates // replay.gradient_steps), progress=not console.quiet)
    strength = 1.0 if recipe.rule is None else float(done.state.carried)
    sampler = tj.sampling.sampler(problem, network, done.state.average.control, grid)
    return sampler, {"train_seconds": done.train_seconds, "strength": strength}


def judge(target: tj.Target, draws: tj.Samples) -> dict[str, float | int]:
    """log Z, ESS, and the modes: how many have 80 % of their weight or more, and the least share of it that one has."""
    assert target.mode_weights is not None and target.log_z is not None
    log_z = tj.diagnostics.log_z(draws.log_weight)
    share = tj.diagnostics.mode_histogram(target, draws.x, draws.log_weight) / target.mode_weights
    return {
        "num_draws": draws.log_weight.size,
        "log_z_error": float(log_z.value) - target.log_z,
        "log_z_stderr": float(log_z.stderr),
        "ess": float(tj.diagnostics.ess(draws.log_weight)),
        "modes": target.mode_weights.size,
        "modes_kept": int(jnp.sum(share >= 0.8)),
        "least_share": float(jnp.min(share)),
        "largest_share": float(jnp.max(share)),
    }


def coverage(
    cases: list[str],
    methods: list[str],
    recipes: list[str],
    seeds: list[int],
    updates: int,
    num_draws: int,
    out: Path,
    console: Console,
) -> None:
    """Appends one JSON line a case, loss, recipe and seed to out/coverage.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        target = CASES[case].target()
        for seed in seeds:
            key_pilot, key_train, key_draw = jax.random.split(jax.random.key(seed), 3)
            problem = tj.prepare(key_pilot, target)
            for name in methods:
                for recipe in recipes:
                    line = {"case": case, "loss": name, "recipe": recipe, "seed": seed, "num_updates": updates}
                    console.print("  ".join(map(str, line.values())))
                    try:
                        sampler, figures = train(key_train, problem, METHODS[name], RECIPES[recipe], updates, console)
                        line |= {**figures, **judge(target, sampler.sample(key_draw, num_draws))}
                    except FloatingPointError as error:  # a result too
                        line["failed"] = str(error)
                    line |= runner.provenance()
                    with (out / FILE).open("a") as file:
                        file.write(json.dumps(runner.finite(line)) + "\n")
                    console.print(summary(line))


def summary(line: dict[str, Any]) -> str:
    if "failed" in line:
        return f"  failed: {line['failed']}"
    return (
        f"  log Z error {line['log_z_error']:.3f} ± {line['log_z_stderr']:.3f}   ESS {line['ess']:.3f}   modes "
        f"{line['modes_kept']}/{line['modes']}   least share {line['least_share']:.2f}   {line['train_seconds']:.0f} s"
    )
