"""Indexing with integer tensors: take, gather, scatter, one_hot.

The primitives require indices in [0, n). The user-level functions accept negative indices (counted from the end) and
insert ``check_range``, so that an index out of range fails the run instead of reading or writing elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tessera.errors import DTypeError, IndexRangeError, ShapeError
from tessera.ir.dims import Dim, add
from tessera.ir.dtype import DType, as_dtype, bool_, f32, i64
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    EVERY,
    INTEGERS,
    NUMBERS,
    one_axis,
    require_count,
    require_dtype,
    require_index,
    shape_text,
)
from tessera.op.broadcasting import broadcast_shapes
from tessera.op.factors import letters
from tessera.op.lowering import CheckRange, Composite, IndexAdd, ScatterAdd, Take, TakeAlongAxis
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, no_vjp, register
from tessera.op.pointwise_binary import where
from tessera.op.promotion import TensorLike, as_tensor, cast_to
from tessera.op.shape import broadcast_to, expand_dims

# --- check_range ---


def _check_range_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("check_range", types, 1)
    require_dtype("check_range", types, INTEGERS)
    return types[0]


def _check_range_reference(x: np.ndarray, low: int, high: int, ignore: int | None, what: str) -> np.ndarray:
    wrong = (x < low) | (x > high)
    if ignore is not None:
        wrong &= x != ignore
    if wrong.any():
        position = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = list(position)
        raise IndexRangeError(f"[check_range] {what} at position {at} is {int(x[position])}; expected {low} to {high}")
    return x


register(OpDef(
    "check_range", _check_range_infer, no_vjp("the result is an integer"), "*->*", CheckRange(), _check_range_reference,
    lambda: [
        Sample((Input(s, "any", 0, 5),), {"low": 0, "high": 4, "ignore": ignore, "what": "label"}, grad=False)
        for s, ignore in (((3, 4), None), ((), None), ((0,), None), ((5,), -100))
    ],
    INTEGERS, "x; the run fails when an element other than ignore is outside [low, high].",
))


def check_range(
    x: TensorLike, low: int | Dim, high: int | Dim, ignore: int | None = None, what: str = "value"
) -> Value:
    """x; the run fails with IndexRangeError when an element that is not ``ignore`` lies outside [low, high].

    ``x``: integer tensor; ``what``: what the elements are, for the message. The check takes place when the result is
    used.
    """
    return build("check_range", as_tensor(x), low=low, high=high, ignore=ignore, what=what)


def in_range(index: TensorLike, size: Dim, what: str) -> Value:
    """Indices in [0, size) from ones in [-size, size): cast to i64, wrapped and checked."""
    tensor = as_tensor(index)
    if not tensor.dtype.is_integer:
        advice = "use where, or nonzero positions computed before" if tensor.dtype == bool_ else "cast it to i64"
        raise DTypeError(
            f"[{what.split(':')[0]}] the index has dtype {tensor.dtype}; expected an integer dtype: {advice}"
        )
    wide = cast_to(tensor, i64)
    if tensor.dtype.kind == "int":
        wide = where(wide < 0, wide + as_tensor(size, i64), wide)
    return check_range(wide, 0, add(size, -1), what=what)


def axis_text(name: str, axis: int, size: Dim) -> str:
    """What an index is, for the message of its check."""
    return f"{name}: index into dimension {axis} of size {size}"


# --- the four primitives ---


def _taken_shape(x: TensorType, index: TensorType, axis: int) -> tuple[Dim, ...]:
    return (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _take_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("take", types, 2)
    x, index = types
    require_index("take", 1, index)
    return TensorType(x.dtype, _taken_shape(x, index, one_axis("take", attrs["axis"], x.ndim)))


def _take_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    (x, index), g = node.operands, cotangents[0]
    if g is None or not g.dtype.is_float:
        return [None, None]
    zeros = build("full", shape=list(x.shape), value=0.0, dtype=x.dtype)
    return [build("index_add", zeros, index, g, axis=node.attrs["axis"]), None]


def _take_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    x, index = types
    axis = attrs["axis"]
    names = letters(x.ndim + index.ndim)
    rows, places = names[: x.ndim], names[x.ndim :]
    return f"{rows[: axis + 1]}!{rows[axis + 1 :]},{places}->{rows[:axis]}{places}{rows[axis + 1 :]}"


def _checked(index: np.ndarray, size: int) -> np.ndarray:
    """NumPy would wrap negative indices; the primitives do not accept them."""
    _check_range_reference(index, 0, size - 1, None, "index")
    return index


_TAKE_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((5, 3), (4,), 0), ((5, 3), (2, 2), 1), ((4,), (), 0), ((2, 3, 4), (5,), 1), ((3, 2), (0,), 0), ((1, 3), (6,), 0),
    ((4, 0), (2,), 0),
)


def _take_reference(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    return np.take(x, _checked(index, x.shape[axis]), axis)


register(OpDef(
    "take", _take_infer, _take_vjp, _take_shard, Take(), _take_reference,
    lambda: [
        Sample((Input(x, "any"), Input(i, "index", 0, x[axis])), {"axis": axis}) for x, i, axis in _TAKE_CASES
    ],
    EVERY, "Rows of x along an axis at the positions index.",
))


def _index_add_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("index_add", types, 3)
    x, index, updates = types
    require_dtype("index_add", (x, updates), NUMBERS)
    require_index("index_add", 1, index)
    _same_dtype("index_add", x, updates)
    expected = _taken_shape(x, index, one_axis("index_add", attrs["axis"], x.ndim))
    if updates.shape != expected:
        raise ShapeError(
            f"[index_add] operand 2 (the updates) has shape {shape_text(updates.shape)}; expected "
            f"{shape_text(expected)} for "
            f"operand 0 with shape {shape_text(x.shape)} and an index of shape {shape_text(index.shape)} along axis "
            f"{attrs['axis']}"
        )
    return x


def _same_dtype(op: str, x: TensorType, updates: TensorType) -> None:
    if x.dtype != updates.dtype:
        raise DTypeError(
            f"[{op}] operand 2 (the updates) has dtype {updates.dtype} but operand 0 has {x.dtype}; cast one of them"
        )


def _index_add_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    index, g = node.operands[1], cotangents[0]
    if g is None or not g.dtype.is_float:
        return [None, None, None]
    return [g, None, build("take", g, index, axis=node.attrs["axis"])]


def _index_add_reference(x: np.ndarray, index: np.ndarray, updates: np.ndarray, axis: int) -> np.ndarray:
    out = np.array(x, copy=True)
    places: tuple[Any, ...] = (*(slice(None),) * axis, _checked(index, x.shape[axis]))
    np.add.at(out, places, updates)
    return out


def _index_add_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    before, after = _take_shard(types[:2], attrs).split("->")
    x = before.split(",")[0]
    index = before.split(",")[1]
    whole = after.replace(index, "".join(c + "!" for c in index)) if index else after
    return f"{x},{''.join(c + '!' for c in index)},{whole}->{x.replace('!', '')}"


register(OpDef(
    "index_add", _index_add_infer, _index_add_vjp, _index_add_shard, IndexAdd(), _index_add_reference,
    lambda: [
        Sample(
            (Input(x, "any"), Input(i, "index", 0, x[axis]), Input((*x[:axis], *i, *x[axis + 1 :]), "any")),
            {"axis": axis},
            tolerance=2.0,
        )
        for x, i, axis in _TAKE_CASES
    ],
    NUMBERS, "x with updates added at the positions index of an axis; repeated positions add up.",
))


def _along_infer(name: str, updates: bool) -> Callable[..., TensorType]:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 3 if updates else 2)
        x, index = types[:2]
        require_index(name, 1, index)
        axis = one_axis(name, attrs["axis"], x.ndim)
        if index.ndim != x.ndim or any(a != b for i, (a, b) in enumerate(zip(x.shape, index.shape)) if i != axis):
            raise ShapeError(
                f"[{name}] operand 1 (the index) has shape {shape_text(index.shape)}; expected that of operand 0, "
                f"{shape_text(x.shape)}, but for dimension {axis}"
            )
        if not updates:
            return TensorType(x.dtype, index.shape)
        require_dtype(name, (x, types[2]), NUMBERS)
        _same_dtype(name, x, types[2])
        if types[2].shape != index.shape:
            raise ShapeError(
                f"[{name}] operand 2 (the updates) has shape {shape_text(types[2].shape)}; expected that of the index, "
                f"{shape_text(index.shape)}"
            )
        return x

    return infer


def _take_along_axis_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    (x, index), g = node.operands, cotangents[0]
    if g is None or not g.dtype.is_float:
        return [None, None]
    zeros = build("full", shape=list(x.shape), value=0.0, dtype=x.dtype)
    return [build("scatter_add", zeros, index, g, axis=node.attrs["axis"]), None]


def _scatter_add_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    index, g = node.operands[1], cotangents[0]
    if g is None or not g.dtype.is_float:
        return [None, None, None]
    return [g, None, build("take_along_axis", g, index, axis=node.attrs["axis"])]


def _scatter_add_reference(x: np.ndarray, index: np.ndarray, updates: np.ndarray, axis: int) -> np.ndarray:
    out = np.array(x, copy=True)
    places: list[Any] = list(np.indices(index.shape, sparse=True))
    places[axis] = _checked(index, x.shape[axis])
    np.add.at(out, tuple(places), updates)
    return out


def _along_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    axis, rank = attrs["axis"], types[0].ndim
    names = letters(rank)
    spare = letters(rank + 1)[-1]
    x = f"{names[: axis + 1]}!{names[axis + 1 :]}"
    index = names[:axis] + spare + names[axis + 1 :]
    if len(types) == 2:
        return f"{x},{index}->{index}"
    whole = index.replace(spare, spare + "!")
    return f"{x},{whole},{whole}->{names}"


_ALONG_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...] = (
    ((5, 3), (4, 3), 0), ((5, 3), (5, 2), 1), ((4,), (6,), 0), ((2, 3, 4), (2, 5, 4), 1), ((3, 2), (3, 0), 1),
    ((1, 3), (2, 3), 0),
)


def _take_along_axis_reference(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    return np.take_along_axis(x, _checked(index, x.shape[axis]), axis)


register(OpDef(
    "take_along_axis", _along_infer("take_along_axis", False), _take_along_axis_vjp, _along_shard, TakeAlongAxis(),
    _take_along_axis_reference,
    lambda: [Sample((Input(x, "any"), Input(i, "index", 0, x[axis])), {"axis": axis}) for x, i, axis in _ALONG_CASES],
    EVERY, "For each element of index the element of x at that position of an axis.",
))
register(OpDef(
    "scatter_add", _along_infer("scatter_add", True), _scatter_add_vjp, _along_shard, ScatterAdd(),
    _scatter_add_reference,
    lambda: [
        Sample((Input(x, "any"), Input(i, "index", 0, x[axis]), Input(i, "any")), {"axis": axis}, tolerance=2.0)
        for x, i, axis in _ALONG_CASES
    ],
    NUMBERS, "x with each update added at the position that index gives along an axis; repeated positions add up.",
))


# --- the user's functions ---


def take(x: TensorLike, index: TensorLike, axis: int = 0) -> Value:
    """Rows of x along ``axis`` at the positions ``index``: shape x[:axis] + index + x[axis+1:].

    Negative indices count from the end; one out of range fails the run with IndexRangeError.
    """
    tensor = as_tensor(x)
    at = one_axis("take", axis, tensor.ndim)
    return build("take", tensor, in_range(index, tensor.shape[at], axis_text("take", at, tensor.shape[at])), axis=at)


def take_along_axis(x: TensorLike, index: TensorLike, axis: int) -> Value:
    """For each element of ``index`` the element of x at that position of ``axis``.

    ``index`` has x's rank; its other dimensions equal x's or broadcast with them. Negative indices count from the end.
    """
    tensor, places = as_tensor(x), as_tensor(index)
    at = one_axis("take_along_axis", axis, tensor.ndim)
    if places.ndim == tensor.ndim:
        others = broadcast_shapes(
            "take_along_axis",
            (*tensor.shape[:at], 1, *tensor.shape[at + 1 :]),
            (*places.shape[:at], 1, *places.shape[at + 1 :]),
        )
        tensor = broadcast_to(tensor, (*others[:at], tensor.shape[at], *others[at + 1 :]))
        places = broadcast_to(places, (*others[:at], places.shape[at], *others[at + 1 :]))
    size = tensor.shape[at]
    return build("take_along_axis", tensor, in_range(places, size, axis_text("take_along_axis", at, size)), axis=at)


gather = take_along_axis


def _promoted_updates(x: TensorLike, updates: TensorLike) -> tuple[Value, Value]:
    tensor = as_tensor(x)
    return tensor, as_tensor(updates, tensor)


def index_add(x: TensorLike, index: TensorLike, updates: TensorLike, axis: int = 0) -> Value:
    """x with ``updates`` (shape x[:axis] + index + x[axis+1:]) added at the positions ``index`` of ``axis``.

    Positions that repeat add up. Negative indices count from the end. A scalar update is broadcast.
    """
    tensor, added = _promoted_updates(x, updates)
    at = one_axis("index_add", axis, tensor.ndim)
    places = in_range(index, tensor.shape[at], axis_text("index_add", at, tensor.shape[at]))
    if added.ndim == 0:
        added = broadcast_to(added, _taken_shape(tensor.type, places.type, at))
    return build("index_add", tensor, places, added, axis=at)


def scatter_add(x: TensorLike, index: TensorLike, updates: TensorLike, axis: int) -> Value:
    """x with each element of ``updates`` added at the position along ``axis`` that ``index`` (same shape) gives.

    Positions that repeat add up. Negative indices count from the end. A scalar update is broadcast.
    """
    tensor, added = _promoted_updates(x, updates)
    at = one_axis("scatter_add", axis, tensor.ndim)
    places = in_range(index, tensor.shape[at], axis_text("scatter_add", at, tensor.shape[at]))
    if added.ndim == 0:
        added = broadcast_to(added, places.shape)
    return build("scatter_add", tensor, places, added, axis=at)


def _one_hot_body(x: Value, depth: Dim, dtype: DType) -> Value:
    classes = build("iota", shape=[1] * x.ndim + [depth], axis=x.ndim, dtype=x.dtype)
    return cast_to(expand_dims(x, x.ndim) == classes, dtype)


def _one_hot_reference(x: np.ndarray, depth: int, dtype: DType) -> np.ndarray:
    return np.equal(x[..., None], np.arange(depth)).astype(dtype.numpy)


register(OpDef(
    "one_hot", lambda types, attrs: TensorType(as_dtype(attrs["dtype"]), (*types[0].shape, attrs["depth"])),
    no_vjp("labels are integers"), lambda types, attrs: f"{letters(types[0].ndim)}->{letters(types[0].ndim + 1)}",
    Composite(_one_hot_body), _one_hot_reference,
    lambda: [
        Sample((Input(s, "index", 0, 5),), {"depth": 5, "dtype": as_dtype(d)}, grad=False)
        for s in ((4,), (), (2, 3), (0,)) for d in ("f32", "bf16", "i64", "bool")
    ],
    ("i64",), "A new last dimension with 1 at the position of the label, else 0.",
))


def one_hot(labels: TensorLike, depth: int | Dim, dtype: DType | str | type = f32) -> Value:
    """Labels in [0, depth) as vectors: a new last dimension of size ``depth``, 1 at the label and 0 elsewhere.

    A label out of range fails the run with IndexRangeError.
    """
    tensor = as_tensor(labels)
    if not tensor.dtype.is_integer:
        raise DTypeError(
            f"[one_hot] operand 0 (the labels) has dtype {tensor.dtype}; expected an integer dtype: cast it to i64"
        )
    checked = check_range(cast_to(tensor, i64), 0, add(depth, -1), what=f"one_hot: label for {depth} classes")
    return build("one_hot", checked, depth=depth, dtype=as_dtype(dtype))
