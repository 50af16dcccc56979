"""Scatters of many rows: updates are put in order of their rows, then each row's updates are summed together.

The first program sorts blocks of updates; the second gives every update its place among all by looking for it in each
block; the third makes the base. The order is that of the updates' numbers. Then there is one program for each update,
of which the first of a row sums all that follow for the same row. Rows with many updates are left to a last launch,
whose programs have several loads on their way at once; the others need few registers, so that many of them run at a
time. Sums accumulate in f32, and no two programs write one element.
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
_SORTED = 512
"""Updates that a program sorts."""
_PLACED, _SEARCHED = 32, 16
"""Updates whose places a program finds, and sorted blocks that it looks through at a time."""
_WIDTH, _EACH = 1024, 8
"""Lanes of a program at most, and those of each thread."""
_FOLLOWING = 4
"""Updates of one row that are added at a time after the first."""
_MANY = 16
"""A row has many updates if two places that are multiples of this, one after the other, are its own."""
_SUMMED, _PARTS, _LANES = 16, 4, 256
"""Of a row with many updates: those that are added at a time, times in a turn, and lanes of a program."""


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
        """The launches, with room for the order and for sorted blocks."""
        programs = [self._sort(), self._order()]
        if self.number:
            programs.append(self._base())
        programs += [self._sums(), self._long_sums()]
        return Generated(tuple(programs), mul(add(self.count, self._padded), self.key.itemsize))

    @property
    def _padded(self) -> Dim:
        """The size of the sorted blocks together."""
        return mul(ceildiv(self.count, _SORTED), _SORTED)

    def head(self, suffix: str) -> tuple[Head, str, Expressions]:
        """The head of a launch, the parameter of the workspace, and what writes sizes."""
        head = Head(self.kernel, self.options, suffix)
        keys = head.parameter("order", BufferArgument(len(self.kernel.buffers), self.key))
        return head, keys, Expressions(head.writer, head.sizes)

    @property
    def _last(self) -> str:
        """A key after all others."""
        return f"tl.full((), {2 ** (self.key.bits - 1) - 1}, {self._kind})"

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

    def counted(self, head: Head, expressions: Expressions) -> str:
        """The number of updates."""
        text = expressions.text(self.count, self.key == i64 or None)
        return text if isinstance(self.count, int) else head.writer.assign("count", f"({text}).to({self._kind})")

    def _sort(self) -> Program:
        """Blocks of keys, each in order; a key is the row times the count plus the number of the update."""
        head, keys, expressions = self.head("_sort")
        writer = head.writer
        count = self.counted(head, expressions)
        own = writer.assign("update", f"tl.program_id(0).to({self._kind}) * {_SORTED} + tl.arange(0, {_SORTED})")
        inside = writer.assign("inside", f"{own} < {count}")
        axes = self.axes(head, own, frozenset({0}), inside)
        block = Block(writer, self.kernel.buffers, head.pointers, {**head.sizes, **axes}, [str(_SORTED)])
        for i in self.needed_target:
            block.values[Ref(self.number, i)] = block.simple(self.stage.ops[i])
        row = f"{block.values[self.target].text}.to({self._kind})"
        key = writer.assign("key", f"tl.where({inside}, {row} * {count} + {own}, {self._last})")
        writer.line(f"tl.store({keys} + {count} + {own}, tl.sort({key}))")
        return head.program((ceildiv(self.count, _SORTED),), warps=4)

    def _order(self) -> Program:
        """The place of every update: how many keys are smaller in all blocks, each searched by halves."""
        head, keys, expressions = self.head("_order")
        writer, kind = head.writer, self._kind
        count = self.counted(head, expressions)
        blocks = expressions.text(ceildiv(self.count, _SORTED))
        ordered = writer.assign("ordered", f"{keys} + {count}")
        own = writer.assign("own", f"tl.program_id(0).to({kind}) * {_PLACED} + tl.arange(0, {_PLACED})[:, None]")
        key = writer.assign("key", f"tl.load({ordered} + {own})")
        before = writer.assign("before", f"tl.zeros(({_PLACED}, {_SEARCHED}), tl.int32)")
        with writer.block(f"for first in range(0, {blocks}, {_SEARCHED}):"):
            number = writer.assign("number", f"first + tl.arange(0, {_SEARCHED})[None, :]")
            there = writer.assign("there", f"{number} < {blocks}")
            start = writer.assign("start", f"{ordered} + {number}.to({kind}) * {_SORTED}")
            low = writer.assign("low", f"tl.zeros(({_PLACED}, {_SEARCHED}), tl.int32)")
            step = _SORTED // 2
            while step:
                probe = f"tl.load({start} + {low} + {step - 1}, mask={there}, other={self._last})"
                writer.line(f"{low} = {low} + tl.where({probe} < {key}, {step}, 0)")
                step //= 2
            probe = f"tl.load({start} + {low}, mask={there}, other={self._last})"
            writer.line(f"{before} = {before} + {low} + ({probe} < {key}).to(tl.int32)")
        place = writer.assign("place", f"tl.sum({before}, axis=1, keep_dims=True)")
        writer.line(f"tl.store({keys} + {place}, {key}, mask={key} != {self._last})")
        return head.program((mul(ceildiv(self.count, _SORTED), _SORTED // _PLACED),), warps=4)

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
        """The sum of the updates of each row with few of them, by the program of the first."""
        segment = _Segment(self, "_sums", self.count, _WIDTH)
        writer, keys, count = segment.writer, segment.keys, segment.count
        at = writer.assign("first", f"{segment.number} + tl.full((), 0, {self._kind})")
        row = writer.assign("row", f"tl.load({keys} + {at}) // {count}")
        before = segment.is_same(f"{at} - 1", row)
        many = segment.is_same(writer.assign("edge", f"({at} + {_MANY - 1}) // {_MANY} * {_MANY} + {_MANY}"), row)
        same = segment.is_same(f"({at} + 1 + tl.arange(0, {2 * _MANY}))", row)
        with writer.block(f"if {before} | {many}:"):
            writer.line("return")
        target = segment.target(row)
        total = writer.assign("total", segment.summed(at, row, 1)[0])
        following = writer.assign("following", f"tl.sum({same}.to(tl.int32))")
        with writer.block(f"for part in range(0, {following}, {_FOLLOWING}):"):
            part, _ = segment.summed(f"{at} + 1 + part", row, _FOLLOWING)
            writer.line(f"{total} = {total} + {part}")
        segment.add(target, total)
        return segment.program(max(1, segment.width // (32 * _EACH)))

    def _long_sums(self) -> Program:
        """Those of rows with many updates, by the program of the first place that is a multiple."""
        segment = _Segment(self, "_long_sums", ceildiv(self.count, _MANY), _LANES)
        writer, keys, count = segment.writer, segment.keys, segment.count
        at = writer.assign("first", f"({segment.number} + tl.full((), 0, {self._kind})) * {_MANY}")
        row = writer.assign("row", f"tl.load({keys} + {at}) // {count}")
        before, many = segment.is_same(f"{at} - {_MANY}", row), segment.is_same(f"{at} + {_MANY}", row)
        with writer.block(f"if {before} | ({many} == 0):"):
            writer.line("return")
        target = segment.target(row)
        total = writer.assign("total", segment.summed(f"{at} - {_MANY}", row, _MANY)[0])
        writer.line(f"more = {many}")
        with writer.block("while more:"):
            parts = [segment.summed(f"{at} + {_SUMMED * part}", row, _SUMMED) for part in range(_PARTS)]
            writer.line(f"{total} = {total} + ({' + '.join(text for text, _ in parts)})")
            writer.line(f"{at} = {at} + {_SUMMED * _PARTS}")
            writer.line(f"more = tl.sum({parts[-1][1]}.to(tl.int32)) == {_SUMMED}")
        segment.add(target, total)
        return segment.program(4 if segment.width * _SUMMED >= 2048 else 1)


class _Segment:
    """A program that sums updates of one row, which follow each other in the order.

    ``places``: programs for each block of at most ``width`` lanes; ``number`` of a program among them.
    """

    def __init__(self, scatter: SortedScatter, suffix: str, places: Dim, width: int) -> None:
        kernel = scatter.kernel
        self.scatter, self.buffer = scatter, kernel.buffers[scatter.store.buffer]
        self.head, self.keys, expressions = scatter.head(suffix)
        self.writer = writer = self.head.writer
        writer.reserve("more", "part")
        self.count = scatter.counted(self.head, expressions)
        lane = kernel.grid[-1] if kernel.grid else None
        self.width = 1 if lane is None else min(width, power(typical(lane.extent)))
        place = Axis(Symbol("update", 0, None), places)
        sized = [(place, 1), *((a, self.width if a is lane else 1) for a in kernel.grid)]
        numbers, self.programs = block_numbers(writer, sized, self.head.sizes)
        self.number = numbers.get(place.symbol, "0")
        self.lanes: dict[Symbol, AxisValue] = {}
        for axis, size in sized[1:]:
            number = numbers.get(axis.symbol, "")
            if number and not fits(axis.extent, 2 * size):
                number = f"{number}.to(tl.int64)"
            start = f"{number} * {size}" if number and size > 1 else number
            self.lanes[axis.symbol] = positions(writer, axis, start, size, 1, 2, self.head.sizes)
        self.combination = Combination("sum", self.buffer.dtype)

    def program(self, warps: int) -> Program:
        """The function as written."""
        return self.head.program((self.programs,), warps=warps)

    def is_same(self, place: str, row: str) -> str:
        """Whether there is an update at a place, and it is for the row."""
        writer, count = self.writer, self.count
        there = writer.assign("there", f"({place} >= 0) & ({place} < {count})")
        key = writer.assign("key", f"tl.load({self.keys} + {place}, mask={there}, other=0)")
        return writer.assign("same", f"{there} & ({key} // {count} == {row})")

    def summed(self, first: str, row: str, slots: int) -> tuple[str, str]:
        """The sum of so many updates from a place on, and which of them are for the row."""
        scatter, writer, count = self.scatter, self.writer, self.count
        slot = writer.assign("slot", f"{first} + tl.arange(0, {slots})[:, None]")
        there = writer.assign("there", f"({slot} >= 0) & ({slot} < {count})")
        key = writer.assign("key", f"tl.load({self.keys} + {slot}, mask={there}, other=0)")
        same = writer.assign("same", f"{there} & ({key} // {count} == {row})")
        number = writer.assign("number", f"tl.where({same}, {key} % {count}, 0)")
        axes = {**scatter.axes(self.head, number, frozenset({0}), same), **self.lanes}
        block = Block(writer, scatter.kernel.buffers, self.head.pointers, {**self.head.sizes, **axes},
                      [str(slots), str(self.width)])
        for i in scatter.needed_value:
            block.values[Ref(scatter.number, i)] = block.simple(scatter.stage.ops[i])
        value = block.spread(block.values[scatter.store.value].text)
        masked = f"tl.where({same}, {value}, {self.combination.identity()})"
        return writer.assign("part", self.combination.along(writer, masked, 0, True)), same

    def target(self, row: str) -> tuple[str, str, str]:
        """The address of a row, its mask, and what is there."""
        scatter, writer = self.scatter, self.writer
        block = Block(writer, scatter.kernel.buffers, self.head.pointers, {**self.head.sizes, **self.lanes},
                      ["1", str(self.width)])
        block.values[scatter.target] = Variable(f"({row})", i64)
        address, dims = block.address(scatter.store.buffer, scatter.store.index)
        address = writer.assign("address", address if len(dims) == 2 else block.spread(address))
        masks = block.masks(frozenset({0, 1}), [a.symbol for a in scatter.kernel.grid])
        mask = f", mask={' & '.join(masks)}" if masks else ""
        return address, mask, writer.assign("old", from_memory(writer, self.buffer.dtype, f"tl.load({address}{mask})"))

    def add(self, target: tuple[str, str, str], total: str) -> None:
        """Write what a row is with the sum of its updates."""
        (address, mask, old), writer, dtype = target, self.writer, self.buffer.dtype
        result = self.combination.result(writer, f"({old}) + {total}", dtype)
        writer.line(f"tl.store({address}, {to_memory(writer, dtype, f'({result})')}{mask})")
