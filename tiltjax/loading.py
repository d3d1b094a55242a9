"""`load`: a sampler back from disk."""

import pathlib
from collections.abc import Callable

import jax
from jax import Array

from tiltjax import checkpoints, fitted, identity, losses, preparing, sampling
from tiltjax.losses import bridge
from tiltjax.types import Family, Network, Objective, Problem, Target


def load(
    directory: str | pathlib.Path,
    problem: Target | Problem | Family,
    *,
    network: Callable[[Problem], Network] | Network | None = None,
    grid: Callable[[int], Array] | None = None,
    loss: Callable[..., Objective] | None = None,
) -> sampling.Sampler:
    """A sampler that `Sampler.save` wrote, for the target or problem that it was fitted to.

    Densities, networks and losses are code and are not saved: pass those of the fit. loss: only where the dynamics were learned
    (`losses.learned_variance`, or your own) and it was not the plain constructor; of a bridge with a corrector of your own
    functools.partial(losses.bridge.schroedinger, corrector=...). Raises FileNotFoundError for a directory that holds no
    sampler, ValueError when problem, network or loss do not fit what was saved.
    """
    record = checkpoints.load_record(directory)
    got = fitted.shape_of(problem)
    if got != tuple(record["shape"]):
        raise ValueError(f"the saved sampler has particles of shape {tuple(record['shape'])}; got a problem of shape {got}.")
    if isinstance(problem, Target):
        if "location" not in record:
            raise ValueError("this sampler was fitted to a problem, not to a target; pass load the same problem.")
        problem = preparing.whitened(problem, preparing.recorded(record), record["resolution"])
    network = preparing.default_network(problem) if network is None else network
    net = preparing.made(network, problem)
    if grid is None:
        grid = sampling.refined_grid(record["grid"]) if "grid" in record else preparing.default_grid(problem)
    objective = None if record["loss"] is None else _loss_of(record["loss"], loss)(problem, net, grid(record["num_steps"]))
    like = {
        "control": jax.eval_shape(net.init, jax.random.key(0)),
        "extra": None if objective is None else jax.eval_shape(objective.init),
    }
    saved = checkpoints.load_arrays(directory, like, identity.same_network("load", record.get("network", ""), network))
    return sampling.sampler(
        problem,
        net,
        saved["control"],
        grid,
        num_steps=record["num_steps"],
        record=record,
        remade=fitted.UNCHANGED if objective is None else objective.problem,
    )._replace(extra=saved["extra"])


def _loss_of(name: str, loss: Callable[..., Objective] | None) -> Callable[..., Objective]:
    """The loss that a sampler's dynamics were learned by."""
    named = {**{known: getattr(losses, known) for known in losses.__all__}, "schroedinger": bridge.schroedinger}
    if loss is not None:
        return loss
    if name not in named:
        raise ValueError(
            f"the dynamics of this sampler were learned by the loss {name}, which tiltjax does not have. Pass load(..., loss=) "
            "that of the fit."
        )
    return named[name]
