# Every target works from a fresh checkout with Python 3.11 and make; requirements/install does the rest.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1

.PHONY: help environment lint unit check test mutants docs images images-test demo kubelet-demo bench clean lock format

REPORT := -q -rs --durations=40 --promised go
# The folders of the tests marked e2e or realtime: to collect the others as well takes a minute.
SERIAL := tests/clients tests/cluster tests/e2e tests/gateway tests/operator/kube tests/page tests/runtime/serving
MUTANTS ?= 200
SEED ?= 1

help:
	@echo "make demo    helm install, kubectl apply and a talking face, on a real control plane here"
	@echo "make kubelet-demo  the same with images on a real kubelet; as root, with Debian packages"
	@echo "make lint    format, lint, import contracts, types; needs neither Go nor Debian packages"
	@echo "make unit    the fast unit tests; needs neither Go nor Debian packages"
	@echo "make check   make lint and the chart lint"
	@echo "make test    every test that needs no GPU, with the slow and the end-to-end tests"
	@echo "make docs    the documentation site, under build/docs/"
	@echo "make images  the images as OCI archives, under build/images/; as root, CHECK=1 compares two builds"
	@echo "make mutants a sample of mutants against the unit tests: MUTANTS=200 SEED=1"
	@echo "make bench   CPU benchmarks, one JSON file each under build/bench/"
	@echo "make images-test  the tests of the images and of nodes with a real kubelet; as root"
	@echo "make clean   remove build/ and the environment"

environment:
	@PYTHON=$(PYTHON) requirements/install

lint: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: environment
	$(BIN)/pytest -q -n 2 -m "not gpu and not e2e and not slow and not tools and not images" $(PYTEST_ARGS)

check: lint
	@mkdir -p build
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > build/tools
	$$(grep '/helm$$' build/tools) lint --strict --quiet charts/avatar-operator

# The order of the files is that of tests/conftest.py: the longest first. Without --no-loadscope-reorder, files with few
# tests come last, also those that take minutes.
# A skipped test fails here when the tool that it lacks is one that these lines install. End-to-end tests run one after
# another: two at a time need nearly as long, because they are bound by the processors, and some miss their deadlines.
test: environment
	@requirements/install-debian
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	@debian=$$(requirements/install-debian --promised); failed=0; set -x; \
	  $(BIN)/pytest -m "not gpu and not e2e and not realtime and not images" -n 2 --dist loadfile --no-loadscope-reorder $(REPORT) $$debian $(PYTEST_ARGS) || failed=1; \
	  $(BIN)/pytest -m "(e2e or realtime) and not gpu and not images" $(SERIAL) $(REPORT) $$debian $(PYTEST_ARGS) || failed=1; \
	  exit $$failed

mutants: environment
	PYTHONPATH=tests/mutation $(BIN)/python -m mutants --mutants $(MUTANTS) --seed $(SEED) $(MUTANTS_ARGS)

docs: environment
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs

images: environment
	@requirements/install-debian
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.images $(if $(CHECK),--check) $(IMAGES)

demo:
	@STARTED=$$(date +%s.%N); PYTHON=$(PYTHON) requirements/install && \
	  PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.demo --started $$STARTED

# `make images` builds the images before it.
kubelet-demo:
	@STARTED=$$(date +%s.%N); PYTHON=$(PYTHON) requirements/install && requirements/install-debian && \
	  $(MAKE) images && \
	  PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.kubelet.demo --started $$STARTED

# What `make test` leaves out: it builds the images, and runs them on nodes with a real kubelet.
images-test: images
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	$(BIN)/pytest -m images $(REPORT) $(PYTEST_ARGS)

bench: environment
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster build > /dev/null
	PYTHONPATH=tests/cluster $(BIN)/python -m localcluster.bench --out build/bench

format: environment
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock:
	@requirements/lock

clean:
	rm -rf build .venv
