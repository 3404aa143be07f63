# Development tasks. Needs make, and Python 3.11 or newer with venv. All other packages come from the hashed lock files.
# To use another interpreter:  make setup PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 4 # for two cores: about half of the tests wait for something
SHARED := -n $(WORKERS) --dist worksteal # an idle worker takes tests from a busy one

# Always keep compiled files: without them every command compiles all sources again.
unexport PYTHONDONTWRITEBYTECODE

EXTRAS := storage previews notify otel postgres mcp

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup $(EXTRAS) demo cluster test check bench clients screenshots soak dist deb lock fmt

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

setup: $(VENV)/.runtime ## create .venv with .venv/bin/kling-receiver

storage: ## add the packages for S3-compatible storage to .venv
previews: ## add the packages for thumbnails of archived pictures
notify: ## add the packages for chat, mail and push notifications
otel: ## add the packages for tracing with OpenTelemetry
postgres: ## add the packages for PostgreSQL to .venv
mcp: ## add the packages for the MCP server to .venv
$(EXTRAS): setup
	$(PIP) install --require-hashes -r requirements-$@.lock

demo: setup ## run one task from submit to delivery, without an account (ARGS=--keep keeps it running)
	$(BIN)/kling-receiver demo $(ARGS)

cluster: $(VENV)/.dev ## run three nodes on PostgreSQL behind a balancer, and kill one
	$(BIN)/python tests/harness/try_cluster.py

test: $(VENV)/.dev ## run the tests (ARGS="-k name")
	$(PYTEST) $(SHARED) $(ARGS)

check: $(VENV)/.dev ## check format, lint, types, import contracts and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(SHARED)

clients: $(VENV)/.dev ## install third-party clients of Kling, and run them against the gateway
	DROP_IN=1 $(PYTEST) -n 0 tests/e2e/test_other_clients.py $(ARGS)

bench: $(VENV)/.dev ## compare the speed with common alternatives (ARGS=--help)
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

screenshots: $(VENV)/.dev ## take pictures of every page of the console into var/screenshots; needs Chromium
	PYTHONPATH=tests $(BIN)/python -m console.screenshots

# Each worker gets one test at a time, the longest first. Any number can be set: make soak KILLS=50
soak: export KILLS ?= 1000
soak: export CUTS ?= 10000
soak: export HOURS ?= 20000
soak: export POINTS ?= 0
soak: export CRASHES ?= 300
soak: export BATCHES ?= 10
soak: export STOPS ?= 100
soak: export RESTARTS ?= 100
soak: export RELOADS ?= 100
soak: export UPGRADES ?= 100
soak: export DELIVERIES ?= 5000
soak: export FAULTS ?= 20
soak: export CANCELLATIONS ?= 20000
soak: export EXAMPLES ?= 5000
soak: export FORGED ?= 20000
soak: export HOSTILE ?= 50000
soak: export BODIES ?= 100000
soak: export GROWN_BODIES ?= 3000
soak: export GIGABYTES ?= 10
soak: export FILES ?= 20000
soak: export NODE_KILLS ?= 40
soak: export NODE_JOBS ?= 200
soak: export DATABASE_FAULTS ?= 60
soak: export NODE_MINUTES ?= 120
soak: export NETWORK_FAULTS ?= 30
soak: export DUTY_KILLS ?= 10
soak: export NODE_STOP_SECONDS ?= 60
soak: $(VENV)/.dev ## run the crash, power cut and random tests for hours; writes a report to var/soak
	$(PYTEST) -v -n 2 --maxschedchunk 1 -m soak --timeout 0 --report var/soak $(ARGS)

dist: $(VENV)/.dev ## build the wheel and the source archive into dist
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

deb: dist ## build the Debian package into dist, for this release of Debian
	$(BIN)/python systemd/package/build_deb.py dist/*.whl dist

fmt: $(VENV)/.dev ## format, apply automatic lint fixes, write the manual page and the completion table
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/python -m receiver.cli.man_page > systemd/kling-receiver.1
	$(BIN)/python -m receiver.cli.completion_table > receiver/cli/completion.json

# A fresh uv resolves for all platforms and Python versions. Pins stay while pyproject.toml allows them (ARGS=--upgrade).
# Lock files contain names, versions and hashes, but no addresses: each machine has its own package index.
lock: ## update the lock files, with hashes
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && set -e && \
	$(PYTHON) -m venv "$$work" && "$$work/bin/python" -m pip --disable-pip-version-check --quiet install uv && \
	compile="$$work/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header $(ARGS) pyproject.toml" && \
	$$compile --group install --output-file requirements.lock && \
	for extra in $(EXTRAS); do $$compile --extra $$extra --group install --output-file requirements-$$extra.lock; done && \
	$$compile $(EXTRAS:%=--extra %) --group dev --output-file requirements-dev.lock
	@! grep -nE 'https?:' requirements*.lock

# Stamp files make a second run instant. A stamp is written last, so an interrupted step runs again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is missing or older than 3.11. Use another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) has no venv or pip. Install them (Debian, Ubuntu: apt install python3-venv), or use another one: make PYTHON=..." >&2; exit 1; }
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
