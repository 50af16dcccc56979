"""Operators that change the shape alone: reshape, transpose, broadcast_to, and what follows from them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, Expr, add, floordiv, mod, mul, product
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    EVERY,
    as_shape,
    one_axis,
    require_count,
    several_axes,
    shape_text,
)
from tessera.op.broadcasting import unbroadcast
from tessera.op.factors import letters
from tessera.op.lowering import View
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_unary import unary_vjp
from tessera.op.promotion import TensorLike, as_tensor

Index = tuple[Dim, ...]


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


def dimension_groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """How a reshape merges and splits: runs of ``old`` and ``new`` with equal products, as short as possible."""
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
    for old, new in dimension_groups(operand.shape, result.shape):
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
    for left, right in dimension_groups(types[0].shape, attrs["shape"]):
        same = len(left) == len(right) == 1
        shared = next(spare)
        for side, names in ((left, old), (right, new)):
            for position, i in enumerate(side):
                names[i] = shared if same else (shared if position == 0 else next(spare)) + "!"
    return f"{''.join(old)}->{''.join(new)}"


def _reshape_reference(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.reshape(x, shape)


register(OpDef(
    "reshape", _reshape_infer, unary_vjp(lambda x, y, g: build("reshape", g, shape=list(x.shape))), _reshape_shard,
    View(_reshape_index), _reshape_reference,
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
    alone = len(arguments) == 1 and isinstance(arguments[0], (tuple, list))
    return cast("Sequence[Any]", arguments[0]) if alone else arguments


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
    perm: list[int] = list(attrs["perm"])
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


def _transpose_reference(x: np.ndarray, perm: Sequence[int]) -> np.ndarray:
    return np.transpose(x, perm)


register(OpDef(
    "transpose", _transpose_infer, _transpose_vjp,
    lambda types, attrs: f"{letters(types[0].ndim)}->{''.join(letters(types[0].ndim)[p] for p in attrs['perm'])}",
    View(lambda index, operand, result, attrs: tuple(index[i] for i in inverse(attrs["perm"]))),
    _transpose_reference,
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
    """Dimensions ``a`` and ``b`` exchanged. ArgumentError for one that x does not have."""
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
            "from the right, each of its dimensions must be 1 or equal"
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


def _broadcast_reference(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.broadcast_to(x, tuple(shape))


register(OpDef(
    "broadcast_to", _broadcast_infer, unary_vjp(lambda x, y, g: unbroadcast(g, x.shape)), _broadcast_shard,
    View(_broadcast_index), _broadcast_reference,
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
