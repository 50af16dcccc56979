"""``tessera op-check`` on operators that are right, and on one that is wrong for every check."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tessera
from tessera.cli import main
from tessera.cli.op_check import CHECKS, check_operators
from tessera.cli.op_subject import difference

from tests.custom.build import library

WRONG = {
    "shape": ("shape", "for numbers it gives f32[5]"),
    "unwritten": ("shape", "unwritten"),
    "gradient": ("gradient", "central differences"),
    "tabled": ("gradient", "wrong::tabled: the gradient uses a tensor that exists or a parameter; build what it needs "
               "with op:: functions, such as op::full"),
    "dtype": ("dtype", "bf16: result 0 differs from that of f64"),
    "accepted": ("dtype", "the shape function accepts f16, the kernel fails"),
    "strides": ("non-contiguous", "unaligned operands change result 0"),
    "empty": ("empty", "the shape function accepts them, the kernel fails: [wrong::empty] nothing to do"),
    "sharding": ("sharding", "split along '*1' into 2: result 0"),
    "threads": ("threads", "from several threads at once give other results"),
}


@pytest.fixture(scope="module")
def report():
    names = tessera.load_library(library("wrong_library.cpp"))
    assert names == ["wrong::nothing", *(f"wrong::{name}" for name in WRONG)]
    return check_operators(names)


def test_every_check_has_an_operator_that_fails_it():
    assert {check for check, _ in WRONG.values()} == set(CHECKS)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_operator_fails_its_check_alone(report, name):
    check, text = WRONG[name]
    failed = {c: o.failures for c, o in report[f"wrong::{name}"].items() if o.failures}
    failed.pop("threads", None) if name == "unwritten" else None  # what was in memory is left to chance
    assert list(failed) == [check], failed
    assert text in failed[check][0], failed


def test_right_operator_holds(report):
    assert {c: o.mark for c, o in report["wrong::nothing"].items()} == dict.fromkeys(CHECKS, "ok")
    assert all(not o.failures for o in report["wrong::nothing"].values())


def test_command(capsys, tmp_path):
    assert main(["op-check", library("wrong_library.cpp")]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["operator", *CHECKS]
    row = next(line.split() for line in lines if line.startswith("wrong::gradient"))
    assert row == ["wrong::gradient", "ok", "failed", "ok", "ok", "ok", "ok", "ok"]
    assert "wrong::gradient: gradient: sample 0: along a random direction" in out

    assert main(["op-check", "--json", library("sample_library.cpp")]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["sample::affine"]["sharding"] == {"outcome": "ok", "passed": 2, "failures": [], "skipped": []}
    assert "has no samples" in data["sample::sorted"]["shape"]["failures"][0]

    assert main(["op-check", str(tmp_path / "nothing.so")]) == 1
    assert "nothing.so cannot be opened" in capsys.readouterr().err


def test_python_file(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tessera import op\n"
        "@op.custom('mine::double', shape=lambda x: x, gradient=lambda g, x: g.of() * 3, shard='*->*',\n"
        "           samples=[op.Sample((op.Input((2, 3)),))])\n"
        "def double(x):\n    return x * 2\n"
    )
    assert main(["op-check", str(tmp_path / "mine.py")]) == 1
    assert "mine::double: gradient: sample 0" in capsys.readouterr().out
    (tmp_path / "empty.py").write_text("")
    assert main(["op-check", str(tmp_path / "empty.py")]) == 1
    assert "declares no operator" in capsys.readouterr().err


def test_stub(capsys, tmp_path):
    path = tmp_path / "sample.pyi"
    assert main(["op-stub", library("sample_library.cpp"), "-o", str(path)]) == 0
    text = path.read_text()
    compile(text, str(path), "exec")
    assert "def affine(x: Value, factor: float = ..., shift: float | None = ...) -> Value:" in text
    assert "class row_range_results(NamedTuple):\n    low: Value\n    high: Value\n" in text
    assert "def row_range(first: Value, rest: Sequence[Value], keep: bool) -> row_range_results: ..." in text
    capsys.readouterr()
    assert main(["op-stub", library("sample_library.cpp")]) == 0
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")
    assert main(["op-stub", library("sample_library.cpp"), "-o", str(tmp_path / "no" / "x.pyi")]) == 1


def test_differences():
    a = np.array([1.0, np.nan, np.inf])
    assert difference(a, a, "f64") is None
    assert difference(a, np.array([1.0, np.nan, 5.0]), "f64") == "element [2] is inf, expected 5"
    assert difference(np.array([1]), np.array([2]), "f64") == "elements differ"
