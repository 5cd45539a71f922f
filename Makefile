.PHONY: demo demo-sweep test test-slow test-faults test-browser lint format types bench generated
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
READY_TEST := .venv/.ready-test
# Bytecode is written by what first imports a module: pip would compile five times as much as a run imports.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("curate needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	@echo "setting up .venv with what running needs"
	@set -e; start=$$(date +%s); \
	$(PYTHON) -m venv .venv; \
	$(INSTALL) -r requirements.lock; \
	$(INSTALL) --no-deps --no-build-isolation --editable .; \
	touch $@; \
	echo "set up in $$(($$(date +%s) - start)) s"

$(READY_TEST): requirements-test.lock $(READY)
	@echo "adding what tests, lint and types need"
	@set -e; start=$$(date +%s); \
	$(INSTALL) -r requirements-test.lock; \
	touch $@; \
	echo "added in $$(($$(date +%s) - start)) s"

demo: $(READY)  ## set up, then score the embedded demo data
	$(BIN)/curate score --output runs/demo --overwrite
	$(BIN)/curate show runs/demo --top 5 --bottom 5
	@echo "manifest: runs/demo/manifest.parquet; look at it with: .venv/bin/curate view runs/demo"

demo-sweep: $(READY)  ## set up, then train on parts of the demo data by five metrics: an hour on two cores; goes on where it was cut off
	$(BIN)/curate sweep --output runs/demo-sweep

test: $(READY_TEST)  ## set up, then run the tests
	$(BIN)/python -m pytest -n 2

test-slow: $(READY_TEST)  ## the tests for which `make test` has no time
	$(BIN)/python -m pytest -n 2 -m "slow and not browser"

test-faults: $(READY_TEST)  ## kill a run sixty times; CURATE_FAULT_SEED repeats one
	$(BIN)/python -m pytest -s -m faults

test-browser: $(READY_TEST)  ## the viewer and the report in a Chromium; CURATE_CHROMIUM names one
	$(BIN)/python -m pytest -n 2 -m browser

lint: $(READY_TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY_TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY_TEST)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python -m bench.score

generated: $(READY_TEST)  ## write schemas/ and the tables of docs/bad-data.md and docs/dictionaries.md again
	$(BIN)/python -m tests.schemas
	$(BIN)/python -m tests.hostile.page
	$(BIN)/python -m tests.sae.known_page
