"""Operators that move elements: reshape, transpose, broadcast, slice, flip, pad, concat, and what follows from them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, Expr, add, bounds, ceildiv, floordiv, mod, mul, nonnegative, product
from tessera.ir.dtype import i64, promote
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    ALL,
    SMALL_FLOATS,
    as_dim,
    as_shape,
    one_axis,
    require_count,
    require_equal_dtypes,
    several_axes,
    shape_text,
)
from tessera.op.broadcasting import unbroadcast
from tessera.op.lowering import Composite, Concat, View
from tessera.op.lowering import Pad as PadLowering
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import unary_vjp
from tessera.op.promotion import TensorLike, as_tensor, cast_to, python_scalar, scalar_of

Index = tuple[Dim, ...]
EVERY = (*ALL, *SMALL_FLOATS)


def letters(count: int) -> str:
    """The first letters, for factor strings."""
    return string.ascii_letters[:count]


def whole_axes(rank: int, axes: Sequence[int]) -> str:
    """A letter per dimension, those of ``axes`` whole."""
    return "".join(c + ("!" if i in axes else "") for i, c in enumerate(letters(rank)))


# --- reshape ---


def _reshape_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("reshape", types, 1)
    shape = as_shape("reshape", attrs["shape"])
    if product(shape) != types[0].size:
        raise ShapeError(
            f"[reshape] operand 0 with shape {shape_text(types[0].shape)} has {types[0].size} elements, but shape "
            f"{shape_text(shape)} has {product(shape)}; the numbers must be equal"
        )
    return TensorType(types[0].dtype, shape)


def _groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of ``old`` and ``new`` with equal products, as short as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        size_left: Dim = 1
        size_right: Dim = 1
        if i < len(old):
            left, size_left, i = [i], old[i], i + 1
        if j < len(new):
            right, size_right, j = [j], new[j], j + 1
        while size_left != size_right and (i < len(old) or j < len(new)):
            grow_left = i < len(old) and (j >= len(new) or _smaller(size_left, size_right))
            if grow_left:
                left, size_left, i = [*left, i], mul(size_left, old[i]), i + 1
            else:
                right, size_right, j = [*right, j], mul(size_right, new[j]), j + 1
        groups.append((left, right))
    return groups


def _smaller(a: Dim, b: Dim) -> bool:
    """Which side of a reshape group to extend: the one whose product lacks a factor of the other."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int)
    return mod(a, b) != 0


def _reshape_index(index: Index, operand: TensorType, result: TensorType, attrs: Attrs) -> Index:
    """Row-major position within each group of dimensions, taken apart again."""
    if any(d == 0 for d in operand.shape):
        return (0,) * operand.ndim
    out: list[Dim] = [0] * operand.ndim
    for old, new in _groups(operand.shape, result.shape):
        position: Dim = 0
        for j in new:
            position = add(mul(position, result.shape[j]), index[j])
        for i in reversed(old[1:]):
            out[i] = mod(position, operand.shape[i])
            position = floordiv(position, operand.shape[i])
        if old:
            out[old[0]] = position
    return tuple(out)


def _reshape_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """Dimensions that stay keep their letter; the first of a merged or split run may stay split with its first."""
    old = [""] * types[0].ndim
    new = [""] * len(attrs["shape"])
    spare = iter(string.ascii_letters)
    for left, right in _groups(types[0].shape, attrs["shape"]):
        same = len(left) == len(right) == 1
        shared = next(spare)
        for side, names in ((left, old), (right, new)):
            for position, i in enumerate(side):
                names[i] = shared if same else (shared if position == 0 else next(spare)) + "!"
    return f"{''.join(old)}->{''.join(new)}"


register(OpDef(
    "reshape", _reshape_infer, unary_vjp(lambda x, y, g: build("reshape", g, shape=list(x.shape))), _reshape_shard,
    View(_reshape_index), lambda x, shape: np.reshape(x, shape),
    lambda: [
        Sample((Input(a, "any"),), {"shape": list(b)})
        for a, b in (
            ((3, 4), (12,)), ((12,), (3, 4)), ((2, 3, 4), (6, 4)), ((6, 4), (2, 3, 2, 2)), ((4, 6), (3, 8)),
            ((1, 5), (5,)),
            ((), (1, 1)), ((1,), ()), ((0, 3), (5, 0)), ((2, 1, 3), (2, 3, 1)), ((4, 6), (6, 4)),
        )
    ],
    EVERY, "The same elements in row-major order in another shape.",
))


def resolve_shape(op: str, x: Value, shape: Any) -> tuple[Dim, ...]:
    """A target shape in which one dimension may be -1: what is left."""
    items = [shape] if isinstance(shape, (int, str, Expr)) else list(shape)
    unknown = [i for i, d in enumerate(items) if isinstance(d, (int, np.integer)) and d == -1]
    if not unknown:
        return as_shape(op, items)
    if len(unknown) > 1:
        raise ShapeError(f"[{op}] shape {tuple(items)} has more than one -1; give all sizes but one")
    rest = as_shape(op, [d for i, d in enumerate(items) if i != unknown[0]])
    known = product(rest)
    left = floordiv(x.size, known) if known != 0 else 0
    if known == 0 or mul(left, known) != x.size:
        raise ShapeError(
            f"[{op}] operand 0 with shape {shape_text(x.shape)} has {x.size} elements, which the other dimensions of "
            f"{tuple(items)} do not divide; no size fits -1"
        )
    return (*rest[: unknown[0]], left, *rest[unknown[0] :])


def reshape(x: TensorLike, *shape: Any) -> Value:
    """The same elements in row-major order in another shape: ``reshape(x, (2, -1))`` or ``reshape(x, 2, -1)``.

    One dimension may be -1; sizes may be symbolic. ShapeError when the numbers of elements differ.
    """
    tensor = as_tensor(x)
    target = resolve_shape("reshape", tensor, unpack(shape))
    return tensor if target == tensor.shape else build("reshape", tensor, shape=list(target))


def unpack(arguments: tuple[Any, ...]) -> Any:
    """``f(x, (2, 3))`` and ``f(x, 2, 3)`` alike."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)) else arguments


def flatten(x: TensorLike, start: int = 0, stop: int = -1) -> Value:
    """Dimensions ``start`` to ``stop`` (inclusive) merged into one; a scalar becomes shape (1,)."""
    tensor = as_tensor(x)
    if tensor.ndim == 0:
        return reshape(tensor, (1,))
    first, last = one_axis("flatten", start, tensor.ndim, "start"), one_axis("flatten", stop, tensor.ndim, "stop")
    if first > last:
        raise ArgumentError(f"[flatten] start {start} comes after stop {stop}")
    return reshape(tensor, (*tensor.shape[:first], product(tensor.shape[first : last + 1]), *tensor.shape[last + 1 :]))


def squeeze(x: TensorLike, axis: int | Sequence[int] | None = None) -> Value:
    """Without dimensions of size 1: all of them, or those named. ShapeError when a named one is not 1."""
    tensor = as_tensor(x)
    if axis is None:
        axes = [i for i, d in enumerate(tensor.shape) if d == 1]
    else:
        axes = several_axes("squeeze", axis, tensor.ndim)
        for a in axes:
            if tensor.shape[a] != 1:
                raise ShapeError(
                    f"[squeeze] dimension {a} of operand 0 with shape {shape_text(tensor.shape)} is {tensor.shape[a]}, "
                    "not 1"
                )
    return reshape(tensor, tuple(d for i, d in enumerate(tensor.shape) if i not in axes))


def expand_dims(x: TensorLike, axis: int | Sequence[int]) -> Value:
    """With dimensions of size 1 inserted so that they stand at ``axis`` of the result."""
    tensor = as_tensor(x)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = several_axes("expand_dims", axis, tensor.ndim + count)
    rest = iter(tensor.shape)
    return reshape(tensor, tuple(1 if i in axes else next(rest) for i in range(tensor.ndim + count)))


# --- transpose ---


def _transpose_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("transpose", types, 1)
    perm = list(attrs["perm"])
    if sorted(perm) != list(range(types[0].ndim)):
        raise ArgumentError(
            f"[transpose] perm {perm} must name each of the {types[0].ndim} dimensions of operand 0 once"
        )
    return TensorType(types[0].dtype, tuple(types[0].shape[p] for p in perm))


def inverse(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes ``perm``."""
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return out


def _transpose_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    g = cotangents[0]
    return [None if g is None else build("transpose", g, perm=inverse(node.attrs["perm"]))]


register(OpDef(
    "transpose", _transpose_infer, _transpose_vjp,
    lambda types, attrs: f"{letters(types[0].ndim)}->{''.join(letters(types[0].ndim)[p] for p in attrs['perm'])}",
    View(lambda index, operand, result, attrs: tuple(index[i] for i in inverse(attrs["perm"]))),
    lambda x, perm: np.transpose(x, perm),
    lambda: [
        Sample((Input(s, "any"),), {"perm": list(p)})
        for s, p in (
            ((3, 4), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((2, 3, 4), (0, 2, 1)), ((5,), (0,)), ((), ()), ((0, 2), (1, 0)),
            ((2, 1, 3, 2), (3, 1, 0, 2)),
        )
    ],
    EVERY, "The dimensions in another order.",
))


def transpose(x: TensorLike, *perm: Any) -> Value:
    """The dimensions in the order ``perm``, reversed without it: ``transpose(x, (1, 0))`` or ``transpose(x, 1, 0)``."""
    tensor = as_tensor(x)
    order = unpack(perm)
    if not perm or order is None or order == (None,):
        order = range(tensor.ndim)[::-1]
    axes = [one_axis("transpose", a, tensor.ndim, "perm") for a in order]
    return tensor if axes == list(range(tensor.ndim)) else build("transpose", tensor, perm=axes)


permute = transpose


def swapaxes(x: TensorLike, a: int, b: int) -> Value:
    """Two dimensions exchanged."""
    tensor = as_tensor(x)
    order = list(range(tensor.ndim))
    i, j = one_axis("swapaxes", a, tensor.ndim), one_axis("swapaxes", b, tensor.ndim)
    order[i], order[j] = order[j], order[i]
    return transpose(tensor, order)


def moveaxis(x: TensorLike, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    """Dimensions ``source`` moved to the places ``destination``; the others keep their order."""
    tensor = as_tensor(x)
    start, end = (
        [one_axis("moveaxis", a, tensor.ndim, argument) for a in (given if isinstance(given, Sequence) else [given])]
        for argument, given in (("source", source), ("destination", destination))
    )
    if len(start) != len(end) or len(set(start)) != len(start) or len(set(end)) != len(end):
        raise ArgumentError(
            f"[moveaxis] source {source} and destination {destination} must be as many different dimensions"
        )
    order = [a for a in range(tensor.ndim) if a not in start]
    for place, a in sorted(zip(end, start)):
        order.insert(place, a)
    return transpose(tensor, order)


# --- broadcast ---


def _broadcast_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("broadcast_to", types, 1)
    shape = as_shape("broadcast_to", attrs["shape"])
    old = types[0].shape
    fits = len(old) <= len(shape) and all(d in (1, t) for d, t in zip(old[::-1], shape[::-1]))
    if not fits:
        raise ShapeError(
            f"[broadcast_to] operand 0 with shape {shape_text(old)} does not broadcast to {shape_text(shape)}: aligned "
            "from "
            "the right, each of its dimensions must be 1 or equal"
        )
    return TensorType(types[0].dtype, shape)


def _broadcast_index(index: Index, operand: TensorType, result: TensorType, attrs: Attrs) -> Index:
    extra = result.ndim - operand.ndim
    return tuple(0 if d == 1 else index[i + extra] for i, d in enumerate(operand.shape))


def _broadcast_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    count, rank = len(attrs["shape"]), types[0].ndim
    result = letters(count)
    spare = iter(string.ascii_letters[count:])
    operand = [
        result[count - rank + i] if d == attrs["shape"][count - rank + i] else next(spare)
        for i, d in enumerate(types[0].shape)
    ]
    return f"{''.join(operand)}->{result}"


register(OpDef(
    "broadcast_to", _broadcast_infer, unary_vjp(lambda x, y, g: unbroadcast(g, x.shape)), _broadcast_shard,
    View(_broadcast_index), lambda x, shape: np.broadcast_to(x, tuple(shape)),
    lambda: [
        Sample((Input(a, "any"),), {"shape": list(b)})
        for a, b in (
            ((4,), (3, 4)), ((3, 1), (3, 4)), ((), (2, 3)), ((1, 1), (2, 5)), ((3, 4), (3, 4)), ((1,), (0,)),
            ((2, 1), (3, 2, 0)),
        )
    ],
    EVERY, "Repeated along dimensions of size 1 and new leading ones.",
))


def broadcast_to(x: TensorLike, shape: Any) -> Value:
    """x repeated to ``shape`` by NumPy's rules. ShapeError when a dimension is neither 1 nor equal."""
    tensor = as_tensor(x)
    target = as_shape("broadcast_to", shape)
    return tensor if target == tensor.shape else build("broadcast_to", tensor, shape=list(target))


def tile(x: TensorLike, reps: int | Sequence[int]) -> Value:
    """x repeated ``reps`` times along each dimension, as NumPy's ``tile``."""
    tensor = as_tensor(x)
    counts = list(as_shape("tile", reps))
    counts = [1] * (tensor.ndim - len(counts)) + counts
    tensor = reshape(tensor, (1,) * (len(counts) - tensor.ndim) + tensor.shape)
    paired = [d for size in tensor.shape for d in (1, size)]
    spread = [d for count, size in zip(counts, tensor.shape) for d in (count, size)]
    return reshape(broadcast_to(reshape(tensor, paired), spread), [mul(c, d) for c, d in zip(counts, tensor.shape)])


def repeat(x: TensorLike, repeats: int, axis: int | None = None) -> Value:
    """Each element repeated ``repeats`` times along ``axis``; None: of the flattened tensor."""
    tensor = as_tensor(x)
    tensor = tensor if axis is not None else reshape(tensor, (tensor.size,))
    at = one_axis("repeat", 0 if axis is None else axis, tensor.ndim)
    (count,) = as_shape("repeat", repeats)
    spread = broadcast_to(expand_dims(tensor, at + 1), (*tensor.shape[: at + 1], count, *tensor.shape[at + 1 :]))
    return reshape(spread, (*tensor.shape[:at], mul(tensor.shape[at], count), *tensor.shape[at + 1 :]))


# --- slice and flip ---


_FOR_ALL_SIZES = " for all legal sizes; give op.dim a larger min"


def _slice_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("slice", types, 1)
    t = types[0]
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    if not len(start) == len(stop) == len(step) == t.ndim:
        raise ArgumentError(
            f"[slice] start, stop and step must have one entry for each of the {t.ndim} dimensions of operand 0"
        )
    shape = []
    for i, (a, b, s, d) in enumerate(zip(start, stop, step, t.shape)):
        if not (nonnegative(a) and nonnegative(add(b, mul(a, -1))) and nonnegative(add(d, mul(b, -1)))):
            raise ShapeError(
                f"[slice] dimension {i} of operand 0 with shape {shape_text(t.shape)}: 0 <= {a} <= {b} <= {d} does not "
                "hold"
                + ("" if all(isinstance(v, int) for v in (a, b, d)) else _FOR_ALL_SIZES)
            )
        if bounds(s)[0] < 1:
            raise ArgumentError(f"[slice] step {s} of dimension {i} must be at least 1")
        shape.append(ceildiv(add(b, mul(a, -1)), s))
    return TensorType(t.dtype, tuple(shape))


def _slice_index(index: Index, operand: TensorType, result: TensorType, attrs: Attrs) -> Index:
    return tuple(add(a, mul(i, s)) for i, a, s in zip(index, attrs["start"], attrs["step"]))


def _slice_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    """Zeros around g; between its elements too where the step is not 1."""
    g, x = cotangents[0], node.operands[0]
    if g is None:
        return [None]
    high: list[Dim] = []
    for axis, (start, stop, step) in enumerate(zip(*(node.attrs[k] for k in ("start", "stop", "step")))):
        size, end = x.shape[axis], stop
        if step != 1:
            g = _dilate(g, axis, step)
            end = add(start, g.shape[axis])
        rest = add(size, mul(end, -1))
        # Dilation may reach past the end: then pad too much (or nothing) and cut below.
        high.append(rest if nonnegative(rest) else 0 if isinstance(rest, int) else size)
    padded = build("pad", g, low=list(node.attrs["start"]), high=high, value=0.0)
    if padded.shape == x.shape:
        return [padded]
    return [build("slice", padded, start=[0] * x.ndim, stop=list(x.shape), step=[1] * x.ndim)]


def _dilate(g: Value, axis: int, step: Dim) -> Value:
    """``step - 1`` zeros after each element along ``axis``."""
    wide = build("reshape", g, shape=[*g.shape[: axis + 1], 1, *g.shape[axis + 1 :]])
    none = [0] * wide.ndim
    high = [add(step, -1) if i == axis + 1 else 0 for i in range(wide.ndim)]
    padded = build("pad", wide, low=none, high=high, value=0.0)
    return build("reshape", padded, shape=[*g.shape[:axis], mul(g.shape[axis], step), *g.shape[axis + 1 :]])


def _slice_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """A dimension that is taken whole stays split; one that is cut must be whole before and has a new factor after."""
    rank = types[0].ndim
    spare = iter(string.ascii_letters[rank:])
    before, after = [], []
    for c, a, b, s, d in zip(letters(rank), attrs["start"], attrs["stop"], attrs["step"], types[0].shape):
        full = a == 0 and b == d and s == 1
        before.append(c if full else c + "!")
        after.append(c if full else next(spare))
    return f"{''.join(before)}->{''.join(after)}"


def _slice_reference(x: np.ndarray, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> np.ndarray:
    return x[tuple(slice(a, b, s) for a, b, s in zip(start, stop, step))]


register(OpDef(
    "slice", _slice_infer, _slice_vjp, _slice_shard, View(_slice_index), _slice_reference,
    lambda: [
        Sample((Input(shape, "any"),), {"start": list(a), "stop": list(b), "step": list(s)})
        for shape, a, b, s in (
            ((5, 4), (1, 0), (4, 4), (1, 1)), ((5, 4), (0, 1), (5, 4), (2, 3)), ((7,), (0,), (7,), (3,)),
            ((7,), (1,), (6,), (2,)),
            ((5,), (2,), (2,), (1,)), ((), (), (), ()), ((2, 6, 3), (0, 1, 2), (1, 6, 3), (1, 4, 1)),
            ((0, 2), (0, 0), (0, 1), (1, 1)),
        )
    ],
    EVERY, "Every step-th element from start to before stop of each dimension.",
))


def slice_axis(x: Value, axis: int, start: Dim, stop: Dim, step: Dim = 1) -> Value:
    """``slice`` of one dimension, the others whole."""
    if start == 0 and stop == x.shape[axis] and step == 1:
        return x
    return build(
        "slice", x,
        start=[start if i == axis else 0 for i in range(x.ndim)],
        stop=[stop if i == axis else d for i, d in enumerate(x.shape)],
        step=[step if i == axis else 1 for i in range(x.ndim)],
    )


def _flip_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("flip", types, 1)
    if list(attrs["axes"]) != several_axes("flip", list(attrs["axes"]), types[0].ndim, "axes"):
        raise ArgumentError(f"[flip] axes {attrs['axes']} must be sorted, non-negative and without repetition")
    return types[0]


def _flip_index(index: Index, operand: TensorType, result: TensorType, attrs: Attrs) -> Index:
    axes = attrs["axes"]
    return tuple(add(d, add(mul(i, -1), -1)) if a in axes else i for a, (i, d) in enumerate(zip(index, operand.shape)))


def _flip_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    g = cotangents[0]
    return [None if g is None else build("flip", g, axes=node.attrs["axes"])]


register(OpDef(
    "flip", _flip_infer, _flip_vjp,
    lambda types, attrs: "{0}->{0}".format(whole_axes(types[0].ndim, attrs["axes"])), View(_flip_index),
    lambda x, axes: np.flip(x, tuple(axes)),
    lambda: [
        Sample((Input(s, "any"),), {"axes": list(a)})
        for s, a in (
            ((3, 4), (0,)), ((3, 4), (0, 1)), ((2, 3, 4), (1,)), ((5,), ()), ((), ()), ((0, 2), (0,)), ((1,), (0,)),
        )
    ],
    EVERY, "The order of elements reversed along axes.",
))


def flip(x: TensorLike, axis: int | Sequence[int] | None = None) -> Value:
    """The order of elements reversed along ``axis``; None: all axes."""
    tensor = as_tensor(x)
    axes = several_axes("flip", axis, tensor.ndim)
    return build("flip", tensor, axes=axes) if axes else tensor


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
    "pad", _pad_infer, _pad_vjp, _pad_shard, PadLowering(),
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
    items = list(width)
    if len(items) == 2 and not any(isinstance(i, (tuple, list)) for i in items):
        return [(as_dim("pad", items[0]), as_dim("pad", items[1]))] * x.ndim
    if len(items) == 1 and isinstance(items[0], (tuple, list)):
        items = items * x.ndim
    if len(items) != x.ndim or any(not isinstance(i, (tuple, list)) or len(i) != 2 for i in items):
        raise ArgumentError(
            f"[pad] width {width!r} must be an int, (low, high) or one (low, high) for each of {x.ndim} dimensions"
        )
    return [(as_dim("pad", a), as_dim("pad", b)) for a, b in items]


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


# --- concat and split ---


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
    g, axis = cotangents[0], node.attrs["axis"]
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


register(OpDef(
    "concat", _concat_infer, _concat_vjp, _concat_shard, Concat(), lambda *arrays,
    axis: np.concatenate(arrays, axis=axis),
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
    if isinstance(tensors, Value) or not isinstance(tensors, Sequence) or not tensors:
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


def split(x: TensorLike, sections: int | Sequence[int], axis: int = 0) -> list[Value]:
    """Parts along ``axis``: ``sections`` equal ones, or cut before the given positions, as in NumPy.

    ShapeError when the dimension is not a multiple of ``sections``.
    """
    tensor = as_tensor(x)
    at = one_axis("split", axis, tensor.ndim)
    size = tensor.shape[at]
    if isinstance(sections, (int, np.integer)):
        if sections < 1:
            raise ArgumentError(f"[split] sections must be at least 1, got {sections}")
        if mod(size, int(sections)) != 0:
            raise ShapeError(
                f"[split] dimension {at} of operand 0 with shape {shape_text(tensor.shape)} is {size}, which is not a "
                "multiple "
                f"of {sections}; give the positions of the cuts"
            )
        width = floordiv(size, int(sections))
        edges = [mul(width, i) for i in range(int(sections) + 1)]
    else:
        edges = [0, *(as_dim("split", c) for c in sections), size]
    return [slice_axis(tensor, at, a, b) for a, b in zip(edges, edges[1:])]


# --- triangles ---


def _triangle_body(x: Value, k: int, lower: bool) -> Value:
    shape = list(x.shape[-2:])
    rows = build("iota", shape=shape, axis=0, dtype=i64)
    columns = build("iota", shape=shape, axis=1, dtype=i64)
    bound = rows + k
    return where(columns <= bound if lower else columns >= bound, x, False if x.dtype.kind == "bool" else 0)


def _triangle_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("triangle", types, 1)
    if types[0].ndim < 2:
        raise ShapeError(
            f"[{'tril' if attrs['lower'] else 'triu'}] operand 0 has shape {shape_text(types[0].shape)}; a matrix "
            "needs 2 dimensions"
        )
    return types[0]


register(OpDef(
    "triangle", _triangle_infer, None,
    lambda types, attrs: "{0}->{0}".format(letters(types[0].ndim)), Composite(_triangle_body),
    lambda x, k, lower: np.tril(x, k) if lower else np.triu(x, k),
    lambda: [
        Sample((Input(s, "any"),), {"k": k, "lower": lower})
        for s, k in (((3, 4), 0), ((4, 4), -1), ((2, 3, 3), 1), ((0, 2), 0)) for lower in (True, False)
    ],
    ALL, "The lower or upper triangle of matrices.",
))


def tril(x: TensorLike, k: int = 0) -> Value:
    """Matrices (the last two dimensions) with zeros where column - row > k."""
    return build("triangle", as_tensor(x), k=int(k), lower=True)


def triu(x: TensorLike, k: int = 0) -> Value:
    """Matrices (the last two dimensions) with zeros where column - row < k."""
    return build("triangle", as_tensor(x), k=int(k), lower=False)
