# Two commands for users: `make demo` and `make test`. Both make what they need
# in .venv; only Python 3.11 or newer with venv and pip must be there before.

PYTHON ?= python3
DATASET ?= digits
# A page of docs/results, such as neuron_apoptosis; all if none.
PAPER ?=
BACKENDS ?= torch jax tensorflow
# Workers that share the tests of one backend. Each imports its own backend.
WORKERS ?= 2
# More arguments for pytest, such as PYTEST_ARGS="-k apoptosis".
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

# Each worker has a core: threads on top of that only get in each other's way.
# TensorFlow convolves with channels first by oneDNN only, which it leaves off
# on some processors.
ONE_THREAD := TF_ENABLE_ONEDNN_OPTS=1 \
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
	XLA_FLAGS="--xla_cpu_multi_thread_eigen=false $(XLA_FLAGS)"
QUIET := TF_CPP_MIN_LOG_LEVEL=3

MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo results test horovod lint docs format benchmark dist clean

help:
	@echo "make demo [DATASET=digits|mnist|cifar10|higgs]  train, shrink, compare"
	@echo "make results [PAPER=neuron_apoptosis]           docs/results from its rows"
	@echo "make test [BACKENDS='torch jax tensorflow']     lint, and all tests"
	@echo "make test-jax                                   the tests on one backend"
	@echo "make horovod                                    build and install Horovod"
	@echo "make lint, make format                          check or mend the style"
	@echo "make docs                                       the site, in site/"
	@echo "make benchmark                                  the measured ratios"
	@echo "make dist, make try-jax                         what is released, and tried"
	@echo "make clean                                      remove .venv and caches"

# A stamp is newer than pyproject.toml once what it asks for is installed.
$(VENV)/demo.stamp: EXTRAS := tensorflow-cpu,examples
$(VENV)/test.stamp: EXTRAS := tensorflow-cpu,jax,torch,test,dev,docs
$(VENV)/dist.stamp: EXTRAS := release
$(VENV)/%.stamp: pyproject.toml
	@echo "== Installing into $(VENV): keras-apoptosis[$(EXTRAS)]"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(VENV)/demo.stamp
	KERAS_BACKEND=tensorflow $(QUIET) \
		$(BIN)/python examples/demo.py --dataset $(DATASET)

# The tables anew from what is stored, and how long their trainings take.
results: $(VENV)/demo.stamp
	@KERAS_BACKEND=tensorflow $(QUIET) $(BIN)/python examples/results.py $(PAPER)

# About three minutes on two cores; the wheel is kept in .venv/horovod.
horovod: $(VENV)/test.stamp
	@echo "== Horovod"
	@KERAS_BACKEND=tensorflow $(QUIET) \
		$(BIN)/python -m keras_apoptosis.distributed.install

# One after the other, so that one that fails does not hide what the next says.
# On CI nothing may be left out, so Horovod is built: beside the jobs that do
# not need it, since parts of that keep one processor busy and parts of these.
test: $(VENV)/test.stamp
	@mkdir -p $(VENV)/log; failed=0; summary=; \
	if [ -n "$(CI)" ]; then \
		$(MAKE) --no-print-directory horovod > $(VENV)/log/horovod.log 2>&1 & \
		building=$$!; \
	fi; \
	for job in lint $(BACKENDS:%=test-%); do \
		log=$(VENV)/log/$$job.log; \
		if [ $$job = test-tensorflow ] && [ -n "$$building" ]; then \
			wait $$building || failed=1; cat $(VENV)/log/horovod.log; \
		fi; \
		if $(MAKE) --no-print-directory $$job 2>&1 | tee $$log; \
		then result=passed; else result=FAILED; failed=1; fi; \
		last=$$(grep -E '^=+ .* in [0-9.]+s.* =+$$' $$log | tail -n 1); \
		summary+=$$(printf '%-16s %s  %s' $$job $$result "$${last//=/}")$$'\n'; \
	done; \
	printf '\n== Summary\n%s' "$$summary"; \
	$(BIN)/python -c 'import importlib.util as i; i.find_spec("horovod") or \
		print("Left out: training on several workers, for Horovod is not", \
			"installed. `make horovod` builds it.")'; \
	exit $$failed

test-%: $(VENV)/test.stamp
	@echo "== Tests on $*"
	@KERAS_BACKEND=$* $(ONE_THREAD) $(QUIET) \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		--durations=10 --durations-min=5 $(PYTEST_ARGS)

lint: $(VENV)/test.stamp
	@echo "== Lint"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(MKDOCS) --site-dir $(VENV)/site

# The site, with the tutorials run; `make lint` builds it without running them.
# Without oneDNN TensorFlow does not begin each of them with a line about it.
docs: $(VENV)/test.stamp
	$(QUIET) $(BIN)/python examples/datasets.py mnist cifar10
	KERAS_BACKEND=tensorflow $(QUIET) TF_ENABLE_ONEDNN_OPTS=0 \
		EXECUTE_TUTORIALS=true $(MKDOCS)

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/test.stamp
	@for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; $(QUIET) $(BIN)/python $$script || exit 1; \
	done

# The wheel is built from the source distribution.
dist: $(VENV)/dist.stamp
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# The wheel with one backend, in an environment that has nothing else.
try-%:
	@test -e dist/*.whl || { echo "make dist builds the wheel"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)/try-$*
	$(VENV)/try-$*/bin/python -m pip install --quiet "$$(ls dist/*.whl)[$*]"
	KERAS_BACKEND=$* $(QUIET) $(VENV)/try-$*/bin/python .ci/try_wheel.py

clean:
	rm -rf $(VENV) build dist site .cache *.egg-info .pytest_cache .ruff_cache \
		.mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
