"""Builds kept on disk: the same program without scheduling again, and what makes it another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tessera import graph, op
from tessera.graph import pipeline
from tessera.graph.compiled import Compiled
from tessera.ir.value import Value
from tessera.op.lowering import Composite
from tessera.op.opdef import REGISTRY, OpDef, Sample, register
from tessera.schedule.options import Schedule

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(pipeline, "_builds", type(pipeline._builds)())
    return tmp_path


@pytest.fixture
def builds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of graphs that are built."""
    found: list[str] = []
    build = pipeline._build
    monkeypatch.setattr(pipeline, "_build", lambda g, text, o: (found.append(text), build(g, text, o))[1])
    return found


def tensor() -> Value:
    return op.tensor((op.dim("B", min=1, max=9), 4), name="x")


def compiled(**options: object) -> Compiled:
    """As in another process, which has nothing in memory."""
    pipeline._builds.clear()
    return graph.compile({"y": op.softmax(tensor() @ np.ones((4, 5), np.float32)) * 3}, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("build-*"))


@pytest.mark.parametrize("target", ["cpu", "portable", "ptx", ["hsaco", "cpu"]])
def test_the_same_program_is_not_built_again(target: str, folder: Path, builds: list[str], tmp_path: Path) -> None:
    first, second = compiled(target=target), compiled(target=target)
    assert len(builds) == 1 and len(entries(folder)) == 1
    assert repr(second) == repr(first) and second.text == first.text
    first.save(tmp_path / "first.tsr")
    second.save(tmp_path / "second.tsr")
    assert (tmp_path / "first.tsr").read_bytes() == (tmp_path / "second.tsr").read_bytes()
    if "cpu" in target or target == "portable":
        np.testing.assert_array_equal(first(X)["y"].numpy(), second(X)["y"].numpy())
    assert second.schedule() == first.schedule()


def test_what_it_depends_on(folder: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled()
    compiled(schedule=Schedule(fusion=False))
    compiled(level="x86-64-v2")
    monkeypatch.setenv("TESSERA_CPU_LEVEL", "x86-64-v2")
    compiled()
    compiled(target="ptx", arch="sm_80")
    compiled(target="ptx", arch="sm_90a")
    assert len(builds) == len(entries(folder)) == 6
    compiled(target="ptx", arch="sm_80")
    assert len(builds) == 6
    monkeypatch.setattr(pipeline.build_cache, "_source", lambda: "another version of the package")
    compiled(target="ptx", arch="sm_80")
    assert len(builds) == 7


def test_a_damaged_entry_is_built_anew(folder: Path, builds: list[str]) -> None:
    compiled()
    entry, = entries(folder)
    data = entry.read_bytes()
    for damaged in (data[:-1], data[:40], b"", data[:-1] + b"?"):
        entry.write_bytes(damaged)
        np.testing.assert_allclose(compiled()(X)["y"].numpy().sum(), 9.0, rtol=1e-5)
        assert entry.read_bytes() == data
    assert len(builds) == 5


def test_what_is_not_kept(folder: Path) -> None:
    """Operators from elsewhere, whose code may change; measurements, which have a cache of their own."""
    register(OpDef(
        "twice_in_a_test", infer=lambda types, attrs: types[0], vjp=None, shard="*->*",
        lower=Composite(lambda x: x + x), reference=lambda x: x + x,
        samples=lambda: [Sample(())], dtypes=("f32",), doc="x + x.",
    ))
    try:
        double = graph.compile({"y": op.build("twice_in_a_test", tensor())})
        np.testing.assert_array_equal(double(X)["y"].numpy(), 2 * X)
    finally:
        REGISTRY.pop("twice_in_a_test")
    compiled(schedule=Schedule(autotune=True))
    assert not entries(folder)
