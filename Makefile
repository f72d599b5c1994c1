# make run [CONFIG=configs/lenet5.py] [ARGS="--config.seed=1"]   train, or continue
# make test                                                      the tests of every part, in minutes
# make test-all                                                  all tests: also the slow ones
# make lint                                                      ruff, and the layers of imports
# Both commands make .venv and install what they need, once.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/vit_b16.py
ARGS ?=

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run test test-all lint clean

run: $(VENV)/.core
	python launch.py --config $(CONFIG) $(ARGS)

test: $(VENV)/.dev lint
	python -m pytest -n 2 --dist loadfile -m "not slow" --hypothesis-profile=quick $(ARGS)

test-all: $(VENV)/.dev lint
	python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	ruff check .
	ruff format --check .
	lint-imports

$(VENV)/.core: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache *.egg-info
