"""Functions of 16-bit floats in epilogues of products, where fewer instructions tell all that such a float can.

GELU and its gradient are bound by instructions where warps of their own compute them. The error function beside 1, as
in both, may be off by what f32 tells of numbers near 1: one polynomial does for all arguments. The exponential of a
negative square may have an error that is relative to its argument: that of the machine does, as in ``exponentials``.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dtype import f32
from tessera.target.triton.exponentials import FUNCTION as EXPONENTIAL
from tessera.tile.ir import Compute, Const, DotKernel, Load, Op, Ref, Store, references

ERROR_FUNCTION = "erf_beside_one"
_EPILOGUE = 2
_BITS = 16


def of_narrow(kernel: DotKernel) -> DotKernel:
    """The kernel with such functions in its epilogue, if all that it stores are such floats, or sums of them."""
    stored = [kernel.buffers[op.buffer].dtype for op in kernel.epilogue if isinstance(op, Store) and op.mode == "set"]
    if any(dtype.bits > _BITS for dtype in stored):
        return kernel
    return replace(kernel, epilogue=tuple(_changed(kernel, i) for i in range(len(kernel.epilogue))))


def _changed(kernel: DotKernel, number: int) -> Op:
    op = kernel.epilogue[number]
    if not isinstance(op, Compute) or op.dtype != f32:
        return op
    if op.function == "erf" and _is_narrow(kernel, op.args[0]) and _is_beside_one(kernel, Ref(_EPILOGUE, number)):
        return replace(op, function=ERROR_FUNCTION)
    if op.function == "exp" and _is_negative_square(kernel, op.args[0]):
        return replace(op, function=EXPONENTIAL)
    return op


def _compute(kernel: DotKernel, ref: Ref, function: str) -> Compute | None:
    op = kernel.epilogue[ref.index] if ref.scope == _EPILOGUE else None
    return op if isinstance(op, Compute) and op.function == function else None


def _constant(kernel: DotKernel, ref: Ref) -> float | None:
    op = kernel.epilogue[ref.index] if ref.scope == _EPILOGUE else None
    return float(op.value) if isinstance(op, Const) else None


def _is_narrow(kernel: DotKernel, ref: Ref) -> bool:
    """Whether a value is a float of at most 16 bits, widened, perhaps times a constant."""
    if ref.scope != _EPILOGUE:
        return False
    op = kernel.epilogue[ref.index]
    if isinstance(op, Compute) and op.function == "mul" and op.dtype == f32:
        return any(_constant(kernel, c) is not None and _is_narrow(kernel, x) for x, c in (op.args, op.args[::-1]))
    if isinstance(op, Compute) and op.function == "cast" and op.dtype.bits > 16:
        return _is_narrow(kernel, op.args[0])
    dtype = kernel.buffers[op.buffer].dtype if isinstance(op, Load) else getattr(op, "dtype", f32)
    return dtype.is_float and dtype.bits <= _BITS


def _is_beside_one(kernel: DotKernel, ref: Ref) -> bool:
    """Whether a value is only added to, or subtracted from, constants of at least 1."""
    uses = [op for op in kernel.epilogue if ref in references(op)]
    return bool(uses) and all(_adds_one(kernel, op, ref) for op in uses)


def _adds_one(kernel: DotKernel, op: Op, ref: Ref) -> bool:
    if not isinstance(op, Compute) or op.function not in ("add", "sub"):
        return False
    found = [_constant(kernel, a) for a in op.args if a != ref]
    return len(found) == 1 and found[0] is not None and abs(found[0]) >= 1


def _is_negative_square(kernel: DotKernel, ref: Ref) -> bool:
    negated = _compute(kernel, ref, "neg")
    square = negated and _compute(kernel, negated.args[0], "mul")
    return bool(square) and square.args[0] == square.args[1] and _is_narrow(kernel, square.args[0])
