# Two commands matter: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := fl_server fl_client strategies protocol

.PHONY: install demo deployment-demo test lint bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v=sys.version_info; sys.exit(0 if (3,11)<=v[:2]<=(3,13) else "fedprint needs Python 3.11 to 3.13, this is %d.%d: set PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/fedprint demo --out runs/demo

deployment-demo: install
	$(BIN)/fedprint deployment-demo --out runs/deployment

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check $(PACKAGES) tests benchmarks docs
	$(BIN)/ruff format --check $(PACKAGES) tests benchmarks docs
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/distances.py
	$(BIN)/python benchmarks/extract.py

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
