"""What goes wrong on a GPU, each in a process of its own: typed errors, and a process that lives on with its CPU.

``test_model.py`` runs this on the model, ``run.sh`` on a real device. ``TESSERA_TEST_DEVICE`` names the device.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.gpu.check_arrays import DEVICE, MODEL, TARGET

ROOT = Path(__file__).resolve().parents[2]
on_a_device = pytest.mark.skipif(MODEL or TARGET != "ptx", reason="runs generated kernels")
START = """
import numpy as np
import tessera
from tessera import graph, op
from tests.gpu.check_arrays import *

def says(function):
    try:
        print("no error:", function())
    except tessera.errors.TesseraError as error:
        print(f"{type(error).__name__}: {error}".replace("\\n", " | "))

def on_the_cpu():
    x = op.tensor((3,), name="x")
    return graph.compile(x + 1.0, target="cpu")(np.ones(3, np.float32)).tolist()

def plan_of(symbol):
    return {
        "dims": [], "inputs": [], "outputs": [tensor("out", "f32", [1], 0)],
        "buffers": [{"kind": "output", "bytes": 4}], "kernels": [kernel(symbol, [{"buffer": 0}])],
        "instructions": [{"kernel": 0, "buffers": [0], "sizes": [], "grid": [1, 1, 1], "loc": "model.py:7"}],
    }
"""


def run(code: str, **environment: str) -> list[str]:
    """The lines that a process prints, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_kernel_that_faults() -> None:
    found = run("""
        good, bad = Program.load_bytes(artifact(sum_plan())), Program.load_bytes(artifact(plan_of("fault")))
        x = np.ones(10, np.float32)
        before = run(good, x, x)
        print(before.numpy().sum())
        out = run(bad)
        says(out.numpy)
        says(default_runtime().wait)
        says(before.numpy)
        says(lambda: run(good, x, x))
        says(lambda: tessera.array(x, device=DEVICE))
        says(lambda: tessera.array(x).to(DEVICE).numpy())
        says(on_the_cpu)
        """)
    assert found[0] == "20.0" and found[-1] == "no error: [2.0, 2.0, 2.0]" and len(found) == 8
    for line in found[1:7]:
        assert line.startswith("DeviceError: ") and "nothing more can run on this device in this process" in line, line
        assert "To learn which kernel it was, repeat the run with a trace" in line


@pytest.mark.skipif(not MODEL, reason="a device that is not lost cannot show it")
def test_a_device_that_is_lost() -> None:
    found = run("""
        bad = Program.load_bytes(artifact(plan_of("fault")))
        says(run(bad).numpy)
        says(lambda: tessera.array(np.ones(3), device=DEVICE))
        if TARGET == "ptx":
            print(tessera.array(np.ones(3, np.float32), device="cuda:1").numpy().sum())
        says(on_the_cpu)
        """, FAKE_CUDA_FAULT="999")
    for line in found[:2]:
        assert re.match("DeviceError: .*The device may be lost; the system's log tells more", line), line
    assert found[2:] == [*["3.0"][: TARGET == "ptx"], "no error: [2.0, 2.0, 2.0]"]


@pytest.mark.skipif(not MODEL, reason="a device has too much memory")
def test_memory_that_is_full_is_told() -> None:
    found = run("""
        half = tessera.array(np.zeros((1 << 27,), np.float32), device=DEVICE)
        says(lambda: tessera.array(np.zeros((3 << 26,), np.float32), device=DEVICE))
        says(half.numpy().sum)
        """)
    words = f"{3 << 28} bytes could not be allocated on {DEVICE}, where 0.50 of 1.00 GiB are free"
    assert found == [f"OutOfMemoryError: {words}", "no error: 0.0"]


@pytest.mark.skipif(MODEL or TARGET != "ptx", reason="the model knows nothing of this variable")
def test_the_kernel_that_faults_is_named_when_launches_are_waited_for() -> None:
    found = run("""
        bad = Program.load_bytes(artifact(plan_of("fault")))
        says(lambda: bad.run(default_runtime(), [], None, trace=tessera.Trace()._native))
        """, CUDA_LAUNCH_BLOCKING="1")
    assert found[0].startswith("DeviceError: fault or a kernel before it failed, at model.py:7: CUDA says "), found


@on_a_device
def test_memory_runs_out() -> None:
    """In temporaries, in outputs, in what is put there; the program goes on with less."""
    found = run("""
        b = tessera.array([1.0], "bf16").numpy().dtype
        x = op.tensor((op.dim("N", min=1, max=1 << 20), 64), "bf16", name="x")
        narrow = graph.compile({"y": op.sum(op.cumsum(x @ x.T, axis=1), axis=0)}, target="ptx")
        says(lambda: narrow(np.ones((1 << 19, 64), b)))
        wide = graph.compile({"wide": op.exp(x @ x.T)}, target="ptx")
        says(lambda: wide(np.ones((1 << 19, 64), b)))
        print(narrow(np.ones((4, 64), b))["y"].shape, wide(np.ones((4, 64), b))["wide"].shape)
        says(lambda: tessera.array(np.broadcast_to(np.float32(1), (1 << 10, 1 << 10)), device=DEVICE).shape)
        says(on_the_cpu)
        """)
    assert re.match(r"OutOfMemoryError: .* GiB temporary 'matmul' at <string>:\d+", found[0]), found
    assert found[1].startswith("OutOfMemoryError: output 'wide': "), found
    assert found[2:] == ["(4,) (4, 4)", "no error: (1024, 1024)", "no error: [2.0, 2.0, 2.0]"], found


@on_a_device
def test_code_for_another_architecture() -> None:
    found = run("""
        x = op.tensor((4,), name="x")
        for arch in ("sm_120a", "gfx942"):
            target = "hsaco" if arch.startswith("gfx") else "ptx"
            program = graph.compile(x * 2.0, target=target, arch=arch)
            says(lambda: program(np.ones(4, np.float32)))
        says(on_the_cpu)
        """)
    assert found[0].startswith("DeviceError: ") and "sm_120a" in found[0] and "sm_90" in found[0], found
    assert found[1].startswith("DeviceError: ") and "gfx942" in found[1], found
    assert found[2] == "no error: [2.0, 2.0, 2.0]"
