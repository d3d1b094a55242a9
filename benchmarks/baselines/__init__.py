"""Classical samplers for the same table: what a learned one has to beat at equal evaluations and at equal seconds."""

from .nuts import nuts
from .parallel_tempering import parallel_tempering
from .smc import smc

__all__ = ["nuts", "parallel_tempering", "smc"]
