# `make` says what there is. Everything runs from .venv, which is made from the locks when it is missing or they have changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet
PROTOS := $(shell find proto -name '*.proto')

.DEFAULT_GOAL := help
.PHONY: help install proto fmt lint type proto-check test soak bench demo stack-up stack-down lock
.DELETE_ON_ERROR:

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/run.stamp ## Arms in motion on one process and one file; DURATION=10 ends it by itself, in seconds
	$(BIN)/aorist dev --demo $(if $(DURATION),--duration $(DURATION))

test: install ## All tests; ARGS="-k name" goes to pytest
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest --ignore tests/cluster --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest tests/cluster
endif

# Most tests wait for half of their time, so two files run side by side, each side with servers of its own; folders come in the order of
# their names, so long files come first. Those of tests/cluster put all the load on the machine that it takes: they run alone.

soak: install ## Deaths and outages of real processes and servers: five times as many, four times as long; ARGS as with test
	AORIST_SOAK=1 $(BIN)/pytest tests/cluster $(ARGS)

bench: install ## Figures, each beside its limit; ONLY=fold,query some of them; QUICK=1 within 3 minutes; WRITE_DOCS=1 makes docs/figures.md
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(WRITE_DOCS),--write-docs)

lint: install ## Style, imports between floors; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	PYTHONPATH=. $(BIN)/lint-imports

type: install ## mypy, strict
	$(BIN)/mypy

proto-check: install ## Style of proto/, and that it breaks no caller; BREAKING_AGAINST=commit, else the main that landed last
	$(BIN)/python -m tools.proto_check $(BREAKING_AGAINST)

fmt: install ## Formats, and mends what can be mended safely
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

proto: .venv/run.stamp ## Generates code from proto/ anew
	$(BIN)/python hatch_build.py

stack-up: install ## Real Kafka, Cassandra and etcd, without containers
	$(BIN)/python -m stack up

stack-down: install ## Ends them
	$(BIN)/python -m stack down

install: .venv/dev.stamp ## .venv with all that the other targets need

lock: install ## Pins what pyproject.toml asks for, with hashes; UPGRADE=1 takes the newest
	$(LOCK) --output-file requirements.lock
	$(LOCK) --all-extras --constraint requirements.lock --output-file requirements-dev.lock

# No line of a lock may say where packages come from: that is the business of the machine.
LOCK = PIP_FIND_LINKS= CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile pyproject.toml --quiet $(if $(UPGRADE),--upgrade) \
	--all-build-deps --generate-hashes --allow-unsafe --strip-extras --no-emit-options --newline lf

# Two steps, since the demo needs less than half of it. --no-compile: most of what is installed is never imported.
.venv/run.stamp: requirements.lock pyproject.toml hatch_build.py $(PROTOS)
	@$(or $(PYTHON),$(error Python 3.11 or newer is needed)) -c \
		'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "Making .venv, once: a quarter of a minute"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --no-compile --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock .venv/run.stamp
	@echo "Adding to .venv what tests and checks need, once: a quarter of a minute"
	@$(PIP) install --no-compile --require-hashes -r requirements-dev.lock
	@touch $@
