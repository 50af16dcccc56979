"""Blocks: which axes of a loop kernel a program works on at once, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, Expr, Symbol, add, bounds, mul, substitute, sym, symbols
from tessera.schedule.cost import typical
from tessera.target.triton.kept import values_kept
from tessera.tile.ir import Axis, Buffer, Load, LoopKernel, Reduce, Ref, Store
from tessera.tile.rewrite import accesses, axes

THREAD_BYTES = 32
"""Bytes of the largest operand that a thread of a pointwise kernel works on: two loads of 16 bytes."""
THREADS = 128
LONGEST_ROW = 16384
"""Elements of a row that a program keeps on chip."""
ROW_PIECE = 4096
"""Elements of a longer row that are worked on at a time."""
ROW_ELEMENTS = 32
"""Elements of a row for each thread."""
LONG_ROW_ELEMENTS = 4
"""Elements of a piece of a row that is too long for the chip: with 32 warps two rows fill a multiprocessor, whose first
cache holds them for the passes that follow (8192 rows of 50304 words: 852 µs, with 16 warps 1124)."""
LONG_ROW_REGISTERS = 32
"""Of each thread, so that two such rows do fit."""
KEPT_ELEMENTS = 50
"""Elements of a longer row that a thread of 64 registers keeps in them as f32."""
COLUMNS, COLUMN_ROWS = 64, 64
"""The block of a reduction over rows: columns, and rows at a time."""
SIDE, LARGE = 64, 1 << 24
"""The sides of a block that is read along one axis and written along another; elements of 16 bits from which they are
twice as long."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Per axis that is worked on in blocks, the dimension of the block and its size there (a power of two).

    ``registers``: the most that a thread may have. ``kept``: the blocks of the axis that stages run along are worked on
    without loops, and what was read and computed stays in registers for the next stage.
    """

    sizes: dict[Symbol, tuple[int, int]]
    rank: int
    warps: int
    registers: int | None = None
    kept: bool = False

    def shape(self) -> tuple[int, ...]:
        """The size of the block in each dimension."""
        return tuple(max((n for d, n in self.sizes.values() if d == k), default=1) for k in range(self.rank))


def power(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def step(d: Dim, symbol: Symbol) -> Dim | None:
    """By how much an expression grows when the symbol grows by one; None when that varies with the symbol."""
    if isinstance(d, int) or symbol not in symbols(d):
        return 0
    change = add(substitute(d, {symbol: add(sym(symbol), 1)}), mul(d, -1))
    return None if isinstance(change, Expr) and symbol in symbols(change) else change


def _first_step(d: Dim, symbol: Symbol) -> Dim:
    """By how much an expression grows from the symbol's first value to the next: the step within a part of an axis."""
    return add(substitute(d, {symbol: 1}), mul(substitute(d, {symbol: 0}), -1))


def _votes(kernel: LoopKernel) -> dict[Symbol, float]:
    """Per axis, the bytes of the accesses that are contiguous along it."""
    found: dict[Symbol, float] = {}
    for scope, _, op in accesses(kernel):
        buffer = kernel.buffers[op.buffer]
        offset = offset_of(buffer, op)
        inside = [a for a in (*kernel.grid, *kernel.stages[scope].axes) if not isinstance(offset, int)]
        used = [a for a in inside if a.symbol in symbols(offset)]
        size = buffer.dtype.itemsize
        for axis in used:
            size *= typical(axis.extent)
        for axis in used:
            if _first_step(offset, axis.symbol) == 1:
                found[axis.symbol] = found.get(axis.symbol, 0) + size * (1.01 if isinstance(op, Store) else 1)
    return found


def offset_of(buffer: Buffer, op: Load | Store) -> Dim:
    """The element of a buffer that an access begins with, without what is gathered."""
    offset: Dim = 0
    for entry, stride in zip(op.index, buffer.strides, strict=True):
        if not isinstance(entry, Ref):
            offset = add(offset, mul(entry, stride))
    return offset


def choose(kernel: LoopKernel) -> Blocks:
    """The blocks of a kernel."""
    votes = _votes(kernel)
    looped = {a.symbol: a for s in kernel.stages for a in s.axes}
    every = {a.symbol: a for a in axes(kernel)}
    if not every:
        return Blocks({}, 0, 1)
    order = list(every)
    best = max(order, key=lambda s: (votes.get(s, 0), typical(every[s].extent) > 1, order.index(s)))
    if not looped:
        return _pointwise(kernel, every, votes, best)
    if best in looped:
        return _rows(kernel, every, looped, best)
    return _columns(kernel, every, looped, best)


def _extent(axis: Axis) -> int:
    """The extent, rounded up to a power of two: at most what it can be, or its typical value."""
    high = bounds(axis.extent)[1]
    return power(typical(axis.extent) if high is None else min(high, 1 << 30))


def _pointwise(kernel: LoopKernel, every: dict[Symbol, Axis], votes: dict[Symbol, float], best: Symbol) -> Blocks:
    widest = max((kernel.buffers[op.buffer].dtype.itemsize for _, _, op in accesses(kernel)), default=4)
    elements = THREADS * max(2, min(16, THREAD_BYTES // widest))
    others = [s for s in every if s != best]
    second = max(others, key=lambda s: (votes.get(s, 0), list(every).index(s)), default=None)
    if second is not None and votes.get(second, 0) > 0.2 * votes.get(best, 0):
        points = typical(every[best].extent) * typical(every[second].extent)
        side = 2 * SIDE if widest <= 2 and points >= LARGE else SIDE
        sides = {best: min(side, _extent(every[best])), second: min(side, _extent(every[second]))}
        return Blocks({second: (0, sides[second]), best: (1, sides[best])}, 2, 4)
    size = min(elements, _extent(every[best]))
    if size == elements or second is None:
        return Blocks({best: (0, size)}, 1, warps_for(size, elements // THREADS))
    outer = min(elements // size, _extent(every[second]))
    if outer == 1:
        return Blocks({best: (0, size)}, 1, warps_for(size, elements // THREADS))
    return Blocks({second: (0, outer), best: (1, size)}, 2, warps_for(size * outer, elements // THREADS))


def warps_for(elements: int, each: int, most: int = 16) -> int:
    """Warps of 32 threads for a number of elements, ``each`` per thread."""
    return max(1, min(most, power(elements // (32 * each))))


def _rows(kernel: LoopKernel, every: dict[Symbol, Axis], looped: dict[Symbol, Axis], best: Symbol) -> Blocks:
    """Reductions along the axis that is contiguous in memory."""
    extent = _extent(looped[best])
    rows = len({op.buffer for scope, _, op in accesses(kernel) if _varies(kernel, op, best)})
    longest = LONGEST_ROW if rows <= 2 else LONGEST_ROW // 2
    known = bounds(looped[best].extent)[1]
    whole = known is not None and (extent <= 1024 or isinstance(looped[best].extent, int) and extent <= longest)
    size = extent if whole else min(ROW_PIECE, max(extent, 16))
    threads = 512 if known is not None and known <= 512 * KEPT_ELEMENTS else 1024
    held = not whole and known is not None and LONGEST_ROW < known <= threads * KEPT_ELEMENTS
    if held and values_kept(kernel, looped[best]) == 1:
        return Blocks({best: (0, 2 * threads)}, 1, threads // 32, 64, kept=True)
    outer = [s for s in every if s not in looped]
    second = outer[-1] if outer else None
    wanted = max(1, 1024 // size)
    count = 1 if second is None else min(wanted, _extent(every[second]))
    each = ROW_ELEMENTS if size * count > 4096 else LONG_ROW_ELEMENTS if extent > LONGEST_ROW else 8
    warps = warps_for(size * count, each, 16 if whole else 32)
    if second is None or count == 1:
        registers = LONG_ROW_REGISTERS if warps == 32 and rows <= 2 else None
        return Blocks({best: (0, size)}, 1, warps, registers)
    return Blocks({second: (0, count), best: (1, size)}, 2, warps)


def _varies(kernel: LoopKernel, op: Load | Store, symbol: Symbol) -> bool:
    return any(isinstance(d, Expr) and symbol in symbols(d) for d in op.index)


def _columns(
    kernel: LoopKernel, every: dict[Symbol, Axis], looped: dict[Symbol, Axis], best: Symbol
) -> Blocks:
    """Reductions across the axis that is contiguous in memory; with several a thread has fewer elements of each."""
    columns = min(COLUMNS, _extent(every[best]))
    longest = max(looped, key=lambda s: typical(looped[s].extent))
    sums = max(sum(isinstance(op, Reduce) for op in s.ops) for s in kernel.stages)
    fewer = 2 if sums > 1 else 1
    rows = min(COLUMN_ROWS * COLUMNS // columns // fewer, _extent(looped[longest]), 1024)
    sizes = {best: (1, columns), longest: (0, rows)}
    return Blocks(sizes, 2, warps_for(rows * columns, 32 // fewer, 8))
