"""What the verifier finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tessera import op
from tessera.errors import GraphError
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import f32, i64
from tessera.ir.graph import Graph
from tessera.ir.provenance import Location
from tessera.ir.value import Node, TensorType, Value
from tessera.ir.verify import verify
from tessera.op.opdef import build

MATRIX = TensorType(f32, (2, 3))


def leaf(kind: str, name: object, t: TensorType = MATRIX, payload: object = None, **attrs: object) -> Value:
    extra = {"trainable": True} if kind == "param" else {}
    return Node(kind, (), {"name": name, **extra, **attrs}, (t,), Location("m.py", 7), payload).results[0]


def test_well_formed_graphs_pass() -> None:
    x, w = leaf("input", "x"), leaf("param", "w")
    verify(
        Graph(
            {"y": op.softmax(x * w + leaf("constant", "c", payload=np.zeros((2, 3), np.float32)))}, updates={w: w * 2.0}
        )
    )
    verify(Graph({}))


def test_same_name_of_different_kinds_is_fine() -> None:
    verify(Graph({"y": leaf("input", "a") + leaf("param", "a") + leaf("constant", "a")}))


def cycle() -> Graph:
    a = build("exp", leaf("input", "x"))
    b = build("exp", a)
    a.node.operands = (b,)
    graph = Graph({})
    graph.outputs["y"] = b
    return graph


def foreign_result() -> Graph:
    node = build("exp", leaf("input", "x")).node
    graph = Graph({})
    graph.outputs["y"] = Value(node, 0)
    return graph


def unlisted_input() -> Graph:
    graph = Graph({"y": build("exp", leaf("input", "x"))})
    graph.inputs.clear()
    return graph


def updated(target: Value, value: Value) -> Graph:
    return Graph({}, updates={target: value})


def node(name: str, operands: tuple[Value, ...], t: TensorType, **attrs: object) -> Graph:
    return Graph({"y": Node(name, operands, attrs, (t,), Location("m.py", 9)).results[0]})


X = leaf("input", "x")
B1, B2 = (sym(Symbol("B", 1, high)) for high in (8, 9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cycle, r"node \(exp\): the node depends on itself"),
        (foreign_result, r"output 'y' is not one of the node's results"),
        (unlisted_input, r"the input 'x' is not listed among the graph's inputs(.|\n)*at m.py:7"),
        (lambda: Graph({"": X}), "an output is named ''"),
        (lambda: _with_output(3), "output 'y' is a int, not a value"),
        (lambda: Graph({}, inputs=[leaf("param", "w")]), "it is listed among the graph's inputs"),
        (lambda: updated(X, X), r"node \(input\): it is updated, but only a param can be"),
        (
            lambda: updated(leaf("param", "w"), op.sum(X)),
            r"it updates the parameter 'w' of type f32\[2, 3\] with a f32\[\]",
        ),
        (
            lambda: node("exp", (X,), TensorType(f32, (3, 2))),
            r"node 1 \(exp\): its type is f32\[3, 2\] but the operator gives f32\[2, 3\]\n  at m.py:9",
        ),
        (lambda: node("exp", (X, X), MATRIX), r"node 1 \(exp\): \[exp\] takes 1 operand"),
        (lambda: node("nothing", (X,), MATRIX), "unknown operator 'nothing'"),
        (lambda: node("exp", (X,), MATRIX, tag=object()), r"attribute 'tag': an attribute cannot be a builtins.object"),
        (lambda: node("exp", (X,), MATRIX, **{"a b": 1}), "'a b' is not a name for an attribute"),
        (lambda: _no_result(), "the node has no result"),
        (lambda: Graph({"y": leaf("input", "a") + leaf("input", "a")}), "there is another input named 'a'"),
        (lambda: Graph({"y": leaf("input", 3)}), "name must be a string and trainable a bool"),
        (lambda: Graph({"y": leaf("param", "w", trainable=1)}), "name must be a string and trainable a bool"),
        (lambda: Graph({"y": leaf("input", "a", extra=1)}), "the attributes must be name, not extra, name"),
        (
            lambda: Graph({"y": Node("input", (X,), {"name": "z"}, (MATRIX,)).results[0]}),
            "a leaf has no operands and one result",
        ),
        (
            lambda: Graph({"y": leaf("constant", "c", payload=np.zeros(3))}),
            r"the data has shape \(3,\) but the type is f32\[2, 3\]",
        ),
        (
            lambda: Graph(
                {"a": leaf("input", "a", TensorType(f32, (B1,))), "b": leaf("input", "b", TensorType(i64, (B2,)))}
            ),
            "two symbolic dimensions are named 'B' but differ: min=1, max=8, multiple_of=1 and min=1, max=9",
        ),
    ],
)
def test_malformed_graphs(make: Callable[[], Graph], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        verify(make())


def _with_output(value: object) -> Graph:
    graph = Graph({})
    graph.outputs["y"] = value  # type: ignore[assignment]
    return graph


def _no_result() -> Graph:
    empty = Node("exp", (X,), {}, ())
    value = Value(empty, 0)
    empty.results = (value,)
    return _with_output(value)
