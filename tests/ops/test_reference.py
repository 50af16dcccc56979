"""The references: what inference says about them, and the text form of every operator."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.errors import DTypeError, NameMissingError, ShapeError
from tessera.ir.dims import Symbol, sym
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.ir.value import TensorType
from tessera.op.opdef import REGISTRY, infer_types
from tessera.op.reference import evaluate

from tests.ops.harness import assert_close, cases, each, joined, operators


@pytest.mark.parametrize(("name", "dtype"), each(operators()))
def test_reference_has_the_inferred_type(name: str, dtype: str) -> None:
    for case in cases(REGISTRY[name], dtype):
        found = evaluate(case.graph, case.feeds)
        for value, array in zip(case.results, found.values()):
            assert array.shape == value.shape and array.dtype == value.dtype.numpy


@pytest.mark.parametrize("name", operators(composite=True))
def test_body_agrees_with_the_reference_of_a_composite(name: str) -> None:
    definition = REGISTRY[name]
    if definition.reference is None:
        pytest.skip("the body is the reference")
    for dtype in ("f64", "f32", "bf16", "f16", "i64"):
        if dtype not in definition.dtypes:
            continue
        for case in cases(definition, dtype):
            body = definition.lower.body(*case.leaves, **case.sample.attrs)
            values = body if isinstance(body, tuple) else (body,)
            assert [v.type for v in values] == [v.type for v in case.results]
            found = evaluate(Graph({str(i): v for i, v in enumerate(values)}, inputs=case.leaves), case.feeds)
            expected = evaluate(case.graph, case.feeds)
            for a, b in zip(found.values(), expected.values()):
                assert_close(a, b, case.sample.tolerance, f"{name} {dtype} sample {case.number}")


@pytest.mark.parametrize("name", operators())
def test_text_round_trip(name: str) -> None:
    definition = REGISTRY[name]
    graph, feeds = joined(cases(definition, definition.dtypes[0]))
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    if all(n.op not in ("constant", "param") for n in graph.nodes()):
        for (key, a), b in zip(evaluate(again, feeds).items(), evaluate(graph, feeds).values()):
            np.testing.assert_array_equal(a, b, err_msg=key)


# Symbolic sizes: every size s >= 2 of the operands becomes a dimension of at least s.

_NOT_SYMBOLIC = {
    "reshape": "its shape attribute depends on products of sizes; test_shape.py covers it",
    "broadcast_to": "its shape attribute holds the sizes; test_shape.py covers it",
    "all_gather": "its shape attribute holds the sizes; tests/dist cover it",
    "reduce_scatter": "its shape attribute holds the sizes; tests/dist cover it",
}
# What cannot be proved for all sizes is refused, not guessed.
_REFUSALS = ("elements", "for all legal sizes", "divide", "at run time", "multiple", "do not broadcast")


@pytest.mark.parametrize("name", [n for n in operators() if n not in _NOT_SYMBOLIC])
def test_symbolic_inference(name: str) -> None:
    definition = REGISTRY[name]
    inferred = 0
    for case in cases(definition, definition.dtypes[0]):
        # Random keys, i64[2], have a fixed size.
        fixed = [i.shape == (2,) and definition.infer.__module__ == "tessera.op.random" for i in case.sample.inputs]
        symbols = {s: Symbol(f"S{s}", min=s) for v, f in zip(case.leaves, fixed) for s in v.shape if s >= 2 and not f}
        types = tuple(
            TensorType(v.dtype, tuple(sym(symbols[d]) if d in symbols and not f else d for d in v.shape))
            for v, f in zip(case.leaves, fixed)
        )
        try:
            found = infer_types(name, types, case.sample.attrs)
        except ShapeError as error:
            assert any(words in str(error) for words in _REFUSALS), error
            continue
        inferred += 1
        sizes = {f"S{s}": s for s in symbols}
        assert [_at(t, sizes) for t in found] == [v.shape for v in case.results], case.number
    assert inferred


def _at(t: TensorType, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(evaluate_dim(d, sizes) for d in t.shape)


# Errors of evaluation.


def test_missing_input() -> None:
    with pytest.raises(NameMissingError, match="input 'x' is not given"):
        evaluate(Graph({"y": op.exp(op.tensor((2,), name="x"))}), {})


def test_unknown_input() -> None:
    with pytest.raises(NameMissingError, match="no input 'z'; it has x"):
        evaluate(Graph({"y": op.exp(op.tensor((2,), name="x"))}), {"z": np.zeros(2, np.float32)})


def test_wrong_dtype() -> None:
    with pytest.raises(DTypeError, match="input 'x' has dtype float64; expected f32"):
        evaluate(Graph({"y": op.exp(op.tensor((2,), name="x"))}), {"x": np.zeros(2)})


def test_wrong_shape() -> None:
    with pytest.raises(ShapeError, match=r"input 'x' has shape \(3,\); expected \(2,\)"):
        evaluate(Graph({"y": op.exp(op.tensor((2,), name="x"))}), {"x": np.zeros(3, np.float32)})


def test_wrong_rank() -> None:
    with pytest.raises(ShapeError, match=r"input 'x' has shape \(3, 1\); expected \(2,\)"):
        evaluate(Graph({"y": op.exp(op.tensor((2,), name="x"))}), {"x": np.zeros((3, 1), np.float32)})


def test_constant_without_data() -> None:
    text = 'tessera.graph 1\ngraph "main" {\n  %0 = constant {name = "c"} : f32[2]\n  output "y" = %0\n}\n'
    graph = parse_graph(text)
    with pytest.raises(NameMissingError, match="constant 'c' has no data; give it in state"):
        evaluate(graph, {})


def test_illegal_symbolic_size() -> None:
    x = op.tensor((op.dim("B", min=2, max=8),), name="x")
    with pytest.raises(ShapeError, match="dimension B = 9 is illegal: it must be at least 2 and at most 8"):
        evaluate(Graph({"y": op.exp(x)}), {"x": np.zeros(9, np.float32)})


def test_updates_are_written_to_state() -> None:
    p = op.parameter((2,), name="reference.w")
    state = {"reference.w": np.array([1.0, 2.0], np.float32)}
    out = evaluate(Graph({"y": p * 2}, updates={p: p + 1}), {}, state)
    np.testing.assert_array_equal(out["y"], [2, 4])
    np.testing.assert_array_equal(state["reference.w"], [2, 3])
