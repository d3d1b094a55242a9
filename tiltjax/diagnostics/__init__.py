"""Estimates from log weights, each with its standard error; and what a loss regresses on, measured."""

from tiltjax.diagnostics.adjoint import AdjointNorms, adjoint_norm, log_concave_bound
from tiltjax.diagnostics.estimates import (
    elbo,
    ess,
    ess_along,
    eubo,
    expectation,
    forward_ess,
    log_z,
    mode_entropy,
    mode_histogram,
    total_variation,
)
from tiltjax.diagnostics.overlap import Crossing, bennett, work_crossing
from tiltjax.diagnostics.regression import GradientVariance, TargetVariance, gradient_variance, target_variance

__all__ = [
    "AdjointNorms",
    "Crossing",
    "GradientVariance",
    "TargetVariance",
    "adjoint_norm",
    "bennett",
    "elbo",
    "ess",
    "ess_along",
    "eubo",
    "expectation",
    "forward_ess",
    "gradient_variance",
    "log_concave_bound",
    "log_z",
    "mode_entropy",
    "mode_histogram",
    "target_variance",
    "total_variation",
    "work_crossing",
]
