# Two commands matter: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := fl_server fl_client strategies protocol

.PHONY: install browser demo deployment-demo test test-deployment test-engine test-rest lint docs bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v=sys.version_info; sys.exit(0 if (3,11)<=v[:2]<=(3,13) else "fedprint needs Python 3.11 to 3.13, this is %d.%d: set PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	mkdir -p runs
	$(BIN)/fedprint demo --out runs/demo --pool runs/pool.db

deployment-demo: install
	$(BIN)/fedprint deployment-demo --out runs/deployment

# Deployments mostly wait for Flower's heartbeats, and engines for their processes, so their tests
# run beside the others; threads of one would only wait for those of another.
test: export OMP_NUM_THREADS = 1
test: install
	$(MAKE) --jobs=4 --output-sync=target lint test-deployment test-engine test-rest

# The dashboard is tried in a real browser. It is installed where that can be done without asking
# anybody; elsewhere the tests that need it say what to do.
browser:
	@for name in $$FEDPRINT_BROWSER chromium chromium-browser google-chrome; do \
	  command -v $$name >/dev/null && exit 0; done; \
	if [ "$$FEDPRINT_WITHOUT_BROWSER" != 1 ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null || true; fi

test-deployment: install
	$(BIN)/python -m pytest -m deployment

test-engine: install
	$(BIN)/python -m pytest -m "engine and not deployment"

test-rest: install browser
	$(BIN)/python -m pytest -m "not engine"

lint: install
	$(BIN)/ruff check $(PACKAGES) tests benchmarks docs notebooks
	$(BIN)/ruff format --check $(PACKAGES) tests benchmarks docs notebooks
	$(BIN)/mypy

# Every warning is an error: a broken link, a page in no list, a docstring that cannot be shown.
docs: install
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site
	@echo build/site/index.html

bench: install
	$(BIN)/fedprint bench distances
	$(BIN)/fedprint bench extract

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
