.PHONY: demo demo-sweep test test-slow test-faults test-browser lint format types bench generated
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("curate needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)  ## set up, then score the embedded demo data
	$(BIN)/curate score --output runs/demo --overwrite
	$(BIN)/curate show runs/demo --top 5 --bottom 5
	@echo "manifest: runs/demo/manifest.parquet; look at it with: .venv/bin/curate view runs/demo"

demo-sweep: $(READY)  ## set up, then train on parts of the demo data by five metrics: an hour on two cores; goes on where it was cut off
	$(BIN)/curate sweep --output runs/demo-sweep

test: $(READY)  ## set up, then run the tests
	$(BIN)/python -m pytest -n 2

test-slow: $(READY)  ## the tests for which `make test` has no time
	$(BIN)/python -m pytest -n 2 -m "slow and not browser"

test-faults: $(READY)  ## kill a run sixty times; CURATE_FAULT_SEED repeats one
	$(BIN)/python -m pytest -s -m faults

test-browser: $(READY)  ## the viewer and the report in a Chromium; CURATE_CHROMIUM names one
	$(BIN)/python -m pytest -n 2 -m browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python -m bench.score

generated: $(READY)  ## write schemas/ and the tables of docs/bad-data.md and docs/dictionaries.md again
	$(BIN)/python -m tests.schemas
	$(BIN)/python -m tests.hostile.page
	$(BIN)/python -m tests.sae.known_page
