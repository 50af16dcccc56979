"""Rows asked for ahead: a program has the row that a later one will read brought into the second cache.

A program that keeps a long row in registers fills its multiprocessor, and nothing is read there while it reduces and
computes. So it asks for the row of the program that follows it there, which then waits for the cache alone.
"""

from __future__ import annotations

from tessera.ir.dims import Dim, bounds, product, substitute, symbols
from tessera.target.triton.expression import AxisValue, Expressions
from tessera.target.triton.head import Head, block_numbers
from tessera.target.triton.tiles import Blocks, offset_of, step
from tessera.tile.ir import Load, LoopKernel, Ref
from tessera.tile.rewrite import accesses

MULTIPROCESSORS = {"sm_90a": 132, "sm_100a": 148, "sm_120a": 170}
"""Of the usual device of each architecture that fetches in bulk. With another number rows come early, or late."""
_REGISTERS = 65536
"""Of a multiprocessor."""
_UNIT = 16
"""Bytes that requests begin and end with a multiple of."""


def ask_ahead(head: Head, kernel: LoopKernel, blocks: Blocks) -> None:
    """Ask for the rows of the program that follows on the same multiprocessor, if programs keep rows in registers."""
    distance = distance_of(head.options.architecture, blocks)
    programs = product(a.extent for a in kernel.grid)
    rows = _rows(kernel)
    most = bounds(programs)[1]
    if distance is None or not rows or (most is not None and most <= distance):
        return
    writer = head.writer
    later = writer.assign("later", f"tl.program_id(0) + {distance}")
    numbers, _ = block_numbers(writer, [(a, 1) for a in kernel.grid], head.sizes, later)
    found = {a.symbol: AxisValue(numbers.get(a.symbol, "0")) for a in kernel.grid}
    expressions = Expressions(writer, {**head.sizes, **found})
    inside = f"{later} < {expressions.text(programs)}"
    for buffer, start, size in rows:
        address = expressions.pointer(head.pointers[buffer], start)
        writer.line(writer.call("ask_for", address, str(size), inside))


def distance_of(architecture: str, blocks: Blocks) -> int | None:
    """How many programs later the next one on the same multiprocessor is; None where nothing is asked for."""
    count = MULTIPROCESSORS.get(architecture)
    if count is None or not blocks.kept or blocks.registers is None:
        return None
    return count * max(1, _REGISTERS // (32 * blocks.warps * blocks.registers))


def _rows(kernel: LoopKernel) -> list[tuple[int, Dim, int]]:
    """The buffer, the first element and the bytes of each row that a program has for itself."""
    axis = next((a for s in kernel.stages for a in s.axes), None)
    found: dict[tuple[int, Dim, int], None] = {}
    for _, _, op in accesses(kernel):
        if axis is None or not isinstance(op, Load) or op.mask is not None or any(isinstance(d, Ref) for d in op.index):
            continue
        offset = offset_of(kernel.buffers[op.buffer], op)
        start = substitute(offset, {axis.symbol: 0})
        if step(offset, axis.symbol) == 1 and isinstance(axis.extent, int) and _differs(kernel, start):
            size = axis.extent * kernel.buffers[op.buffer].dtype.itemsize
            found[op.buffer, start, size // _UNIT * _UNIT] = None
    return list(found)


def _differs(kernel: LoopKernel, start: Dim) -> bool:
    """Whether a row begins elsewhere in each program."""
    several = {a.symbol for a in kernel.grid if a.extent != 1}
    return not isinstance(start, int) and several <= set(symbols(start))
