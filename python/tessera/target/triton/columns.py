"""Row kernels that form sums over their rows, in Triton: each program owns rows that follow each other.

It goes through them one after the other (or a few at a time) with the sums so far in registers, and leaves them in a
workspace at the end. A second launch adds what the programs have left, in order. What is the same for all rows is read
once. The number of programs depends on sizes alone, so results are the same in every run and on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from tessera.ir.dims import Dim, Symbol, bounds, ceildiv, mul, product, sym, symbols
from tessera.ir.dtype import f32
from tessera.schedule.cost import typical
from tessera.schedule.index import strides
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.expression import AxisValue, Expressions, fits
from tessera.target.triton.head import Head, Options, subscript
from tessera.target.triton.launch import BufferArgument, Generated, Program
from tessera.target.triton.loops import Stages, most_warps, prepared
from tessera.target.triton.loops import generate as generate_loop
from tessera.target.triton.tiles import Blocks, power, warps_for
from tessera.tile.ir import (
    Axis,
    Buffer,
    Compute,
    Const,
    DotKernel,
    Index,
    Load,
    LoopKernel,
    Op,
    Reduce,
    Ref,
    Stage,
    Store,
)

ELEMENTS = 1024
"""Elements that a program works on at once, at least."""
EACH = 8
"""Elements of a row for each thread."""
MULTIPROCESSORS, WARPS = 132, 16
"""Of the largest chips, and how many warps each is to have."""
AHEAD, AHEAD_BYTES = 2, 96 << 10
"""Rows of a program that are on their way while it works on one, and what those of a multiprocessor may take."""
PARTIALS = (256, 16)
"""Partial sums and columns that the second launch works on at once."""


def has_sums(kernel: LoopKernel) -> bool:
    """Whether a kernel forms sums over all of its points."""
    return bool(buffers_of_sums(kernel))


def generate(kernel: LoopKernel, options: Options) -> Generated:
    """The two launches of a row kernel with sums."""
    kernel = prepared(kernel, options)
    form = _form(kernel)
    return Generated((_rows(kernel, options, form), _totals(kernel, options, form)), form.workspace)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a kernel is run: rows in all, those of a program, how many programs; the axis along rows, blocks.

    ``partials``: the workspace, sums × programs × columns.
    """

    rows: Dim
    length: Dim
    programs: int
    along: Axis
    blocks: Blocks
    partials: Buffer

    @property
    def at_once(self) -> int:
        """Rows that are worked on at once."""
        return self.blocks.shape()[0] if self.blocks.rank == 2 else 1

    @property
    def workspace(self) -> Dim:
        """Bytes."""
        return mul(product(self.partials.shape), f32.itemsize)


def _form(kernel: LoopKernel) -> _Form:
    along, = {a for s in kernel.stages for a in s.axes}
    longest = bounds(along.extent)[1]
    assert longest is not None
    width = power(longest)
    at_once = max(1, ELEMENTS // width)
    warps = warps_for(width * at_once, EACH)
    row = kernel.grid[0].symbol if len(kernel.grid) == 1 else Symbol("row")
    sizes = {along.symbol: (0, width)} if at_once == 1 else {row: (0, at_once), along.symbol: (1, width)}
    rows = product(a.extent for a in kernel.grid)
    programs = MULTIPROCESSORS * max(1, WARPS // warps)
    length = mul(ceildiv(ceildiv(rows, at_once), programs), at_once)
    if isinstance(rows, int) and isinstance(length, int):
        programs = max(1, -(-rows // length)) if length else 1
    shape: tuple[Dim, ...] = (len(buffers_of_sums(kernel)), programs, along.extent)
    partials = Buffer("partials", f32, shape, strides(shape), "out")
    return _Form(rows, length, programs, along, Blocks(sizes, len(sizes), warps), partials)


def buffers_of_sums(kernel: LoopKernel) -> list[int]:
    """The buffers that sums over all points are stored to."""
    return [op.buffer for s in kernel.stages for op in s.ops if isinstance(op, Store) and op.mode == "sum"]


def _rows(kernel: LoopKernel, options: Options, form: _Form) -> Program:
    """The launch that goes through the rows."""
    number = len(kernel.buffers)
    kernel = replace(kernel, buffers=(*kernel.buffers, form.partials))
    head = Head(kernel, options)
    stages = _Rows(kernel, form, head)
    stages.emit_all(number)
    return head.program((form.programs,), warps=min(form.blocks.warps, most_warps(options)))


class _Rows(Stages):
    """The stages of a kernel on the rows of a program."""

    def __init__(self, kernel: LoopKernel, form: _Form, head: Head) -> None:
        shape = [str(n) for n in form.blocks.shape()]
        super().__init__(kernel, form.blocks, Block(head.writer, kernel.buffers, head.pointers, head.sizes, shape))
        self.form = form
        self.totals: dict[int, str] = {}
        self.inside_rows: str | None = None
        self.ahead = _ahead(kernel, form) if head.options.architecture.startswith("sm_") else 0

    def emit_all(self, partials: int) -> None:
        """Emit everything; ``partials``: the number of the workspace."""
        w, block, along = self.writer, self.block, self.form.along
        block.axes[along.symbol] = self.positions(along, "")
        program = w.assign("program", "tl.program_id(0)")
        sums = buffers_of_sums(self.kernel)
        self._same_for_all_rows()
        for buffer in sums:
            self.totals[buffer] = w.assign("total", f"tl.zeros({block.shape_text()}, tl.float32)")
        memo, inside = dict(block.memo), list(block.inside)
        first, last = self._ends(program)
        row = w.fresh("row")
        stages = f", num_stages={1 + self.ahead}" if self.ahead else ""
        with w.block(f"for {row} in tl.range({first}, {last}, {self.form.at_once}{stages}):"):
            self._enter(row, last)
            self.emit()
        block.leave(memo)
        block.inside = [*inside, along.symbol]
        self._leave_partials(partials, sums, program)

    def _ends(self, program: str) -> tuple[str, str]:
        """The first row of a program, and the one after its last."""
        form, w = self.form, self.writer
        expressions = Expressions(w, self.block.axes)
        wide = not fits(form.rows, 2 * form.at_once * form.programs)
        own = f"{program}.to(tl.int64)" if wide else program
        length = w.assign("length", expressions.text(form.length, wide or None))
        first = w.assign("first", f"{own} * {length}")
        return first, w.assign("last", f"tl.minimum({first} + {length}, {expressions.text(form.rows, wide or None)})")

    def _enter(self, row: str, last: str) -> None:
        """Say where the rows from ``row`` on are along the axes of the grid."""
        w, block, count = self.writer, self.block, self.form.at_once
        dims: frozenset[int] = frozenset()
        if count > 1:
            row = w.assign("rows", f"{row} + tl.arange(0, {count}){subscript(0, 2)}")
            self.inside_rows, dims = w.assign("rows_inside", f"{row} < {last}"), frozenset({0})
        wide = not fits(self.form.rows, 2 * count * self.form.programs)
        for axis in reversed(self.kernel.grid):
            place = row
            if axis is not self.kernel.grid[0]:
                extent = f"({block.expressions.text(axis.extent, wide or None)})"
                place = w.assign(axis.symbol.name, f"{row} % {extent}")
                row = w.assign("rest", f"{row} // {extent}")
            block.axes[axis.symbol] = AxisValue(place, dims, wide, self.inside_rows)
            block.inside.append(axis.symbol)

    def _same_for_all_rows(self) -> None:
        """Emit what does not depend on the row: the block remembers it."""
        known: set[Ref] = set()
        varying = {a.symbol for a in self.kernel.grid}
        for number, stage in enumerate(self.kernel.stages):
            for i, op in enumerate(stage.ops):
                if self._is_same(op, known, varying):
                    known.add(Ref(number, i))
                    self.block.values[Ref(number, i)] = self.block.simple(op)

    def _is_same(self, op: Op, known: set[Ref], varying: set[Symbol]) -> bool:
        if isinstance(op, Const):
            return True
        if isinstance(op, Compute):
            return all(a in known for a in op.args)
        if isinstance(op, Index):
            return not _mentions(op.expr, varying)
        if not isinstance(op, Load) or self.kernel.buffers[op.buffer].role != "in":
            return False
        if self.kernel.buffers[op.buffer].may_alias or op.mask is not None:
            return False
        return all(d in known if isinstance(d, Ref) else not _mentions(d, varying) for d in op.index)

    def has_waited(self, stage: Stage, buffer: int) -> bool:
        """A sum along the row has waited for all that was read of it."""
        number = self.kernel.stages.index(stage)
        stores = [(i, op) for i, op in enumerate(stage.ops) if isinstance(op, Store) and op.buffer == buffer]
        return all(self._follows_all(Ref(number, i), op) for i, op in stores)

    def _follows_all(self, at: Ref, store: Store) -> bool:
        """Whether what is stored needs reductions of all that was read of the same memory, and of this row alone."""
        same = self.block.same(store.buffer)
        read: set[Ref] = set()
        for number, stage in enumerate(self.kernel.stages[: at.scope + 1]):
            for i, op in enumerate(stage.ops):
                if isinstance(op, Store) and op.buffer in same and Ref(number, i) != at:
                    return False
                if isinstance(op, Load) and op.buffer in same:
                    if op.buffer != store.buffer or op.index != store.index or op.mask is not None:
                        return False
                    read.add(Ref(number, i))
        if not read or any(isinstance(d, Ref) for d in store.index):
            return not read
        needed = _needed(self.kernel, store.value)
        waited = [r for r in needed if isinstance(_op(self.kernel, r), Reduce) and r.scope < at.scope]
        return any(read & _needed(self.kernel, r) for r in waited)

    def add_up(self, op: Store) -> None:
        """Add the values at these rows to a sum."""
        value = self.block.broadcast(self.block.values[op.value])
        if self.inside_rows is not None:
            value = f"tl.where({self.inside_rows}, {value}, 0.0)"
        total = self.totals[op.buffer]
        self.writer.line(f"{total} = {total} + {value}")

    def _leave_partials(self, partials: int, sums: Sequence[int], program: str) -> None:
        """Store the sums of a program."""
        block, form = self.block, self.form
        place = Symbol("program", 0, form.programs - 1)
        block.axes[place] = AxisValue(program)
        for axis in self.kernel.grid:
            del block.axes[axis.symbol]
        for number, buffer in enumerate(sums):
            text = self.totals[buffer]
            if form.at_once > 1:
                text = self.writer.assign("total", f"tl.sum({text}, axis=0, keep_dims=True)")
            ref = Ref(len(self.kernel.stages), number)
            block.values[ref] = Variable(text, f32, frozenset({form.blocks.rank - 1}))
            block.store(Store(partials, (number, sym(place), sym(form.along.symbol)), ref))


def _ahead(kernel: LoopKernel, form: _Form) -> int:
    """How many blocks of rows are read ahead: they wait in shared memory."""
    loads = {op.buffer for s in kernel.stages for op in s.ops if isinstance(op, Load)}
    wide = [b for b in loads if len(kernel.buffers[b].shape) > 1]
    size = sum(kernel.buffers[b].dtype.itemsize for b in wide) * prod(form.blocks.shape())
    return min(AHEAD, AHEAD_BYTES // (size * max(1, WARPS // form.blocks.warps))) if size else 0


def _op(kernel: LoopKernel, ref: Ref) -> Op:
    return kernel.stages[ref.scope].ops[ref.index]


def _needed(kernel: LoopKernel, ref: Ref) -> set[Ref]:
    """All values that a value is made of, and itself."""
    found, left = {ref}, [ref]
    while left:
        op = _op(kernel, left.pop())
        args = op.args if isinstance(op, Compute) else (op.value,) if isinstance(op, Reduce) else ()
        new = set(args) - found
        found |= new
        left += new
    return found


def _mentions(d: Dim, varying: set[Symbol]) -> bool:
    return not isinstance(d, int) and any(s in varying for s in symbols(d))


def _totals(kernel: LoopKernel, options: Options, form: _Form) -> Program:
    """The launch that adds what the programs have left."""
    part = Axis(Symbol("part", 0, form.programs - 1), form.programs)
    return totals(kernel, buffers_of_sums(kernel), form.partials, part, form.along, options)


def totals(
    kernel: LoopKernel | DotKernel, sums: Sequence[int], partials: Buffer, part: Axis, along: Axis, options: Options
) -> Program:
    """The launch that adds partial sums along ``part``, in order, for each of the buffers ``sums``."""
    column = Axis(Symbol("column", 0, along.symbol.max), along.extent)
    loads = [Load(0, (i, sym(part.symbol), sym(column.symbol))) for i in range(len(sums))]
    added = [Reduce("sum", Ref(0, i), f32) for i in range(len(sums))]
    stores = [Store(i + 1, (sym(column.symbol),), Ref(0, len(sums) + i)) for i in range(len(sums))]
    buffers = (replace(partials, role="in"), *(replace(kernel.buffers[b], name=f"b{b}") for b in sums))
    second = LoopKernel(
        "column_sums", kernel.sizes, buffers, (column,), (Stage((part,), (*loads, *added)), Stage((), tuple(stores)))
    )
    rows, columns = PARTIALS
    rows = min(rows, power(typical(part.extent)))
    blocks = Blocks({part.symbol: (0, rows), column.symbol: (1, columns)}, 2, warps_for(rows * columns, 16, 8))
    program = generate_loop(second, options, blocks)
    numbers = [len(kernel.buffers), *sums]
    arguments = tuple(replace(a, index=numbers[a.index]) if isinstance(a, BufferArgument) else a
                      for a in program.arguments)
    return replace(program, arguments=arguments)
