# Each target sets itself up in a virtual environment of its own: nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
BIN    := $(VENV)/bin

.PHONY: demo test lint types fast slow clean

demo: $(VENV)/.demo            ## export the trained demo, draw with it, compare it with PyTorch
	$(BIN)/python examples/demo.py $(OUT)/demo

test: lint fast slow           ## everything that CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

# mypy does not read setuptools' folder mapping, so it gets the package laid out as it installs.
types: $(VENV)/.dev
	mkdir -p build/types/dit_deploy
	ln -sfn $(CURDIR)/dit_deploy/* $(CURDIR)/exporters $(CURDIR)/runtimes build/types/dit_deploy/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p dit_deploy

fast: $(VENV)/.dev             ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -q -n auto

slow: $(VENV)/.dev             ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow" -q -n auto --dist loadfile

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export,tensorrt-rtx,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
