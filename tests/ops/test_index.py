"""``x[...]``, take, gather and scatter against NumPy and PyTorch; indices out of range are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from tessera import op
from tessera.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError, TesseraError, UnsupportedError
from tessera.ir.graph import Graph
from tessera.op.reference import evaluate

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def value(build: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    return evaluate(Graph({"y": build(*leaves)}, inputs=leaves), {f"x{i}": a for i, a in enumerate(arrays)})["y"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_basic_indexing_as_numpy(data: Any) -> None:
    shape = data.draw(nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    x = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    key = data.draw(nps.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    np.testing.assert_array_equal(value(lambda v: v[key], x), x[key])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_slices_of_a_symbolic_dimension_as_numpy(data: Any) -> None:
    bound = st.none() | st.integers(-7, 7)
    step = data.draw(st.integers(-3, 3).filter(bool))
    key = slice(data.draw(bound), data.draw(bound), step)
    y = op.tensor((op.dim("B", min=0), 2), name="x")[key]
    for size in range(7):
        x = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
        np.testing.assert_array_equal(evaluate(Graph({"y": y}), {"x": x})["y"], x[key], err_msg=f"{key} of {size}")


INDEX = np.array([[0, 2, -1], [1, -3, 1]])
KEYS: list[Callable[[Any], Any]] = [
    lambda i: (i,), lambda i: (slice(None), i), lambda i: (Ellipsis, i), lambda i: (i, i),
    lambda i: (slice(1, None), slice(None, None, -1), i), lambda i: (slice(None), i, i), lambda i: (i, i, i),
    lambda i: (0, i), lambda i: (slice(None), i, 1), lambda i: (None, i), lambda i: (i, None),
    lambda i: (i, slice(None), None), lambda i: (i[0], i), lambda i: (i[:, :1], i),
]


@pytest.mark.parametrize("key", KEYS, ids=[str(i) for i in range(len(KEYS))])
def test_integer_tensors_as_numpy(key: Callable[[Any], Any]) -> None:
    np.testing.assert_array_equal(value(lambda x, i: x[key(i)], X, INDEX), X[key(INDEX)])
    np.testing.assert_array_equal(value(lambda x: x[key(INDEX)], X), X[key(INDEX)])


def test_lists_index() -> None:
    np.testing.assert_array_equal(value(lambda x: x[[0, -1]], X), X[[0, -1]])
    np.testing.assert_array_equal(value(lambda x: x[:, [1, 2], 0], X), X[:, [1, 2], 0])


def test_labels_pick_one_element_per_row() -> None:
    x, labels = op.tensor(("B", 5), name="x"), op.tensor(("B",), "i64", name="labels")
    y = x[op.arange(x.shape[0]), labels]
    rows = np.array([4, 0, 2])
    found = evaluate(Graph({"y": y}), {"x": X[:, 0], "labels": rows})["y"]
    np.testing.assert_array_equal(found, X[np.arange(3), 0, rows])


@pytest.mark.parametrize("dtype", ["i64", "i32", "i16", "i8", "u8"])
def test_index_dtypes(dtype: str) -> None:
    places = np.array([2, 0], dtype=op.zeros((1,), dtype).dtype.numpy)
    np.testing.assert_array_equal(value(lambda x, i: op.take(x, i, 1), X, places), np.take(X, places, 1))


def test_take_along_axis_broadcasts_as_numpy() -> None:
    index = np.array([[[3], [0]]])
    expected = np.take_along_axis(X, np.broadcast_to(index, (3, 2, 1)), 1)
    np.testing.assert_array_equal(value(lambda x, i: op.take_along_axis(x, i, 1), X, index), expected)
    assert op.gather is op.take_along_axis


def test_index_add_and_scatter_add_as_pytorch() -> None:
    index = np.array([0, 2, 0, -1])
    updates = np.linspace(0, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    expected = torch.tensor(X).index_add(1, torch.tensor(index % 4), torch.tensor(updates)).numpy()
    np.testing.assert_allclose(value(lambda x, i, u: op.index_add(x, i, u, 1), X, index, updates), expected)
    places = np.random.default_rng(0).integers(0, 4, (3, 6, 5))
    updates = np.linspace(0, 1, 3 * 6 * 5, dtype=np.float32).reshape(3, 6, 5)
    expected = torch.tensor(X).scatter_add(1, torch.tensor(places), torch.tensor(updates)).numpy()
    np.testing.assert_allclose(value(lambda x, i, u: op.scatter_add(x, i, u, 1), X, places, updates), expected)
    np.testing.assert_array_equal(value(lambda x, i: op.scatter_add(x, i, 1, 1), X, places)[0, :, 0],
                                  X[0, :, 0] + np.bincount(places[0, :, 0], minlength=4))
    np.testing.assert_array_equal(value(lambda x, i: op.index_add(x, i, 1), X, np.array([1, 1]))[1], X[1] + 2)


def test_one_hot() -> None:
    labels = np.array([[0, 3], [2, 1]])
    np.testing.assert_array_equal(value(lambda i: op.one_hot(i, 4), labels), np.eye(4, dtype=np.float32)[labels])
    assert op.one_hot(op.tensor((2,), "u8"), 3, "bf16").dtype.name == "bf16"


OUT_OF_RANGE: list[tuple[Callable[..., Any], str]] = [
    (lambda x, i: x[i], r"getitem: index into dimension 0 of size 3 at position \[1\] is 3; expected 0 to 2"),
    (lambda x, i: op.take(x, i, 0), r"take: index into dimension 0 of size 3 at position \[1\] is 3"),
    (lambda x, i: op.take(x, -i - 1, 0), r"take: .* at position \[1\] is -1"),
    (lambda x, i: op.index_add(x, i, 1.0), "index_add: index into dimension 0"),
    (lambda x, i: op.scatter_add(x[:, 0, 0], i, 1.0, 0), "scatter_add: index into dimension 0"),
    (lambda x, i: op.take_along_axis(x[:, 0, 0], i, 0), "take_along_axis: index into dimension 0"),
    (lambda x, i: op.one_hot(i, 3), "one_hot: label for 3 classes at position .* is 3"),
]


@pytest.mark.parametrize(("build", "message"), OUT_OF_RANGE, ids=[m[:30] for _, m in OUT_OF_RANGE])
def test_out_of_range_is_reported(build: Callable[..., Any], message: str) -> None:
    with pytest.raises(IndexRangeError, match=message):
        value(build, X, np.array([0, 3]))


def test_check_range_ignores_one_value() -> None:
    labels = np.array([0, -100, 4])
    np.testing.assert_array_equal(value(lambda i: op.check_range(i, 0, 4, ignore=-100), labels), labels)
    with pytest.raises(IndexRangeError, match=r"\[check_range\] label at position \[1\] is -100; expected 0 to 4"):
        value(lambda i: op.check_range(i, 0, 4, what="label"), labels)


T = op.dim("T", min=2)
ERRORS: list[tuple[Callable[[], Any], type[TesseraError], str]] = [
    (lambda: op.tensor((3,))[3], IndexRangeError,
     r"\[getitem\] index 3 is out of range for dimension 0 of size 3, shape \(3,\)"),
    (lambda: op.tensor((3,))[-4], IndexRangeError, r"\[getitem\] index -4 is out of range"),
    (lambda: op.tensor((T,))[2], IndexRangeError,
     "index 2 .* of size T.* in range for all legal sizes; give op.dim a larger min"),
    (lambda: op.tensor((3,))[0, 0], ArgumentError,
     r"\[getitem\] 2 indices for a tensor with 1 dimensions, shape \(3,\)"),
    (lambda: op.tensor((3,))[..., ...], ArgumentError, "one ... only"),
    (lambda: op.tensor((3,))[::0], ArgumentError, "the step of a slice must be an int that is not 0, got 0"),
    (lambda: op.tensor((3,))[1.5], DTypeError, "1.5 cannot index; use ints, slices, None"),
    (lambda: op.tensor((3,))["a"], DTypeError, "'a' cannot index"),
    (lambda: op.tensor((3,))[op.tensor((2,))], DTypeError, "cannot index"),
    (lambda: op.tensor((3,))["a":], ArgumentError, "the bounds of a slice must be ints or dimensions, got 'a'"),
    (lambda: op.tensor((3,))[op.tensor((3,)) > 0], UnsupportedError, r"a boolean mask .* use where\(mask, x, y\)"),
    (lambda: op.tensor((3,))[True], UnsupportedError, "boolean mask"),
    (lambda: op.tensor((3, 4, 5))[[0], :, [1]], UnsupportedError,
     "separated by a slice, None or ...; index in two steps"),
    (lambda: op.tensor((3, 4, 5))[0, :, [1]], UnsupportedError, "separated by a slice"),
    (lambda: op.take(op.tensor((3,)), op.tensor((2,))), DTypeError,
     r"\[take\] the index has dtype f32; expected an integer dtype"),
    (lambda: op.take(op.tensor((3,)), [0], 1), ArgumentError, r"\[take\] axis 1 is out of range"),
    (lambda: op.take(op.tensor(()), [0]), ArgumentError, "a scalar has no axes"),
    (lambda: op.build("take", op.tensor((3,)), op.tensor((2,), "u8"), axis=0), DTypeError,
     "the index.* has dtype u8; expected i64 or i32"),
    (lambda: op.take_along_axis(op.tensor((3, 4)), op.tensor((2, 5), "i64"), 0), ShapeError,
     r"\[take_along_axis\] .* do not broadcast"),
    (lambda: op.take_along_axis(op.tensor((3, 4)), op.tensor((2,), "i64"), 0), ShapeError,
     r"operand 1 \(the index\) has shape \(2,\)"),
    (lambda: op.index_add(op.tensor((3, 4)), [0, 1], op.tensor((2, 5))), ShapeError,
     r"the updates\) has shape \(2, 5\); expected \(2, 4\)"),
    (lambda: op.index_add(op.tensor((3,)), [0], op.tensor((1,), "f64")), DTypeError,
     "the updates.* has dtype f64 but operand 0 has f32"),
    (lambda: op.index_add(op.tensor((3,), "bool"), [0], op.tensor((1,), "bool")), DTypeError,
     r"\[index_add\] operand 0 has dtype bool"),
    (lambda: op.scatter_add(op.tensor((3,)), [0, 1], op.tensor((3,)), 0), ShapeError,
     r"the updates\) has shape \(3,\); expected that of the index"),
    (lambda: op.scatter_add(op.tensor((3, 2)), [[0, 1, 1]], op.tensor((1, 3)), 0), ShapeError,
     r"the index\) has shape \(1, 3\); expected that of operand 0"),
    (lambda: op.one_hot(op.tensor((3,)), 4), DTypeError, r"\[one_hot\] operand 0 \(the labels\) has dtype f32"),
    (lambda: op.check_range(op.tensor((3,)), 0, 4), DTypeError, r"\[check_range\] operand 0 has dtype f32"),
]


@pytest.mark.parametrize(("action", "error", "message"), ERRORS, ids=[m[:50] for _, _, m in ERRORS])
def test_errors(action: Callable[[], Any], error: type[TesseraError], message: str) -> None:
    with pytest.raises(error, match=message):
        action()
