# The two commands: `make demo` shows the main job on this machine, `make test` passes the tests.
# Each sets up what it needs: a virtual environment in .venv, nothing global, no root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Tests wait for servers most of the time, so more than one file at once; each has platforms of its own.
PYTEST_WORKERS ?= 2
DEMO_ARGS ?=

# Runs of the crash matrix, and the seed of the first.
RUNS ?= 26
SEED ?= 0

.PHONY: setup demo test check bench crash-matrix schemas clean help

help:
	@echo "make demo     from specs in Git to running shards, on this machine (DEMO_ARGS=--down takes it down)"
	@echo "make test     all tests, on real servers"
	@echo "make check    format, lint, types, layers, fresh schemas"
	@echo "make crash-matrix RUNS=… SEED=…  moves of keys under writers, one fault each; a seed replays its run"
	@echo "make bench    benchmarks beside their yardsticks"
	@echo "make schemas  write schemas/ from the model"
	@echo "make clean    remove the virtual environment and caches"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "try: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[local,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m reconciler.demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m reconciler.spec.schema --check

bench: $(STAMP)
	$(BIN)/python -m tests.bench

crash-matrix: $(STAMP)
	$(BIN)/python -m tests.crash_matrix --runs $(RUNS) --seed $(SEED)

schemas: $(STAMP)
	$(BIN)/python -m reconciler.spec.schema --write
	$(BIN)/python -m reconciler.plan.render_json > schemas/plan.v1.json

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
