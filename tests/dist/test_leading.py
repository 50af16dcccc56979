"""Exchanges along the first dimension, as GPUs do them: the same results on virtual devices."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tessera import dist, graph, op
from tessera.dist import ShardSpec
from tessera.dist.leading import along_the_first_dimension
from tessera.graph import on_mesh


@pytest.mark.parametrize("shape", [(6, 8, 4), (5, 7, 3), (1, 5, 1)])
@pytest.mark.parametrize("source", [None, 0, 1, 2])
@pytest.mark.parametrize("target", [None, 0, 1, 2])
def test_the_same_results(
    shape: tuple[int, ...], source: int | None, target: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def build(program, options):  # noqa: ANN001, ANN202
        turned = along_the_first_dimension(program)
        seen.extend(n.attrs["dim"] for n in turned.nodes() if n.op in ("all_gather", "reduce_scatter"))
        return original(turned, options)

    original = on_mesh.build
    monkeypatch.setattr(on_mesh, "build", build)
    mesh = dist.Mesh(["dp"], 3)

    def lay(x: object, dim: int | None) -> object:
        return dist.constrain(x, ShardSpec(() if dim is None else (dim,), () if dim is None else ("dp",)), mesh)

    x, w = op.tensor(shape, name="x"), op.tensor((shape[2], 5), name="w")
    y = lay(lay(x, source) * 2, target)
    z = lay(lay(x, 2) @ lay(w, 0), target)  # sums of parts
    rng = np.random.default_rng(0)
    values, weights = (rng.integers(-4, 5, s).astype(np.float32) for s in (shape, w.shape))
    program = graph.compile({"y": y, "z": z})
    found = program(x=values, w=weights)
    np.testing.assert_array_equal(found["y"], values * 2)
    np.testing.assert_array_equal(found["z"], values @ weights)
    assert all(dim == 0 or shape[0] == 1 for dim in seen)
    assert program.traffic() == [program.collectives.bytes_of(rank) for rank in range(3)]


def test_what_an_exchange_gives_goes_to_outputs_behind_the_checks() -> None:
    """On GPUs exchanges take place whatever a check found, so that no device waits; results that outlive the run do not."""
    mesh = dist.Mesh(["dp"], 2, kind="cuda")
    x = dist.constrain(op.tensor((8, 4), name="x"), ShardSpec((0,), ("dp",)), mesh)
    whole = dist.replicate(x, mesh)
    taken = op.take(op.parameter((5, 4), "f32", name="t"), op.tensor((3,), "i64", name="rows"))

    def steps(outputs: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        compiled = graph.compile(outputs, target="ptx", arch="sm_90a", schedule=graph.Schedule(overlap=True))
        plan, = (json.loads(v) for k, v in compiled._built.metadata.items() if k.startswith("tessera.plan."))
        return plan["instructions"], plan

    checked, plan = steps({"whole": whole, "taken": taken})
    at = next(k for k, i in enumerate(checked) if "collective" in i)
    (result,) = checked[at]["results"]
    copy = checked[at + 1]
    assert plan["buffers"][result["buffer"]]["kind"] == "arena" and "start" not in checked[at]
    assert plan["kernels"][copy["kernel"]]["name"] == "copy_unless_failed"
    assert copy["buffers"][0] == result["buffer"] and plan["buffers"][copy["buffers"][1]]["kind"] == "output"
    assert not any("wait" in i for i in checked)
    (free,), plan = steps({"whole": whole})
    assert plan["buffers"][free["results"][0]["buffer"]]["kind"] == "output"
