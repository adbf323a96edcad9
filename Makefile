# make quickstart   set up, then pre-train on real images and show that it worked
# make test         set up, then run the tests
# make dist         build wheel and sdist, install the wheel in a clean environment, and begin the quickstart there
# make test-oldest  the tests with the lowest versions that pyproject.toml declares
# make test-newest  the tests with the newest versions and the newest Python that are to be had
# make site         docs/ and a reference of every command as static pages, in .venv/site/site
# make audit        ask the internet whether a package that the tests run with is known to be vulnerable
# Needs git, make and python3 (3.11 or newer) alone; everything goes into .venv.
PYTHON ?= python3
NEWEST ?= 3.14 3.13 3.12 3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test test-slow test-gpu test-oldest test-newest dist site lint format lock audit clean

quickstart: .venv/ready
	$(BIN)/openmae quickstart

# One more than there are cores, since tests of processes wait for them now and then.
AT_ONCE = --numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --maxprocesses 8 --dist worksteal

# Compiled once here, not in each process that tests start, also where PYTHONDONTWRITEBYTECODE is set.
test: .venv/tested
	$(BIN)/python -m compileall -q openmae
	$(BIN)/pytest $(AT_ONCE)

test-slow: .venv/tested
	$(BIN)/pytest -m slow

# On a GPU; OPENMAE_TEST_DEVICE=cpu make test-gpu rehearses them without one.
test-gpu: .venv/tested
	$(BIN)/pytest -m gpu tests/gpu

# Both in environments of their own, by what uv finds. Warnings are no errors there: old packages warn of newer ones,
# and the newest of what they will change.
OF_TESTS := --no-header --no-annotate --extra dev --extra corruptions --no-emit-package opencv-python
OF_PYTEST := -m pytest -p no:cacheprovider -W default $(AT_ONCE)

test-oldest: .venv/tools/bin/uv .venv/override.in
	.venv/tools/bin/uv pip compile --quiet --python-version 3.11 --resolution lowest-direct $(OF_TESTS) \
	  --overrides .venv/override.in --output-file .venv/oldest.txt pyproject.toml
	.venv/tools/bin/uv venv --quiet --clear --python 3.11 .venv/oldest
	.venv/tools/bin/uv pip install --quiet --python .venv/oldest/bin/python --no-deps -r .venv/oldest.txt --editable .
	.venv/oldest/bin/python $(OF_PYTEST)

test-newest: .venv/tools/bin/uv .venv/override.in
	for python in $(NEWEST); do .venv/tools/bin/uv venv --clear --python "$$python" .venv/newest && break; done
	.venv/tools/bin/uv pip compile --quiet --python .venv/newest/bin/python --upgrade $(OF_TESTS) \
	  --overrides .venv/override.in --output-file .venv/newest.txt pyproject.toml
	.venv/tools/bin/uv pip install --quiet --python .venv/newest/bin/python --no-deps -r .venv/newest.txt --editable .
	.venv/newest/bin/python $(OF_PYTEST)

# The wheel, as a user gets it: away from the clone, with the versions of the lock.
dist: .venv/ready
	rm -rf dist .venv/dist
	$(BIN)/python -m hatchling build -d dist
	sed 's/ *\\$$//; /^ *--hash/d' requirements.lock > .venv/constraints.txt
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install --quiet --disable-pip-version-check -c .venv/constraints.txt dist/*.whl
	cd .venv/dist && bin/openmae --version && bin/openmae --help | tail -n 1 && bin/openmae quickstart --epochs 2 \
	  && test -f "$$(bin/python -c 'import openmae, pathlib; print(pathlib.Path(openmae.__file__).parent)')/docs/data.md"
	@ls -l dist

# What makes it is in an environment of its own: nothing else needs it. The home page shows the demo of the quickstart's
# run, or of a minute's training; without a network the site is made without it, where onnxruntime-web was never taken.
site: .venv/tested
	test -x .venv/zensical/bin/zensical || $(PYTHON) -m venv .venv/zensical
	.venv/zensical/bin/python -m pip install --quiet --disable-pip-version-check zensical==0.0.73
	rm -rf .venv/site
	run=openmae-quickstart/run; test -f $$run/model.safetensors || { run=.venv/quickstart/run; \
	  test -f $$run/model.safetensors || $(BIN)/openmae quickstart --epochs 10 --out .venv/quickstart; }; \
	  $(BIN)/openmae demo $$run --to-file .venv/demo.html || rm -f .venv/demo.html
	$(BIN)/python website/build.py .venv/site .venv/demo.html
	cd .venv/site && ../zensical/bin/zensical build --strict
	@echo .venv/site/site/index.html

.venv/tools/bin/uv:
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

# Of what others ask for: lightly's trainer and its settings are not wanted, its encoders need neither; and trackio, which
# only writes pictures with it, would hold back the Pillow that all images are read with.
.venv/override.in: Makefile .venv/tools/bin/uv
	printf 'hydra-core; python_version < "3"\npytorch-lightning; python_version < "3"\npillow>=12\n' > $@

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

format: .venv/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tests.python.stub

# By version and SHA-256: requirements.lock holds what openmae needs and what builds it, requirements-dev.lock what only
# tests and checks need beside it. Users of the package get its version ranges.
.venv/ready: pyproject.toml requirements.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'openmae needs Python 3.11 or newer; give it as make PYTHON=...')"
	$(PYTHON) -c "import ensurepip" || (echo "this python3 cannot make environments: install python3-venv" && exit 1)
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes --requirement requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

.venv/tested: .venv/ready requirements-dev.lock
	$(PIP) --no-deps --require-hashes --requirement requirements-dev.lock
	touch $@

COMPILE = .venv/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes pyproject.toml \
  .venv/build.in

# What changed in pyproject.toml, the rest as it was; newer versions of all by make lock UPGRADE=--upgrade. The package
# whose own requirements are not wanted (a second OpenCV, which draws windows) is locked without them.
lock: .venv/tools/bin/uv .venv/override.in
	printf 'hatchling\neditables\n' > .venv/build.in
	cat requirements.lock requirements-dev.lock > .venv/all.lock
	$(COMPILE) $(UPGRADE) $(OF_TESTS) --overrides .venv/override.in --output-file .venv/all.lock
	$(COMPILE) --no-header --no-annotate --constraints .venv/all.lock --output-file requirements.lock
	awk 'NR == FNR { needed[$$1]; next } /^[^ ]+==/ { more = !($$1 in needed) } more' \
	  requirements.lock .venv/all.lock > requirements-dev.lock

# Whether a locked version is known to be vulnerable; this asks a service on the internet.
audit:
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@.venv/tools/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  --requirement requirements.lock --requirement requirements-dev.lock > .venv/audit.txt 2>&1; found=$$?; \
	tail -n 40 .venv/audit.txt; \
	if grep -qE 'could not be audited|ConnectionError|Max retries' .venv/audit.txt; then \
	  echo "nothing is known: the service that knows of vulnerabilities cannot be reached from here"; fi; exit $$found

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
