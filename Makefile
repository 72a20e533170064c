# make up starts the platform, make test tests it. Both set up ./.venv by themselves; nothing needs root.
# Python is found by itself (3.11 or newer); choose one with PYTHON=/path/to/python3.12.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt tools/setup_venv.py src/mooring/__init__.py
# Given on the command line only: an unrelated PORT in the environment must not move the platform.
UP_DATA_DIR = $(if $(filter command line,$(origin DATA_DIR)),--data-dir "$(DATA_DIR)")
UP_PORT = $(if $(filter command line,$(origin PORT)),--port "$(PORT)")

find_python = $(or $(PYTHON),$(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done))

.PHONY: help up test check format bench demo-model clean

help: ## show this
	@echo "Mooring: deploy language models and govern them behind one gateway."
	@echo
	@awk -F ' ## ' '/^[a-z-]+:.* ## / {split($$1, name, ":"); printf "  make %-12s %s\n", name[1], $$2}' Makefile

up: $(VENV)/.runtime ## start the platform here [DATA_DIR=./.mooring] [PORT=8080] [ARGS="--no-demo"]
	@exec $(BIN)/mooring up $(UP_DATA_DIR) $(UP_PORT) $(ARGS)

test: $(VENV)/.test ## run every test; names at the end what this machine lacks [ARGS="-k key"]
	@exec $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev ## format, lint, types, floors, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_sizes
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev ## put the code into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.runtime ## measure beside nginx and other gateways; names what is missing [ARGS="--quick"]
	@exec $(BIN)/python -m benchmarks.run $(ARGS)

demo-model: $(VENV)/.runtime ## train the demo model again (about 45 minutes; fetches torch)
	@$(MAKE) -C models/demo model PYTHON="$(abspath $(BIN)/python)"

clean: ## remove what make made; never a data directory
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools models -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of packages: a second run compares file times and is done.
$(VENV)/.runtime $(VENV)/.test $(VENV)/.dev: $(INPUTS)
	@python="$(find_python)"; \
	if [ -z "$$python" ]; then echo "Mooring needs Python 3.11 or newer, and none was found: install one or name it with PYTHON=/path/to/python3." >&2; exit 1; fi; \
	exec $$python tools/setup_venv.py $(VENV) $(patsubst .%,%,$(notdir $@))
