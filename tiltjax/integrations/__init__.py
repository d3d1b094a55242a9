"""Other libraries' models as targets, and draws for them. A library is imported when its function is called."""

from .arviz import to_arviz
from .distributions import from_distribution
from .numpyro import from_numpyro

__all__ = ["from_distribution", "from_numpyro", "to_arviz"]
