"""Densities with known answers: each constructor returns a `types.Target`. One file a family."""

from .delta_many_well import delta_many_well
from .double_well import double_well
from .funnel import funnel
from .gaussian import gaussian
from .gmm import gmm
from .gmm40 import gmm40, gmm40_be
from .lennard_jones import lennard_jones
from .many_well import many_well

__all__ = [
    "delta_many_well",
    "double_well",
    "funnel",
    "gaussian",
    "gmm",
    "gmm40",
    "gmm40_be",
    "lennard_jones",
    "many_well",
]
