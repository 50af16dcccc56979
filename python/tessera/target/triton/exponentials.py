"""Exponentials of differences from a row's largest element, in kernels that read 16-bit floats.

``exp(x - max(x))`` is at most 1, and its error counts beside that of the sum of all: an error relative to the value of
up to |x - max(x)| · 2⁻²³ is far below what a 16-bit float tells. The library's exponential, right to 2 ulp, takes eight
instructions; the one of the machine, that of 2, takes two. Results below 2⁻¹²⁶ are zero.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dtype import f32
from tessera.tile.ir import Compute, Const, Load, LoopKernel, Op, Reduce, Ref, Stage

FUNCTION = "exp_of_difference"
_PASSING = ("cast", "where")
"""Functions through which a maximum stays one."""


def of_differences(kernel: LoopKernel) -> LoopKernel:
    """The kernel with such exponentials by a function of their own."""

    def changed(op: Op) -> Op:
        return replace(op, function=FUNCTION) if isinstance(op, Compute) and _is_of_difference(kernel, op) else op

    return replace(kernel, stages=tuple(Stage(s.axes, tuple(map(changed, s.ops))) for s in kernel.stages))


def _is_of_difference(kernel: LoopKernel, op: Compute) -> bool:
    if op.function != "exp" or op.dtype != f32:
        return False
    difference = _op(kernel, op.args[0])
    if not isinstance(difference, Compute) or difference.function != "sub":
        return False
    return _is_narrow(kernel, difference.args[0]) and _is_largest(kernel, difference.args[1])


def _op(kernel: LoopKernel, ref: Ref) -> Op:
    return kernel.stages[ref.scope].ops[ref.index]


def _is_narrow(kernel: LoopKernel, ref: Ref) -> bool:
    """Whether a value is a float of at most 16 bits, widened."""
    op = _op(kernel, ref)
    if isinstance(op, Compute) and op.function == "cast":
        return _is_narrow(kernel, op.args[0])
    dtype = kernel.buffers[op.buffer].dtype if isinstance(op, Load) else getattr(op, "dtype", f32)
    return dtype.is_float and dtype.bits <= 16


def _is_largest(kernel: LoopKernel, ref: Ref) -> bool:
    """Whether a value is the maximum of a row, perhaps with another number in place of -inf."""
    op = _op(kernel, ref)
    if isinstance(op, Compute) and op.function in _PASSING:
        values = op.args[-2:] if op.function == "where" else op.args
        return all(isinstance(_op(kernel, v), Const) or _is_largest(kernel, v) for v in values)
    return isinstance(op, Reduce) and op.combine == "max"
