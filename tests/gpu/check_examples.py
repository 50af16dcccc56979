"""The examples for GPUs: ``test_model.py`` runs what the model can run, ``run.sh`` all of them on a real device."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.cmake_project import build_project
from tests.gpu.check_arrays import MODEL, N64, TARGET, artifact, kernel, tensor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.skipif(TARGET != "ptx", reason="the examples are for NVIDIA devices")
on_a_device = pytest.mark.skipif(MODEL, reason="runs generated kernels")


def run(command: list[object], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_model(folder: Path) -> None:
    """What the model can run in the place of a classifier: scores = 2 * x."""
    sizes = [{"kind": kind, "bytes": "4*16*B"} for kind in ("input", "output")]
    plan = {
        "dims": [{"name": "B", "min": 0, "max": 4096, "multiple_of": 1}],
        "inputs": [tensor("x", "f32", ["B", 16], 0)], "outputs": [tensor("scores", "f32", ["B", 16], 1)],
        "buffers": sizes, "kernels": [kernel("scale", [{"buffer": 0}, {"buffer": 1}, {**N64, "type": "i32"}])],
        "instructions": [{"kernel": 0, "buffers": [0, 1], "sizes": ["16*B"], "grid": ["(16*B + 127) // 128", 1, 1],
                          "loc": "a.py:1"}],
    }
    (folder / "model.tsr").write_bytes(artifact(plan))
    frames = np.random.default_rng(0).integers(0, 256, (100, 16)).astype(np.uint8)
    frames.tofile(folder / "frames.u8")
    frames.argmax(axis=1).astype(np.int32).tofile(folder / "expected.i32")


def test_inference_on_a_stream_of_the_program(tmp_path: Path) -> None:
    program = build_project(EXAMPLES / "cpp" / "cuda_stream", tmp_path) / "inference"
    if MODEL:
        write_model(tmp_path)
    else:
        run([sys.executable, tmp_path / "source" / "export.py"], tmp_path)
    driver = {"CUDA_DRIVER": os.environ["TESSERA_CUDA_LIBRARY"]} if MODEL else {}
    for batch in (64, 1000):
        found = run([program, ".", batch], tmp_path, **driver)
        assert re.search(rf"^\d+ frames in batches of {batch} on ptx sm_\w+, as expected$", found), found


@on_a_device
def test_the_guides_export_and_load(tmp_path: Path) -> None:
    run([sys.executable, EXAMPLES / "guide_1_5.py"], tmp_path)
    flags = run([sys.executable, "-m", "tessera", "--cflags", "--libs"], tmp_path).split()
    run(["g++", "-Wall", "-Wextra", "-Werror", EXAMPLES / "guide_1_5.cpp", *flags, "-o", "load"], tmp_path)
    assert run(["./load"], tmp_path) == "ran on ptx\n"


@on_a_device
def test_gpt2_learns(tmp_path: Path) -> None:
    train = EXAMPLES / "gpt2" / "train.py"
    out = run([sys.executable, train, "--target", "ptx", "--steps", "40", "--write", "8"], tmp_path)
    before, after = (float(x) for x in re.findall(r"([\d.]+) nats a byte", out))
    assert abs(before - np.log(256)) < 0.1 and after < 3.4 and "def " in out, out
