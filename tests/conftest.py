"""Strictness for every test: x64, no silent promotion; `pytest.mark.float32` goes without x64."""

import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

# Tests are many small programs, most of whose time is compilation: a fifth of it, for code that runs somewhat slower.
# (A Python loop under `jit` may take minutes with these: write a scan.) XLA ends the process at a flag that it does not know,
# so they are set for the versions where they were tried.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1",
    )

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "float32: run with x64 disabled, as most users do (also as `pytestmark`)")


MEMORY = pathlib.Path("/proc/self/statm")  # of Linux: in pages, the second of them resident
MOST = 3_500_000_000


@pytest.fixture(autouse=True, scope="module")
def _programs_of_one_file() -> Iterator[None]:
    """Small programs are common to many files, so compiled ones are kept, until a process has come to be gigabytes."""
    yield
    if not MEMORY.exists() or int(MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _float32_by_mark(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("float32") is None:
        yield
        return
    with jax.enable_x64(False):
        yield
