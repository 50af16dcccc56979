#!/usr/bin/env bash
# Builds the runtime and runs the tests of the GPU on this machine's device: as CUDA, as HIP through the shim, under
# compute-sanitizer, and from Python. Needs CMake, ninja, nanobind, pytest and PyTorch; JAX where it is installed.
#
#   tests/gpu/run.sh [build | native | sanitize | python | nccl | operators]...     without arguments: all
set -uo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "${PYTHON:-python3}")
build=build/gpu
parts=${*:-build native sanitize python nccl operators}
failed=0

run() {
    echo "== $*"
    "$@" || { failed=1; echo "FAILED: $*"; }
}

for part in $parts; do
    case $part in
    build)
        cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTESSERA_PYTHON=ON -DTESSERA_TESTS=ON \
            -DPython_EXECUTABLE="$python" >/dev/null || exit 1
        cmake --build $build -j "$(nproc)" --target gpu_tests tessera _core >$build/log.txt 2>&1 || { grep -E "error|FAILED" $build/log.txt | head -40; exit 1; }
        cmake --install $build --prefix python/tessera >/dev/null || exit 1
        ;;
    native)
        for kind in cuda hip; do
            for test in "$build"/tests/gpu/*_test; do
                run timeout 120 "$test" $kind real
            done
        done
        ;;
    sanitize)
        for test in backend_test engine_test; do
            run timeout 300 compute-sanitizer --error-exitcode 3 --report-api-errors no $build/tests/gpu/$test cuda real no-faults
        done
        export PYTHONPATH=$PWD/python
        run timeout 900 compute-sanitizer --error-exitcode 3 --report-api-errors no --target-processes all \
            "$python" -m pytest -q -p no:cacheprovider --no-header -W ignore tests/gpu/check_kernels.py tests/gpu/check_operators.py -k "kernels or f32"
        ;;
    python)
        export PYTHONPATH=$PWD/python
        run timeout 300 "$python" -m pytest -q tests/gpu/check_arrays.py tests/gpu/check_custom.py tests/gpu/check_examples.py tests/gpu/check_faults.py tests/gpu/check_libraries.py
        TESSERA_HIP_LIBRARY=$PWD/$build/tests/gpu/libtessera_hip_shim.so TESSERA_TEST_DEVICE=rocm:0 \
            run timeout 300 "$python" -m pytest -q tests/gpu/check_arrays.py tests/gpu/check_custom.py tests/gpu/check_faults.py
        ;;
    nccl) # meshes of GPUs, where there are two
        export PYTHONPATH=python
        run timeout 300 "$python" -m pytest -q -W ignore tests/gpu/check_nccl.py
        ;;
    operators) # every operator and gradient; with pytest-xdist in several processes
        export PYTHONPATH=$PWD/python
        workers=$("$python" -c "import xdist" 2>/dev/null && echo "-n 12" || true)
        run timeout 560 "$python" -m pytest -q $workers --no-header -rs -W ignore tests/gpu/check_operators.py tests/gpu/check_kernels.py tests/gpu/check_columns.py
        ;;
    esac
done
exit $failed
