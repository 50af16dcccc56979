"""Exchanges along the first dimension, as GPUs do them: the same results on virtual devices."""

from __future__ import annotations

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
