"""Other libraries' models and distributions as targets. A library is imported when its function is called."""

from .distributions import from_distribution
from .numpyro import from_numpyro

__all__ = ["from_distribution", "from_numpyro"]
