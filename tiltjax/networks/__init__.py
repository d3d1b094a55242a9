"""Control networks u_theta(t, x), zero at initialization, in the units of the process's Gaussian.

A flax module is split once, so that what flows through `jit` and `grad` is a plain tree of arrays. Your own network needs no
flax: any `types.Network(init, apply)` with `apply(params, t, x) -> u` will do.
"""

from ._shared import NUM_FREQUENCIES, clock_features, time_features
from .dense import corrector, drift, mlp, potential, score_informed, zero
from .egnn import egnn

__all__ = [
    "NUM_FREQUENCIES",
    "clock_features",
    "corrector",
    "drift",
    "egnn",
    "mlp",
    "potential",
    "score_informed",
    "time_features",
    "zero",
]
