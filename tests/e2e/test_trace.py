"""What runs did, from Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.errors import ArgumentError, FileAccessError


def events(trace: tessera.Trace) -> list[dict]:
    return json.loads(trace.to_json())["traceEvents"]


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_events_have_kernels_and_lines(target: str, tmp_path: Path) -> None:
    x, w = op.tensor((op.dim("N"), 4), name="x"), op.parameter((4, 3), name="w")
    y = op.matmul(x, w)
    z = op.exp(y)
    compiled = graph.compile(z, target=target)
    trace, values = tessera.Trace(), np.ones((5, 4), np.float32)
    (plain,) = compiled.run([values])
    assert len(trace) == 0 and events(trace) == []
    (found,) = compiled.run([values], trace=trace)
    np.testing.assert_array_equal(found.numpy(), plain.numpy())
    once = events(trace)
    assert len(once) == len(trace) >= 2 and [e["cat"] for e in once].count("run") == 1
    worked = [e for e in once if e["cat"] in ("kernel", "operator")]
    lines = {int(m.group(1)) for e in worked if (m := re.search(r"test_trace\.py:(\d+)$", e["args"]["location"]))}
    here = Path(__file__).read_text().splitlines()
    assert {here[n - 1].split(" = ")[0].strip() for n in lines} & {"y", "z"}
    assert any("matmul" in e["name"] for e in worked)
    (run,) = (e for e in once if e["cat"] == "run")
    for e in once:
        assert e["ph"] == "X" and e["args"]["device"] == "cpu:0" and e["dur"] >= 0
        assert run["ts"] - 0.001 <= e["ts"] and e["ts"] + e["dur"] <= run["ts"] + run["dur"] + 0.002
    out = np.empty((5, 3), np.float32)
    compiled.run({"x": values}, {compiled.outputs[0].name: out}, trace)
    assert len(trace) == 2 * len(once) and repr(trace) == f"Trace({len(trace)} events)"
    trace.save(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == events(trace)
    trace.clear()
    compiled.run([values])
    assert len(trace) == 0


def test_wrong_use(tmp_path: Path) -> None:
    compiled = graph.compile(op.exp(op.tensor((2,), name="x")))
    with pytest.raises(ArgumentError, match="trace is a str, expected a tessera.Trace"):
        compiled.run([np.ones(2, np.float32)], trace="trace.json")
    with pytest.raises(FileAccessError, match="nowhere"):
        tessera.Trace().save(tmp_path / "nowhere" / "trace.json")
