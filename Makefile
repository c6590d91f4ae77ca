# Each target sets itself up in a virtual environment of its own: nothing but Python 3.11 or newer is needed, and for the
# tests a C++ compiler.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
BIN    := $(VENV)/bin
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

CPP        := build/cpp
CPP_FORMAT := $(BIN)/clang-format --style=file:runtimes/.clang-format
CPP_FILES   = $(shell find runtimes examples -name .deps -prune -o -name '*.[ch]' -print -o -name '*.[ch]pp' -print)
# How long, in seconds, the threads run under ThreadSanitizer, and how long the fuzzer.
THREADS_SECONDS ?= 20
FUZZ_SECONDS    ?= 60

.PHONY: demo test lint format types fast cpp cpp-prepare cpp-release cpp-asan cpp-tsan cpp-fuzz slow clean

demo: $(VENV)/.demo            ## export the trained demo, draw with it, compare it with PyTorch
	$(BIN)/python examples/demo.py $(OUT)/demo

test: lint fast cpp slow       ## everything that CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(CPP_FORMAT) --dry-run --Werror $(CPP_FILES)
	$(MAKE) --no-print-directory types

format: $(VENV)/.dev           ## every source as lint wants it
	$(BIN)/ruff format .
	@$(CPP_FORMAT) -i $(CPP_FILES)

# mypy does not read setuptools' folder mapping, so it gets the package laid out as it installs.
types: $(VENV)/.dev
	mkdir -p build/types/dit_deploy
	ln -sfn $(CURDIR)/dit_deploy/* $(CURDIR)/exporters $(CURDIR)/runtimes build/types/dit_deploy/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p dit_deploy

fast: $(VENV)/.dev             ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -q -n auto --dist loadfile

# Each of these goes on where the one before it ended well; presets: runtimes/cpp/CMakePresets.json.
cpp: cpp-release cpp-asan cpp-tsan cpp-fuzz   ## the C++ runtime: built, held against Python, sanitized, fuzzed

cpp-prepare: $(VENV)/.dev
	runtimes/cpp/prepare.sh --onnxruntime $(VENV) --fuzzer
	$(BIN)/python tests/runtimes/cpp/golden.py --all $(CPP)/golden

cpp-release: cpp-prepare
	$(call cpp_build,release,all)
	$(call cpp_test,release)
	DIT_DEPLOY_CPP_BUILD=$(CURDIR)/$(CPP)/release OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/runtimes/cpp -q

cpp-asan: cpp-prepare
	$(call cpp_build,asan,dit_deploy_tests)
	$(call cpp_test,asan)

cpp-tsan: cpp-prepare
	$(call cpp_build,tsan,dit_deploy_tests)
	DIT_DEPLOY_THREADS_SECONDS=$(THREADS_SECONDS) $(call cpp_test,tsan)

cpp-fuzz: cpp-prepare
	$(call cpp_build,fuzz,all)
	mkdir -p $(CPP)/corpus
	$(CPP)/fuzz/bundle_fuzzer -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 \
		-artifact_prefix=$(CPP)/ -dict=runtimes/cpp/fuzz/bundle.dict $(CPP)/corpus runtimes/cpp/fuzz/corpus

cpp_build = $(BIN)/cmake -S runtimes/cpp --preset $(1) && $(BIN)/cmake --build $(CPP)/$(1) --target $(2) -j$(JOBS)
cpp_test = DIT_DEPLOY_GOLDEN=$(CURDIR)/$(CPP)/golden $(BIN)/ctest --test-dir $(CPP)/$(1) --output-on-failure -j$(JOBS)

slow: $(VENV)/.dev             ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow" -q -n auto --dist loadfile --no-loadscope-reorder

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export,video]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export,video,tensorrt-rtx,dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT) build runtimes/cpp/.deps
