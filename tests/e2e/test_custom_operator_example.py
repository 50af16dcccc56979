"""The project of examples/cpp/custom_operators, built outside the repository from the installed package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.cli import main
from tessera.errors import ArgumentError, DTypeError, ShapeError

from tests.e2e.cmake_project import build_project, needs_cmake

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "examples" / "cpp" / "custom_operators"

pytestmark = needs_cmake


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    build_project(PROJECT, folder)
    return folder


@pytest.fixture(scope="module")
def mylib(project):
    assert tessera.load_library(project / "build" / "libmylib.so") == ["mylib::swiglu", "mylib::nms"]
    return op.mylib


def test_python_saves_what_cpp_runs(project):
    library, artefact = str(project / "build" / "libmylib.so"), str(project / "detector.tsr")
    done = subprocess.run(
        [sys.executable, str(project / "source" / "detector.py"), library, artefact], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    slope, kept = done.stdout.splitlines()
    assert slope == "slope 0.0000 3.3175"  # of 2 x² sigmoid(x), by hand

    done = subprocess.run([str(project / "build" / "detect"), library, artefact], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{artefact} needs custom operators that are missing or differ:"
    assert lines[1].startswith("  mylib::nms(boxes: tensor(f32), scores: tensor(f32), limit: int, threshold: float =")
    assert lines[2].startswith("  mylib::swiglu(") and lines[2].endswith(" of libmylib.so")
    assert lines[4:6] == ["loaded mylib::swiglu", "loaded mylib::nms"]
    assert lines[6] == "swiglu 0.0000 0.7311 3.5232"
    assert lines[7] == f"cpu {kept}" and re.fullmatch(r"cpu kept [1-4] of 6:( -?\d)+", lines[7])


def test_op_check_holds(project, mylib, capsys):
    assert main(["op-check", str(project / "build" / "libmylib.so")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mylib::")]
    assert rows[0] == ["mylib::swiglu", *["ok"] * 7]
    assert rows[1] == ["mylib::nms", "ok", "skipped", "skipped", "ok", "ok", "skipped", "ok"]


def test_swiglu_against_torch(mylib):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    gate, up = (op.tensor((op.dim("B", min=0), 7), name=name) for name in ("gate", "up"))
    y = mylib.swiglu(gate, up)
    slopes = graph.backward(op.sum(y * y), wrt=[gate, up])
    program = graph.compile({"y": y, "gate": slopes[0], "up": slopes[1]})
    for rows in (0, 1, 5, 9000):
        a, b = (random.normal(scale=3, size=(rows, 7)).astype(np.float32) for _ in range(2))
        ta, tb = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (a, b))
        expected = torch.nn.functional.silu(ta) * tb
        (expected * expected).sum().backward()
        found = program(gate=a, up=b)
        for name, value in (("y", expected.detach()), ("gate", ta.grad), ("up", tb.grad)):
            np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=2e-5, atol=1e-5)
    half = [random.normal(size=(3, 5)).astype(ml_dtypes.bfloat16) for _ in range(2)]
    z = mylib.swiglu(op.tensor((3, 5), "bf16", name="gate"), op.tensor((3, 5), "bf16", name="up"))
    wide = [torch.tensor(h.astype(np.float32)) for h in half]
    expected = (torch.nn.functional.silu(wide[0]) * wide[1]).to(torch.bfloat16).to(torch.float32)
    np.testing.assert_allclose(z(*half).numpy().astype(np.float32), expected.numpy(), rtol=8e-3, atol=1e-30)


def test_swiglu_at_the_extremes(mylib):
    gate = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -100, 88, -88, 0, -0.0], np.float32)
    y = mylib.swiglu(op.tensor((10,), name="gate"), op.tensor((10,), name="up"))
    found = y(gate, np.ones(10, np.float32)).numpy()
    assert np.isnan(found[0]) and found[1] == np.inf and found[3] == np.float32(1e30)
    assert np.abs(found[5]) < 1e-30 and found[6] == 88 and found[8] == 0
    text = r"(?s)\[mylib::swiglu\] gate is f32\[2\] and up is f32\[3\].*operator_example.py"
    with pytest.raises(ShapeError, match=text):
        mylib.swiglu(op.tensor((2,)), op.tensor((3,)))
    with pytest.raises(DTypeError, match=r"gate has type f16\[2\]; expected dtype f32, bf16"):
        mylib.swiglu(op.tensor((2,), "f16"), op.tensor((2,), "f16"))


def nms(boxes, scores, limit, threshold=0.5, least=None):
    """Non-max suppression as the literature states it."""
    order = [i for i, s in enumerate(scores) if s == s and (least is None or s >= np.float32(least))]
    order = sorted(order, key=lambda i: -scores[i])
    kept: list[int] = []
    size = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    for i in order:
        low, high = np.maximum(boxes[kept, :2], boxes[i, :2]), np.minimum(boxes[kept, 2:], boxes[i, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        total = size[kept] + size[i] - both
        if len(kept) < limit and not (both / np.where(total > 0, total, 1) > np.float32(threshold)).any():
            kept.append(i)
    return kept + [-1] * (limit - len(kept)), len(kept)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.0}, {"threshold": 1.0, "least": 0.4}, {"least": 2.0}])
def test_nms_against_numpy(mylib, options):
    random = np.random.default_rng(len(options))
    n = op.dim("N", min=0)
    boxes, scores = op.tensor((n, 4), name="boxes"), op.tensor((n,), name="scores")
    for limit in (0, 1, 20):
        found = mylib.nms(boxes, scores, limit, **options)
        assert str(found.indices.type) == f"i64[{limit}]" and found.count.shape == ()
        program = graph.compile(list(found), target="cpu")
        for count in (0, 1, 7, 60):
            corner, extent = random.uniform(0, 4, (count, 2)), random.uniform(-0.2, 2, (count, 2))
            b = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
            s = random.integers(0, 8, count).astype(np.float32) / 8  # with ties
            s[random.uniform(size=count) < 0.1] = np.nan
            indices, kept = program(b, s)
            assert (indices.tolist(), kept.item()) == nms(b, s, limit, **options)


def test_nms_is_a_part_of_programs(mylib):
    boxes, scores = op.tensor((5, 4), name="boxes"), op.tensor((5,), name="scores")
    found = mylib.nms(boxes * 2, op.softmax(scores), 5)
    chosen = op.where(op.expand_dims(found.indices, 1) >= 0, op.take(boxes, op.maximum(found.indices, 0), axis=0), 0.0)
    b = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3], [5, 5, 4, 4], [2, 2, 3, 3.1]], np.float32)
    s = np.array([1, 2, 3, 4, 5], np.float32)
    for target in ("cpu", "portable"):
        result = graph.compile(chosen, target=target)(b, s).numpy()
        assert np.array_equal(result[:3], b[[4, 3, 1]]) and not result[3:].any()
    with pytest.raises(ShapeError, match=r"\[mylib::nms\] boxes is f32\[5, 3\]; expected shape \(N, 4\)"):
        mylib.nms(op.tensor((5, 3)), scores, 5)
    with pytest.raises(ArgumentError, match="limit must not be negative"):
        mylib.nms(boxes, scores, -1)


def test_the_guide_shows_this_code():
    page = (ROOT / "docs" / "guide" / "writing_operators.md").read_text()
    (code,) = re.findall(r"^```cpp\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert code in (PROJECT / "swiglu.cpp").read_text()
    (lines,) = re.findall(r"^```cmake\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert all(line in (PROJECT / "CMakeLists.txt").read_text().splitlines() for line in lines.splitlines())
    headers = (ROOT / "runtime" / "include" / "tessera" / "custom_op.h").read_text()
    for part in ("shape", "arguments", "results", "dtypes", "cpu", "cuda", "hip", "scratch", "gradient", "no_gradient",
                 "shard", "sample", "version"):
        assert f"`{part}`" in page or f"`{part}(" in page, part
        assert f"Operator &{part}(" in headers, part


def test_factor_string_of_the_whole(mylib):
    from tessera.op.opdef import get

    boxes, scores = op.tensor((5, 4)), op.tensor((5,))
    rule = get("mylib::nms").shard((boxes.type, scores.type), {"limit": 3, "threshold": 0.5, "least": None})
    assert rule == "a!b!,c!->d!,"
