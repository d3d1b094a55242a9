"""Densities to try samplers on, with what is known of them: each returns a `types.Target`. One file a family."""

from .brownian_motion import brownian_motion
from .delta_many_well import delta_many_well
from .double_well import double_well
from .eight_schools import eight_schools
from .funnel import funnel
from .gaussian import gaussian
from .gmm import gmm
from .gmm40 import gmm40, gmm40_be
from .lennard_jones import lennard_jones
from .log_gaussian_cox import log_gaussian_cox, log_gaussian_cox_simulated
from .logistic_regression import logistic_breast_cancer, logistic_digits, logistic_iris, logistic_regression
from .many_well import many_well
from .mos import mos
from .phi4 import phi4
from .seeds import seeds
from .student_mixture import student_mixture

__all__ = [
    "brownian_motion",
    "delta_many_well",
    "double_well",
    "eight_schools",
    "funnel",
    "gaussian",
    "gmm",
    "gmm40",
    "gmm40_be",
    "lennard_jones",
    "log_gaussian_cox",
    "log_gaussian_cox_simulated",
    "logistic_breast_cancer",
    "logistic_digits",
    "logistic_iris",
    "logistic_regression",
    "many_well",
    "mos",
    "phi4",
    "seeds",
    "student_mixture",
]
