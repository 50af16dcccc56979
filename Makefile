# make setup   virtual environment in .venv with Tessera and the development tools installed
# make demo    train on handwritten digits in Python, classify in C++
# make test    every test, against the installed package
# make fuzz    RUNS executions (ten million) of the fuzzers on files and Graph IR; needs clang
# make test-sanitize   the C++ tests under the address, undefined-behaviour, leak and thread sanitizers
# make docs    docs/reference.md from the docstrings, docs/operators.md from both languages
# make dev     quick in-tree build: PYTHONPATH=python then finds the native module
PYTHON ?= python3
JOBS ?= 2
venv := .venv
bin := $(venv)/bin
build_options := --no-build-isolation -C build-dir=build/wheel
sources := pyproject.toml CMakeLists.txt README.md \
	$(shell find cmake runtime python tests/cpp tests/gpu -type f -not -path '*/__pycache__/*' -not -name '*.so' \
		-not -path 'python/tessera/lib/*' -not -path 'python/tessera/include/*' 2>/dev/null)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)

.PHONY: setup setup-demo demo test test-cpp test-fuzz test-python test-sanitize fuzz fuzzers lint docs bench-cpu bench-cpp bench-dist bench-dist-gpu bench-gpu dev clean help
help:
	@sed -n 's/^# make/make/p' Makefile

$(venv)/.created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Tessera needs Python 3.10 or newer"'
	$(PYTHON) -m venv $(venv) || { rm -rf $(venv); echo "needs the venv module: apt-get install python3-venv"; exit 1; }
	touch $@

# The build tools live in the environment itself, so that a rebuild after an edit is incremental. The pip that older
# systems put into an environment has no -C.
$(venv)/.build-tools: $(venv)/.created pyproject.toml
	$(bin)/python -m pip install --quiet --upgrade "pip>=23.1"
	$(bin)/python -m pip install --quiet "scikit-build-core==1.1.2" "nanobind==3.1.0" "cmake>=3.20,<5" "ninja>=1.11,<2"
	touch $@

$(venv)/.demo: $(venv)/.build-tools $(sources)
	$(bin)/python -m pip install --quiet $(build_options) ".[demo]"
	touch $@

$(venv)/.dev: $(venv)/.build-tools $(sources)
	$(bin)/python -m pip install --quiet $(build_options) -C cmake.define.TESSERA_TESTS=ON ".[dev]"
	touch $@ $(venv)/.demo

$(venv)/.bench: $(venv)/.demo
	$(bin)/python -m pip install --quiet $(build_options) ".[bench,demo]"
	touch $@

setup: $(venv)/.dev
setup-demo: $(venv)/.demo

demo: setup-demo
	$(bin)/python examples/digits/demo.py

test: setup lint test-cpp test-fuzz test-python

test-cpp: setup
	$(bin)/ctest --test-dir build/wheel --output-on-failure

# A fixed number of executions. Without clang and its libFuzzer there is no fuzzer; test-cpp replays the corpus anyway.
RUNS ?= 10000000
fuzz_probe = echo 'extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }' | \
	clang++ -x c++ -fsanitize=fuzzer,address - -o /dev/null > /dev/null 2>&1
test-fuzz: setup
	@if $(fuzz_probe); then \
		$(MAKE) --no-print-directory fuzzers && $(bin)/python tests/fuzz/fuzz.py build/fuzz --runs 60000; \
	else \
		echo "SKIPPED: the short run of the fuzzers needs clang with libFuzzer (apt-get install clang)"; \
	fi

fuzz: fuzzers
	$(bin)/python tests/fuzz/fuzz.py build/fuzz --runs $(RUNS) --keep build/fuzz/corpus --seed 0

fuzzers: setup
	$(bin)/cmake -S . -B build/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(bin))/ninja -DCMAKE_CXX_COMPILER=clang++ \
		-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1" -DTESSERA_FUZZ=ON > /dev/null
	$(bin)/cmake --build build/fuzz -j $(JOBS) --target fuzzers

test-python: setup
	$(bin)/python -m pytest

lint: setup
	$(bin)/ruff check .
	$(bin)/pyright --pythonpath $(bin)/python

docs: setup
	$(bin)/python tools/reference.py
	$(bin)/python tools/operators.py

# The C++ tests with AddressSanitizer (undefined behaviour and leaks too) and with ThreadSanitizer; the stress tests
# take more rounds than in `make test`.
test-sanitize: setup
	for sanitizer in address thread; do \
		$(bin)/cmake -S . -B build/sanitize-$$sanitizer -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(bin))/ninja \
			-DCMAKE_BUILD_TYPE=Debug -DTESSERA_SANITIZE=$$sanitizer -DTESSERA_STRESS_ROUNDS=20 -DTESSERA_TESTS=ON && \
		$(bin)/cmake --build build/sanitize-$$sanitizer -j $(JOBS) && \
		$(bin)/ctest --test-dir build/sanitize-$$sanitizer --output-on-failure || exit 1; \
	done

bench-cpu: $(venv)/.bench
	$(bin)/python -m benchmarks.cpu.run

# make bench-cpp    what a run costs from C++, several threads, loading, sizes
bench-cpp: $(venv)/.bench
	$(bin)/python -m benchmarks.serving.run

# make bench-dist   what a mesh of virtual devices costs on the CPU
bench-dist: $(venv)/.bench
	$(bin)/python -m benchmarks.dist.run

# make bench-gpu    Tessera beside PyTorch, JAX and cuDNN on this machine's GPU; ROWS="gelu softmax" for some rows alone.
# PYTHON has to have PyTorch with CUDA, JAX where its rows are wanted, Triton and nanobind.
bench-gpu: dev
	PYTHONPATH=python:. $(dev_python) -m benchmarks.gpu.run $(ROWS)

# make bench-dist-gpu   meshes of this machine's GPUs, beside JAX and PyTorch; DEVICES=4, WORKS="matmul mlp gpt2"
DEVICES ?= 2
bench-dist-gpu: dev
	PYTHONPATH=python:. $(dev_python) -m benchmarks.dist.gpu $(WORKS) --devices $(DEVICES)

dev_python := $(if $(filter-out python3,$(PYTHON)),$(PYTHON),$(if $(wildcard $(bin)/python),$(bin)/python,python3))
dev:
	cmake -S . -B build/dev -DCMAKE_BUILD_TYPE=Release -DTESSERA_PYTHON=ON -DTESSERA_TESTS=ON \
		-DPython_EXECUTABLE=$(shell command -v $(dev_python))
	cmake --build build/dev -j $(JOBS)
	cmake --install build/dev --prefix python/tessera > /dev/null

clean:
	rm -rf build $(venv) python/tessera/_core*.so python/tessera/lib python/tessera/include
