# make demo and make test need nothing but Python 3.11 or newer with its venv module.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= $(shell expr 4 + $$(nproc))
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup --ignore tests/faults

# Tests that take minutes because they build and install packages, run benchmarks, or install programs of others.
OTHERS := tests/acceptance/daemon/agents tests/runtimectl/acp/test_clients.py tests/contrib/container/test_image.py \
	tests/distribution/test_backend.py tests/security/network/test_pip.py tests/benchmarks

# Without compiled files each process of pytest compiles every test again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test others quick faults coverage lint check bench soak agents lock dist clean

help:
	@echo "make demo    install into .venv, then show a Runtime at work"
	@echo "make test    install into .venv, then run every test, JOBS at a time: by default 4 more than there are processors"
	@echo "make check   lint, and the tests but for the faults and the others: for each change"
	@echo "make others  the tests that build the packages and the image, run benchmarks, or install agents and clients"
	@echo "make quick   the tests without the slow parts: no faults, attacks, properties, benchmarks, documents or programs"
	@echo "             of others, and asyncio's loop alone. CI runs make lint, make test, and this on the newest Python:"
	@echo "             make quick PYTHON=python3.13 VENV=.venv-3.13"
	@echo "make faults  the fault tests and the searches alone, at length: as root, with strace; an hour or two"
	@echo "make coverage  the tests but for the faults, and the lines and branches that they leave out"
	@echo "make lint    ruff, mypy and the import contracts"
	@echo "make bench   every case next to its baseline; ONLY=\"reads replay\" for some, QUICK=1 for a short one,"
	@echo "             PAGE=1 to write the figures into docs/explanation/performance.md"
	@echo "make soak    use a daemon for MINUTES=3, with restarts, reloads, rotations and backups, and fail if its memory,"
	@echo "             descriptors, threads, processes, store, Workers or observers grow; build/benchmarks gets soak.csv"
	@echo "             and soak.svg. Not part of CI"
	@echo "make agents  install the agents of contrib/agents into build/agents, from npm and PyPI, and try each with a"
	@echo "             scripted model; ONLY=\"codex qwen\" for some, PAGE=1 to write docs/how-to/agents.md. Not part of CI"
	@echo "make lock    write requirements.lock with the newest versions from PyPI, and their licenses into THIRD_PARTY.md"
	@echo "make dist    build the sdist and the wheel into dist/, and check them"
	@echo "make clean   remove what the others made"

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,speed]'
	touch $(STAMP)

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh contrib/demo.sh

test: $(STAMP)
	$(PYTEST)
	$(BIN)/python -m pytest tests/faults

others: $(STAMP)
	$(PYTEST) $(OTHERS)

quick: $(STAMP)
	$(PYTEST) $(addprefix --ignore ,$(OTHERS)) --ignore tests/properties --ignore tests/docs --ignore tests/contrib \
		--ignore tests/security --ignore tests/distribution --loops asyncio

faults: $(STAMP)
	$(BIN)/python -m pytest tests/properties --faults=long --numprocesses $(JOBS)
	$(BIN)/python -m pytest tests/faults --faults=long

coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist loadgroup --ignore tests/faults --ignore tests/benchmarks
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(PYTEST) $(addprefix --ignore ,$(OTHERS))

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ONLY)
	$(if $(PAGE),$(BIN)/python -m benchmarks.page)

soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES))

agents: $(STAMP)
	$(BIN)/python contrib/agents/trial $(if $(PAGE),--page) $(ONLY)

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
		--python-platform linux --extra acp --extra speed --extra build --custom-compile-command "make lock" \
		--output-file requirements.lock setup.cfg
	$(BIN)/python -m distribution.licenses

dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
