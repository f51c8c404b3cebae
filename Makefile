# Every target works on a machine that has only Python, and is quick to repeat.
# Without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares a large download.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
# A file for each core: among all the others, one core would wait for the other at the end.
LONGEST := $(addprefix tests/test_,quickstart.py hub_story.py recipes_learn.py sources_references.py)

.PHONY: help quickstart test fast lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed  ## from nothing to an in-context learner, in runs/quickstart
	$(VENV)/bin/python scripts/quickstart.py --output runs/quickstart

test: lint fast  ## lint, then all tests, those that really learn included (minutes)
	$(RUN) pytest -m slow -n 2 --dist loadfile $(LONGEST)
	$(RUN) pytest -m slow -n 2 $(addprefix --ignore=,$(LONGEST))

fast: $(VENV)/.installed-test  ## only the tests that take seconds, on two cores
	$(RUN) pytest -m "not slow" -n 2

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
