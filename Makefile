# Everything a contributor needs; PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-oldest oldest fuzz mutants check site kernels docs dist clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

# pip would compile on one core. What does not compile are files of packages for another Python, which nobody imports.
$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --no-compile --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $@ $(VENV)/demo.stamp

# Train, evaluate and predict on the embedded dataset of countries and their flags.
demo: $(VENV)/demo.stamp
	rm -rf runs/demo
	$(BIN)/mmrns train experiments/countries/mmrns.yaml --out runs/demo
	$(BIN)/mmrns predict runs/demo --queries experiments/countries/queries.tsv --top 5

# Format, lint, spelling, types, layers, documentation, tests. Type checking takes one core for as long as the kernels
# that all tests share take another to be compiled.
test: $(VENV)/dev.stamp
	$(MAKE) --no-print-directory --jobs=2 check site kernels
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

site: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

kernels: $(VENV)/dev.stamp
	$(BIN)/python tests/compile_kernels.py

# The tests with the lowest versions that pyproject.toml allows.
test-oldest: $(OLDEST)/stamp
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses=auto --dist=worksteal

$(OLDEST)/stamp: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

# Needs uv. CUDA packages come with torch where its wheel asks for them. On request only: files of a fresh clone have no age.
oldest:
	mkdir -p build
	uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --extra dev pyproject.toml > build/oldest.txt
	echo '# What `make test-oldest` installs: the lower bounds of pyproject.toml, and what they bring. `make $@` writes it.' \
	  > constraints-oldest.txt
	grep -vE '^(nvidia|cuda)' build/oldest.txt | sed 's/^\(torch==[^+]*\)+.*/\1/' >> constraints-oldest.txt

# Damaged inputs for every reader, N of them; what happened is printed as JSON. See tests/fuzz/.
N ?= 20000
fuzz: $(VENV)/dev.stamp
	PYTHONPATH=tests OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m fuzz --inputs $(N)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/typos
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Test the tests: MUTANTS one-line changes of the package, each of which should fail one. Hours; goes on where it was.
MUTANTS ?= 100
SEED ?= 0
mutants: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py map
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py run --n $(MUTANTS) --seed $(SEED)

# Wheel and sdist. Each is installed by itself, and passes the demo away from the clone.
dist:
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist/tools
	build/dist/tools/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt build
	build/dist/tools/bin/python -m build --outdir dist
	set -e; for package in dist/*; do \
	  rm -rf build/dist/try; $(PYTHON) -m venv build/dist/try; \
	  build/dist/try/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt $$package; \
	  (cd build/dist/try && bin/mmrns train "$(CURDIR)/experiments/countries/mmrns.yaml" --out demo \
	    && bin/mmrns predict demo --queries "$(CURDIR)/experiments/countries/queries.tsv" --top 5); \
	  echo "$$package installs and passes the demo"; done

docs: $(VENV)/dev.stamp
	$(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) $(OLDEST) build dist site
