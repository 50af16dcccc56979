"""Scatters in Triton: every program owns some rows of the result, and adds the updates that fall on them in order.

No two programs write the same element, so no atomic operations are needed and results are the same in every run. Where
the row of an update is the same for all lanes (``index_add``), many updates are put in order first (see
``sorted_scatter``), and of few a program looks for those that are its own. Where each lane has a row of its own, it
goes through the updates one by one; a scatter without other axes compares its rows with many updates at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, Expr, Symbol, ceildiv, product, symbols
from tessera.schedule.cost import typical
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.convert import from_memory, is_narrow, to_memory
from tessera.target.triton.expression import AxisValue, Expressions, fits
from tessera.target.triton.head import Head, Options, block_numbers, positions
from tessera.target.triton.launch import Generated, Program
from tessera.target.triton.reduce import Combination
from tessera.target.triton.sorted_scatter import FEWEST, SortedScatter
from tessera.target.triton.tiles import power, warps_for
from tessera.tile.ir import Axis, Load, LoopKernel, Ref, Stage, Store, references

_LANES = 1024
_SEARCHED = 1024
"""Row numbers that are looked through at a time."""
_PROGRAMS = 1024
_COPIED = 8
"""Rows of the base that are copied at a time."""
_DENSE_ROWS, _DENSE_UPDATES = 64, 64


def is_scatter(kernel: LoopKernel) -> bool:
    """Whether a kernel adds to elements that other points of its loops may add to as well."""
    return any(isinstance(op, Store) and op.mode == "add" for s in kernel.stages for op in s.ops)


def generate(kernel: LoopKernel, options: Options) -> Generated:
    """The programs of a scatter."""
    scatter = _Scatter(kernel, options)
    return scatter.ordered() or Generated((scatter.program(),))


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The axes of the grid on one program: positions, the shape of a block of lanes, programs along them."""

    axes: dict[Symbol, AxisValue]
    shape: list[str]


class _Scatter:
    def __init__(self, kernel: LoopKernel, options: Options) -> None:
        self.kernel = kernel
        self.number = next(i for i, s in enumerate(kernel.stages) if any(_adds(op) for op in s.ops))
        self.stage: Stage = kernel.stages[self.number]
        self.store: Store = next(op for op in self.stage.ops if _adds(op))  # type: ignore[assignment]
        self.head = Head(kernel, options)
        self.writer = self.head.writer
        self.expressions = Expressions(self.writer, self.head.sizes)
        buffer = kernel.buffers[self.store.buffer]
        at = [i for i, e in enumerate(self.store.index) if isinstance(e, Ref)]
        self.target = next((e for e in self.store.index if isinstance(e, Ref)), None)
        bases = [a.extent for s in kernel.stages[: self.number] for a in s.axes]
        self.rows: Dim = buffer.shape[at[0]] if at else bases[0] if bases else 1
        self.dense = not kernel.grid and self.target is not None

    def ordered(self) -> Generated | None:
        """The scatter of many rows in the order of their numbers; None when it has few, or is of another form."""
        simple = self.store.mask is None and self.stage.ops[-1] is self.store and self.number <= 1
        if not simple or self.target is None or not self.kernel.grid or not self._uniform():
            return None
        if typical(self._count()) < FEWEST:
            return None
        needed = self._needed(self.target), self._needed(self.store.value)
        return SortedScatter(self.kernel, self.head.options, self.number, self.target, self.rows, *needed).generated()

    # How the work is divided.

    def program(self) -> Program:
        """Emit everything."""
        kernel, writer = self.kernel, self.writer
        lane = kernel.grid[-1] if kernel.grid else None
        width = 1 if lane is None else min(_LANES, power(typical(lane.extent)))
        lanes: Dim = product([ceildiv(a.extent, width if a is lane else 1) for a in kernel.grid])
        owned = self._owned(lanes)
        owner = Axis(Symbol("owner", 0, None), ceildiv(self.rows, owned) if self.target is not None else 1)
        sized = [(owner, 1), *((a, width if a is lane else 1) for a in kernel.grid)]
        numbers, count = block_numbers(writer, sized, self.head.sizes)
        wide = "" if fits(self.rows, 2 * owned) else ".to(tl.int64)"
        first = numbers.get(owner.symbol)
        self.first = writer.assign("first_row", f"{first}{wide} * {owned}" if first else "0")
        alone = self.expressions.text(self.rows)
        self.end = writer.assign("end_row", f"{self.first} + {owned}" if self.target is not None else alone)
        axes: dict[Symbol, AxisValue] = {}
        for axis, size in sized[1:]:
            number = numbers.get(axis.symbol, "")
            if number and not fits(axis.extent, 2 * size):
                number = f"{number}.to(tl.int64)"
            start = f"{number} * {size}" if number and size > 1 else number
            axes[axis.symbol] = positions(writer, axis, start, size, 1, 2, self.head.sizes)
        found = _Lanes(axes, ["1", str(width)])
        self._base(found, owned)
        if self.dense:
            self._compare(owned)
        elif self.target is None or self._uniform():
            self._search(found)
        else:
            self._each(found)
        return self.head.program((count,), warps=4 if self.dense else warps_for(max(width, _SEARCHED), 8, 4))

    def _owned(self, lanes: Dim) -> int:
        """Rows of each program."""
        if self.dense:
            return _DENSE_ROWS
        wanted = max(1, _PROGRAMS // max(1, typical(lanes)))
        return power(-(-typical(self.rows) // wanted))

    def _uniform(self) -> bool:
        """Whether the row is the same for all lanes."""
        grid = {a.symbol for a in self.kernel.grid}
        needed = self._needed(self.target)
        return not any(grid & _mentioned(self.stage.ops[i]) for i in needed)

    def _needed(self, *refs: Ref | None) -> list[int]:
        """The ops of the stage that values need, in order."""
        found: set[int] = set()
        stack = [r for r in refs if r is not None and r.scope == self.number]
        while stack:
            ref = stack.pop()
            if ref.index not in found:
                found.add(ref.index)
                stack += [r for r in references(self.stage.ops[ref.index]) if r.scope == self.number]
        return sorted(found)

    def _block(self, axes: dict[Symbol, AxisValue], shape: list[str]) -> Block:
        return Block(self.writer, self.kernel.buffers, self.head.pointers, {**self.head.sizes, **axes}, shape)

    def _emit(self, block: Block, needed: list[int]) -> None:
        for i in needed:
            block.values[Ref(self.number, i)] = block.simple(self.stage.ops[i])

    # The stages before: the base is copied, each program its own rows.

    def _base(self, lanes: _Lanes, owned: int) -> None:
        for number in range(self.number):
            stage = self.kernel.stages[number]
            if not stage.axes:
                block = self._block(lanes.axes, lanes.shape)
                with self.writer.block(f"if {self.first} == 0:"):
                    block.run(number, stage.ops)
                continue
            axis, = stage.axes
            step = min(_COPIED, owned)
            row = self.writer.fresh("row")
            with self.writer.block(f"for {row} in range({self.first}, {self.end}, {step}):"):
                places = positions(self.writer, axis, row, step, 0, 2, self.head.sizes)
                if step == 1:
                    inside = f"{places.text} < {self.expressions.text(axis.extent)}"
                    places = AxisValue(places.text, wide=places.wide, mask=self.writer.assign("inside", inside))
                block = self._block({**lanes.axes, axis.symbol: places}, [str(step), lanes.shape[1]])
                block.run(number, stage.ops)
        if self.number:
            self.writer.line("tl.debug_barrier()")

    # The updates.

    def _count(self) -> Dim:
        return product([a.extent for a in self.stage.axes])

    def _split(self, flat: str, wide: bool, dims: frozenset[int]) -> dict[Symbol, AxisValue]:
        """The axes of the updates from the number of an update."""
        found: dict[Symbol, AxisValue] = {}
        rest = flat
        for at, axis in enumerate(reversed(self.stage.axes)):
            if at == len(self.stage.axes) - 1:
                found[axis.symbol] = AxisValue(rest, dims, wide)
                break
            extent = self.expressions.text(axis.extent, wide or None)
            found[axis.symbol] = AxisValue(
                self.writer.assign(axis.symbol.name, f"{rest} % ({extent})"), dims, wide
            )
            rest = self.writer.assign("rest", f"{rest} // ({extent})")
        return found

    def _range(self, step: int) -> tuple[str, str, bool]:
        """The head of a loop over updates, its variable, whether that is an i64."""
        count = self._count()
        wide = not fits(count, 2 * step)
        variable = self.writer.fresh("update")
        start = "tl.full((), 0, tl.int64)" if wide else "0"
        end = self.expressions.text(count, wide or None)
        return f"for {variable} in range({start}, {end}, {step}):", variable, wide

    def _search(self, lanes: _Lanes) -> None:
        """Look for the updates of this program's rows, many at a time; add them one by one."""
        writer = self.writer
        head, first, wide = self._range(_SEARCHED)
        last = 2**63 - 1 if wide else 2**31 - 1
        with writer.block(head):
            place = writer.assign("place", f"{first} + tl.arange(0, {_SEARCHED})")
            inside = writer.assign("inside", f"{place} < {self.expressions.text(self._count(), wide or None)}")
            mine = self._mine(place, inside, wide)
            at = writer.assign("at", f"tl.min(tl.where({mine}, {place}, {last}), axis=0)")
            with writer.block(f"while {at} < {last}:"):
                self._add_one(at, wide, lanes)
                writer.line(f"{at} = tl.min(tl.where({mine} & ({place} > {at}), {place}, {last}), axis=0)")

    def _mine(self, place: str, inside: str, wide: bool) -> str:
        """Which of some updates fall on this program's rows."""
        if self.target is None:
            return inside
        axes = self._split(place, wide, frozenset({0}))
        axes = {s: AxisValue(v.text, v.dims, v.wide, inside) for s, v in axes.items()}
        block = self._block(axes, [str(_SEARCHED)])
        self._emit(block, self._needed(self.target))
        row = block.values[self.target].text
        return self.writer.assign("mine", f"{inside} & ({row} >= {self.first}) & ({row} < {self.end})")

    def _add_one(self, at: str, wide: bool, lanes: _Lanes, own: bool = False) -> None:
        """Add one update to its row; with ``own`` each lane only to rows of this program."""
        axes = {**self._split(at, wide, frozenset()), **lanes.axes}
        block = self._block(axes, lanes.shape)
        refs = [r for r in references(self.store) if r.scope == self.number]
        self._emit(block, self._needed(*refs))
        store = self.store
        if own and isinstance(self.target, Ref):
            row = block.values[self.target]
            text = f"({row.text} >= {self.first}) & ({row.text} < {self.end})"
            if store.mask is not None:
                text = f"({text}) & {block.values[store.mask].text}"
            mask = Ref(self.number, len(self.stage.ops))
            block.values[mask] = Variable(self.writer.assign("own", text), row.dtype, row.dims)
            store = Store(store.buffer, store.index, store.value, store.mode, mask)
        block.store(store)

    def _each(self, lanes: _Lanes) -> None:
        """Go through the updates one by one, every lane with a row of its own."""
        head, update, wide = self._range(1)
        with self.writer.block(head):
            self._add_one(update, wide, lanes, own=True)

    def _compare(self, owned: int) -> None:
        """Compare this program's rows with many updates at a time."""
        writer, store = self.writer, self.store
        buffer = self.kernel.buffers[store.buffer]
        assert self.target is not None and len(store.index) == 1
        row = writer.assign("row", f"{self.first} + tl.arange(0, {owned})[None, :]")
        exists = writer.assign("exists", f"{row} < {self.expressions.text(self.rows)}")
        pointer = f"{self.head.pointers[store.buffer]} + {row}"
        old = from_memory(writer, buffer.dtype, f"tl.load({pointer}, mask={exists}, other=0)")
        total = writer.assign("total", old)
        combination = Combination("sum", buffer.dtype)
        head, first, wide = self._range(_DENSE_UPDATES)
        with writer.block(head):
            place = writer.assign("place", f"{first} + tl.arange(0, {_DENSE_UPDATES})[:, None]")
            inside = writer.assign("inside", f"{place} < {self.expressions.text(self._count(), wide or None)}")
            axes = self._split(place, wide, frozenset({0}))
            axes = {s: AxisValue(v.text, v.dims, v.wide, inside) for s, v in axes.items()}
            block = self._block(axes, [str(_DENSE_UPDATES), str(owned)])
            self._emit(block, self._needed(*[r for r in references(store) if r.scope == self.number]))
            hits = [inside, f"({block.values[self.target].text} == {row})"]
            if store.mask is not None:
                hits.append(block.values[store.mask].text)
            value = block.values[store.value].text
            found = f"tl.where({' & '.join(hits)}, {value}, {combination.identity()})"
            writer.line(f"{total} = {total} + {combination.along(writer, found, 0, True)}")
        result = combination.result(writer, total, buffer.dtype) if is_narrow(buffer.dtype) else total
        writer.line(f"tl.store({pointer}, {to_memory(writer, buffer.dtype, f'({result})')}, mask={exists})")


def _adds(op: object) -> bool:
    return isinstance(op, Store) and op.mode == "add"


def _mentioned(op: object) -> set[Symbol]:
    """The symbols in an op's expressions."""
    if isinstance(op, (Load, Store)):
        exprs: list[object] = list(op.index)
    else:
        exprs = [getattr(op, name) for name in ("expr", "element", "operation") if hasattr(op, name)]
    return {s for e in exprs if isinstance(e, Expr) for s in symbols(e)}
