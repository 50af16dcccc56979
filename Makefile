# make setup   virtual environment in .venv with Tessera and the development tools installed
# make demo    train on handwritten digits in Python, classify in C++
# make test    every test, against the installed package
# make docs    docs/reference.md from the docstrings
# make dev     quick in-tree build: PYTHONPATH=python then finds the native module
PYTHON ?= python3
JOBS ?= 2
venv := .venv
bin := $(venv)/bin
build_options := --no-build-isolation -C build-dir=build/wheel
sources := pyproject.toml CMakeLists.txt README.md \
	$(shell find cmake runtime python tests/cpp -type f -not -path '*/__pycache__/*' -not -name '*.so' \
		-not -path 'python/tessera/lib/*' -not -path 'python/tessera/include/*' 2>/dev/null)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)

.PHONY: setup setup-demo demo test test-cpp test-python test-sanitize lint docs bench-cpu dev clean help
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

test: setup lint test-cpp test-python

test-cpp: setup
	$(bin)/ctest --test-dir build/wheel --output-on-failure

test-python: setup
	$(bin)/python -m pytest

lint: setup
	$(bin)/ruff check .
	$(bin)/pyright --pythonpath $(bin)/python

docs: setup
	$(bin)/python tools/reference.py

# The C++ tests under the address and undefined-behaviour sanitizers.
test-sanitize: setup
	$(bin)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(bin))/ninja -DCMAKE_BUILD_TYPE=Debug \
		-DTESSERA_SANITIZE=ON -DTESSERA_TESTS=ON
	$(bin)/cmake --build build/sanitize -j $(JOBS)
	$(bin)/ctest --test-dir build/sanitize --output-on-failure

bench-cpu: $(venv)/.bench
	$(bin)/python -m benchmarks.cpu.run

dev_python := $(if $(filter-out python3,$(PYTHON)),$(PYTHON),$(if $(wildcard $(bin)/python),$(bin)/python,python3))
dev:
	cmake -S . -B build/dev -DCMAKE_BUILD_TYPE=Release -DTESSERA_PYTHON=ON -DTESSERA_TESTS=ON \
		-DPython_EXECUTABLE=$(shell command -v $(dev_python))
	cmake --build build/dev -j $(JOBS)
	cmake --install build/dev --prefix python/tessera > /dev/null

clean:
	rm -rf build $(venv) python/tessera/_core*.so python/tessera/lib python/tessera/include
