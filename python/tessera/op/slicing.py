"""Operators that pick elements at regular places: slice, flip, split."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, add, bounds, ceildiv, floordiv, mod, mul, nonnegative
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    EVERY,
    as_dim,
    one_axis,
    require_count,
    several_axes,
    shape_text,
)
from tessera.op.factors import letters, whole_axes
from tessera.op.lowering import View
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.promotion import TensorLike, as_tensor
from tessera.op.shape import Index

_FOR_ALL_SIZES = " for all legal sizes; give op.dim a larger min"


def _slice_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("slice", types, 1)
    t = types[0]
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    if not len(start) == len(stop) == len(step) == t.ndim:
        raise ArgumentError(
            f"[slice] start, stop and step must have one entry for each of the {t.ndim} dimensions of operand 0"
        )
    shape: list[Dim] = []
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
    before: list[str] = []
    after: list[str] = []
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


def _flip_reference(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return np.flip(x, tuple(axes))


register(OpDef(
    "flip", _flip_infer, _flip_vjp,
    lambda types, attrs: "{0}->{0}".format(whole_axes(types[0].ndim, attrs["axes"])), View(_flip_index),
    _flip_reference,
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
                f"multiple of {sections}; give the positions of the cuts"
            )
        width = floordiv(size, int(sections))
        edges = [mul(width, i) for i in range(int(sections) + 1)]
    else:
        edges = [0, *(as_dim("split", c) for c in sections), size]
    return [slice_axis(tensor, at, a, b) for a, b in zip(edges, edges[1:])]
