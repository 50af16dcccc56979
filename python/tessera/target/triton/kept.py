"""How much of a long row would have to stay in registers, so that it is read and computed once for all stages."""

from __future__ import annotations

from collections.abc import Hashable

from tessera.ir.dims import Expr, sym, symbols
from tessera.tile.ir import Axis, Compute, Const, Load, LoopKernel, Op, Reduce, Ref, Scan, Store, same_memory
from tessera.tile.rewrite import accesses


def values_kept(kernel: LoopKernel, axis: Axis) -> int | None:
    """How many values of each element a stage along ``axis`` takes from the ones before, at most.

    None where they cannot be kept: extents of symbols, several axes, scans, elements of other positions, of 64 bits.
    """
    stages = [(n, s) for n, s in enumerate(kernel.stages) if s.axes]
    if not isinstance(axis.extent, int) or any(s.axes != (axis,) for _, s in stages):
        return None
    if any(isinstance(op, Scan) for _, s in stages for op in s.ops) or not _in_place_only(kernel, axis):
        return None
    if any(kernel.buffers[op.buffer].dtype.bits > 32 and _varies(op, axis) for _, _, op in accesses(kernel)):
        return None
    known: set[Hashable] = set()
    most = 0
    for number, stage in stages:
        meanings = [_meaning(kernel, axis, Ref(number, i)) for i in range(len(stage.ops))]
        used = {
            meanings[r.index] for op, own in zip(stage.ops, meanings) if own is None or own not in known
            for r in _operands(op) if r.scope == number
        }
        most = max(most, len((used & known) - {None}))
        known.update(meanings)
    return most


def recomputed(kernel: LoopKernel, axis: Axis) -> set[str]:
    """The functions that a stage along ``axis`` computes once more of what an earlier one has computed."""
    known: set[Hashable] = set()
    found: set[str] = set()
    for number, stage in enumerate(kernel.stages):
        meanings = [_meaning(kernel, axis, Ref(number, i)) for i in range(len(stage.ops))] if stage.axes else []
        found |= {
            op.function for op, own in zip(stage.ops, meanings) if isinstance(op, Compute) and own is not None
            and own in known
        }
        known.update(meanings)
    return found


def _in_place_only(kernel: LoopKernel, axis: Axis) -> bool:
    """Whether what is written is read at the positions where it is written only."""
    ops = [op for _, _, op in accesses(kernel)]
    for store in (op for op in ops if isinstance(op, Store)):
        buffer = kernel.buffers[store.buffer]
        same = same_memory(kernel.buffers, store.buffer)
        for load in (op for op in ops if isinstance(op, Load) and op.buffer in same):
            if load.index != store.index or kernel.buffers[load.buffer].strides != buffer.strides:
                return False
            if sym(axis.symbol) not in load.index:
                return False
    return True


def _varies(op: Load | Store, axis: Axis) -> bool:
    return any(isinstance(d, Expr) and axis.symbol in symbols(d) for d in op.index)


def _operands(op: Op) -> tuple[Ref, ...]:
    if isinstance(op, Compute):
        return op.args
    return (op.value,) if isinstance(op, (Reduce, Store)) else ()


def _meaning(kernel: LoopKernel, axis: Axis, ref: Ref) -> Hashable:
    """What equal values have in common; None of what is the same for all elements, or is never the same."""
    op = kernel.stages[ref.scope].ops[ref.index]
    if isinstance(op, Load):
        return ("load", op.buffer, op.index) if _varies(op, axis) and op.mask is None else None
    if not isinstance(op, Compute):
        return None
    args = [_meaning(kernel, axis, a) if a.scope == ref.scope else None for a in op.args]
    if all(a is None for a in args):
        return None
    own = [_constant(kernel, a) if m is None else m for a, m in zip(op.args, args)]
    return (op.function, op.dtype, *own)


def _constant(kernel: LoopKernel, ref: Ref) -> Hashable:
    op = kernel.stages[ref.scope].ops[ref.index]
    return op if isinstance(op, Const) else ref
