"""Losses: one constructor each, `loss(problem, network, times, **options) -> Objective`, all for the one trainer."""

from tiltjax.losses import bridge as bridge  # two objectives that alternate: not of this signature, so not in the list
from tiltjax.losses.adjoint_matching import adjoint_matching
from tiltjax.losses.learned_variance import learned_variance
from tiltjax.losses.nonequilibrium import action_matching, nets
from tiltjax.losses.path_measure import log_variance, relative_entropy, trajectory_balance
from tiltjax.losses.rejuvenation import Rejuvenation as Rejuvenation  # an option of losses, none itself
from tiltjax.losses.score_matching import (
    adjoint_sampling,
    conditional_score_matching,
    minimum_variance,
    mixture_score_matching,
    novel_score_matching,
    target_score_matching,
)

__all__ = [
    "action_matching",
    "adjoint_matching",
    "adjoint_sampling",
    "conditional_score_matching",
    "learned_variance",
    "log_variance",
    "minimum_variance",
    "mixture_score_matching",
    "nets",
    "novel_score_matching",
    "relative_entropy",
    "target_score_matching",
    "trajectory_balance",
]
