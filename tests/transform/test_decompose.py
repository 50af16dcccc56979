"""Composites become primitives."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.errors import InternalError
from tessera.ir.graph import Graph
from tessera.ir.provenance import Location, location
from tessera.ir.verify import verify
from tessera.op import opdef
from tessera.op.lowering import Composite
from tessera.op.opdef import OpDef, build
from tessera.op.reference import evaluate
from tessera.transform.decompose import decompose


def composites(graph: Graph) -> set[str]:
    return {n.op for n in graph.nodes() if n.op in opdef.REGISTRY and opdef.REGISTRY[n.op].is_composite}


def model() -> Graph:
    rows = op.dim("B", min=1, max=16)
    x, labels = op.tensor((rows, 6), dtype="f32", name="x"), op.tensor((rows,), dtype="i64", name="labels")
    with location(Location("model.py", 4)):
        hidden = op.layer_norm(op.gelu(x))
    with location(Location("model.py", 5)):
        loss = op.cross_entropy(hidden, labels)
    return Graph({"loss": loss, "p": op.softmax(hidden)})


def test_only_primitives_are_left_and_values_agree() -> None:
    graph = model()
    found = decompose(graph)
    verify(found)
    assert composites(graph) and not composites(found)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((5, 6)).astype(np.float32), "labels": rng.integers(0, 6, 5)}
    before, after = evaluate(graph, feeds), evaluate(found, feeds)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-6)
    assert decompose(found).outputs["loss"] is found.outputs["loss"]


def test_composites_can_be_kept() -> None:
    assert composites(decompose(model(), keep=frozenset({"softmax"}))) == {"softmax"}


def test_new_nodes_have_the_location_of_the_composite() -> None:
    found = decompose(model())
    assert {n.loc.line for n in found.nodes() if n.loc is not None and n.loc.file == "model.py"} == {4, 5}
    assert {n.loc.line for n in found.nodes() if n.op == "log" and n.loc is not None} <= {5}


@pytest.fixture
def counted() -> list[int]:
    """Registers the composite ``test_counted``; the list holds how often its body was traced."""
    calls = [0]

    def body(x, scale):
        calls[0] += 1
        return op.exp(x) * scale, x

    opdef.register(
        OpDef(
            "test_counted",
            lambda types, attrs: (types[0], types[0]),
            None,
            "*->*",
            Composite(body),
            None,
            list,
            ("f32",),
        )
    )
    yield calls
    del opdef.REGISTRY["test_counted"]


def test_a_body_is_traced_once_per_types_and_attributes(counted: list[int]) -> None:
    x, y = op.tensor((3,), dtype="f32", name="x"), op.tensor((4,), dtype="f32", name="y")
    values = [opdef.apply("test_counted", (v,), {"scale": s})[0] for v in (x, x, y) for s in (2.0, 2.0, -0.0, 0.0)]
    found = decompose(Graph({str(i): v for i, v in enumerate(values)}))
    assert counted == [6]  # two shapes, three scales: 0.0 and -0.0 differ
    assert found.outputs["0"].node is not found.outputs["1"].node


def test_several_results_and_operands_passed_through(counted: list[int]) -> None:
    x = op.tensor((3,), dtype="f32", name="x")
    first, second = opdef.apply("test_counted", (x,), {"scale": 2.0})
    found = decompose(Graph({"a": first, "b": second, "c": op.exp(second)}))
    assert found.outputs["b"] is x and found.outputs["a"].node.op == "mul"


def test_a_body_of_another_type_is_an_internal_error() -> None:
    opdef.register(
        OpDef(
            "test_liar",
            lambda types, attrs: types[0],
            None,
            "*->*",
            Composite(lambda x: op.sum(x)),
            None,
            list,
            ("f32",),
        )
    )
    try:
        value = build("test_liar", op.tensor((3,), dtype="f32", name="x"))
        with pytest.raises(
            InternalError, match=r"test_liar: the body gives \(f32\[\]\), the operator's type rule \(f32\[3\]\)"
        ):
            decompose(Graph({"y": value}))
    finally:
        del opdef.REGISTRY["test_liar"]


def test_deep_graphs_need_no_recursion() -> None:
    value = op.tensor((2,), dtype="f32", name="x")
    for _ in range(3000):
        value = op.softmax(value)
    assert not composites(decompose(Graph({"y": value})))
