"""Densities to try samplers on, with what is known of them: each returns a `types.Target`. One file a family."""

from .delta_many_well import delta_many_well
from .funnel import funnel
from .gaussian import gaussian
from .gmm import gmm
from .gmm40 import gmm40, gmm40_be
from .many_well import many_well
from .mos import mos
from .phi4 import phi4
from .student_mixture import student_mixture

__all__ = [
    "delta_many_well",
    "funnel",
    "gaussian",
    "gmm",
    "gmm40",
    "gmm40_be",
    "many_well",
    "mos",
    "phi4",
    "student_mixture",
]
