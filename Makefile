# make demo    search, prune and compare on a real model and real text (about a quarter of an hour on two slow cores)
# make test    the whole suite
# make lint    ruff and mypy;  make format  rewrites in place
PYTHON ?= python3
# Of the demo: `make demo SEED=1` searches from other calibration windows.
SEED ?= 0
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint format assets
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[all,dev]' -c constraints.txt
	touch $@

assets: $(STAMP)
	$(BIN)/prunerzero assets fetch

demo: assets
	mkdir -p demo
	$(BIN)/prunerzero search smollm2 --pattern 50% --budget 2m --seed $(SEED) --study demo/study.db
	rm -rf demo/pruned
	$(BIN)/prunerzero prune smollm2 --recipe demo/study.best.json --pattern 50% --seed $(SEED) \
	  --output demo/pruned

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
