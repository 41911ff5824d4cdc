# make demo    search, prune and compare on a real model and real text (about a quarter of an hour on two slow cores)
# make test    the whole suite
# make lint    ruff and mypy;  make format  rewrites in place
# make docs    the documentation as a site, in site/
PYTHON ?= python3
# Of the demo: `make demo SEED=1` searches from other calibration windows.
SEED ?= 0
# How long it searches, on how much text (`make demo` takes the commands' own), and where it writes.
BUDGET ?= --budget 2m
SIZES ?=
DEMO ?= demo
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint format docs assets
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("prunerzero needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[all,dev]' -c constraints.txt
	touch $@

assets: $(STAMP)
	$(BIN)/prunerzero assets fetch

demo: assets
	mkdir -p $(DEMO)
	$(BIN)/prunerzero search smollm2 --pattern 50% $(BUDGET) $(SIZES) --seed $(SEED) --study $(DEMO)/study.db
	rm -rf $(DEMO)/pruned
	$(BIN)/prunerzero prune smollm2 --recipe $(DEMO)/study.best.json --pattern 50% $(SIZES) --seed $(SEED) \
	  --output $(DEMO)/pruned

# The fixed hypothesis profile makes a run repeatable; a bare `pytest` explores.
test: assets
	HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables of the language are made from the registries first (a test says when they are stale).
docs: $(STAMP)
	$(BIN)/python -m prunerzero.report.reference docs/metric-language.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
