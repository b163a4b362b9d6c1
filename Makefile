# Every target makes what it needs. Wanted on the machine: Python >= 3.11 with venv, make, g++.
PYTHON ?= python3
# What pip is given for torch. Without a GPU this is a much smaller download:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
TESTS := $(BIN)/python -m pytest -n auto --maxprocesses 4
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-all lint format spec bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      train a small model eagerly and under Lowtide, side by side"
	@echo "make test      the tests (under 10 minutes on two cores)"
	@echo "make test-all  the slow ones too"
	@echo "make lint      formatting, types, layers, spelling"
	@echo "make spec      which rows of docs/specification.md have a test"
	@echo "make bench     lists the benchmarks; make bench ARGS='e2e gpt2' runs one"
	@echo "ARGS=... is passed on, for instance: make test ARGS='-k pack'"

demo: .venv/made-run
	$(BIN)/lowtide demo --page out/demo.html $(ARGS)

test: .venv/made-test
	$(TESTS) $(ARGS)

test-all: .venv/made-test
	$(TESTS) -m "slow or not slow" $(ARGS)

lint: .venv/made-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell src tests docs scripts README.md CHANGELOG.md CONTRIBUTING.md

format: .venv/made-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

spec: .venv/made-run
	$(BIN)/python scripts/spec.py $(ARGS)

bench: .venv/made-test
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv

# The stamps: an environment is made once, and completed when pyproject.toml changes.
.venv/made-pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lowtide needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=25.1"
	@touch $@

.venv/made-run: .venv/made-pip pyproject.toml
	$(PIP) $(TORCH)
	$(PIP) -e ".[torch]"
	@touch $@

.venv/made-test: .venv/made-run
	$(PIP) -e ".[torch,models]" --group test
	@touch $@

.venv/made-lint: .venv/made-test
	$(PIP) --group lint
	@touch $@
