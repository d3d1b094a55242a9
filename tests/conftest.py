"""Strictness for every test: x64, no silent promotion; `pytest.mark.float32` goes without x64."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "float32: run with x64 disabled, as most users do (also as `pytestmark`)")


@pytest.fixture(autouse=True)
def _float32_by_mark(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("float32") is None:
        yield
        return
    with jax.enable_x64(False):
        yield
