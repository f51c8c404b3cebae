# Every target works on a machine that has only Python, and is quick to repeat.
# Without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares a large download.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
# Files whose slow tests take nearly a minute or more, longest first: come last, they would keep one core alone.
LONGEST := $(patsubst %,tests/test_%.py,hub_faults processes kills recipes_learn quickstart scaling \
	streamed_training hub_outages reproduce launchers families_and_sources sources_references hub_story)
FILES := $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/test_*.py))
# Three processes keep two cores busy: those that test the Hub wait more than they compute.
PYTEST := $(RUN) pytest -n 3
# What pytest makes of a test file is kept: making it again takes every process five seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help quickstart test fast lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed  ## from nothing to an in-context learner, in runs/quickstart
	$(VENV)/bin/python scripts/quickstart.py --output runs/quickstart

test: lint  ## lint, then all tests, those that really learn included (minutes)
	$(PYTEST) --dist loadfile --no-loadscope-reorder $(FILES)

fast: $(VENV)/.installed-test  ## only the tests that take seconds, on two cores
	$(PYTEST) -m "not slow"

lint: $(VENV)/.installed-test  ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

clean:  ## remove .venv, builds and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find ad_hf scripts tests -name __pycache__ -prune -exec rm -rf {} +

# The stamps repeat an installation when pyproject.toml has changed, and only then.
$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(RUN) pip install -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/pip
	$(RUN) pip install -e ".[test]"
	touch $@ $(VENV)/.installed

# pip arrives last, so a virtual environment that has it is whole.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("ad-hf needs Python 3.11 or newer, but $(PYTHON) is %d.%d: choose another, as in make PYTHON=python3.12 $(MAKECMDGOALS)" % v[:2])'
	$(PYTHON) -m venv $(VENV)
