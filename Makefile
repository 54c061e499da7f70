# Each target does the set-up it needs, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
RUNS ?= outputs

.PHONY: setup demo test test-all lint types docs bench sync clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup  ## train an MDEQ on real digits, sweep its test-time budget, write the report
	$(BIN)/deqrun train study=demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: setup  ## the tests that take long, too: for every night
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup $(VENV)/.docs  ## the pages and the reference as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

bench: setup  ## beside torchdeq, which is installed for it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python scripts/bench_solvers.py

sync: setup  ## upload the offline records of all runs in RUNS to W&B; SYNC_FLAGS=--dry-run only lists them
	find $(RUNS) -type d -path '*/wandb/offline-run-*' -prune -print0 | xargs -0 -r $(abspath $(BIN))/wandb sync $(SYNC_FLAGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist site
