"""Reshape, transpose, broadcast, concat, split, pad and the like against NumPy, with symbolic sizes and errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from tessera import op
from tessera.errors import ArgumentError, ShapeError, TesseraError
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Symbol, substitute, sym
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.value import TensorType
from tessera.op.broadcasting import broadcast_shapes
from tessera.op.lowering import View
from tessera.op.opdef import REGISTRY
from tessera.op.reference import evaluate

from tests.ops.harness import cases, operators


def value(build: Callable[..., Any], *arrays: np.ndarray) -> Any:
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    found = build(*leaves)
    several = isinstance(found, (list, tuple))
    outputs = {str(i): v for i, v in enumerate(found if several else [found])}
    values = list(evaluate(Graph(outputs, inputs=leaves), {f"x{i}": a for i, a in enumerate(arrays)}).values())
    return values if several else values[0]


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
M = np.arange(12, dtype=np.float32).reshape(3, 4)

SAME: list[tuple[str, Callable[[Any, Any], Any], np.ndarray]] = [
    ("reshape", lambda m, x: m.reshape(x, (4, -1)), X),
    ("transpose", lambda m, x: m.transpose(x), X),
    ("transpose axes", lambda m, x: m.transpose(x, (2, 0, 1)), X),
    ("swapaxes", lambda m, x: m.swapaxes(x, 0, -1), X),
    ("moveaxis", lambda m, x: m.moveaxis(x, 0, -1), X),
    ("moveaxis several", lambda m, x: m.moveaxis(x, (0, 1), (-1, 0)), X),
    ("expand_dims", lambda m, x: m.expand_dims(x, 1), X),
    ("expand_dims several", lambda m, x: m.expand_dims(x, (0, -1)), X),
    ("squeeze", lambda m, x: m.squeeze(m.expand_dims(x, (0, 2))), X),
    ("squeeze axis", lambda m, x: m.squeeze(m.expand_dims(x, (0, 2)), 0), X),
    ("broadcast_to", lambda m, x: m.broadcast_to(x, (5, 2, 3, 4)), X),
    ("flip", lambda m, x: m.flip(x), X),
    ("flip axis", lambda m, x: m.flip(x, (0, -1)), X),
    ("tile", lambda m, x: m.tile(x, (2, 1, 3)), X),
    ("tile more", lambda m, x: m.tile(x, (2, 1, 1, 2)), X),
    ("tile less", lambda m, x: m.tile(x, 2), X),
    ("repeat", lambda m, x: m.repeat(x, 2, 1), X),
    ("repeat flat", lambda m, x: m.repeat(x, 3), X),
    ("stack", lambda m, x: m.stack([x, x + 1], 1), X),
    ("stack last", lambda m, x: m.stack([x, x + 1], -1), X),
    ("split", lambda m, x: list(m.split(x, 2, 2)), X),
    ("split at", lambda m, x: list(m.split(x, [1, 3], -1)), X),
    ("tril", lambda m, x: m.tril(x), X),
    ("triu", lambda m, x: m.triu(x, 1), X),
    ("tril of a negative diagonal", lambda m, x: m.tril(x, -1), M),
    ("pad", lambda m, x: m.pad(x, 1), M),
    ("pad pairs", lambda m, x: m.pad(x, ((1, 2), (0, 3))), M),
    ("pad one pair", lambda m, x: m.pad(x, (1, 2)), M),
    ("pad edge", lambda m, x: m.pad(x, ((1, 2), (3, 0)), mode="edge"), M),
    ("pad reflect", lambda m, x: m.pad(x, ((1, 2), (3, 0)), mode="reflect"), M),
]


@pytest.mark.parametrize(("function", "x"), [s[1:] for s in SAME], ids=[s[0] for s in SAME])
def test_as_numpy(function: Callable[[Any, Any], Any], x: np.ndarray) -> None:
    found, expected = value(lambda v: function(op, v), x), function(np, x)
    if not isinstance(expected, list):
        found, expected = [found], [expected]
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


def test_concat_promotes() -> None:
    found = value(lambda x, y: op.concat([x, y], 1), X, X.astype(np.int32))
    np.testing.assert_array_equal(found, np.concatenate([X, X], 1))
    assert found.dtype == np.float32


def test_flatten() -> None:
    np.testing.assert_array_equal(value(lambda x: op.flatten(x), X), X.reshape(-1))
    np.testing.assert_array_equal(value(lambda x: op.flatten(x, 1), X), X.reshape(2, 12))
    np.testing.assert_array_equal(value(lambda x: op.flatten(x), np.float32(3)), [3])


CREATED: list[tuple[str, Callable[[], Any], np.ndarray]] = [
    ("zeros", lambda: op.zeros((2, 3)), np.zeros((2, 3), np.float32)),
    ("ones", lambda: op.ones(3, "i8"), np.ones(3, np.int8)),
    ("full", lambda: op.full((), 2.5), np.float32(2.5)),
    ("full int", lambda: op.full((2,), 7), np.array([7, 7])),
    ("full_like", lambda: op.full_like(op.tensor((2,), "f16"), 3), np.full(2, 3, np.float16)),
    ("zeros_like", lambda: op.zeros_like(op.tensor((2,)), "bool"), np.zeros(2, bool)),
    ("ones_like", lambda: op.ones_like(op.tensor((0, 2))), np.ones((0, 2), np.float32)),
    ("iota", lambda: op.iota((2, 3), 1), np.broadcast_to(np.arange(3), (2, 3))),
    ("arange", lambda: op.arange(5), np.arange(5)),
    ("arange step", lambda: op.arange(2, 11, 3), np.arange(2, 11, 3)),
    ("arange down", lambda: op.arange(5, -2, -2), np.arange(5, -2, -2)),
    ("arange empty", lambda: op.arange(5, 2), np.arange(5, 2)),
    ("arange float", lambda: op.arange(0.0, 1.0, 0.25), np.arange(0.0, 1.0, 0.25, np.float32)),
    ("arange dtype", lambda: op.arange(3, dtype="f64"), np.arange(3.0)),
    ("eye", lambda: op.eye(3), np.eye(3, dtype=np.float32)),
    ("eye shifted", lambda: op.eye(2, 4, 1, "i64"), np.eye(2, 4, 1, np.int64)),
]


@pytest.mark.parametrize(("build", "expected"), [c[1:] for c in CREATED], ids=[c[0] for c in CREATED])
def test_creation(build: Callable[[], Any], expected: np.ndarray) -> None:
    found = evaluate(Graph({"x": build()}), {})["x"]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


# Broadcasting and reshape: any shapes.


@settings(max_examples=200, deadline=None)
@given(nps.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4))
def test_broadcast_shapes_as_numpy(shapes: Any) -> None:
    assert broadcast_shapes("add", *shapes.input_shapes) == shapes.result_shape


@settings(max_examples=200, deadline=None)
@given(*[st.lists(st.integers(0, 4), max_size=4).map(tuple)] * 2)
def test_broadcast_errors_as_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ShapeError, match=r"\[add\] operand 0 .* do not broadcast"):
            broadcast_shapes("add", a, b)
    else:
        assert broadcast_shapes("add", a, b) == expected


@st.composite
def _reshapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=5))

    def grouped(order: list[int]) -> tuple[int, ...]:
        out = [1]
        for f in order:
            out = [*out, f] if draw(st.booleans()) else [*out[:-1], out[-1] * f]
        return tuple(out)

    return grouped(factors), grouped(draw(st.permutations(factors)))


@settings(max_examples=150, deadline=None)
@given(_reshapes())
def test_reshape_reads_the_elements_that_numpy_reads(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    old, new = shapes
    x = np.arange(int(np.prod(old)), dtype=np.int64).reshape(old)
    check_index_map("reshape", x, x.reshape(new), {"shape": list(new)})


def check_index_map(name: str, operand: np.ndarray, result: np.ndarray, attrs: dict[str, Any]) -> None:
    """result[i] == operand[index_map(i)], with the indices as symbols that know their range."""
    lowering = REGISTRY[name].lower
    assert isinstance(lowering, View)
    types = [TensorType(op.as_tensor(a).dtype, a.shape) for a in (operand, result)]
    axes = [Symbol(f"i{n}", 0, max(d - 1, 0)) for n, d in enumerate(result.shape)]
    expressions = lowering.index_map(tuple(sym(a) for a in axes), types[0], types[1], attrs)
    assert len(expressions) == operand.ndim
    for index in itertools.product(*(range(d) for d in result.shape)):
        at = tuple(substitute(e, dict(zip(axes, index))) for e in expressions)
        np.testing.assert_array_equal(result[index], operand[at])


@pytest.mark.parametrize("name", [n for n in operators() if isinstance(REGISTRY[n].lower, View)])
def test_index_maps_of_views(name: str) -> None:
    for case in cases(REGISTRY[name], "f32"):
        expected = list(evaluate(case.graph, case.feeds).values())[0]
        check_index_map(name, case.arrays[0], expected, case.sample.attrs)


# Symbolic sizes.


RESHAPES: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
    (("B", "T", 4), ("4*B*T",)), (("4*B*T",), ("B", "T", 4)), (("B", "T", 4), ("B*T", 2, 2)), (("B", "T"), ("T", "B")),
    (("B", 6, "T"), (2, "3*B", "T")), (("B*T", 4), ("B", "4*T")), (("B", 1, "T"), (1, "T", "B", 1)),
]


@pytest.mark.parametrize(("old", "new"), RESHAPES, ids=str)
def test_index_map_of_a_symbolic_reshape(old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
    symbols = {"B": Symbol("B", 1), "T": Symbol("T", 1)}
    sizes = {"B": 2, "T": 3}
    shapes = [tuple(parse_dim(str(d), symbols) for d in shape) for shape in (old, new)]
    lowering = REGISTRY["reshape"].lower
    assert isinstance(lowering, View)
    types = [TensorType(DTYPES["f32"], s) for s in shapes]
    axes = [Symbol(f"i{n}", 0) for n in range(len(new))]
    expressions = lowering.index_map(tuple(sym(a) for a in axes), types[0], types[1], {"shape": list(shapes[1])})
    actual = [tuple(evaluate_dim(d, sizes) for d in shape) for shape in shapes]
    x = np.arange(int(np.prod(actual[0]))).reshape(actual[0])
    for index in itertools.product(*(range(d) for d in actual[1])):
        at = tuple(evaluate_dim(e, {**sizes, **{a.name: i for a, i in zip(axes, index)}}) for e in expressions)
        assert x.reshape(actual[1])[index] == x[at]


def test_full_of_a_symbolic_size() -> None:
    x = op.tensor(("B",), name="x")
    sizes = op.full((2,), x.shape[0] * 2, "f32")
    found = evaluate(Graph({"y": sizes}, inputs=[x]), {"x": np.zeros(3, np.float32)})["y"]
    np.testing.assert_array_equal(found, np.array([6, 6], np.float32))



def _symbolic(
    build: Callable[..., Any], shape: tuple[Any, ...], sizes: dict[str, int], expected: tuple[str, ...]
) -> None:
    """The inferred shape has this text, and evaluates to what the reference computes."""
    x = op.tensor(shape, name="x")
    y = build(x)
    assert tuple(str(d) for d in y.shape) == expected
    actual = tuple(evaluate_dim(d, sizes) for d in x.shape)
    feed = np.arange(int(np.prod(actual)), dtype=np.float32).reshape(actual)
    found = evaluate(Graph({"y": y}), {"x": feed})["y"]
    assert found.shape == tuple(evaluate_dim(d, sizes) for d in y.shape)
    concrete = value(build, feed) if not any(isinstance(d, str) for d in expected if not d.isdigit()) else None
    if concrete is not None:
        np.testing.assert_array_equal(found, concrete)


B = op.dim("B", min=1)
T = op.dim("T", min=2, multiple_of=2)
SYMBOLIC: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...]]] = [
    (lambda x: x.reshape(-1), (B, T, 4), ("4*B*T",)),
    (lambda x: x.reshape(B, -1), (B, T, 4), ("B", "4*T")),
    (lambda x: x.reshape(-1, 4), (B, T, 4), ("B*T", "4")),
    (lambda x: x.reshape(B, T, 2, 2), (B, T, 4), ("B", "T", "2", "2")),
    (lambda x: x.reshape(B * 4, T), (B, T, 4), ("4*B", "T")),
    (lambda x: op.flatten(x, 0, 1), (B, T, 4), ("B*T", "4")),
    (lambda x: x.T, (B, T, 4), ("4", "T", "B")),
    (lambda x: op.broadcast_to(x[:1], (B, 4)), (B, 4), ("B", "4")),
    (lambda x: sum(op.split(x, 2)), (T, 4), ("(T // 2)", "4")),
    (lambda x: op.concat([x, x]), (B, 4), ("2*B", "4")),
    (lambda x: op.concat([x, op.zeros((3, 4))]), (B, 4), ("B + 3", "4")),
    (lambda x: op.pad(x, ((1, 2), (0, 0))), (B, 4), ("B + 3", "4")),
    (lambda x: op.split(x, 2, 0)[1], (T, 4), ("(T // 2)", "4")),
    (lambda x: op.tile(x, (2, 3)), (B, 4), ("2*B", "12")),
    (lambda x: op.repeat(x, 2, 0), (B, 4), ("2*B", "4")),
    (lambda x: op.stack([x, x], 1), (B, 4), ("B", "2", "4")),
    (lambda x: op.tril(x), (B, T), ("B", "T")),
    (lambda x: op.sum(x, 0), (B, T), ("T",)),
    (lambda x: op.mean(x, 0), (B, T), ("T",)),
    (lambda x: op.var(x, ddof=1), (B, T), ()),
    (lambda x: x + op.arange(B).astype("f32")[:, None], (B, 4), ("B", "4")),
    (lambda x: x + op.arange(1, B + 1).astype("f32")[:, None], (B, 4), ("B", "4")),
    (lambda x: op.eye(B) @ x, (B, 4), ("B", "4")),
    (lambda x: op.one_hot(op.argmax(x, 1), B), (B, 4), ("B", "B")),
]


@pytest.mark.parametrize(("build", "shape", "expected"), SYMBOLIC, ids=[str(i) for i in range(len(SYMBOLIC))])
@pytest.mark.parametrize("sizes", [{"B": 4, "T": 6}, {"B": 5, "T": 2}])
def test_symbolic_shapes(
    build: Callable[..., Any], shape: tuple[Any, ...], expected: tuple[str, ...], sizes: dict[str, int]
) -> None:
    _symbolic(build, shape, sizes, expected)


def test_symbolic_mean_divides_by_the_size_of_the_run() -> None:
    x = op.tensor(("B",), name="x")
    found = evaluate(Graph({"y": op.mean(x), "v": op.var(x, ddof=1)}), {"x": np.array([1, 2, 6], np.float32)})
    assert found["y"] == 3 and found["v"] == 7


def test_gradients_through_symbolic_slices() -> None:
    from tessera.transform.autodiff import gradients

    x = op.tensor((op.dim("B", min=3), 2), "f64", name="x")
    y = x[1::2] * op.constant(np.array([1.0, 10.0]))
    slope = gradients([op.sum(y)], [x])[0]
    for size in (3, 4, 5):
        found = evaluate(Graph({"g": slope}, inputs=[x]), {"x": np.zeros((size, 2))})["g"]
        expected = np.zeros((size, 2))
        expected[1::2] = [1, 10]
        np.testing.assert_array_equal(found, expected)


# Errors.

ERRORS: list[tuple[Callable[[], Any], type[TesseraError], str]] = [
    (lambda: op.reshape(op.tensor((2, 3)), (4, 2)), ShapeError,
     r"\[reshape\] operand 0 with shape \(2, 3\) has 6 elements, but shape \(4, 2\) has 8"),
    (lambda: op.reshape(op.tensor((2, 3)), (4, -1)), ShapeError,
     r"\[reshape\] .*6 elements, which the other dimensions .* no size fits -1"),
    (lambda: op.reshape(op.tensor((2, 3)), (-1, -1)), ShapeError, "more than one -1"),
    (lambda: op.reshape(op.tensor((0, 3)), (0, -1)), ShapeError, "no size fits -1"),
    (lambda: op.reshape(op.tensor((2, 3)), (-2, 3)), ShapeError, "is or can be negative"),
    (lambda: op.reshape(op.tensor((B, 3)), (2, -1)), ShapeError, "no size fits -1"),
    (lambda: op.transpose(op.tensor((2, 3)), (0, 0)), ArgumentError,
     r"\[transpose\] perm \[0, 0\] must name each of the 2 dimensions"),
    (lambda: op.transpose(op.tensor((2, 3)), (0, 5)), ArgumentError,
     r"\[transpose\] perm 5 is out of range for a tensor with 2 dimensions; use -2 to 1"),
    (lambda: op.broadcast_to(op.tensor((2, 3)), (2, 4)), ShapeError,
     r"\[broadcast_to\] operand 0 with shape \(2, 3\) does not broadcast to \(2, 4\)"),
    (lambda: op.squeeze(op.tensor((2, 1)), 0), ShapeError,
     r"\[squeeze\] dimension 0 of operand 0 with shape \(2, 1\) is 2, not 1"),
    (lambda: op.moveaxis(op.tensor((2, 3)), (0, 1), 0), ArgumentError, "must be as many different dimensions"),
    (lambda: op.concat([op.tensor((2, 5)), op.tensor((2, 5)), op.tensor((3, 4))]), ShapeError,
     r"\[concat\] operand 2 has shape \(3, 4\) but dimension 1 must be 5 as in operand 0 with shape \(2, 5\)"),
    (lambda: op.concat([op.tensor((2, 5)), op.tensor((2,))]), ShapeError,
     "operand 1 has shape .* with 1 dimensions but operand 0"),
    (lambda: op.concat([]), ArgumentError, "must be a list or tuple of one or more tensors"),
    (lambda: op.concat(op.tensor((2,))), ArgumentError, "must be a list or tuple"),
    (lambda: op.concat([op.tensor(())]), ShapeError, "operand 0 is a scalar.* use stack"),
    (lambda: op.concat([op.tensor((2,))], 1), ArgumentError,
     r"\[concat\] axis 1 is out of range for a tensor with 1 dimensions"),
    (lambda: op.stack([op.tensor((2,)), op.tensor((3,))]), ShapeError,
     r"\[stack\] operand 1 has shape \(3,\) but operand 0 has \(2,\)"),
    (lambda: op.split(op.tensor((5,)), 2), ShapeError, r"\[split\] dimension 0 .* is 5, which is not a multiple of 2"),
    (lambda: op.split(op.tensor((5,)), 0), ArgumentError, "sections must be at least 1"),
    (lambda: op.split(op.tensor((5,)), [3, 2]), ShapeError, r"\[slice\] dimension 0 .* 0 <= 3 <= 2 <= 5 does not hold"),
    (lambda: op.pad(op.tensor((5,)), -1), ArgumentError,
     r"\[pad\] dimension 0 is padded by -1 and -1; both must be at least 0"),
    (lambda: op.pad(op.tensor((5,)), ((1, 2), (1, 2))), ArgumentError, "must be an int, .* for each of 1 dimensions"),
    (lambda: op.pad(op.tensor((5,)), 1, mode="wrap"), ArgumentError,
     "mode 'wrap' is unknown; use 'constant', 'edge' or 'reflect'"),
    (lambda: op.pad(op.tensor((5,), "u8"), 1, value=-1), ArgumentError, "the value -1 does not fit u8"),
    (lambda: op.pad(op.tensor((3,)), 3, mode="reflect"), ShapeError, r"\[slice\] dimension 0"),
    (lambda: op.tril(op.tensor((3,))), ShapeError, r"\[tril\] operand 0 has shape \(3,\); a matrix needs 2 dimensions"),
    (lambda: op.flatten(op.tensor((3, 2)), 1, 0), ArgumentError, "start 1 comes after stop 0"),
    (lambda: op.flip(op.tensor((3, 2)), (0, -2)), ArgumentError, r"\[flip\] axis \(0, -2\) names a dimension twice"),
    (lambda: op.iota((2,), 1), ArgumentError, r"\[iota\] axis 1 is out of range"),
    (lambda: op.iota((2,), 0, "bool"), TesseraError, r"\[iota\] dtype bool cannot count"),
    (lambda: op.arange(1, 5, 0), ArgumentError, "step must not be 0"),
    (lambda: op.arange(0, B, 2), ArgumentError, "with a symbolic bound the step must be 1, got 2"),
    (lambda: op.arange(3, B), ShapeError, "the length B - 3 can be negative"),
    (lambda: op.build("concat", axis=0), ArgumentError, r"\[concat\] needs at least one operand"),
    (lambda: op.build("pad", op.tensor((3,)), low=[], high=[1], value=0), ArgumentError,
     r"\[pad\] low and high must have"),
    (lambda: op.build("full", shape=[2], value="a", dtype=DTYPES["f32"]), ArgumentError,
     "value must be a number, got str"),
    (lambda: op.full((2,), "a"), ArgumentError, "value must be a number, got str"),
    (lambda: op.full((2,), op.tensor(())), ArgumentError, "value must be a number, got Value; use broadcast_to"),
    (lambda: op.build("slice", op.tensor((B,)), start=[0], stop=[2], step=[1]), ShapeError,
     "0 <= 0 <= 2 <= B does not hold for all legal sizes"),
    (lambda: op.build("slice", op.tensor((3,)), start=[0], stop=[2], step=[0]), ArgumentError,
     "step 0 of dimension 0 must be at least 1"),
    (lambda: op.build("slice", op.tensor((3,)), start=[], stop=[2], step=[0]), ArgumentError,
     "one entry for each of the 1 dimensions"),
    (lambda: op.build("flip", op.tensor((3,)), axes=[-1]), ArgumentError, "must be sorted, non-negative"),
]


@pytest.mark.parametrize(("action", "error", "message"), ERRORS, ids=[m[:50] for _, _, m in ERRORS])
def test_errors(action: Callable[[], Any], error: type[TesseraError], message: str) -> None:
    with pytest.raises(error, match=message):
        action()
