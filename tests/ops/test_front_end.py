"""The C++ front end against Python: composites have the same bodies and operators the same gradients, text for text."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tessera import _core, op
from tessera.errors import ArgumentError, GradientError, GraphError, NameMissingError
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.ir.provenance import location
from tessera.ir.value import INPUT, Value
from tessera.op.arguments import FLOATS
from tessera.op.opdef import REGISTRY, NoVjp
from tessera.op.reference import evaluate
from tessera.transform.autodiff import gradients
from tessera.transform.decompose import decompose

from tests.ops.harness import cases, joined, operators

COMPOSITES = [name for name in operators() if REGISTRY[name].is_composite]
DIFFERENTIABLE = [name for name in operators() if not isinstance(REGISTRY[name].vjp, NoVjp)]


def decomposed(of: Graph) -> str:
    return _core.decompose_graph_text(print_graph(of))  # type: ignore[attr-defined]


def gradient_text(of: Graph, wrt: list[str]) -> str:
    return _core.gradient_graph_text(print_graph(of), wrt)  # type: ignore[attr-defined]


def python_gradient(of: Graph, wrt: list[str]) -> Graph:
    """What gradient_graph_text gives, by Python's autodiff."""
    outputs = {name: v for name, v in of.outputs.items() if v.dtype.is_float}
    seeds: list[Value] = []
    for name, v in outputs.items():
        with location(v.node.loc):
            one = op.full((), 1.0, v.dtype) if v.shape == () else None
        with location(None):
            seeds.append(op.tensor(v.shape, v.dtype, name=f"seed.{name}") if one is None else one)
    leaves = {n.attrs["name"]: n.results[0] for n in of.nodes() if n.op in (INPUT, "param")}
    found = gradients(list(outputs.values()), [leaves[name] for name in wrt], seeds)
    return Graph({**of.outputs, **{f"grad.{n}": g for n, g in zip(wrt, found, strict=True)}}, updates=of.updates)


@pytest.mark.parametrize("name", COMPOSITES)
def test_bodies(name: str) -> None:
    for dtype in REGISTRY[name].dtypes:
        of, _ = joined(cases(REGISTRY[name], dtype))
        assert decomposed(of) == print_graph(decompose(of)), dtype


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    """In every floating-point dtype, for every sample whose gradient is checked."""
    for dtype in (d for d in REGISTRY[name].dtypes if d in FLOATS):
        group = [c for c in cases(REGISTRY[name], dtype, gradient=True) if any(v.dtype.is_float for v in c.results)]
        of, _ = joined(group)
        wrt = [v.node.attrs["name"] for c in group for v in c.leaves if v.dtype.is_float]
        if wrt:
            assert gradient_text(of, wrt) == print_graph(python_gradient(of, wrt)), dtype


@pytest.mark.parametrize("name", [n for n in operators() if n not in DIFFERENTIABLE])
def test_operators_without_gradient(name: str) -> None:
    """A typed error that names the operator and the reason, where a path leads through it."""
    vjp = REGISTRY[name].vjp
    assert isinstance(vjp, NoVjp)
    for case in cases(REGISTRY[name], REGISTRY[name].dtypes[0])[:1]:
        if not any(v.dtype.is_float for v in case.leaves) or not any(v.dtype.is_float for v in case.results):
            continue
        wrt = [v.node.attrs["name"] for v in case.leaves if v.dtype.is_float]
        with pytest.raises(GradientError, match=re.escape(f"{name} has no gradient: {vjp.reason}")):
            gradient_text(case.graph, wrt)


def symbolic_graph() -> Graph:
    """Composites over symbolic sizes, among them one that may be empty."""
    b, n = op.dim("B", 1, 64), op.dim("N", 0, 64)
    x = op.tensor((b, n, 8), name="x")
    m = op.tensor((b, 8), "bf16", name="m")
    ids = op.tensor((b,), "i32", name="ids")
    return Graph({
        "softmax": op.softmax(x, 1),
        "attention": op.scaled_dot_product_attention(x, x, x, causal=True),
        "norm": op.layer_norm(op.linear(x, op.ones((8, 4)))),
        "std": op.std(m, 0),
        "mean": op.mean(x),
        "max": op.max(op.concat([m, m * 2], 0), 0),
        "loss": op.cross_entropy(m, ids, label_smoothing=0.1),
        "sum": op.einsum("bnd,bd->bn", x, m),
        "one_hot": op.one_hot(ids, b) * 2.5,
        "part": op.flip(op.split(m, 2, 1)[0], 1) + op.take(m, ids, axis=0)[:, 4:],
        "mse": op.mse(x, op.tile(x[:, :, :1], (1, 1, 8))),
        "groups": op.grouped_matmul(
            op.reshape(x, (-1, 8)), op.tensor((3, 8, 5), name="w"), op.tensor((3,), "i32", name="sizes")
        ),
        "prod": op.prod(op.pad(m, ((1, 0), (0, 2)), value=1), 1),
    })


def test_symbolic_sizes() -> None:
    of = symbolic_graph()
    assert decomposed(of) == print_graph(decompose(of))
    for name in of.outputs:
        part = Graph({name: of.outputs[name]})
        wrt = [v.node.attrs["name"] for v in part.inputs if v.dtype.is_float]
        if wrt:
            assert gradient_text(part, wrt) == print_graph(python_gradient(part, wrt)), name


def test_equal_nodes_become_one() -> None:
    x = op.tensor((4,), name="x")
    of = Graph({"y": op.gelu(x) * op.gelu(x)})
    merged = _core.decompose_graph_text(print_graph(of), True)  # type: ignore[attr-defined]
    assert merged.count("erf(") == 1 and decomposed(of).count("erf(") == 2


def test_second_derivatives() -> None:
    """The gradient of a gradient, by value: bodies are shared in C++, built anew in Python."""
    x = op.tensor((3, 4), "f64", name="x")
    first = python_gradient(Graph({"y": op.sum(op.gelu(x) * op.softmax(x))}), ["x"])
    of = Graph({"g": op.sum(op.square(first.outputs["grad.x"]))})
    text = gradient_text(of, ["x"])
    feeds = {"x": np.linspace(-2, 2, 12).reshape(3, 4)}
    expected = evaluate(python_gradient(of, ["x"]), feeds)["grad.x"]
    np.testing.assert_allclose(evaluate(parse_graph(text), feeds)["grad.x"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("%1 = no_such(%0) : f32[2]", NameMissingError, "unknown operator 'no_such'"),
        ("%1 = softmax(%0) {axis = 0} : f32[3]", GraphError, "the stated type is f32[3] but the operator gives f32[2]"),
        ("%1 = softmax(%0) : f32[2]", GraphError, "softmax"),
        ("%1 = softmax(%0) {axis = 7} : f32[2]", ArgumentError, "axis 7 is out of range"),
    ],
)
def test_text_that_is_no_graph(text: str, error: type[Exception], message: str) -> None:
    whole = f'tessera.graph 1\ngraph "main" {{\n  %0 = input {{name = "x"}} : f32[2]\n  {text}\n  output "y" = %1\n}}\n'
    with pytest.raises(error, match=re.escape(message)):
        _core.decompose_graph_text(whole)  # type: ignore[attr-defined]


def test_gradient_of_a_missing_name() -> None:
    with pytest.raises(NameMissingError, match="no input or parameter 'z'"):
        gradient_text(Graph({"y": op.sum(op.tensor((2,), name="x"))}), ["z"])
