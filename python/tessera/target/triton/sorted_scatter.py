"""Scatters of many rows: updates are put in order of their rows, then each row's updates are summed together.

The first program gives every update its place in the order by counting the updates before it; the second makes the
base; the third has one program for each update, of which the first of a row sums all that follow for the same row. The
order is that of the updates' numbers, sums accumulate in f32, and no two programs write one element.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dims import Dim, Symbol, add, ceildiv, mul, product
from tessera.ir.dtype import DType, i32, i64
from tessera.schedule.cost import typical
from tessera.target.triton import loops
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.convert import from_memory, to_memory
from tessera.target.triton.expression import AxisValue, Expressions, fits
from tessera.target.triton.head import Head, Options, block_numbers, positions
from tessera.target.triton.launch import BufferArgument, Generated, Program
from tessera.target.triton.reduce import Combination
from tessera.target.triton.tiles import power
from tessera.tile.collapse import collapse
from tessera.tile.ir import Axis, LoopKernel, Ref, Stage, Store

FEWEST = 256
"""Updates from which ordering them is worth while."""
_RANKED, _COMPARED = 16, 256
"""Updates whose places a program finds, and those that it compares them with at a time."""
_SUMMED, _PARTS, _LANES = 16, 4, 256
"""Updates of one row that are added at a time, times after the first, and lanes of a program."""


class SortedScatter:
    """``needed`` ops of stage ``number`` give the row (``target``) and the value of an update."""

    def __init__(
        self, kernel: LoopKernel, options: Options, number: int, target: Ref, rows: Dim,
        needed_target: list[int], needed_value: list[int],
    ) -> None:
        self.kernel, self.options, self.number, self.target, self.rows = kernel, options, number, target, rows
        self.needed_target, self.needed_value = needed_target, needed_value
        self.stage: Stage = kernel.stages[number]
        store = self.stage.ops[-1]
        assert isinstance(store, Store)
        self.store = store
        self.count: Dim = product([a.extent for a in self.stage.axes])
        self.key: DType = i32 if fits(mul(add(self.rows, 1), self.count)) else i64

    def generated(self) -> Generated:
        """The launches, with room for the order."""
        programs = [self._order()]
        if self.number:
            programs.append(self._base())
        programs.append(self._sums())
        return Generated(tuple(programs), mul(self.count, self.key.itemsize))

    def _head(self, suffix: str) -> tuple[Head, str, Expressions]:
        head = Head(self.kernel, self.options, suffix)
        keys = head.parameter("order", BufferArgument(len(self.kernel.buffers), self.key))
        return head, keys, Expressions(head.writer, head.sizes)

    @property
    def _kind(self) -> str:
        return "tl.int32" if self.key == i32 else "tl.int64"

    def axes(self, head: Head, place: str, dims: frozenset[int], mask: str) -> dict[Symbol, AxisValue]:
        """The axes of the updates from their numbers."""
        found: dict[Symbol, AxisValue] = {}
        rest, wide = place, self.key == i64
        expressions = Expressions(head.writer, head.sizes)
        for at, axis in enumerate(reversed(self.stage.axes)):
            text = rest
            if at < len(self.stage.axes) - 1:
                extent = expressions.text(axis.extent, wide or None)
                text = head.writer.assign(axis.symbol.name, f"{rest} % ({extent})")
                rest = head.writer.assign("rest", f"{rest} // ({extent})")
            found[axis.symbol] = AxisValue(text, dims, wide, mask)
        return found

    def _keys(self, head: Head, count: str, place: str, dim: int, shape: list[str]) -> tuple[str, str]:
        """Which of some updates there are, and their keys: row times count plus number."""
        inside = head.writer.assign("inside", f"{place} < {count}")
        axes = self.axes(head, place, frozenset({dim}), inside)
        block = Block(head.writer, self.kernel.buffers, head.pointers, {**head.sizes, **axes}, shape)
        for i in self.needed_target:
            block.values[Ref(self.number, i)] = block.simple(self.stage.ops[i])
        row = f"{block.values[self.target].text}.to({self._kind})"
        return inside, head.writer.assign("key", f"{row} * {count} + {place}")

    def _count(self, head: Head, expressions: Expressions) -> str:
        text = expressions.text(self.count, self.key == i64 or None)
        return text if isinstance(self.count, int) else head.writer.assign("count", f"({text}).to({self._kind})")

    def _order(self) -> Program:
        """The place of every update: how many keys are smaller."""
        head, keys, expressions = self._head("_order")
        writer = head.writer
        count = self._count(head, expressions)
        shape = [str(_RANKED), str(_COMPARED)]
        first = f"tl.program_id(0).to({self._kind}) * {_RANKED}"
        own = writer.assign("update", f"{first} + tl.arange(0, {_RANKED})[:, None]")
        inside, key = self._keys(head, count, own, 0, shape)
        before = writer.assign("before", f"tl.zeros(({_RANKED}, {_COMPARED}), tl.int32)")
        start = "0" if self.key == i32 else "tl.full((), 0, tl.int64)"
        with writer.block(f"for first in range({start}, {count}, {_COMPARED}):"):
            other = writer.assign("other", f"first + tl.arange(0, {_COMPARED})[None, :]")
            there, second = self._keys(head, count, other, 1, shape)
            writer.line(f"{before} = {before} + (({second} < {key}) & {there}).to(tl.int32)")
        place = writer.assign("place", f"tl.sum({before}, axis=1, keep_dims=True)")
        writer.line(f"tl.store({keys} + {place}, {key}, mask={inside})")
        return head.program((ceildiv(self.count, _RANKED),), warps=4)

    def _base(self) -> Program:
        """What the result is before anything is added."""
        stages = self.kernel.stages[: self.number]
        stage = stages[-1]
        grid = (*stage.axes, *self.kernel.grid)
        base = replace(self.kernel, name=f"{self.kernel.name}_base", grid=grid, stages=(Stage((), stage.ops),))
        base = collapse(base)
        assert isinstance(base, LoopKernel)
        return loops.generate(base, self.options)

    def _sums(self) -> Program:
        """The sum of the updates of each row, by the program of the first of them."""
        kernel = self.kernel
        head, keys, expressions = self._head("_sums")
        writer, kind = head.writer, self._kind
        count = self._count(head, expressions)
        lane = kernel.grid[-1] if kernel.grid else None
        width = 1 if lane is None else min(_LANES, power(typical(lane.extent)))
        update = Axis(Symbol("update", 0, None), self.count)
        sized = [(update, 1), *((a, width if a is lane else 1) for a in kernel.grid)]
        numbers, programs = block_numbers(writer, sized, head.sizes)
        lanes: dict[Symbol, AxisValue] = {}
        for axis, size in sized[1:]:
            number = numbers.get(axis.symbol, "")
            if number and not fits(axis.extent, 2 * size):
                number = f"{number}.to(tl.int64)"
            start = f"{number} * {size}" if number and size > 1 else number
            lanes[axis.symbol] = positions(writer, axis, start, size, 1, 2, head.sizes)
        at = writer.assign("first", f"{numbers.get(update.symbol, '0')} + tl.full((), 0, {kind})")
        row = writer.assign("row", f"tl.load({keys} + {at}) // {count}")
        with writer.block(f"if {at} > 0:"), writer.block(f"if tl.load({keys} + {at} - 1) // {count} == {row}:"):
            writer.line("return")
        combination = Combination("sum", kernel.buffers[self.store.buffer].dtype)
        rows = _Rows(self, head, keys, count, row, lanes, width, combination)
        total, same = rows.summed(at)
        total = writer.assign("total", total)
        more = writer.assign("more", f"tl.sum({same}.to(tl.int32)) == {_SUMMED}")
        writer.line(f"{at} = {at} + {_SUMMED}")
        with writer.block(f"while {more}:"):  # a frequent row: several loads are on their way at once
            parts = [rows.summed(f"{at} + {_SUMMED * part}") for part in range(_PARTS)]
            writer.line(f"{total} = {total} + ({' + '.join(text for text, _ in parts)})")
            writer.line(f"{at} = {at} + {_SUMMED * _PARTS}")
            writer.line(f"{more} = tl.sum({parts[-1][1]}.to(tl.int32)) == {_SUMMED}")
        self._add(head, lanes, width, row, total, combination)
        return head.program((programs,), warps=4 if width * _SUMMED >= 2048 else 1)

    def _add(
        self, head: Head, lanes: dict[Symbol, AxisValue], width: int, row: str, total: str, combination: Combination
    ) -> None:
        writer, buffer = head.writer, self.kernel.buffers[self.store.buffer]
        block = Block(writer, self.kernel.buffers, head.pointers, {**head.sizes, **lanes}, ["1", str(width)])
        block.values[self.target] = Variable(f"({row})", i64)
        address, dims = block.address(self.store.buffer, self.store.index)
        if len(dims) < 2:
            address = block.spread(address)
        masks = block.masks(frozenset({0, 1}), [a.symbol for a in self.kernel.grid])
        mask = f", mask={' & '.join(masks)}" if masks else ""
        old = from_memory(writer, buffer.dtype, f"tl.load({address}{mask})")
        result = combination.result(writer, f"({old}) + {total}", buffer.dtype)
        writer.line(f"tl.store({address}, {to_memory(writer, buffer.dtype, f'({result})')}{mask})")


class _Rows:
    """Sums of updates that follow each other in the order, as long as they are for one row."""

    def __init__(
        self, scatter: SortedScatter, head: Head, keys: str, count: str, row: str, lanes: dict[Symbol, AxisValue],
        width: int, combination: Combination,
    ) -> None:
        self.scatter, self.head, self.keys, self.count, self.row = scatter, head, keys, count, row
        self.lanes, self.width, self.combination = lanes, width, combination

    def summed(self, first: str) -> tuple[str, str]:
        """The sum of some updates from place ``first``, and which of them are for the row."""
        scatter, writer, count = self.scatter, self.head.writer, self.count
        slot = writer.assign("slot", f"{first} + tl.arange(0, {_SUMMED})[:, None]")
        key = writer.assign("key", f"tl.load({self.keys} + {slot}, mask={slot} < {count}, other=-1)")
        same = writer.assign("same", f"({slot} < {count}) & ({key} // {count} == {self.row})")
        number = writer.assign("number", f"tl.where({same}, {key} % {count}, 0)")
        axes = {**scatter.axes(self.head, number, frozenset({0}), same), **self.lanes}
        shape = [str(_SUMMED), str(self.width)]
        block = Block(writer, scatter.kernel.buffers, self.head.pointers, {**self.head.sizes, **axes}, shape)
        for i in scatter.needed_value:
            block.values[Ref(scatter.number, i)] = block.simple(scatter.stage.ops[i])
        value = block.spread(block.values[scatter.store.value].text)
        masked = f"tl.where({same}, {value}, {self.combination.identity()})"
        return writer.assign("part", self.combination.along(writer, masked, 0, True)), same
