# Each target does its own set-up, once: a virtual environment in $(VENV) with the pinned versions.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
N ?= 10000

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
CORE = $(VENV)/fastmix-core
DEV = $(VENV)/fastmix-dev
DOCS = $(VENV)/fastmix-docs

# The package as it is installed, where kernels/ and pipelines/ are inside.
INSTALLED = rm -rf build $(VENV)/installed && $(PIP) --no-deps --no-build-isolation --target $(VENV)/installed .

.PHONY: quickstart test test-all fuzz lint bench docs venv

quickstart: $(CORE)
	$(VENV)/bin/python -m fastmix.train configs/quickstart.yaml $(ARGS)

test: $(DEV)
	$(VENV)/bin/python -m pytest -q -m "not long" $(ARGS)

# Gradients once more with other instructions, as on another processor: a test of them must not hang on a rounding. Those
# of the engine compare one way of computing with itself.
test-all: test
	$(VENV)/bin/python -m pytest -q -m long $(ARGS)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(VENV)/bin/python -m pytest -q -m "gradient and not long" \
		tests/kernels tests/mixers tests/models $(ARGS)

# N files, changed at random, through all that reads them. The tests try 300.
fuzz: $(DEV)
	PYTHONPATH=.:tests $(VENV)/bin/python -m faults.fuzz $(N) $(ARGS)

# The floors are those of the installed package.
lint: $(DEV)
	$(VENV)/bin/python -m ruff check .
	$(INSTALLED)
	cd $(VENV)/installed && PYTHONPATH=. ../bin/lint-imports --no-cache --no-logo $(CURDIR)/pyproject.toml

bench: $(CORE)
	$(VENV)/bin/python -m fastmix.bench mix $(ARGS)
	$(VENV)/bin/python -m fastmix.bench loader shapes:train $(ARGS)
	$(VENV)/bin/python -m fastmix.bench step $(ARGS)

# The pages as a site, in site/; a warning is an error.
docs: $(DOCS)
	$(INSTALLED)
	NO_MKDOCS_2_WARNING=1 FASTMIX_INSTALLED=$(abspath $(VENV))/installed $(VENV)/bin/python -m mkdocs build $(ARGS)

venv: $(DEV)

$(CORE): setup.py constraints.txt
	@echo "Installing fastmix into $(VENV); torch is large, this takes minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(DEV): $(CORE)
	$(PIP) -e ".[dev,export,figures,parquet]"
	@touch $@

$(DOCS): $(DEV)
	$(PIP) -e ".[docs]"
	@touch $@
