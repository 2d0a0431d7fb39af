# Everything a contributor needs; PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/demo.stamp

# Train, evaluate and predict on the embedded dataset of countries and their flags.
demo: $(VENV)/demo.stamp
	rm -rf runs/demo
	$(BIN)/mmrns train experiments/countries/mmrns.yaml --out runs/demo
	$(BIN)/mmrns predict runs/demo --queries experiments/countries/queries.tsv --top 5

# Format, lint, spelling, types, layers, documentation, tests.
test: check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/typos
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/dev.stamp
	$(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) build dist site
