"""Recipes (tuples of functions, closed over) and states (tuples of arrays, passed through `jit`). No logic.

Functions speak of ONE particle of shape `shape`; the library vmaps. Time runs from t = 0 (noise) to t = 1 (data).
Energies and rewards are in units of kT.
"""

from .base import (
    ControlFn,
    Key,
    LogDensity,
    Params,
    Scalar,
    is_key,
)
from .methods import (
    Mixture,
    Objective,
    Regression,
    Replay,
    Trainer,
    Training,
)
from .recipes import (
    Dynamics,
    Family,
    Frame,
    GaussianPath,
    Here,
    Many,
    Network,
    Problem,
    Process,
    Target,
)
from .states import (
    Batch,
    Estimate,
    Held,
    Learned,
    Metrics,
    Path,
    Rates,
    Samples,
    TrainState,
    Walker,
)

__all__ = [
    "Batch",
    "ControlFn",
    "Dynamics",
    "Estimate",
    "Family",
    "Frame",
    "GaussianPath",
    "Held",
    "Here",
    "Key",
    "Learned",
    "LogDensity",
    "Many",
    "Metrics",
    "Mixture",
    "Network",
    "Objective",
    "Params",
    "Path",
    "Problem",
    "Process",
    "Rates",
    "Regression",
    "Replay",
    "Samples",
    "Scalar",
    "Target",
    "TrainState",
    "Trainer",
    "Training",
    "Walker",
    "is_key",
]
