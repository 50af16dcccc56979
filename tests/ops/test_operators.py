"""Python's operators and methods on symbolic tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tessera import op
from tessera.errors import ArgumentError, ShapeError
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.reference import evaluate

A = np.array([[1.5, -2.0, 3.0], [0.5, 4.0, -1.0]], np.float32)
B = np.array([[2.0, 1.0, 0.5], [1.5, -3.0, 2.5]], np.float32)
N = np.array([[5, -3, 7], [2, 0, 12]], np.int32)
J = np.array([[2, 4, 3], [1, 6, 5]], np.int32)


def value(build: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    return evaluate(Graph({"y": build(*leaves)}, inputs=leaves), {f"x{i}": a for i, a in enumerate(arrays)})["y"]


FLOAT_OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize("name", FLOAT_OPERATORS)
def test_binary_operators(name: str) -> None:
    function = getattr(operator, name)
    np.testing.assert_allclose(value(function, A, B), function(A, B), rtol=1e-6)
    np.testing.assert_allclose(value(lambda x: function(x, 2), A), function(A, np.float32(2)), rtol=1e-6)
    np.testing.assert_allclose(value(lambda x: function(2, x), A), function(np.float32(2), A), rtol=1e-6)
    np.testing.assert_allclose(value(lambda x: function(B, x), A), function(B, A), rtol=1e-6)


@pytest.mark.parametrize("name", ["and_", "or_", "xor", "lshift", "rshift", "floordiv", "mod"])
def test_integer_operators(name: str) -> None:
    function = getattr(operator, name)
    np.testing.assert_array_equal(value(function, N, J), function(N, J))
    np.testing.assert_array_equal(value(lambda x: function(x, 2), N), function(N, 2))
    np.testing.assert_array_equal(value(lambda x: function(9, x), J), function(9, J))


@pytest.mark.parametrize("exponent", [2, 3, 1, 0.5, -0.5, -1, 1.7, 0, 4])
def test_power_by_a_scalar(exponent: float) -> None:
    x = np.abs(A)
    np.testing.assert_allclose(value(lambda v: v**exponent, x), x ** np.float32(exponent), rtol=1e-6)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(value(lambda v: exponent**v, x), np.float32(exponent) ** x, rtol=1e-6)


def test_integer_power() -> None:
    np.testing.assert_array_equal(value(lambda v: v**2, N), N**2)
    np.testing.assert_array_equal(value(lambda v, w: v**w, N, J), N**J)
    base = np.array([2, 1, -1, -1, 0], np.int32)
    exponents = np.array([-1, -5, -3, -2, -1], np.int32)
    np.testing.assert_array_equal(value(lambda v, w: v**w, base, exponents), [0, 1, -1, 1, 0])
    assert value(lambda v: v**0.5, N).dtype == np.float32


def test_division_by_zero() -> None:
    zero = np.zeros_like(N)
    np.testing.assert_array_equal(value(lambda v, w: v // w, N, zero), zero)
    np.testing.assert_array_equal(value(lambda v, w: v % w, N, zero), zero)
    np.testing.assert_array_equal(value(lambda v: v / 0, A), np.sign(A) * np.inf)


def test_unary_operators() -> None:
    np.testing.assert_array_equal(value(operator.neg, A), -A)
    np.testing.assert_array_equal(value(operator.pos, A), A)
    np.testing.assert_array_equal(value(abs, A), abs(A))
    np.testing.assert_array_equal(value(round, A), np.round(A))
    np.testing.assert_array_equal(value(operator.invert, N), ~N)
    np.testing.assert_array_equal(value(operator.invert, N > 3), ~(N > 3))


def test_matmul_and_transposes() -> None:
    np.testing.assert_allclose(value(lambda x, y: x @ y.T, A, B), A @ B.T, rtol=1e-6)
    np.testing.assert_allclose(value(lambda x: x @ B.T, A), A @ B.T, rtol=1e-6)
    np.testing.assert_allclose(value(lambda x: A.T @ x, B), A.T @ B, rtol=1e-6)
    batch = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(value(lambda x: x.T, batch), batch.T)
    np.testing.assert_array_equal(value(lambda x: x.mT, batch), np.swapaxes(batch, 1, 2))


def test_methods() -> None:
    np.testing.assert_allclose(value(lambda x: x.sum(0), A), A.sum(0))
    np.testing.assert_allclose(value(lambda x: x.mean(axis=1, keepdims=True), A), A.mean(1, keepdims=True))
    np.testing.assert_allclose(value(lambda x: x.max() - x.min(), A), A.max() - A.min())
    np.testing.assert_allclose(value(lambda x: x.var(1), A), A.var(1), rtol=1e-6)
    np.testing.assert_array_equal(value(lambda x: x.reshape(3, -1).transpose(1, 0), A), A.reshape(3, -1).T)
    np.testing.assert_array_equal(value(lambda x: x.reshape((-1,)), A), A.reshape(-1))
    np.testing.assert_array_equal(value(lambda x: x.astype("i32"), A), A.astype(np.int32))
    np.testing.assert_array_equal(value(lambda x: x.cast("f64"), A), A.astype(np.float64))
    np.testing.assert_array_equal(value(lambda x: x.argmax(1), A), A.argmax(1))
    np.testing.assert_array_equal(value(lambda x: (x > 0).any(1), A), (A > 0).any(1))
    np.testing.assert_array_equal(value(lambda x: x.clip(-1, 1), A), A.clip(-1, 1))


def test_rows() -> None:
    x = op.tensor((2, 3))
    assert len(x) == 2
    first, second = x
    assert first.shape == second.shape == (3,)


def test_tensors_are_hashable_by_identity() -> None:
    x, y = op.tensor((2,)), op.tensor((2,))
    assert {x: 1, y: 2}[x] == 1
    assert isinstance(x == y, Value)
    assert (x == None) is False  # noqa: E711


def test_numpy_leaves_the_operation_to_the_tensor() -> None:
    assert isinstance(np.ones((2, 3), np.float32) @ op.tensor((3, 2)), Value)


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: bool(op.tensor((2,)) > 0), ArgumentError,
     r"a symbolic tensor \(bool\[2\]\) has no truth value .* use op.where"),
    (lambda: op.tensor((2,)) in [op.tensor((2,))], ArgumentError, "has no truth value"),
    (lambda: float(op.tensor(())), ArgumentError, "has no number while a graph is built"),
    (lambda: len(op.tensor(())), ShapeError, r"a tensor with shape \(\) has no length"),
    (lambda: list(op.tensor(("B", 2))), ShapeError, r"the length of a tensor with shape \(B, 2\) is known only when"),
    (lambda: op.tensor((2,)).mT, ShapeError, r"\[mT\] operand 0 has shape \(2,\); a matrix needs 2"),
    (lambda: op.tensor((2, 3)) + op.tensor((4,)), ShapeError,
     r"\[add\] operand 0 with shape \(2, 3\) and operand 1 with shape \(4,\) do not broadcast: dimension -1 is 3"),
    (lambda: op.tensor(("B",)) + op.tensor((4,)), ShapeError, r"the size of B is known only at run time"),
    (lambda: op.tensor(("B",)) + op.tensor((op.dim("B", min=2),)), ShapeError,
     "different ranges: create the dimension once"),
    (lambda: op.tensor((2, -1)), ShapeError, r"\[tensor\] dimension 1 of shape \(2, -1\) is or can be negative"),
    (lambda: op.tensor((2.5,)), ShapeError, r"\[tensor\] 2.5 is not a dimension"),
    (lambda: op.tensor((True,)), ShapeError, r"\[tensor\] True is not a dimension"),
    (lambda: op.tensor((2,), name=""), ArgumentError, r"\[tensor\] name must be a string with at least one character"),
    (lambda: op.dim("2x"), ArgumentError, "'2x' is not a usable name"),
    (lambda: op.dim("B", min=5, max=2), ArgumentError, "is not a range of sizes"),
    (lambda: op.dim("B", min=1.5), ArgumentError, r"\[dim\] min must be an int, got 1.5"),
    (lambda: op.dim(3), ArgumentError, r"\[dim\] name must be a string, got 3"),
]


@pytest.mark.parametrize(("action", "error", "message"), ERRORS, ids=[m[:40] for _, _, m in ERRORS])
def test_errors(action: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        action()


def test_default_input_names_are_unique() -> None:
    names = {op.tensor((1,)).node.attrs["name"] for _ in range(3)}
    assert len(names) == 3 and all(n.startswith("input") for n in names)
