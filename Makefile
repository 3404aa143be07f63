# What a developer does here. Needs make, and Python 3.11 or newer with venv; all else comes from the hashed locks.
# Another interpreter:  make setup PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 4 # of which two at a time wait for something, on two cores
SHARED := -n $(WORKERS) --dist worksteal # so that nobody is left with what was meant for a worker whose tests are long

# Compiled files are kept, whatever the machine is set to: without them every command reads all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup storage demo test check bench soak lock fmt

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while read -r name what; do printf '  make %-7s %s\n' "$$name" "$$what"; done

setup: $(VENV)/.runtime ## build .venv, so that .venv/bin/kling-receiver works

storage: setup ## add to .venv what copying results to an S3-compatible store needs
	$(PIP) install --require-hashes -r requirements-storage.lock

demo: setup ## watch one job go all the way, with no account (ARGS=--keep leaves it running)
	$(BIN)/kling-receiver demo $(ARGS)

test: $(VENV)/.dev ## run the tests (ARGS="-k name")
	$(PYTEST) $(SHARED) $(ARGS)

check: $(VENV)/.dev ## all that must hold: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(SHARED)

bench: $(VENV)/.dev ## measure against the ways it is usually done (ARGS=--help)
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

# Each worker gets one test after the other, the longest first; a run's numbers may be set by hand: make soak KILLS=50
soak: export KILLS ?= 1000
soak: export CUTS ?= 10000
soak: export HOURS ?= 20000
soak: export POINTS ?= 0
soak: export CRASHES ?= 300
soak: export BATCHES ?= 10
soak: export STOPS ?= 100
soak: export RESTARTS ?= 100
soak: export DELIVERIES ?= 5000
soak: export FAULTS ?= 20
soak: export CANCELLATIONS ?= 20000
soak: export EXAMPLES ?= 5000
soak: export FORGED ?= 20000
soak: export BODIES ?= 100000
soak: export GIGABYTES ?= 10
soak: $(VENV)/.dev ## the tests that kill, cut the power and guess, for as long as it takes; ends with a report in var/soak
	$(PYTEST) -v -n 2 --maxschedchunk 1 -m soak --timeout 0 --report var/soak $(ARGS)

fmt: $(VENV)/.dev ## format, and mend what can be mended by machine
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# A fresh uv resolves for every platform and Python; pins stay unless a range in pyproject.toml forbids them (ARGS=--upgrade).
# The locks hold names, versions and hashes, never an address: where packages come from is each machine's own affair.
lock: ## pin the dependencies anew, with hashes
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && set -e && \
	$(PYTHON) -m venv "$$work" && "$$work/bin/python" -m pip --disable-pip-version-check --quiet install uv && \
	compile="$$work/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(ARGS) pyproject.toml" && \
	$$compile --group install --output-file requirements.lock && \
	$$compile --extra storage --group install --output-file requirements-storage.lock && \
	$$compile --extra storage --group dev --output-file requirements-dev.lock
	@! grep -nE 'https?:' requirements*.lock

# The stamps make a second run instant. A stamp is set last, so what was interrupted is done again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is missing or older than 3.11; name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) comes without venv and pip; install them (Debian, Ubuntu: apt install python3-venv) or name another one: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q receiver
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q receiver
	@touch $(VENV)/.runtime $@
