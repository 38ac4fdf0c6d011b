# Every target does its own set-up in .venv; nothing else has to be installed first but Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUT ?= out/demo

.PHONY: demo test lint types check clean setup

# torch first and by its exact version: a looser range pulls several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgeq needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(READY)

demo: $(READY)
	$(BIN)/edgeq export --target android --output $(DEMO_OUT) --force
	$(BIN)/edgeq run $(DEMO_OUT) --text "A man is playing a guitar." --text "Someone plays an instrument." --text "The stock market fell today."

test: $(READY)
	# In the order of their names: the long files of tests/e2e first, so that no worker starts one when the other is done.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache
