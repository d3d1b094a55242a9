"""Calls into libraries that do not promise strict dtype or rank promotion."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def relaxed_promotion() -> Iterator[None]:
    """JAX's default promotion inside: a session's strictness is about the user's code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
