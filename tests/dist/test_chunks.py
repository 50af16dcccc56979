"""Products whose exchanges are made in chunks: the values of one device, and less time in which nothing is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tessera import dist, op
from tessera.dist import Mesh, ShardSpec, chunks
from tessera.dist.chunks import in_chunks
from tessera.dist.cost import MACHINES
from tessera.dist.partition import partition
from tessera.dist.report import collective_plan
from tessera.graph.on_mesh import partition_for
from tessera.graph.prepare import prepare
from tessera.ir.graph import Graph
from tessera.ir.sharding import MeshShape
from tessera.ir.value import Value
from tessera.ir.verify import verify
from tessera.op.collective import LAID_OUT
from tessera.op.opdef import build
from tessera.op.reference import evaluate
from tessera.schedule.options import Schedule
from tessera.transform.pipeline import to_primitives

from tests.dist import lockstep

MESH = MeshShape((("dp", 2), ("tp", 3)))


def laid_out(x: Value, *dims: list[str]) -> Value:
    return build("constrain", x, mesh=[list(a) for a in MESH.axes], kind="cuda", dims=list(dims))


def tensors(a: tuple[int, int], b: tuple[int, int]) -> tuple[Value, Value]:
    return op.tensor(a, "f64", name="a"), op.tensor(b, "f64", name="b")


def gathered_terms() -> Value:
    a, b = tensors((5, 12), (12, 24))
    return laid_out(a, [], []) @ laid_out(laid_out(b, ["tp"], []), [], [])


def gathered_columns() -> Value:
    a, b = tensors((5, 7), (7, 24))
    return laid_out(a, [], []) @ laid_out(laid_out(b, [], ["tp"]), [], [])


def gathered_columns_turned() -> Value:
    a, b = tensors((5, 7), (24, 7))
    return laid_out(a, [], []) @ laid_out(laid_out(b, ["tp"], []), [], []).T


def gathered_rows() -> Value:
    a, b = tensors((24, 7), (7, 5))
    return laid_out(laid_out(a, ["tp"], []), [], []) @ laid_out(b, [], [])


def gathered_terms_of_rows() -> Value:
    a, b = tensors((24, 12), (12, 5))
    return laid_out(laid_out(a, [], ["tp"]), [], []) @ laid_out(b, [], [])


def reduced() -> Value:
    a, b = tensors((8, 6), (6, 5))
    return laid_out(laid_out(a, [], ["tp"]) @ laid_out(b, ["tp"], []), [], [])


def scattered_columns() -> Value:
    a, b = tensors((8, 6), (6, 7))
    return laid_out(laid_out(a, [], ["tp"]) @ laid_out(b, ["tp"], []), [], ["tp"])


def scattered_rows() -> Value:
    a, b = tensors((7, 6), (6, 8))
    return laid_out(laid_out(a, [], ["tp"]) @ laid_out(b, ["tp"], []), ["tp"], [])


def rows_and_their_transposes() -> Value:
    a = laid_out(op.tensor((24, 24), "f64", name="a"), ["dp"], ["tp"])
    return laid_out(a @ a.T, ["dp"], ["tp"])


CASES = [
    gathered_terms, gathered_columns, gathered_columns_turned, gathered_rows, gathered_terms_of_rows, reduced,
    scattered_columns, scattered_rows, rows_and_their_transposes,
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_values(case, monkeypatch) -> None:
    """With chunks forced, whatever they cost."""
    monkeypatch.setattr(chunks, "_LEAST", 1)
    monkeypatch.setattr(chunks, "_best", lambda product, exchange, size, other, machine: next(
        (n for n in (4, 2) if size % n == 0), None
    ))
    made = Graph({"y": case()})
    part = partition(to_primitives(made, LAID_OUT), MESH, MACHINES["cuda"])
    part = replace(part, graph=to_primitives(part.graph))
    cut = in_chunks(part.graph, MACHINES["cuda"])
    verify(cut)
    before, after = (collective_plan(g, MESH, "") for g in (part.graph, cut))
    assert len(after) >= len(before) + 1
    random = np.random.default_rng(0)
    feeds = {v.node.attrs["name"]: random.standard_normal(v.shape) for v in made.inputs}
    whole = {("input", k): v for k, v in feeds.items()}
    expected = evaluate(to_primitives(made), feeds, {})["y"]
    found, traffic = lockstep.run(replace(part, graph=cut), whole)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-12, atol=1e-12)
    assert traffic == after.total()
    if not any(c.kind == "all_reduce" for c in before):  # whose chunks are rounded up once more
        assert after.total() == before.total()


def product_with_its_transpose(shape: tuple[int, int], kind: str = "cuda", size: int = 16384):
    mesh = Mesh(["dp", "tp"], shape=shape, kind=kind)
    layout = ShardSpec(("row", "col"), ("dp", "tp"))
    w = dist.tensor((size, size), "bf16", layout=layout, mesh=mesh, name="w")
    return mesh, dist.constrain(w @ w.T, layout, mesh)


@pytest.mark.parametrize("shape", [(4, 1), (2, 2), (1, 4)])
def test_the_exchange_is_hidden(shape: tuple[int, int], monkeypatch) -> None:
    """The guide's product: most of one exchange runs beside it."""
    _, y = product_with_its_transpose(shape)
    cut = dist.simulate({"y": y})
    apart = dist.simulate({"y": y}, schedule=Schedule(overlap=False))
    assert cut.exposed < apart.exposed - 0.2e-3
    monkeypatch.setattr("tessera.graph.on_mesh.in_chunks", lambda g, machine: g)
    one = dist.simulate({"y": y})
    assert cut.time < 0.95 * one.time and cut.operations == pytest.approx(one.operations, rel=0.01)


def test_small_products_and_cpus_are_left_alone() -> None:
    for shape, kind, size in (((4, 1), "cuda", 1024), ((2, 2), "cpu", 4096)):
        mesh, y = product_with_its_transpose(shape, kind, size)
        local = partition_for(prepare(Graph({"y": y})), mesh).graph
        assert [n.op for n in local.nodes()].count("matmul") == 1


def test_uneven_parts_are_gathered_at_once(monkeypatch) -> None:
    monkeypatch.setattr(chunks, "_best", lambda *args: 2)
    a, b = tensors((5, 7), (7, 22))  # 8, 8 and 6 columns
    made = Graph({"y": laid_out(a, [], []) @ laid_out(laid_out(b, [], ["tp"]), [], [])})
    part = partition(to_primitives(made, LAID_OUT), MESH, MACHINES["cuda"])
    assert in_chunks(part.graph, MACHINES["cuda"]) is part.graph
