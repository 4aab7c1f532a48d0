# make run: the main job; make test: all tests; make torture: the long form of the hard ones; make check: lint, format, types;
# make docs: the documentation, in site/.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

TORTURE := tests/torture tests/attack/test_properties.py tests/measure/test_properties.py

.PHONY: run test torture check format bench docs clean

run: $(STAMP)
	$(BIN)/petechia run

test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile

torture: $(STAMP)
	PETECHIA_TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/pytest --durations=20 $(TORTURE)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache site

# Installs again only when the dependencies change.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Petechia needs Python 3.11 or newer; say which with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
