# make run: the main job; make test: all tests; make coverage: all tests, with line coverage;
# make torture: the long versions of the hard tests; make check: lint, format, types, imports, and known vulnerabilities where
# pip-audit can reach its data; make docs: the documentation, in site/; make install-locked: the exact versions of
# constraints.txt in .venv; make constraints: updates that file.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

TORTURE := tests/torture tests/core/test_files.py tests/attack/test_properties.py tests/measure/test_properties.py tests/pacs/test_watch.py

.PHONY: run test coverage torture check format bench docs install-locked constraints clean

run: $(STAMP)
	$(BIN)/petechia run

test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile

coverage: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=
	@echo "Coverage: $$($(BIN)/coverage report --format=total) % of the lines in src/petechia"

torture: $(STAMP)
	PETECHIA_TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/pytest --durations=20 $(TORTURE)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.known_flaws

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Everything that petechia needs to run, viewer included, in the exact versions of constraints.txt, with every file checked by
# its hash. The one exception is hatchling, which builds petechia itself. Then: .venv/bin/petechia run
install-locked:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --no-deps --require-hashes --requirement constraints.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps --editable .
	$(BIN)/pip check

# Writes constraints.txt for the oldest supported Python on Linux. Pinned versions are kept while they fit; delete the file
# first to get newer ones.
constraints:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check 'pip-tools>=7.5'
	CUSTOM_COMPILE_COMMAND="make constraints" .venv-lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--extra web --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .venv-lock .coverage .mypy_cache .pytest_cache .ruff_cache dist site

# Reinstalls only when the dependencies change.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Petechia needs Python 3.11 or newer; say which with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
