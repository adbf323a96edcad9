# make quickstart   set up, then pre-train on real images and show that it worked
# make test         set up, then run the tests
# Needs git, make and python3 (3.11 or newer) alone; everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow lint format clean

quickstart: .venv/ready
	$(BIN)/openmae quickstart

test: .venv/ready
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-slow: .venv/ready
	$(BIN)/pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt pins what the tests are run with; users of the package get its version ranges.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'openmae needs Python 3.11 or newer; give it as make PYTHON=...')"
	$(PYTHON) -c "import ensurepip" || (echo "this python3 cannot make environments: install python3-venv" && exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps imagecorruptions-imaug
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
