# Everything a developer runs. Two commands need nothing but Python 3.11 to 3.13 with venv, and make:
#   make demo    the main job, on the embedded sandbox
#   make test    all checks and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_ARGS ?=

.PHONY: demo test check format bench fuzz faults chaos crashes soak coverage clean

demo: $(VENV)/.installed
	@$(BIN)/rail402 demo

test: check
	$(BIN)/pytest --numprocesses 2 --dist loadgroup $(PYTEST_ARGS)

check: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.developing
	$(BIN)/python -m tests.bench

SECONDS ?= 60
fuzz: $(VENV)/.developing # hostile bytes for every parser, SECONDS each
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ_ARGS)

faults: $(VENV)/.developing # every fault in every call, where `make test` plays a sample of some
	RAIL402_FAULTS=all $(BIN)/python -m pytest tests/faults

chaos: $(VENV)/.developing # kill servers and clients at random, for SECONDS; SEED=... again
	$(BIN)/python -m tests.crashes --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

crashes: $(VENV)/.developing # kill them at every step of every flow (about an hour), and write docs/crashes.md
	$(BIN)/python -m tests.crashes all $(CHAOS_ARGS)
	$(BIN)/python -m tests.crashes.report

soak: $(VENV)/.developing # ten minutes of good and bad clients at four workers, or SOAK_ARGS="--seconds 60"
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

coverage: $(VENV)/.developing
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit tests/conformance
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "rail402 needs Python 3.11, 3.12 or 3.13; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(INSTALL) --group dev
	@touch $@

clean:
	rm -rf $(VENV) .rail402 .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- A Lightning network to try things on and to test with: docs/regtest.md
COMPOSE ?= docker compose
REGTEST := .rail402/regtest

.PHONY: regtest-up regtest-env regtest-test regtest-down regtest-native

regtest-up: # in containers
	$(COMPOSE) --file docker-compose.lightning.yml up --detach
	@$(MAKE) --no-print-directory regtest-env

regtest-env: $(VENV)/.developing # write what reaches the containers to .rail402/regtest/env
	@mkdir -p $(REGTEST)
	@COMPOSE="$(COMPOSE)" .ci/lightning/compose-env $(REGTEST)/compose >$(REGTEST)/found
	@. ./$(REGTEST)/found && rm $(REGTEST)/found && $(BIN)/python -m tests.services.regtest env

regtest-down:
	$(COMPOSE) --file docker-compose.lightning.yml down --volumes
	rm -rf $(REGTEST)/compose $(REGTEST)/env $(REGTEST)/*.macaroon

regtest-native: $(VENV)/.developing # without containers, until Ctrl-C; `bash .ci/run install` installs what it runs
	@$(BIN)/python -m tests.services.regtest up

regtest-test: $(VENV)/.developing # the Lightning tests against whichever is up
	@test -f $(REGTEST)/env || { echo "no network is up: make regtest-up, or make regtest-native"; exit 1; }
	. ./$(REGTEST)/env && RAIL402_REQUIRE=lightning,lnbits $(BIN)/pytest tests/integration/test_*lightning*.py $(PYTEST_ARGS)
