# The front door. `make setup` prepares .venv from the lock files; everything else uses it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup run test test-daemon test-rest bench torture lint lock clean

help: ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: .venv/.runtime ## prepare .venv with what running needs

run: .venv/.runtime ## start the daemon with an embedded PostgreSQL and ledger, on 127.0.0.1:8787 and :8788
	$(BIN)/clawsettle dev

test: .venv/.test ## run every test, in two halves at once: most of the time they wait
	@$(MAKE) --no-print-directory -j2 test-daemon test-rest

test-daemon: .venv/.test
	$(BIN)/python -m pytest tests/daemon

test-rest: .venv/.test
	$(BIN)/python -m pytest --ignore tests/daemon

torture: .venv/.test ## kill, cut, stall and fill under load, 20 rounds of each kind; takes about 55 minutes
	$(BIN)/python -m tests.torture

bench: .venv/.test ## measure the main path, the ledger, payouts, netting and loss events, about 55 minutes; ARGS="--only drain" and the like
	$(BIN)/python -m bench $(ARGS)

lint: .venv/.test ## style, types and the import rules
	$(BIN)/ruff format --check clawsettle tests bench docs
	$(BIN)/ruff check clawsettle tests bench docs
	$(BIN)/mypy
	$(BIN)/mypy docs/generate.py
	$(BIN)/lint-imports --no-logo

lock: ## pin anew what pyproject.toml asks for (needs uv)
	echo flit_core | uv pip compile pyproject.toml - --extra embedded -o requirements.lock $(LOCK)
	echo flit_core | uv pip compile pyproject.toml - --all-extras -c requirements.lock -o requirements-test.lock $(LOCK)

LOCK = --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

clean: ## remove .venv and the caches; the state directory .clawsettle stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "clawsettle needs Python 3.11 or later; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The editable install takes its build backend from the lock too, so nothing unpinned is fetched.
.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.test: requirements-test.lock | .venv/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.lock
	@touch $@
