# Everything a newcomer runs: `make quickstart` first, then `make test`. Each target makes its own
# virtual environment and installs what it needs. Two Pythons side by side:
#   make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Pinned versions where there is a file for this Python; `make ... CONSTRAINTS=` takes the newest.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS ?= $(wildcard constraints/py$(VERSION).txt)
comma := ,
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint types format bench constraints clean

help:
	@echo "make quickstart   train a small code model on this machine, by SFT and RL too; a report (15 minutes)"
	@echo "make test         the default suite (13 minutes on 2 cores)"
	@echo "make test-slow    the long tests; installs torch and transformers"
	@echo "make lint types   what CI checks besides the tests; make format mends what it can"
	@echo "make bench        the benchmarks; writes benchmarks/results/*.json"
	@echo "make constraints  renew the pinned versions for this Python"
	@echo "make clean        remove $(VENV), caches and build outputs; runs/ stays"

quickstart: $(VENV)/.runtime
	@JAX_PLATFORMS=cpu $(BIN)/codejax run --config=configs/quickstart.py:cpu --workdir=runs/quickstart

# The files of tests on all cores, up to eight.
TEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test: $(VENV)/.dev
	@$(TEST)

test-slow: $(VENV)/.slow
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.slow
	@mkdir -p benchmarks/results
	@for file in benchmarks/[!_]*.py; do name=$$(basename "$$file" .py); echo "== $$name"; \
	  $(BIN)/python "$$file" --output="benchmarks/results/$$name.json" || exit 1; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "codejax needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1) as '$(PYTHON)'." \
	    "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "codejax: '$(PYTHON) -m venv' failed (Debian and Ubuntu: apt install python3-venv)" >&2; \
	  exit 1; }

# $(VENV)/.runtime, .dev and .slow are stamps: what is installed, as of setup.py and constraints.
# uv installs three times as fast as pip; where it cannot (it reads no pip.conf), pip does. They
# write to a log, so that a failure is a few lines and not a few hundred.
define install
	@echo "installing codejax$(1) into $(VENV), which takes about a minute"
	@{ $(2) || $(PIP) $(PINS) --editable '.$(1)'; } >$(VENV)/install.log 2>&1 || { \
	  grep -i '^error' $(VENV)/install.log | tail -n 3 >&2; \
	  echo "codejax: installing failed; the whole story is in $(VENV)/install.log" >&2; exit 1; }
	@touch $@
endef
PINS := $(addprefix --constraint ,$(CONSTRAINTS))
UV = $(PIP) $(PINS) uv && UV_HTTP_RETRIES=1 $(BIN)/uv pip install --quiet --compile-bytecode \
  --python $(BIN)/python $${PIP_INDEX_URL:+--default-index "$$PIP_INDEX_URL"} $(PINS)

$(VENV)/.runtime: setup.py $(CONSTRAINTS) | $(BIN)/python
	$(call install,,$(UV) --editable .)
$(VENV)/.dev: setup.py $(CONSTRAINTS) | $(BIN)/python
	$(call install,[dev],$(UV) --editable '.[dev]')
# With pip alone, which knows of a CPU build of torch where one is configured.
$(VENV)/.slow: setup.py $(CONSTRAINTS) | $(BIN)/python
	$(call install,[dev$(comma)slow],false)

# The constraints of a Python: what a fresh environment gets today, without the suffixes of local
# builds and without what torch itself pins for NVIDIA.
constraints:
	@rm -rf $(VENV)-fresh
	@$(MAKE) --no-print-directory VENV=$(VENV)-fresh CONSTRAINTS= $(VENV)-fresh/.slow
	@{ echo "# The dev and slow extras on Python $(VERSION), pinned; renewed by \`make constraints\`."; \
	  $(VENV)-fresh/bin/python -m pip --disable-pip-version-check freeze --exclude-editable \
	  | grep -viE '^(nvidia|cuda|triton)' | sed 's/+.*//'; } > constraints/py$(VERSION).txt
	@rm -rf $(VENV)-fresh

clean:
	@rm -rf $(VENV) $(VENV)-fresh build dist *.egg-info
	@rm -rf .compiled .pytest_cache .ruff_cache .hypothesis
	@find codejax configs benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
