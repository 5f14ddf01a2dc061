# Every target works from a fresh checkout with Python 3.11 and make; requirements/install does the rest.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

.PHONY: help environment lint unit check test mutants docs demo bench clean lock format

# Two kinds of tests run one after another: end to end, with one control plane, and in real time.
REPORT := -q -rs --durations=40 --promised go
MUTANTS ?= 200
SEED ?= 1

help:
	@echo "make demo    helm install, kubectl apply and a talking face, on a real control plane here"
	@echo "make lint    format, lint, import contracts, types; needs neither Go nor Debian packages"
	@echo "make unit    the fast unit tests; needs neither Go nor Debian packages"
	@echo "make check   make lint and the chart lint"
	@echo "make test    every test that needs no GPU, with the slow and the end-to-end tests"
	@echo "make docs    the documentation site, under build/docs/"
	@echo "make mutants a sample of mutants against the unit tests: MUTANTS=200 SEED=1"
	@echo "make bench   CPU benchmarks, one JSON file each under build/bench/"
	@echo "make clean   remove build/ and the environment"

environment:
	@PYTHON=$(PYTHON) requirements/install

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: environment
	$(BIN)/pytest -q -n 2 -m "not gpu and not e2e and not slow and not tools" $(PYTEST_ARGS)

check: lint
	@mkdir -p build
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > build/tools
	$$(grep '/helm$$' build/tools) lint --strict --quiet charts/avatar-operator

# A skipped test fails here when the tool that it lacks is one that these lines install.
test: environment
	@requirements/install-debian
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	@debian=$$(requirements/install-debian --promised); failed=0; set -x; \
	  $(BIN)/pytest -m "not gpu and not e2e and not realtime" -n 2 --dist loadfile $(REPORT) $$debian $(PYTEST_ARGS) || failed=1; \
	  $(BIN)/pytest -m "(e2e or realtime) and not gpu" $(REPORT) $$debian $(PYTEST_ARGS) || failed=1; \
	  exit $$failed

mutants: environment
	PYTHONPATH=tests/mutation $(BIN)/python -m mutants --mutants $(MUTANTS) --seed $(SEED) $(MUTANTS_ARGS)

docs: environment
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

demo:
	@STARTED=$$(date +%s.%N); PYTHON=$(PYTHON) requirements/install && \
	  PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.demo --started $$STARTED

bench: environment
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.bench --out build/bench

format: environment
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock:
	@requirements/lock

clean:
	rm -rf build .venv
