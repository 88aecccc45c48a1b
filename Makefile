# Each target does its own set-up, once: a virtual environment in $(VENV) with the pinned versions.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
CORE = $(VENV)/fastmix-core
DEV = $(VENV)/fastmix-dev

.PHONY: quickstart test lint bench venv

quickstart: $(CORE)
	$(VENV)/bin/python -m fastmix.train configs/quickstart.yaml $(ARGS)

test: $(DEV)
	$(VENV)/bin/python -m pytest -q $(ARGS)

lint: $(DEV)
	$(VENV)/bin/python -m ruff check .

bench: $(CORE)
	$(VENV)/bin/python -m fastmix.bench mix $(ARGS)
	$(VENV)/bin/python -m fastmix.bench loader shapes:train $(ARGS)
	$(VENV)/bin/python -m fastmix.bench step $(ARGS)

venv: $(DEV)

$(CORE): setup.py constraints.txt
	@echo "Installing fastmix into $(VENV); torch is large, this takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(DEV): $(CORE)
	$(PIP) -e ".[dev]"
	@touch $@
