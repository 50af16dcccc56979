"""Loop kernels whose programs have their rows in shared memory, in Gluon.

Rows that several stages read are copied to shared memory in blocks, all of which a program asks for at its beginning;
its first stage waits for one block after the other, and all stages read them there. Two programs or more are on a
multiprocessor at a time: while one reduces and computes, memory works for the others. Each thread copies what it reads
later, 16 bytes at a time, so that there are no conflicts between banks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from tessera.ir.dims import Dim, Expr, Symbol, bounds, product, substitute, symbols
from tessera.ir.dtype import DType
from tessera.target.triton.ahead import MULTIPROCESSORS
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.convert import from_memory
from tessera.target.triton.expression import AxisValue
from tessera.target.triton.head import Head, Options, grid_positions
from tessera.target.triton.kept import recomputed, values_kept
from tessera.target.triton.launch import Program
from tessera.target.triton.loops import Stages, prepared
from tessera.target.triton.tiles import LONGEST_ROW, Blocks, offset_of, step
from tessera.tile.ir import Axis, Load, LoopKernel, Random, Ref, Stage, Store, same_memory
from tessera.tile.rewrite import accesses

ARCHITECTURES = ("sm_90a", "sm_100a")
"""Those whose multiprocessors have this much shared memory."""
SHARED, RESERVED = 228 << 10, 2048
"""Bytes of shared memory of a multiprocessor; what of it a program has beside its rows."""
WARPS, UNIT = 8, 16
"""Warps of a program; bytes that a thread copies at a time."""
REGISTERS, MOST_REGISTERS, MOST_PROGRAMS = 65536, 128, 4
"""Of a multiprocessor; of a thread; programs on a multiprocessor at a time."""
_LIGHT = frozenset({
    "cast", "neg", "abs", "add", "sub", "mul", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_not", "isnan", "exp", "exp_of_difference",
})
"""Functions that each stage may compute again; what is made by others is kept in registers instead."""
_NAMES = ("gluon", "core", "hopper", "mbarrier", "tma", "line", "flat", "lanes")


Row = tuple[int, tuple[Union[Dim, Ref], ...]]
"""A buffer, and the index that its elements are loaded with."""


@dataclass(frozen=True, slots=True)
class Form:
    """Which rows a kernel has in shared memory, along which axis, in blocks of how many elements.

    ``programs``: on a multiprocessor at a time.
    """

    axis: Axis
    rows: tuple[Row, ...]
    block: int
    programs: int

    @property
    def extent(self) -> int:
        """The elements of a row."""
        assert isinstance(self.axis.extent, int)
        return self.axis.extent

    @property
    def blocks(self) -> int:
        """How many blocks a row has."""
        return -(-self.extent // self.block)

    @property
    def registers(self) -> int:
        """The most that a thread may have."""
        return min(MOST_REGISTERS, REGISTERS // (self.programs * 32 * WARPS))


def generate(kernel: LoopKernel, options: Options) -> Program | None:
    """The program of a kernel over long rows; None where its rows are not for shared memory."""
    if not _is_long(kernel, options.architecture):
        return None
    kernel = prepared(kernel, options)
    form = form_of(kernel)
    if form is None:
        return None
    head = Head(kernel, options, reserved=_NAMES)
    blocks = Blocks({form.axis.symbol: (0, form.block)}, 1, WARPS, form.registers, kept=True)
    found, count = grid_positions(head.writer, kernel.grid, blocks.sizes, 1, head.sizes)
    _Rows(kernel, blocks, _RowBlock(kernel, form, head, found)).emit()
    return head.program((count,), warps=WARPS, registers=form.registers, gluon=True)


def _is_long(kernel: LoopKernel, architecture: str) -> bool:
    """Whether there are many long rows of which several stages need the same, on a device with the memory for it."""
    axis = next((a for s in kernel.stages for a in s.axes), None)
    programs = bounds(product(a.extent for a in kernel.grid))[1]
    if axis is None or architecture not in ARCHITECTURES:
        return False
    if programs is not None and programs <= MULTIPROCESSORS[architecture]:
        return False
    return isinstance(axis.extent, int) and axis.extent > LONGEST_ROW and bool(values_kept(kernel, axis))


def form_of(kernel: LoopKernel) -> Form | None:
    """The form of a kernel over long rows; None where it has none."""
    axis = next(a for s in kernel.stages for a in s.axes)
    rows = _rows(kernel, axis)
    if any(isinstance(op, Random) for s in kernel.stages if s.axes for op in s.ops):
        return None  # each stage would draw the numbers again
    if not rows or recomputed(kernel, axis) - _LIGHT:
        return None
    assert isinstance(axis.extent, int)
    sizes = [kernel.buffers[b].dtype.itemsize for b, _ in rows]
    block = 32 * WARPS * UNIT // min(sizes)
    held = -(-axis.extent // block) * block * sum(sizes) + RESERVED
    return Form(axis, rows, block, min(MOST_PROGRAMS, SHARED // held)) if held * 2 <= SHARED else None


def _rows(kernel: LoopKernel, axis: Axis) -> tuple[Row, ...]:
    """All rows that a program reads; none where one cannot be copied, or is the same for several programs.

    The latter would be read from the first cache, of which shared memory leaves too little.
    """
    found: dict[Row, None] = {}
    for op in (op for s in kernel.stages if s.axes for op in s.ops if isinstance(op, Load)):
        if any(isinstance(d, Expr) and axis.symbol in symbols(d) for d in op.index):
            row = (op.buffer, op.index)
            if op.mask is not None or not _is_own(kernel, row, axis) or not _is_copied(kernel, row, axis):
                return ()
            found[row] = None
    return tuple(found)


def _start(kernel: LoopKernel, row: Row, axis: Axis) -> Dim:
    """The element of a buffer with which a row begins."""
    return substitute(offset_of(kernel.buffers[row[0]], Load(*row)), {axis.symbol: 0})


def _is_own(kernel: LoopKernel, row: Row, axis: Axis) -> bool:
    """Whether a row begins elsewhere in each program."""
    start = _start(kernel, row, axis)
    return not isinstance(start, int) and {a.symbol for a in kernel.grid if a.extent != 1} <= set(symbols(start))


def _is_copied(kernel: LoopKernel, row: Row, axis: Axis) -> bool:
    """Whether a row consists of whole units that the compiler sees, and is not written before it is read."""
    number, index = row
    buffer, start = kernel.buffers[number], _start(kernel, row, axis)
    if buffer.dtype.bits not in (16, 32) or any(isinstance(d, Ref) for d in index):
        return False
    unit = UNIT // buffer.dtype.itemsize
    whole = axis.extent % unit == 0 and isinstance(start, Expr) and all(c % unit == 0 for _, c in start.terms)
    return whole and step(offset_of(buffer, Load(*row)), axis.symbol) == 1 and not _is_written_before(kernel, row)


def _is_written_before(kernel: LoopKernel, row: Row) -> bool:
    """Whether the kernel writes to a row's memory before it reads it for the last time, in the order of its ops."""
    same = same_memory(kernel.buffers, row[0])
    written = False
    for _, _, op in accesses(kernel):
        if isinstance(op, Load) and written and (op.buffer, op.index) == row:
            return True
        written |= isinstance(op, Store) and op.buffer in same
    return False


class _RowBlock(Block):
    """A block of rows that lie in shared memory."""

    def __init__(self, kernel: LoopKernel, form: Form, head: Head, found: dict[Symbol, AxisValue]) -> None:
        w = head.writer
        super().__init__(w, kernel.buffers, head.pointers, {**head.sizes, **found}, (str(form.block),))
        self.form = form
        self.number = 0
        self._arrived = -1
        self._names: dict[Row, list[str]] = {row: [] for row in form.rows}
        each = UNIT // min(self._dtype(row).itemsize for row in form.rows)
        w.line(f"line: tl.constexpr = tl.BlockedLayout([{each}], [32], [{WARPS}], [0])")
        w.line("flat: tl.constexpr = tl.SwizzledSharedLayout(1, 1, 1, [0])")
        w.line(f"lanes = tl.arange(0, {form.block}, layout=line)")
        self.places = [self._place(n) for n in range(form.blocks)]
        for number in range(form.blocks):
            self._ask(number)

    def _dtype(self, row: Row) -> DType:
        return self.buffers[row[0]].dtype

    def _place(self, number: int) -> AxisValue:
        """The positions of a block."""
        w, axis, first = self.writer, self.form.axis, number * self.form.block
        text = w.assign(axis.symbol.name, f"{first} + lanes" if first else "lanes")
        inside = first + self.form.block <= self.form.extent
        mask = None if inside else w.assign(f"{axis.symbol.name}_inside", f"{text} < {self.form.extent}")
        return AxisValue(text, frozenset({0}), mask=mask)

    def _ask(self, number: int) -> None:
        """Have a block of each row copied."""
        place = self.places[number]
        self.axes[self.form.axis.symbol] = place
        for row, names in self._names.items():
            kind = f"{self.pointers[row[0]]}.dtype.element_ty"
            names.append(self.writer.assign("row", f"tl.allocate_shared_memory({kind}, [{self.form.block}], flat)"))
            address, _ = self.address(*row)
            mask = f", mask={place.mask}" if place.mask else ""
            self.writer.line(f"hopper.async_copy.async_copy_global_to_shared({names[-1]}, {address}{mask})")
        self.writer.line("hopper.async_copy.commit_group()")
        del self.axes[self.form.axis.symbol]

    def spread(self, text: str) -> str:
        """A scalar as a tensor."""
        return f"tl.full({self.shape_text()}, {text}, ({text}).dtype, line)"

    def _load(self, op: Load) -> Variable:
        names = self._names.get((op.buffer, op.index))
        if names is None or self.form.axis.symbol not in self.axes or op.mask is not None:
            return super()._load(op)
        key = ("shared", op.buffer, op.index)
        if key not in self.memo:
            if self.number > self._arrived:
                self.writer.line(f"hopper.async_copy.wait_group({self.form.blocks - 1 - self.number})")
                self._arrived = self.number
            raw = f"{names[self.number]}.load(line)"
            mask = self.places[self.number].mask
            raw = raw if mask is None else f"tl.where({mask}, {raw}, 0)"
            dtype = self.buffers[op.buffer].dtype
            text = self.writer.assign("x", from_memory(self.writer, dtype, raw))
            self.memo[key] = Variable(text, dtype, frozenset({0}))
        return self.memo[key]


class _Rows(Stages):
    """The stages of a kernel on rows in shared memory: each goes through the blocks, and keeps nothing."""

    block: _RowBlock

    def zeros(self, shape: str, kind: str) -> str:
        """The text of a tensor of zeros."""
        return f"tl.zeros({shape}, {kind}, line)"

    def kept(self, axis: Axis, size: int, body: Callable[[], None]) -> None:
        """The blocks of an axis one after the other, without a loop."""
        block = self.block
        for number, place in enumerate(block.places):
            memo, block.number = dict(block.memo), number
            block.axes[axis.symbol] = place
            body()
            del block.axes[axis.symbol]
            block.leave(memo)

    def along(self, stage: Stage) -> tuple[int | None, bool, frozenset[int]]:
        """The dimension to reduce, whether it is kept, and over which the result varies."""
        return 0, False, frozenset()
