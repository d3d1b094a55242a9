# `make demo` and `make test` need python3 >= 3.11, its venv module and make; each sets up its own environment in .venv.

PYTHON ?= python3
BUDGET ?= small
DEMO_ARGS ?= --budget $(BUDGET)
PYTEST_ARGS ?= -n 2 --dist worksteal

BIN := .venv/bin
STAMP := .venv/.installed

# Nothing of the caller's Python leaks into the environment, nor does the caller's JAX precision.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV JAX_ENABLE_X64 JAX_NUMPY_DTYPE_PROMOTION
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint format slow speed notebooks clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(STAMP)  ## sample with the library, check against exact answers: demo/ (BUDGET=smoke|small|full)
	$(BIN)/python -m benchmarks demo --out demo $(DEMO_ARGS)

test: lint  ## lint, types and the fast tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

slow: $(STAMP)  ## the slow tests alone
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

speed: $(STAMP)  ## timings as JSON
	$(BIN)/python -m benchmarks speed

notebooks: $(STAMP)  ## run the notebooks, write them with their pictures: notebooks/rendered/ (NAMES=quickstart: one)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,notebooks]'
	$(BIN)/python notebooks/render.py $(NAMES)

clean:  ## remove the environment, caches and what the demo wrote
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .jax_cache build dist demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found; install Python 3.11 or newer, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: tiltjax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) lacks the venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv (a minute or two) ..."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
