"""Tensors from nothing: full, iota, and what follows from them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dims import Dim, Expr, add, bounds
from tessera.ir.dtype import DType, as_dtype, f32, i64
from tessera.ir.value import TensorType, Value
from tessera.op.arguments import ALL, EVERY, NUMBERS, as_dim, as_shape, one_axis, require_count
from tessera.op.lowering import Fill, Iota
from tessera.op.opdef import Attrs, OpDef, Sample, build, no_vjp, register
from tessera.op.promotion import TensorLike, as_tensor, cast_to, is_scalar, python_scalar, scalar_of

NO_OPERANDS = no_vjp("it has no operands")


def created_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """Each device computes its part of the attribute ``shape`` from the global index."""
    return f"->{string.ascii_letters[: len(attrs['shape'])]}"


def _full_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("full", types, 0)
    dtype = as_dtype(attrs["dtype"])
    value = attrs["value"]
    if not isinstance(value, Expr):
        if not isinstance(value, (bool, int, float)):
            raise ArgumentError(f"[full] value must be a number, got {type(value).__name__}")
        scalar_of(value, dtype)
    return TensorType(dtype, as_shape("full", attrs["shape"]))


def _full_reference(shape: Sequence[int], value: bool | int | float, dtype: DType) -> np.ndarray:
    return np.full(tuple(shape), value).astype(dtype.numpy)


register(OpDef(
    "full", _full_infer, NO_OPERANDS, created_shard, Fill(),
    _full_reference,
    lambda: [
        Sample((), {"shape": list(s), "value": scalar_of(v, d), "dtype": d}, grad=False)
        for s in ((2, 3), (), (0, 2)) for v in (1, 0) for d in map(as_dtype, ALL)
    ] + [
        Sample((), {"shape": [3], "value": v, "dtype": as_dtype(d)}, grad=False)
        for v in (0.1, -2.5, float("inf"), float("nan")) for d in ("f64", "f32", "bf16", "f16")
    ],
    EVERY, "A tensor whose elements all are one number, or a symbolic dimension's size.",
))


def _iota_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("iota", types, 0)
    dtype = as_dtype(attrs["dtype"])
    if dtype.name not in NUMBERS:
        raise DTypeError(f"[iota] dtype {dtype} cannot count; use an integer or floating-point dtype")
    shape = as_shape("iota", attrs["shape"])
    one_axis("iota", attrs["axis"], len(shape))
    return TensorType(dtype, shape)


def _iota_reference(shape: list[int], axis: int, dtype: DType) -> np.ndarray:
    counts = np.arange(shape[axis], dtype=np.int64).astype(dtype.numpy)
    return np.broadcast_to(np.reshape(counts, [-1 if i == axis else 1 for i in range(len(shape))]), shape)


register(OpDef(
    "iota", _iota_infer, NO_OPERANDS, created_shard, Iota(), _iota_reference,
    lambda: [
        Sample((), {"shape": list(s), "axis": a, "dtype": as_dtype(d)}, grad=False)
        for s, a in (((5,), 0), ((2, 3), 0), ((2, 3), 1), ((0, 2), 0), ((1, 4, 1), 1)) for d in NUMBERS
    ],
    NUMBERS, "0, 1, 2, … along an axis.",
))


def full(shape: Any, value: bool | int | float | Dim, dtype: DType | str | type | None = None) -> Value:
    """A tensor of this shape filled with one number (or a symbolic dimension's size).

    ``dtype`` defaults to that of the number: bool, i64 or f32.
    """
    if isinstance(value, Expr):
        return build("full", shape=list(as_shape("full", shape)), value=value, dtype=as_dtype(dtype or i64))
    if not is_scalar(value):
        raise ArgumentError(f"[full] value must be a number, got {type(value).__name__}; use broadcast_to for a tensor")
    number = python_scalar(value)
    target = as_dtype(dtype) if dtype is not None else as_dtype(type(number))
    return build("full", shape=list(as_shape("full", shape)), value=scalar_of(number, target), dtype=target)


def zeros(shape: Any, dtype: DType | str | type = f32) -> Value:
    """A tensor of zeros of this shape (ints and symbolic dimensions) and dtype."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: DType | str | type = f32) -> Value:
    """A tensor of ones of this shape (ints and symbolic dimensions) and dtype."""
    return full(shape, 1, dtype)


def full_like(x: TensorLike, value: bool | int | float, dtype: DType | str | type | None = None) -> Value:
    """A tensor of x's shape, and dtype unless given, filled with one number."""
    tensor = as_tensor(x)
    return full(tensor.shape, value, dtype or tensor.dtype)


def zeros_like(x: TensorLike, dtype: DType | str | type | None = None) -> Value:
    """Zeros of x's shape, and dtype unless given."""
    return full_like(x, 0, dtype)


def ones_like(x: TensorLike, dtype: DType | str | type | None = None) -> Value:
    """Ones of x's shape, and dtype unless given."""
    return full_like(x, 1, dtype)


def iota(shape: Any, axis: int = 0, dtype: DType | str | type = i64) -> Value:
    """0, 1, 2, … along ``axis``, repeated over the other dimensions of ``shape``."""
    sizes = as_shape("iota", shape)
    return build("iota", shape=list(sizes), axis=one_axis("iota", axis, len(sizes)), dtype=as_dtype(dtype))


def arange(
    start: int | float | Dim, stop: int | float | Dim | None = None, step: int | float = 1,
    dtype: DType | str | type | None = None,
) -> Value:
    """start, start + step, … below ``stop`` (above it for a negative step); ``arange(n)`` counts from 0.

    ``dtype`` defaults to i64 for integers, else f32. A symbolic bound needs step 1.
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ArgumentError("[arange] step must not be 0")
    if isinstance(start, Expr) or isinstance(stop, Expr):
        return _symbolic_arange(start, stop, step, as_dtype(dtype or i64))
    whole = all(isinstance(v, (int, np.integer)) for v in (start, stop, step))
    target = as_dtype(dtype) if dtype is not None else (i64 if whole else f32)
    count = max(-((int(start) - int(stop)) // int(step)) if whole else int(np.ceil((stop - start) / step)), 0)
    computed = i64 if whole else target
    values = build("iota", shape=[count], axis=0, dtype=computed)
    values = values if step == 1 else values * step
    return cast_to(values if start == 0 else values + start, target)


def _symbolic_arange(start: Any, stop: Any, step: Any, dtype: DType) -> Value:
    if step != 1:
        raise ArgumentError(f"[arange] with a symbolic bound the step must be 1, got {step}; scale the result instead")
    first, last = as_dim("arange", start), as_dim("arange", stop)
    count = add(last, first * -1)
    if bounds(count)[0] < 0:
        raise ShapeError(f"[arange] the length {count} can be negative; give the dimension a larger min")
    values = build("iota", shape=[count], axis=0, dtype=i64)
    return cast_to(values if first == 0 else values + as_tensor(first, i64), dtype)


def eye(n: int | Dim, m: int | Dim | None = None, k: int = 0, dtype: DType | str | type = f32) -> Value:
    """An n x m matrix (m: n by default) with ones where column - row = k, else zeros."""
    shape = [as_dim("eye", n), as_dim("eye", n if m is None else m)]
    rows = build("iota", shape=shape, axis=0, dtype=i64)
    columns = build("iota", shape=shape, axis=1, dtype=i64)
    return cast_to((rows if k == 0 else rows + k) == columns, as_dtype(dtype))
