"""tiltjax: sample any exponential tilt p*(x) proportional to p_base(x) exp(r(x)), with weights that prove the answer.

target = tiltjax.Target(log_density, shape=(2,))
sampler = tiltjax.fit(jax.random.key(0), target)
draws = sampler.sample(jax.random.key(1), 10_000)     # Samples(x, log_weight)
"""

from tiltjax import (
    annealing,
    batching,
    bridges,
    buffers,
    contexts,
    coordinates,
    diagnostics,
    dynamics,
    exact,
    families,
    frames,
    integrations,
    losses,
    memoryless,
    networks,
    particles,
    paths,
    problems,
    processes,
    sampling,
    sde,
    smc,
    targets,
    train,
    training,
    turns,
    validate,
    weights,
)
from tiltjax.bridging import fit_bridge
from tiltjax.fitting import fit
from tiltjax.loading import load
from tiltjax.preparing import prepare
from tiltjax.sampling import Sampler
from tiltjax.types import Estimate, Network, Objective, Path, Problem, Process, Replay, Samples, Target, Training

__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "Network",
    "Objective",
    "Path",
    "Problem",
    "Process",
    "Replay",
    "Sampler",
    "Samples",
    "Target",
    "Training",
    "annealing",
    "batching",
    "bridges",
    "buffers",
    "contexts",
    "coordinates",
    "diagnostics",
    "dynamics",
    "exact",
    "families",
    "fit",
    "fit_bridge",
    "frames",
    "integrations",
    "load",
    "losses",
    "memoryless",
    "networks",
    "particles",
    "paths",
    "prepare",
    "problems",
    "processes",
    "sampling",
    "sde",
    "smc",
    "targets",
    "train",
    "training",
    "turns",
    "validate",
    "weights",
]
