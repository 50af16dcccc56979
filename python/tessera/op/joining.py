"""Operators that put tensors together or into margins: concat, stack, pad."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import reduce
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, Expr, add, mul, nonnegative
from tessera.ir.dtype import promote
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    EVERY,
    as_dim,
    one_axis,
    require_count,
    require_equal_dtypes,
    shape_text,
)
from tessera.op.factors import letters
from tessera.op.lowering import Concat, Pad
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.promotion import TensorLike, as_tensor, cast_to, python_scalar, scalar_of
from tessera.op.shape import broadcast_to, expand_dims
from tessera.op.slicing import flip, slice_axis


def _concat_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    if not types:
        raise ArgumentError("[concat] needs at least one operand")
    dtype = require_equal_dtypes("concat", types)
    first = types[0].shape
    axis = one_axis("concat", attrs["axis"], len(first))
    total: Dim = 0
    for number, t in enumerate(types):
        if t.ndim != len(first):
            raise ShapeError(
                f"[concat] operand {number} has shape {shape_text(t.shape)} with {t.ndim} dimensions but operand 0 "
                "with shape "
                f"{shape_text(first)} has {len(first)}"
            )
        for i, (a, b) in enumerate(zip(first, t.shape)):
            if i != axis and a != b:
                raise ShapeError(
                    f"[concat] operand {number} has shape {shape_text(t.shape)} but dimension {i} must be {a} as in "
                    "operand 0 "
                    f"with shape {shape_text(first)}; only dimension {axis} may differ"
                )
        total = add(total, t.shape[axis])
    return TensorType(dtype, (*first[:axis], total, *first[axis + 1 :]))


def _concat_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    g = cotangents[0]
    axis: int = node.attrs["axis"]
    if g is None:
        return [None] * len(node.operands)
    out: list[Value | None] = []
    at: Dim = 0
    for v in node.operands:
        end = add(at, v.shape[axis])
        out.append(slice_axis(g, axis, at, end))
        at = end
    return out


def _concat_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    rank, axis = types[0].ndim, attrs["axis"]
    spare = iter(string.ascii_letters[rank:])
    sides = [
        "".join(next(spare) + "!" if i == axis else c for i, c in enumerate(letters(rank)))
        for _ in range(len(types) + 1)
    ]
    return f"{','.join(sides[:-1])}->{sides[-1]}"


def _concat_reference(*arrays: np.ndarray, axis: int) -> np.ndarray:
    return np.concatenate(arrays, axis=axis)


register(OpDef(
    "concat", _concat_infer, _concat_vjp, _concat_shard, Concat(), _concat_reference,
    lambda: [
        Sample(tuple(Input(s, "any") for s in shapes), {"axis": axis})
        for shapes, axis in (
            (((2, 3), (4, 3)), 0), (((2, 3), (2, 1), (2, 2)), 1), (((5,),), 0), (((0, 2), (3, 2)), 0),
            (((2, 2, 2), (2, 2, 2)), 1),
            (((1,), (1,), (1,), (1,)), 0),
        )
    ],
    EVERY, "Tensors joined along an axis.",
))


def concat(tensors: Sequence[TensorLike], axis: int = 0) -> Value:
    """Tensors joined along ``axis``; all other dimensions are equal, dtypes are promoted."""
    values = _promoted("concat", tensors)
    if values[0].ndim == 0:
        raise ShapeError("[concat] operand 0 is a scalar, which has no dimension to join along; use stack")
    at = one_axis("concat", axis, values[0].ndim)
    return values[0] if len(values) == 1 else build("concat", *values, axis=at)


def _promoted(op: str, tensors: Sequence[TensorLike]) -> list[Value]:
    if isinstance(tensors, Value) or not isinstance(tensors, Sequence) or not tensors:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"[{op}] the first argument must be a list or tuple of one or more tensors")
    values = [as_tensor(t) for t in tensors]
    dtype = reduce(promote, (v.dtype for v in values))
    return [cast_to(v, dtype) for v in values]


def stack(tensors: Sequence[TensorLike], axis: int = 0) -> Value:
    """Tensors of one shape joined along a new dimension ``axis``; dtypes are promoted."""
    values = _promoted("stack", tensors)
    for i, v in enumerate(values):
        if v.shape != values[0].shape:
            raise ShapeError(
                f"[stack] operand {i} has shape {shape_text(v.shape)} but operand 0 has {shape_text(values[0].shape)}; "
                "they must be equal"
            )
    at = one_axis("stack", axis, values[0].ndim + 1)
    return concat([expand_dims(v, at) for v in values], at)


# --- pad ---


def _pad_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("pad", types, 1)
    t, low, high = types[0], attrs["low"], attrs["high"]
    if not len(low) == len(high) == t.ndim:
        raise ArgumentError(f"[pad] low and high must have one entry for each of the {t.ndim} dimensions of operand 0")
    for i, (a, b) in enumerate(zip(low, high)):
        if not (nonnegative(a) and nonnegative(b)):
            raise ArgumentError(
                f"[pad] dimension {i} is padded by {a} and {b}; both must be at least 0 for all legal sizes"
            )
    scalar_of(attrs["value"], t.dtype)
    return TensorType(t.dtype, tuple(add(add(a, d), b) for a, d, b in zip(low, t.shape, high)))


def _pad_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    g, x, low = cotangents[0], node.operands[0], list(node.attrs["low"])
    if g is None:
        return [None]
    return [build("slice", g, start=low, stop=[add(a, d) for a, d in zip(low, x.shape)], step=[1] * x.ndim)]


def _pad_reference(x: np.ndarray, low: Sequence[int], high: Sequence[int], value: bool | int | float) -> np.ndarray:
    return np.pad(x, list(zip(low, high)), constant_values=np.asarray(value).astype(x.dtype)) if x.ndim else x


def _pad_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    rank = types[0].ndim
    spare = iter(string.ascii_letters[rank:])
    still = [a == 0 and b == 0 for a, b in zip(attrs["low"], attrs["high"])]
    before = "".join(c if s else c + "!" for c, s in zip(letters(rank), still))
    return f"{before}->{''.join(c if s else next(spare) for c, s in zip(letters(rank), still))}"


register(OpDef(
    "pad", _pad_infer, _pad_vjp, _pad_shard, Pad(),
    _pad_reference,
    lambda: [
        Sample((Input(s, "any"),), {"low": list(a), "high": list(b), "value": v})
        for s, a, b, v in (
            ((3, 4), (1, 0), (2, 1), 0), ((4,), (0,), (0,), 1), ((2, 3, 2), (0, 2, 1), (0, 0, 3), 1), ((), (), (), 0),
            ((0, 2), (1, 1), (1, 0), 1), ((5,), (3,), (4,), 0),
        )
    ],
    EVERY, "A margin of one value around a tensor.",
))


def pad(x: TensorLike, width: Any, mode: str = "constant", value: bool | int | float = 0) -> Value:
    """A margin around x.

    ``width``: an int, (low, high) for every dimension, or one (low, high) per dimension, as in NumPy. ``mode``:
    ``constant`` (filled with ``value``), ``edge`` (the outermost element repeated), ``reflect`` (mirrored without
    repeating the outermost; the margin must be smaller than the dimension).
    """
    tensor = as_tensor(x)
    pairs = _pad_widths(tensor, width)
    if mode == "constant":
        number = scalar_of(python_scalar(value), tensor.dtype)
        if all(a == 0 and b == 0 for a, b in pairs):
            return tensor
        return build("pad", tensor, low=[a for a, _ in pairs], high=[b for _, b in pairs], value=number)
    if mode not in ("edge", "reflect"):
        raise ArgumentError(f"[pad] mode {mode!r} is unknown; use 'constant', 'edge' or 'reflect'")
    for axis, (low, high) in enumerate(pairs):
        if low != 0 or high != 0:
            tensor = _pad_edge(tensor, axis, low, high) if mode == "edge" else _pad_reflect(tensor, axis, low, high)
    return tensor


def _pad_widths(x: Value, width: Any) -> list[tuple[Dim, Dim]]:
    if isinstance(width, (int, np.integer, Expr)):
        d = as_dim("pad", width)
        return [(d, d)] * x.ndim
    items: list[Any] = list(width)
    if len(items) == 2 and not any(isinstance(i, (tuple, list)) for i in items):
        return [(as_dim("pad", items[0]), as_dim("pad", items[1]))] * x.ndim
    if len(items) == 1 and isinstance(items[0], (tuple, list)):
        items = items * x.ndim
    if len(items) != x.ndim or not all(_is_pair(i) for i in items):
        raise ArgumentError(
            f"[pad] width {width!r} must be an int, (low, high) or one (low, high) for each of {x.ndim} dimensions"
        )
    return [(as_dim("pad", a), as_dim("pad", b)) for a, b in items]


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(cast("Sequence[Any]", item)) == 2


def _pad_edge(x: Value, axis: int, low: Dim, high: Dim) -> Value:
    size = x.shape[axis]

    def edge(start: Dim, count: Dim) -> Value:
        row = slice_axis(x, axis, start, add(start, 1))
        return broadcast_to(row, [count if i == axis else d for i, d in enumerate(row.shape)])

    return concat([edge(0, low), x, edge(add(size, -1), high)], axis)


def _pad_reflect(x: Value, axis: int, low: Dim, high: Dim) -> Value:
    size = x.shape[axis]
    before = flip(slice_axis(x, axis, 1, add(low, 1)), axis)
    after = flip(slice_axis(x, axis, add(add(size, -1), mul(high, -1)), add(size, -1)), axis)
    return concat([before, x, after], axis)
