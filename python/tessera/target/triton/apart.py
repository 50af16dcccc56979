"""Epilogues of products on Hopper that have warps of their own: which do, what they read ahead, and their pieces."""

from __future__ import annotations

from tessera.ir.dims import Symbol, symbols
from tessera.ir.dtype import DType
from tessera.schedule import cost
from tessera.target.triton import product_sums
from tessera.target.triton.gluon import ELEMENTS
from tessera.tile.ir import Compute, DotKernel, Load, Random, Ref, Store, same_memory

WARPS, REGISTERS = 4, 152
LEAST = 128
"""Columns of a tile from which its epilogue may have warps of its own."""
WORK = 20
"""Work for each result from which the epilogue is left to warps of its own."""
_ROWS = ((4, 64), (8, 32))
"""Bytes that are read ahead for each result, and rows of a piece up to so many: two pieces are held in registers."""
_FEWEST_ROWS = 16
_FEW = 2
"""Bytes that are read ahead for each result, of which those of two pieces are on their way."""


def rounding(kernel: DotKernel) -> DType | None:
    """The 16-bit float to which the product is rounded before anything else."""
    found: set[DType | None] = set()
    for op in kernel.epilogue:
        if isinstance(op, Compute) and Ref(3, 0) in op.args:
            found.add(op.dtype if op.function == "cast" else None)
        elif isinstance(op, Store) and Ref(3, 0) in (op.value, op.mask):
            found.add(None)
    first = found.pop() if len(found) == 1 else None
    return first if first in ELEMENTS and first.bits == 16 else None


def rounded_first(kernel: DotKernel) -> DType | None:
    """The 16-bit float to which the product is rounded before anything else, where enough arithmetic follows.

    Or where anything is read: the warps that multiply would wait for it with each piece. They also form sums.
    """
    enough = work(kernel) >= WORK or bool(product_sums.of(kernel)) or any(
        isinstance(op, Load) for op in kernel.epilogue)
    return rounding(kernel) if enough else None


def work(kernel: DotKernel) -> int:
    """Work of the epilogue for each result."""
    return sum(
        cost.function_work(op.function) if isinstance(op, Compute) else cost.RANDOM if isinstance(op, Random) else 0
        for op in kernel.epilogue
    )


def ahead(kernel: DotKernel) -> tuple[int, ...]:
    """The loads of an epilogue, by number, of tensors of the result's size that can be done for the next piece.

    What they read is written, if at all, at the same place: another piece does not change it.
    """
    return tuple(i for i in _first(kernel) if is_whole(kernel, _load(kernel, i)))


def early(kernel: DotKernel) -> tuple[int, ...]:
    """The loads of an epilogue, by number, of smaller tensors that can be done before anything else of a piece."""
    return tuple(i for i in _first(kernel) if not is_whole(kernel, _load(kernel, i)))


def _first(kernel: DotKernel) -> list[int]:
    """The loads at known places of what nothing before them writes."""
    written: set[int] = set()
    found: list[int] = []
    for i, op in enumerate(kernel.epilogue):
        if isinstance(op, Store):
            written |= same_memory(kernel.buffers, op.buffer)
        elif isinstance(op, Load) and op.mask is None and op.buffer not in written and not _is_gathered(op):
            found.append(i)
    return found


def rows(kernel: DotKernel) -> int:
    """Rows of a piece of the epilogue."""
    read = sum(_bytes(kernel, i) for i in ahead(kernel))
    return next((n for most, n in _ROWS if read <= most), _FEWEST_ROWS)


def depth(kernel: DotKernel) -> int:
    """Pieces whose operands are on their way while the warps work on one."""
    return 2 if 0 < sum(_bytes(kernel, i) for i in ahead(kernel)) <= _FEW else 1


def is_pair(kernel: DotKernel, number: int) -> bool:
    """Whether a load is of 16-bit floats that vary along rows."""
    op = _load(kernel, number)
    dtype = kernel.buffers[op.buffer].dtype
    return dtype in ELEMENTS and dtype.bits == 16 and kernel.n.symbol in symbols_of(op)


def neighbours(kernel: DotKernel) -> int:
    """Elements of a row that a thread holds: 16 bytes of the widest tensor that is read ahead."""
    return 16 // max((_bytes(kernel, i) for i in ahead(kernel)), default=2)


def moved(kernel: DotKernel) -> int:
    """Bytes of tensors of the result's size that the epilogue reads and writes for each result."""
    return sum(kernel.buffers[op.buffer].dtype.itemsize for op in kernel.epilogue
               if isinstance(op, (Load, Store)) and is_whole(kernel, op))


def is_whole(kernel: DotKernel, op: Load | Store) -> bool:
    """Whether an access varies over rows and columns."""
    return {kernel.m.symbol, kernel.n.symbol} <= symbols_of(op)


def symbols_of(op: Load | Store) -> set[Symbol]:
    """The symbols in the index of an access."""
    return {s for entry in op.index if not isinstance(entry, Ref) for s in symbols(entry)}


def _is_gathered(op: Load) -> bool:
    return any(isinstance(entry, Ref) for entry in op.index)


def _load(kernel: DotKernel, number: int) -> Load:
    op = kernel.epilogue[number]
    assert isinstance(op, Load)
    return op


def _bytes(kernel: DotKernel, number: int) -> int:
    return kernel.buffers[_load(kernel, number).buffer].dtype.itemsize
