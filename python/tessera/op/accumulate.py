"""Pieces of composites that reduce rows: computing in f32 for bf16 and f16, sums, maxima and means over axes."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dims import Dim, product
from tessera.ir.dtype import DType, f32
from tessera.ir.value import Value
from tessera.op.opdef import build
from tessera.op.promotion import cast_to


def widen(x: Value) -> Value:
    """``x`` in the dtype in which it is computed with: f32 for bf16 and f16, else its own."""
    return cast_to(x, f32) if x.dtype.is_float and x.dtype.bits < 32 else x


def total(x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
    """The sum over ``axes``."""
    return build("sum", x, axes=list(axes), keepdims=keepdims) if axes else x


def largest(x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
    """The maximum over ``axes``."""
    return build("max", x, axes=list(axes), keepdims=keepdims) if axes else x


def count(dims: Sequence[Dim], dtype: DType) -> Value:
    """The number of elements of a shape, as a scalar of a floating-point dtype."""
    size = product(dims)
    return build("full", shape=[], value=float(size) if isinstance(size, int) else size, dtype=dtype)


def average(x: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
    """The mean over ``axes``; NaN of nothing."""
    return build("div", total(x, axes, keepdims), count([x.shape[a] for a in axes], x.dtype))
