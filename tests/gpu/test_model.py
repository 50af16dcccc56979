"""The GPU runtime from Python on machines without a GPU: the checks run in a process of their own, on the model."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _library(name: str) -> Path:
    """The latest built one."""
    found = sorted(ROOT.glob(f"build/*/tests/gpu/{name}"), key=lambda p: p.stat().st_mtime)
    if not found:
        pytest.skip(f"{name} is not built; it is with the C++ tests")
    return found[-1]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "TESSERA_CUDA_LIBRARY": str(_library("libtessera_fake_cuda.so")),
            "TESSERA_HIP_LIBRARY": str(_library("libtessera_hip_shim.so")),
            "HIP_SHIM_CUDA": str(_library("libtessera_fake_cuda.so")),
            "TESSERA_CUBLASLT_LIBRARY": str(_library("libtessera_fake_cublaslt.so")),
            "TESSERA_CUDNN_LIBRARY": str(_library("libtessera_fake_cudnn.so")), **more}


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("checks", "device"),
    [*product(("check_arrays.py", "check_custom.py", "check_faults.py"), ("cuda:0", "rocm:0")),
     ("check_examples.py", "cuda:0")],
)
def test_on_the_model(checks: str, device: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / checks)]
    done = _run(command, _environment(TESSERA_TEST_DEVICE=device))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("missing", [False, True])
def test_vendor_libraries_on_the_model(missing: bool) -> None:
    """The libraries that stand for cuBLASLt and cuDNN, and none."""
    names = {"TESSERA_CUBLASLT_LIBRARY": "/nowhere/libcublasLt.so", "TESSERA_CUDNN_LIBRARY": "/nowhere/libcudnn.so"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "check_libraries.py")]
    done = _run(command, _environment(**(names if missing else {})))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TESSERA_CUDA_LIBRARY": "/nowhere/libcuda.so"}, "there is no CUDA driver on this machine"),
        ({"FAKE_CUDA_VERSION": "11040"}, "supports CUDA 11.4, Tessera needs 12.0 or later; install driver 525"),
        ({"FAKE_CUDA_DEVICES": "0"}, "finds no device"),
        ({"TESSERA_CUDA_LIBRARY": "libm.so.6"}, "is no CUDA driver"),
    ],
)
def test_drivers_that_do_not_do(settings: dict[str, str], words: str) -> None:
    code = (
        "import tessera\n"
        "for i in range(2):\n"
        "    try:\n"
        "        tessera.array([1.0]).to('cuda:0')\n"
        "    except tessera.errors.DeviceError as error:\n"
        "        print(error)\n"
        "print(tessera.array([2.0]).item())\n"
    )
    done = _run([sys.executable, "-c", code], _environment(**settings))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(words) == 2 and done.stdout.endswith("2.0\n"), done.stdout


def test_doctor_lists_gpus_and_what_they_run() -> None:
    done = _run([sys.executable, "-m", "tessera", "doctor"], _environment())
    assert done.returncode == 0, done.stderr
    for words in ("cuda: driver CUDA 12.8, ", "  cuda:0: ", " GiB, ", "on cuda:0: sm_80, sm_86, sm_89, sm_90a"):
        assert words in done.stdout, done.stdout
    none = _run([sys.executable, "-m", "tessera", "doctor"], _environment(FAKE_CUDA_VERSION="11040"))
    assert "cuda: none: the NVIDIA driver (" in none.stdout and "supports CUDA 11.4" in none.stdout, none.stdout
