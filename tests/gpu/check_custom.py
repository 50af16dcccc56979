"""Custom operators with kernels for GPUs: ``test_model.py`` runs this on the model, ``run.sh`` on a real device.

``TESSERA_TEST_DEVICE`` names the device: ``cuda:0`` (the default) or ``rocm:0``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.artifact import reader
from tessera.errors import UnsupportedError

from tests.custom.build import library

DEVICE = os.environ.get("TESSERA_TEST_DEVICE", "cuda:0")
TARGET, KIND, ARCH = ("ptx", "CUDA", "sm_80") if DEVICE.startswith("cuda") else ("hsaco", "HIP", "gfx90a")
# Neither the model of the driver nor the shim, which answers for HIP on an NVIDIA device, runs generated kernels.
GENERATED = not os.environ.get("TESSERA_CUDA_LIBRARY") and TARGET == "ptx"


@pytest.fixture(scope="module", autouse=True)
def gpulib() -> None:
    tessera.load_library(library(str(Path(__file__).with_name("custom_library.cpp"))))


def instructions(compiled: object, path: Path) -> list[dict]:
    compiled.save(path)
    metadata = reader.load(path).metadata
    (plan,) = (text for key, text in metadata.items() if key.startswith(f"tessera.plan.{TARGET}."))
    return json.loads(plan)["instructions"]


def test_runs_on_the_device(tmp_path: Path) -> None:
    x = op.tensor((op.dim("N", min=0, max=5000),), name="x")
    compiled = graph.compile(op.gpulib.rotate(op.gpulib.rotate(x, by=2), by=3), target=TARGET, arch=ARCH)
    compiled.save(tmp_path / "rotate.tsr")
    for size in (7, 0, 1, 4099):
        values = np.arange(size, dtype=np.float32)
        given = tessera.array(values, device=DEVICE)
        found = compiled(given)
        assert found.device == DEVICE
        np.testing.assert_array_equal(found.numpy(), np.roll(values, -5))
        np.testing.assert_array_equal(compiled(values).numpy(), np.roll(values, -5))
    again = tessera._core.Program.load_file(tmp_path / "rotate.tsr", target=TARGET)
    (found,) = again.run(tessera._core.default_runtime(), [tessera.array(values)], None)
    np.testing.assert_array_equal(found.numpy(), np.roll(values, -5))


def test_lies_between_fused_kernels(tmp_path: Path) -> None:
    x = op.tensor((op.dim("N", min=1, max=5000),), name="x")
    compiled = graph.compile(op.exp(op.gpulib.rotate(op.exp(x * 2) + 1, by=3)) * 2, target=TARGET, arch=ARCH)
    steps = instructions(compiled, tmp_path / "model.tsr")
    assert ["kernel" in i for i in steps] == [True, False, True]
    assert steps[1]["custom"] == "gpulib::rotate" and "check_custom.py" in steps[1]["loc"]
    if GENERATED:
        values = np.linspace(-1, 1, 100, dtype=np.float32)
        expected = np.exp(np.roll(np.exp(values * 2) + 1, -3)) * 2
        np.testing.assert_allclose(compiled(values).numpy(), expected, rtol=1e-5)


def test_a_failed_check_leaves_outputs_and_state(tmp_path: Path) -> None:
    """What a library computes goes to an output or to state through memory of the run's own, and a copy that looks."""
    x, rows = op.tensor((6,), name="x"), op.tensor((6,), "i64", name="rows")
    y = op.gpulib.rotate(op.take(x, rows), by=1)
    compiled = graph.compile({"y": y, "z": op.gpulib.rotate(y, by=2)}, target=TARGET, arch=ARCH)
    steps = instructions(compiled, tmp_path / "checked.tsr")
    assert any("check_range" in i for i in steps)
    plan = json.loads(next(t for k, t in reader.load(tmp_path / "checked.tsr").metadata.items() if ".plan." in k))
    kinds = [b["kind"] for b in plan["buffers"]]
    written = [r["buffer"] for i in steps if "custom" in i for r in i["results"]]
    assert len(written) == 2 and all(kinds[b] == "arena" for b in written)
    names = [plan["kernels"][i["kernel"]]["name"] for i in steps if "kernel" in i]
    assert names.count("copy_unless_failed") == 2
    arena = [b for b in plan["buffers"] if b["kind"] == "arena"]
    assert len({b["offset"] for b in arena if b["label"]}) == len([b for b in arena if b["label"]])
    assert plan["arena"] >= max(b["offset"] + b["bytes"] for b in arena)
    if GENERATED:
        values, index = np.arange(6, dtype=np.float32), np.array([5, 4, 3, 2, 1, 0])
        found = compiled(x=values, rows=index)
        np.testing.assert_array_equal(found["y"].numpy(), np.roll(values[index], -1))
        np.testing.assert_array_equal(found["z"].numpy(), np.roll(values[index], -3))


def test_no_kernel_for_the_device() -> None:
    x = op.tensor((4,), name="x")
    words = rf'\[gpulib::host_only\] has no {KIND} kernel; .*custom_library.* has to declare one, or use target="cpu" '
    with pytest.raises(UnsupportedError, match=words + r'or "portable"\n  at .*check_custom\.py:\d+'):
        graph.compile(op.gpulib.host_only(x), target=TARGET, arch=ARCH)

    @op.custom("gpuproto::same", shape=lambda x: x)
    def same(x):
        return x

    with pytest.raises(UnsupportedError, match=rf"\[gpuproto::same\] has no {KIND} kernel"):
        graph.compile(same(x), target=TARGET, arch=ARCH)
