# Every target works from a fresh checkout with Python 3.11 and make; requirements/install does the rest.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

.PHONY: help environment check test demo bench clean lock format

help:
	@echo "make demo    helm install, kubectl apply and a talking face, on a real control plane here"
	@echo "make test    every test that needs no GPU"
	@echo "make check   format, lint, types, import contracts, chart lint"
	@echo "make bench   CPU benchmarks, one JSON file each under build/bench/"
	@echo "make clean   remove build/ and the environment"

environment:
	@PYTHON=$(PYTHON) requirements/install

check: environment
	@mkdir -p build
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > build/tools
	$$(grep '/helm$$' build/tools) lint --strict --quiet charts/avatar-operator

test: environment
	@requirements/install-debian
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	$(BIN)/pytest -m "not gpu" $(PYTEST_ARGS)

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
