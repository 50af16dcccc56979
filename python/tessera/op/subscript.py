"""NumPy's ``x[...]``: ints, slices, None, Ellipsis and integer tensors."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, DTypeError, IndexRangeError, UnsupportedError
from tessera.ir.dims import Dim, Expr, add, bounds, dmax, dmin, mul, nonnegative, product
from tessera.ir.dtype import as_dtype, i64
from tessera.ir.value import Value
from tessera.op.arguments import (
    shape_text,
)
from tessera.op.index import axis_text, in_range
from tessera.op.opdef import build
from tessera.op.promotion import as_tensor
from tessera.op.shape import reshape
from tessera.op.slicing import flip


def subscript(x: Value, key: Any) -> Value:
    """NumPy's ``x[key]``: ints, slices (negative steps too), None, Ellipsis, integer tensors.

    Ints and slices are read by NumPy's rules at build time; slice bounds are clipped to the dimension. Integer tensors
    must stand next to each other; each is checked when the graph runs. Boolean masks have no shape before the run and
    are refused.
    """
    items = _expanded(x, cast("tuple[Any, ...]", key if isinstance(key, tuple) else (key,)))
    shape: list[Dim] = []
    tensors: list[tuple[int, Value]] = []  # (dimension of the sliced tensor, index)
    ranges: list[tuple[Dim, Dim, int]] = []  # start, stop, step of each dimension of x
    layout: list[str] = []
    for item in items:
        axis = len(ranges)
        if item is None:
            layout.append("new")
        elif isinstance(item, slice):
            ranges.append(_slice_range(cast("slice", item), x, axis))
            layout.append("keep")
        elif _is_integer(item):
            start = _int_position(item, x, axis)
            ranges.append((start, add(start, 1), 1))
            layout.append("drop")
        else:
            tensors.append((axis, as_tensor(item)))
            ranges.append((0, x.shape[axis], 1))
            layout.append("tensor")
    sliced = _apply_ranges(x, ranges)
    sizes = iter(sliced.shape)
    for kind in layout:
        size = 1 if kind == "new" else next(sizes)
        if kind != "drop":
            shape.append(size)
    result = reshape(sliced, tuple(shape))
    if not tensors:
        return result
    kept = [kind for kind in layout if kind != "drop"]
    first = kept.index("tensor")
    _check_adjacent(layout)
    return _take_several(result, [t for _, t in tensors], first)


def _is_integer(item: Any) -> bool:
    return isinstance(item, (int, np.integer, Expr)) and not isinstance(item, (bool, np.bool_))


def _expanded(x: Value, key: tuple[Any, ...]) -> list[Any]:
    """The key with the Ellipsis replaced, one entry for each dimension of x and for each None."""
    for item in key:
        if isinstance(item, (bool, np.bool_)) or _dtype_kind(item) == "bool":
            raise UnsupportedError(
                "[getitem] a boolean mask selects a number of elements that is not known before the run; use "
                "where(mask, x, y)"
            )
        if isinstance(item, float) or _dtype_kind(item) == "float" or isinstance(item, str):
            raise DTypeError(f"[getitem] {item!r} cannot index; use ints, slices, None, ... or integer tensors")
    used = sum(item is not None and item is not Ellipsis for item in key)
    ellipses = sum(item is Ellipsis for item in key)
    if ellipses > 1:
        raise ArgumentError("[getitem] an index can have one ... only")
    if used > x.ndim:
        raise ArgumentError(
            f"[getitem] {used} indices for a tensor with {x.ndim} dimensions, shape {shape_text(x.shape)}"
        )
    fill = [slice(None)] * (x.ndim - used)
    out: list[Any] = []
    for item in key:
        out.extend(fill if item is Ellipsis else [item])
    return out if ellipses else out + fill


def _dtype_kind(item: Any) -> str:
    if isinstance(item, Value):
        return item.dtype.kind
    if item is None or item is Ellipsis or isinstance(item, (slice, Expr, int, float, str)):
        return ""
    return as_dtype(np.asarray(cast("Any", item)).dtype if isinstance(item, (list, tuple)) else item.dtype).kind


def _int_position(item: Any, x: Value, axis: int) -> Dim:
    size = x.shape[axis]
    position = item if isinstance(item, Expr) else operator.index(item)
    if bounds(position)[0] < 0 and not nonnegative(position):
        position = add(size, position)
    if not (nonnegative(position) and nonnegative(add(add(size, -1), mul(position, -1)))):
        symbolic = isinstance(size, Expr) or isinstance(position, Expr)
        raise IndexRangeError(
            f"[getitem] index {item} is out of range for dimension {axis} of size {size}, shape {shape_text(x.shape)}"
            + (": it must be in range for all legal sizes; give op.dim a larger min" if symbolic else "")
        )
    return position


def _slice_range(item: slice, x: Value, axis: int) -> tuple[Dim, Dim, int]:
    """Start, stop and step with 0 <= start <= stop <= size; a negative step reads that range from its end."""
    size = x.shape[axis]
    step = 1 if item.step is None else item.step
    if not _is_integer(step) or isinstance(step, Expr) or step == 0:
        raise ArgumentError(f"[getitem] the step of a slice must be an int that is not 0, got {step!r}")
    step = int(step)
    for bound in (item.start, item.stop):
        if bound is not None and not _is_integer(bound):
            raise ArgumentError(f"[getitem] the bounds of a slice must be ints or dimensions, got {bound!r}")
    if step > 0:
        start = 0 if item.start is None else _clipped(item.start, size)
        stop = size if item.stop is None else _clipped(item.stop, size)
        return start, _at_least(start, stop), step
    top = size if item.start is None else _clipped_end(item.start, size)
    bottom = 0 if item.stop is None else _clipped_end(item.stop, size)
    return bottom, _at_least(bottom, top), step


def _at_least(start: Dim, stop: Dim) -> Dim:
    """The end of a slice that is empty when it would end before its start."""
    return stop if nonnegative(add(stop, mul(start, -1))) else dmax(start, stop)


def _clipped(bound: Any, size: Dim) -> Dim:
    """A slice bound counted from the end when negative, clipped to [0, size]."""
    value = bound if isinstance(bound, Expr) else int(bound)
    if bounds(value)[0] < 0:
        value = dmax(add(size, value), 0)
    return dmin(value, size)


def _clipped_end(bound: Any, size: Dim) -> Dim:
    """One past an inclusive bound of a slice that runs backwards, clipped to [0, size]."""
    value = bound if isinstance(bound, Expr) else int(bound)
    if bounds(value)[0] < 0:
        value = add(size, value)
    return dmin(dmax(add(value, 1), 0), size)


def _apply_ranges(x: Value, ranges: Sequence[tuple[Dim, Dim, int]]) -> Value:
    """The ranges cut out, those with a negative step reversed and thinned out afterwards."""
    x = _slice(x, [(a, b, max(step, 1)) for a, b, step in ranges])
    backwards = [i for i, (_, _, step) in enumerate(ranges) if step < 0]
    if not backwards:
        return x
    x = flip(x, backwards)
    return _slice(x, [(0, d, max(-step, 1)) for d, (_, _, step) in zip(x.shape, ranges)])


def _slice(x: Value, ranges: Sequence[tuple[Dim, Dim, int]]) -> Value:
    if all(a == 0 and b == d and step == 1 for (a, b, step), d in zip(ranges, x.shape)):
        return x
    start, stop, step = ([r[i] for r in ranges] for i in range(3))
    return build("slice", x, start=start, stop=stop, step=step)


def _check_adjacent(layout: Sequence[str]) -> None:
    """NumPy moves the result of separated index arrays to the front; that is refused rather than guessed."""
    advanced = [i for i, kind in enumerate(layout) if kind in ("tensor", "drop")]
    if advanced != list(range(advanced[0], advanced[-1] + 1)):
        raise UnsupportedError(
            "[getitem] integer tensors and ints that are separated by a slice, None or ...; index in two steps, or use "
            "take"
        )


def _take_several(x: Value, indices: Sequence[Value], axis: int) -> Value:
    """Elements at the (broadcast) positions of adjacent dimensions: one take over their merged dimension."""
    sizes = x.shape[axis : axis + len(indices)]
    places = [in_range(t, n, axis_text("getitem", axis + i, n)) for i, (t, n) in enumerate(zip(indices, sizes))]
    if len(places) == 1:
        return build("take", x, places[0], axis=axis)
    merged = reshape(x, (*x.shape[:axis], product(sizes), *x.shape[axis + len(indices) :]))
    flat = places[0]
    for place, size in zip(places[1:], sizes[1:]):
        flat = flat * as_tensor(size, i64) + place
    return build("take", merged, flat, axis=axis)
