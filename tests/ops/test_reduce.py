"""User-level reductions and pointwise composites against NumPy, and their errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tessera import op
from tessera.errors import ArgumentError, ShapeError, TesseraError
from tessera.ir.graph import Graph
from tessera.op.reference import evaluate

X = np.random.default_rng(0).uniform(-2, 2, (2, 3, 4))


def value(build: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    return evaluate(Graph({"y": build(*leaves)}, inputs=leaves), {f"x{i}": a for i, a in enumerate(arrays)})["y"]


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "mean", "var", "std", "any", "all"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1,), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_as_numpy(name: str, axis: Any, keepdims: bool) -> None:
    found = value(lambda x: getattr(op, name)(x, axis, keepdims), X)
    np.testing.assert_allclose(found, getattr(np, name)(X, axis=axis, keepdims=keepdims), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_positions_as_numpy(name: str, axis: Any, keepdims: bool) -> None:
    found = value(lambda x: getattr(op, name)(x, axis, keepdims), X)
    np.testing.assert_array_equal(found, getattr(np, name)(X, axis=axis, keepdims=keepdims))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_any_and_all_of_what_may_be_empty(size: int) -> None:
    x = op.tensor((op.dim("N", min=0),), "bool", name="x")
    for feed in (np.ones(size, bool), np.zeros(size, bool)):
        found = evaluate(Graph({"any": op.any(x), "all": op.all(x)}), {"x": feed})
        assert found["any"] == feed.any() and found["all"] == feed.all()


def test_empty_reductions() -> None:
    empty = np.zeros((0, 3))
    np.testing.assert_array_equal(value(lambda x: op.sum(x, 0), empty), np.zeros(3))
    np.testing.assert_array_equal(value(lambda x: op.prod(x, 0), empty), np.ones(3))
    assert np.isnan(value(lambda x: op.mean(x, 0), empty)).all()
    assert value(lambda x: op.max(x, 1), empty).shape == (0,)


def test_logsumexp_does_not_overflow() -> None:
    x = np.array([1000.0, 1000.0, -np.inf])
    np.testing.assert_allclose(value(op.logsumexp, x), 1000 + np.log(2))
    assert value(op.logsumexp, np.array([-np.inf, -np.inf])) == -np.inf
    assert value(op.logsumexp, np.array([np.inf, 0.0])) == np.inf


def test_norms() -> None:
    for order in (0, 1, 2, 3, np.inf, -np.inf):
        found = value(lambda x, o=order: op.norm(x, o, 1), X)
        np.testing.assert_allclose(found, np.linalg.norm(X, order, 1), rtol=1e-12)


def test_nan_to_num_isclose_and_float_power() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    np.testing.assert_array_equal(value(op.nan_to_num, x), np.nan_to_num(x))
    np.testing.assert_array_equal(value(op.nan_to_num, np.arange(3)), np.arange(3))
    expected = np.nan_to_num(x, nan=1, posinf=2, neginf=3)
    np.testing.assert_array_equal(value(lambda v: op.nan_to_num(v, 1, 2, 3), x), expected)
    y = np.array([np.nan, np.inf, np.inf, 1.0 + 1e-6], np.float32)
    for equal_nan in (False, True):
        found = value(lambda a, b, n=equal_nan: op.isclose(a, b, equal_nan=n), x, y)
        np.testing.assert_array_equal(found, np.isclose(x, y, equal_nan=equal_nan))
    np.testing.assert_allclose(value(lambda v: op.float_power(v, -1), np.array([2, 4])), [0.5, 0.25])


@pytest.mark.parametrize("name", ["logical_or", "logical_xor", "logical_and"])
def test_logic_of_numbers(name: str) -> None:
    x, y = np.array([0.0, 0.0, 2.5, np.nan]), np.array([0, 3, 0, 1], np.int8)
    np.testing.assert_array_equal(value(getattr(op, name), x, y), getattr(np, name)(x, y))
    np.testing.assert_array_equal(value(op.logical_not, x), np.logical_not(x))


def test_functions_of_two_and_three_tensors() -> None:
    y = np.random.default_rng(1).uniform(0.5, 2, (3, 1))
    np.testing.assert_allclose(value(op.atan2, X, y), np.arctan2(X, y))
    np.testing.assert_allclose(value(op.logaddexp, X, y), np.logaddexp(X, y))
    np.testing.assert_allclose(value(lambda a, b: op.lerp(a, b, 0.25), X, y), X + 0.25 * (y - X))
    assert op.lerp(op.tensor((2,), "i32"), 3, 1).dtype.name == "f32"
    assert op.atan2(op.tensor((2,), "i32"), 3).dtype.name == "f32"
    assert op.logaddexp(op.tensor((2,), "f16"), 3).dtype.name == "f16"


def test_where_moves_8_bit_floats() -> None:
    x = op.constant([1.0, 2.0], "f8e4m3")
    found = evaluate(Graph({"y": op.where(op.constant([True, False]), x, op.constant([3.0, 4.0], "f8e4m3"))}), {})["y"]
    np.testing.assert_array_equal(found.astype(np.float32), [1, 4])


def test_clip_with_open_sides() -> None:
    np.testing.assert_array_equal(value(lambda x: op.clip(x, 0.5), X), np.clip(X, 0.5, None))
    np.testing.assert_array_equal(value(lambda x: op.clip(x, high=0.5), X), np.clip(X, None, 0.5))
    ints = np.arange(-5, 5, dtype=np.int8)
    np.testing.assert_array_equal(value(lambda x: op.clip(x, high=2), ints), np.clip(ints, None, 2))
    assert np.isnan(value(lambda x: op.clip(x, 0, 1), np.array([np.nan])))


ERRORS: list[tuple[Callable[[], Any], type[TesseraError], str]] = [
    (lambda: op.sum(op.tensor((2, 3)), 2), ArgumentError,
     r"\[sum\] axis 2 is out of range for a tensor with 2 dimensions; use -2 to 1"),
    (lambda: op.sum(op.tensor((2, 3)), (0, -2)), ArgumentError, r"\[sum\] axis \(0, -2\) names a dimension twice"),
    (lambda: op.sum(op.tensor((2, 3)), 1.5), ArgumentError, r"\[sum\] axis must be an int, got 1.5"),
    (lambda: op.sum(op.tensor((2, 3)), True), ArgumentError, r"\[sum\] axis must be an int, got True"),
    (lambda: op.max(op.tensor((0, 3)), 0), ShapeError,
     r"\[max\] dimension 0 of operand 0 with shape \(0, 3\) is empty"),
    (lambda: op.argmin(op.tensor((3, 0)), 1), ShapeError,
     r"\[argmin\] dimension 1 of operand 0 with shape \(3, 0\) is empty"),
    (lambda: op.logsumexp(op.tensor((0,))), ShapeError, r"\[logsumexp\] dimension 0"),
    (lambda: op.cumsum(op.tensor(()), 0), ArgumentError,
     r"\[cumsum\] axis 0 is out of range .* \(a scalar has no axes\)"),
    (lambda: op.build("sum", op.tensor((2, 3)), axes=[1, 0], keepdims=False), ArgumentError,
     r"\[sum\] axes \[1, 0\] must be sorted"),
]


@pytest.mark.parametrize(("action", "error", "message"), ERRORS, ids=[m[:50] for _, _, m in ERRORS])
def test_errors(action: Callable[[], Any], error: type[TesseraError], message: str) -> None:
    with pytest.raises(error, match=message):
        action()
