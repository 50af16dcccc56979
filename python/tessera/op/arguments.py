"""Checks and normal forms of the arguments that operators share: dimensions, shapes, axes, dtypes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dims import Dim, Expr, Symbol, nonnegative, sym
from tessera.ir.dtype import DType
from tessera.ir.value import TensorType

FLOATS: tuple[str, ...] = ("f64", "f32", "bf16", "f16")
"""Floating-point dtypes in which arithmetic is defined."""
INTEGERS: tuple[str, ...] = ("i64", "i32", "i16", "i8", "u8")
"""Integer dtypes."""
NUMBERS: tuple[str, ...] = FLOATS + INTEGERS
"""Dtypes in which arithmetic is defined."""
ALL: tuple[str, ...] = (*NUMBERS, "bool")
"""Dtypes with comparisons."""
SMALL_FLOATS: tuple[str, ...] = ("f8e4m3", "f8e5m2")
"""Storage formats: they can be moved and cast, not computed with."""
EVERY: tuple[str, ...] = (*ALL, *SMALL_FLOATS)
"""All dtypes: those that operators accept which only move elements."""


def shape_text(shape: Sequence[Dim]) -> str:
    """A shape for a message, e.g. ``(B, 64)``."""
    return f"({', '.join(str(d) for d in shape)}{',' if len(shape) == 1 else ''})"


def as_dim(op: str, value: Any) -> Dim:
    """A dimension from an int, a NumPy integer, a symbolic dimension or the name of one."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, Symbol):
        return sym(value)
    if isinstance(value, str):
        return sym(Symbol(value, min=1))
    if not isinstance(value, (bool, np.bool_)):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise ShapeError(
        f"[{op}] {value!r} is not a dimension; give an int, op.dim(...) or the name of a symbolic dimension"
    )


def as_shape(op: str, shape: Any) -> tuple[Dim, ...]:
    """A shape from an int, a dimension or a sequence of them; no dimension may be negative."""
    several = isinstance(shape, Iterable) and not isinstance(shape, (str, Expr, Symbol))
    items = cast("Iterable[Any]", shape) if several else cast("Iterable[Any]", (shape,))
    dims = tuple(as_dim(op, d) for d in items)
    for i, d in enumerate(dims):
        if not nonnegative(d):
            raise ShapeError(
                f"[{op}] dimension {i} of shape {shape_text(dims)} is or can be negative; sizes are at least 0"
            )
    return dims


def one_axis(op: str, axis: Any, ndim: int, argument: str = "axis") -> int:
    """An axis in [0, ndim) from one in [-ndim, ndim)."""
    if isinstance(axis, (bool, np.bool_)) or not hasattr(axis, "__index__") or isinstance(axis, Expr):
        raise ArgumentError(f"[{op}] {argument} must be an int, got {axis!r}")
    number = operator.index(axis)
    if not -ndim <= number < ndim:
        raise ArgumentError(f"[{op}] {argument} {number} is out of range for a tensor with {ndim} dimensions" + (
            f"; use {-ndim} to {ndim - 1}" if ndim else " (a scalar has no axes)"))
    return number % ndim


def several_axes(op: str, axis: Any, ndim: int, argument: str = "axis") -> list[int]:
    """Sorted non-negative axes from None (all), an int or a sequence of ints."""
    if axis is None:
        return list(range(ndim))
    several = isinstance(axis, (tuple, list, set, frozenset, range))
    items = list(cast("Iterable[Any]", axis)) if several else [axis]
    axes = [one_axis(op, a, ndim, argument) for a in items]
    if len(set(axes)) != len(axes):
        raise ArgumentError(f"[{op}] {argument} {tuple(items)} names a dimension twice")
    return sorted(axes)


def require_dtype(op: str, types: Sequence[TensorType], allowed: Sequence[str], fix: str = "cast it first") -> None:
    """DTypeError unless every operand's dtype is among ``allowed``."""
    for i, t in enumerate(types):
        if t.dtype.name not in allowed:
            raise DTypeError(f"[{op}] operand {i} has dtype {t.dtype}; expected {one_of(allowed)}: {fix}")


def require_equal_dtypes(op: str, types: Sequence[TensorType]) -> DType:
    """The one dtype of all operands; DTypeError when they differ."""
    for i, t in enumerate(types):
        if t.dtype != types[0].dtype:
            raise DTypeError(
                f"[{op}] operand {i} has dtype {t.dtype} but operand 0 has {types[0].dtype}; cast one to the other's "
                "dtype"
            )
    return types[0].dtype


def require_index(op: str, position: int, t: TensorType) -> None:
    """DTypeError unless an index operand is i64 or i32."""
    if t.dtype.name not in ("i64", "i32"):
        raise DTypeError(
            f"[{op}] operand {position} (the index) has dtype {t.dtype}; expected i64 or i32: cast it first"
        )


def require_count(op: str, types: Sequence[TensorType], count: int) -> None:
    """ArgumentError unless there are ``count`` operands."""
    if len(types) != count:
        raise ArgumentError(f"[{op}] takes {count} operand{'s' if count != 1 else ''}, got {len(types)}")


def one_of(names: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
