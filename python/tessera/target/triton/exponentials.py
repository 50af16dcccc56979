"""Exponentials of differences from a row's largest element, in kernels that read 16-bit floats.

``exp(x - max(x))`` is at most 1, and its error counts beside that of the sum of all: an error relative to the value of
up to |x - max(x)| · 2⁻²³ is far below what a 16-bit float tells. The library's exponential, right to 2 ulp, takes eight
instructions; the one of the machine, that of 2, takes two. Results below 2⁻¹²⁶ are zero. Where the maximum is not seen
to be that of the elements it is taken from, nothing is changed.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tessera.ir.dtype import DType, f32, i64
from tessera.tile.ir import Compute, Const, Index, Load, LoopKernel, Op, Reduce, Ref, Stage, Store, same_memory

FUNCTION = "exp_of_difference"


def of_differences(kernel: LoopKernel) -> LoopKernel:
    """The kernel with such exponentials by a function of their own."""

    def changed(stage: Stage, op: Op) -> Op:
        wanted = isinstance(op, Compute) and _is_of_difference(kernel, stage, op)
        return replace(op, function=FUNCTION) if wanted else op

    return replace(kernel, stages=tuple(Stage(s.axes, tuple(changed(s, o) for o in s.ops)) for s in kernel.stages))


def _is_of_difference(kernel: LoopKernel, stage: Stage, op: Compute) -> bool:
    if op.function != "exp" or op.dtype != f32:
        return False
    difference = _op(kernel, op.args[0])
    if not isinstance(difference, Compute) or difference.function != "sub":
        return False
    value = _as_read(kernel, difference.args[0])
    dtype = _dtype(kernel, value)
    if not dtype.is_float or dtype.bits > 16:
        return False
    top = _largest(kernel, difference.args[1])
    if top is None or kernel.stages[top.scope].axes != stage.axes:
        return False
    reduction = _op(kernel, top)
    assert isinstance(reduction, Reduce)
    return _is_same(kernel, value, _as_read(kernel, reduction.value))


def _op(kernel: LoopKernel, ref: Ref) -> Op:
    return kernel.stages[ref.scope].ops[ref.index]


def _dtype(kernel: LoopKernel, ref: Ref) -> DType:
    op = _op(kernel, ref)
    return kernel.buffers[op.buffer].dtype if isinstance(op, Load) else getattr(op, "dtype", i64)


def _as_read(kernel: LoopKernel, ref: Ref) -> Ref:
    """A value before it was widened to a float that holds it."""
    op = _op(kernel, ref)
    if not isinstance(op, Compute) or op.function != "cast":
        return ref
    before = _dtype(kernel, op.args[0])
    widens = before.is_float and op.dtype.is_float and op.dtype.bits > before.bits
    return _as_read(kernel, op.args[0]) if widens else ref


def _largest(kernel: LoopKernel, ref: Ref) -> Ref | None:
    """The maximum of a row that a value is, widened perhaps, and perhaps with 0 in place of what is not finite.

    Beside an infinite maximum the exponential is that of an element itself, with an error of as little.
    """
    ref = _as_read(kernel, ref)
    op = _op(kernel, ref)
    if isinstance(op, Compute) and op.function == "where":
        top = _where_infinite(kernel, op)
        return None if top is None else _largest(kernel, top)
    return ref if isinstance(op, Reduce) and op.combine == "max" else None


def _where_infinite(kernel: LoopKernel, op: Compute) -> Ref | None:
    """What ``op`` is where that is finite; 0 is where it is -inf or is not finite."""
    condition = _op(kernel, op.args[0])
    if not isinstance(condition, Compute) or condition.function not in ("eq", "isfinite"):
        return None
    number, top = op.args[1:] if condition.function == "eq" else op.args[:0:-1]
    if condition.args[0] != top or not _is_constant(kernel, number, 0):
        return None
    return top if condition.function == "isfinite" or _is_constant(kernel, condition.args[1], -math.inf) else None


def _is_constant(kernel: LoopKernel, ref: Ref, value: float) -> bool:
    op = _op(kernel, ref)
    return isinstance(op, Const) and op.value == value


def _is_same(kernel: LoopKernel, a: Ref, b: Ref) -> bool:
    """Whether ``a`` is at each point of its stage what ``b`` is at the same point of its own, of the same axes."""
    x, y = _op(kernel, a), _op(kernel, b)
    if a == b and (isinstance(x, Reduce) or not kernel.stages[a.scope].axes):
        return True
    if isinstance(x, Load) and isinstance(y, Load):
        masks = (x.mask, y.mask)
        return (
            (x.buffer, x.other, len(x.index)) == (y.buffer, y.other, len(y.index))
            and all(_is_same_place(kernel, d, e) for d, e in zip(x.index, y.index))
            and (masks == (None, None) or (None not in masks and _is_same(kernel, *masks)))  # type: ignore[arg-type]
            and not _is_written_between(kernel, min(a, b, key=_order), max(a, b, key=_order))
        )
    if isinstance(x, Compute) and isinstance(y, Compute):
        alike = (x.function, x.dtype, x.attrs, len(x.args)) == (y.function, y.dtype, y.attrs, len(y.args))
        return alike and all(_is_same(kernel, c, d) for c, d in zip(x.args, y.args))
    return isinstance(x, (Const, Index)) and x == y


def _is_same_place(kernel: LoopKernel, a: object, b: object) -> bool:
    return _is_same(kernel, a, b) if isinstance(a, Ref) and isinstance(b, Ref) else a == b


def _order(ref: Ref) -> tuple[int, int]:
    return ref.scope, ref.index


def _is_written_between(kernel: LoopKernel, first: Ref, last: Ref) -> bool:
    """Whether what two loads read is written between them. A load's own element may be written behind it."""
    load = _op(kernel, last)
    assert isinstance(load, Load)
    buffer, same = kernel.buffers[load.buffer], same_memory(kernel.buffers, load.buffer)
    for number in range(first.scope, last.scope + 1):
        for index, op in enumerate(kernel.stages[number].ops):
            if not isinstance(op, Store) or op.buffer not in same:
                continue
            own = op.index == load.index and kernel.buffers[op.buffer].strides == buffer.strides
            if not own or number < last.scope or index < last.index:
                return True
    return False
