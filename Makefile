# Everything that a fresh clone needs: `make quickstart` to see a board, `make test` before a commit.
.DEFAULT_GOAL := help
.PHONY: help quickstart test chromium docs bench fuzz canaries false-alarms conformance optimality power torture planted clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-input --constraint constraints.txt
JOBS ?= 2
PYTEST_ARGS ?=

help:  ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

quickstart: $(VENV)/.installed  ## Train a small defense, attack it, and print the board (minutes on a CPU)
	@$(BIN)/bench run --defense part-trades --suite quick

test: $(VENV)/.installed-dev chromium  ## Lint, types, arrows between the rooms, and all tests but the slow ones
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "make test: unformatted files; mend: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 $(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --benchmark-skip $(PYTEST_ARGS)

chromium:  ## Install the browser that reads the board in tests, if there is none
	@for name in chromium chromium-browser google-chrome; do if command -v $$name >/dev/null; then exit 0; fi; done; \
	sudo=""; \
	if [ "$$(id -u)" != 0 ]; then sudo="sudo -n"; fi; \
	if ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; then \
		echo "make: the browser tests need Chromium; install it, and put chromium on the PATH" >&2; exit 1; \
	fi; \
	echo "installing chromium …"; \
	$$sudo apt-get update -qq </dev/null; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium </dev/null >/dev/null

docs: $(VENV)/.installed-dev  ## Write docs/suites.md and docs/defenses.md from the code
	@$(BIN)/python -m bench.suites_page > docs/suites.md
	@$(BIN)/python -m bench.defenses_page > docs/defenses.md

bench: $(VENV)/.installed-dev  ## Time what must be fast
	@$(BIN)/python -m pytest tests/benchmarks --quiet --benchmark-only $(PYTEST_ARGS)

fuzz: $(VENV)/.installed-dev  ## Ten thousand spoilt recipes, options, records, bundles, weights and data files (half an hour)
	@OMP_NUM_THREADS=1 RAMPART_FUZZ=$(or $(FUZZ),10000) $(BIN)/python -m pytest --quiet --capture=no tests/test_fuzz_words.py tests/test_fuzz_ledger.py tests/test_fuzz_files.py

canaries: $(VENV)/.installed  ## Break models on purpose and see that each is noticed; writes docs/canaries.md (minutes)
	@$(BIN)/python -m tests.conformance.canaries > docs/canaries.md.new || { cat docs/canaries.md.new; rm docs/canaries.md.new; exit 1; }
	@mv docs/canaries.md.new docs/canaries.md
	@cat docs/canaries.md

false-alarms: $(VENV)/.installed  ## How often doubts are raised about honest models (half an hour; MNIST ones with CONFORMANCE_LEDGER)
	@$(BIN)/python -m tests.conformance.false_alarms

conformance: $(VENV)/.installed-dev  ## Compare attacks with other people's on public weights (needs CONFORMANCE_DATA, CONFORMANCE_WEIGHTS)
	@$(PIP) --no-build-isolation --editable '.[conformance]'
	@$(BIN)/python -m tests.conformance.compare

optimality: $(VENV)/.installed-dev  ## Hold every attack against the exact truth; writes docs/optimality.md (half an hour)
	@$(BIN)/python -m tests.conformance.optimality

power: $(VENV)/.installed-dev  ## Simulate gates: false alarms and power, in docs/ci.md (minutes)
	@$(BIN)/python -m tests.conformance.power

torture: $(VENV)/.installed-dev  ## Kill runs 200 times by SIGKILL and compare what is left, in docs/faults.md (a quarter of an hour)
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m tests.torture --page

planted: $(VENV)/.installed-dev  ## Gate models with planted weaknesses, in docs/ci.md (minutes; half an hour with CONFORMANCE_DATA)
	@$(BIN)/python -m tests.conformance.planted

clean:  ## Remove what make and the tools made; records in results/ stay
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || { \
		echo "make: Rampart needs Python 3.11 or 3.12, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another, as in: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; \
		rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (PyTorch is large: minutes the first time) …"
	@$(PIP) setuptools wheel
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), with the tools of developers (PyTorch is large: minutes the first time) …"
	@$(PIP) setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(VENV)/.installed $@
