# The front door. Every target does its own set-up in .venv; only Python >= 3.11 and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all bench bench-gpu lint format clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.train ## train a 4-layer KAN network on handwritten digits (about a minute on 2 cores)
	$(BIN)/kanvolution train

# One process on each core, and one thread in each: threads of several processes would wait for one another.
test: $(VENV)/.dev ## the test suite, without what is marked slow or gpu
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-all: $(VENV)/.dev ## the test suite with the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m "not gpu"

bench: $(VENV)/.dev ## time layers and networks of every basis against plain convolutions; stores the results
	$(BIN)/python benchmarks/speed.py

bench-gpu: $(VENV)/.dev ## the same and more on a GPU, in order of importance
	$(BIN)/python benchmarks/gpu.py

lint: $(VENV)/.dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Kanvolution needs Python >= 3.11; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras; the first install takes minutes, since PyTorch is large.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing kanvolution[$*] into $(VENV) (PyTorch is large: a few minutes the first time) ..."
	$(INSTALL) --editable '.[$*]'
	@touch $@
