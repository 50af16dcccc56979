"""Loop kernels in Triton: a program works on a block of grid points, and goes through the stages one after the other.

A stage whose axes fit into the block as a whole has no loop: what it reads and computes stays in registers for the
stages that follow. Otherwise it loops over blocks of its axes, and reductions are accumulated element by element
before they are combined across the block: the order is fixed, so results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tessera.ir.dims import Dim, bounds, is_multiple, sym
from tessera.ir.dtype import DType, i64
from tessera.target.triton.ahead import ask_ahead
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.convert import constant, register_type
from tessera.target.triton.exponentials import of_differences
from tessera.target.triton.expression import AxisValue, fits
from tessera.target.triton.head import Head, Options, grid_positions, positions
from tessera.target.triton.launch import Program
from tessera.target.triton.points import at_points
from tessera.target.triton.reduce import LAST, Combination
from tessera.target.triton.tiles import Blocks, choose
from tessera.tile.ir import Axis, Compute, Load, LoopKernel, Reduce, Ref, Scan, Stage, Store

_WARP = 64
"""Threads of a warp, at most: AMD's."""


def generate(kernel: LoopKernel, options: Options, blocks: Blocks | None = None) -> Program:
    """The program of a loop kernel, with the blocks that suit it or those given."""
    blocks = blocks or choose(kernel)
    head, count, warps = written(kernel, options, blocks)
    return head.program((count,), warps=warps, registers=blocks.registers)


def written(kernel: LoopKernel, options: Options, blocks: Blocks | None = None) -> tuple[Head, Dim, int]:
    """The function of a loop kernel, how many programs run it, and of how many warps each."""
    blocks = blocks or choose(kernel)
    kernel = prepared(kernel, options)
    head = Head(kernel, options)
    found, count = grid_positions(head.writer, kernel.grid, blocks.sizes, blocks.rank, head.sizes)
    ask_ahead(head, kernel, blocks)
    shape = [str(n) for n in blocks.shape()]
    block = Block(head.writer, kernel.buffers, head.pointers, {**head.sizes, **found}, shape)
    Stages(kernel, blocks, block).emit()
    return head, count, min(blocks.warps, most_warps(options))


def prepared(kernel: LoopKernel, options: Options) -> LoopKernel:
    """The kernel in the form that programs are written from."""
    kernel = at_points(kernel)
    return of_differences(kernel) if options.architecture.startswith("sm_") else kernel


def most_warps(options: Options) -> int:
    """The most warps of a program: 1024 threads, of which a warp has 64 on AMD's."""
    return 32 if options.architecture.startswith("sm_") else 16


@dataclass(slots=True)
class _Accumulator:
    combination: Combination
    value: str
    position: str = ""


class Stages:
    """The stages of a kernel on one block."""

    def __init__(self, kernel: LoopKernel, blocks: Blocks, block: Block) -> None:
        self.kernel, self.blocks, self.block = kernel, blocks, block
        self.writer = block.writer
        self._touched: dict[int, set[str]] = {}
        self._pieces: dict[int, tuple[AxisValue, dict[Any, Variable]]] = {}

    def emit(self) -> None:
        """Emit all stages."""
        for number, stage in enumerate(self.kernel.stages):
            self.order(stage)
            if stage.axes:
                self._loop(number, stage)
            else:
                self._ops(number, stage, {}, {})

    # Order of accesses to the same memory by different threads.

    def order(self, stage: Stage) -> None:
        """A barrier where this stage meets memory that an earlier one read or wrote in the other way."""
        accesses = {
            (op.buffer, isinstance(op, Store)) for op in stage.ops
            if isinstance(op, Load) or (isinstance(op, Store) and op.mode != "sum")  # which stays in registers
        }
        wait = False
        for buffer, writes in accesses:
            for other in self.block.same(buffer):
                kinds = self._touched.get(other, set())
                wait |= "store" in kinds or (writes and "load" in kinds and not self.has_waited(stage, buffer))
        if wait:
            self.writer.line("tl.debug_barrier()")
            self._touched.clear()
        for buffer, writes in accesses:
            self._touched.setdefault(buffer, set()).add("store" if writes else "load")

    def has_waited(self, stage: Stage, buffer: int) -> bool:
        """Whether all that was read of a buffer has arrived before the stage stores to it, without a barrier."""
        return False

    def _in_place(self, stage: Stage) -> bool:
        """Whether the stage writes memory of which other threads may still have to read."""
        loads = [(i, op) for i, op in enumerate(stage.ops) if isinstance(op, Load)]
        return any(
            load.buffer in self.block.same(op.buffer) and not self._follows(stage, op, load, i)
            for op in stage.ops if isinstance(op, Store) for i, load in loads
        )

    def _follows(self, stage: Stage, store: Store, load: Load, at: int) -> bool:
        """Whether a store writes the element that a load reads, after it: what it stores is made of what was read.

        Then nothing needs to wait, as long as one thread alone reads the element.
        """
        if store.buffer != load.buffer or store.index != load.index or load.mask is not None:
            return False
        inside = [*(a.symbol for a in stage.axes), *self.blocks.sizes]
        if not all(sym(s) in load.index for s in inside):
            return False
        if prod(self.blocks.shape()) < _WARP * self.blocks.warps:
            return False
        return Ref(self.kernel.stages.index(stage), at) in _made_of(self.kernel, store.value)

    # Loops.

    def _loop(self, number: int, stage: Stage) -> None:
        whole = all(_is_whole(a, self._size(a)) for a in stage.axes)
        scans = [op for op in stage.ops if isinstance(op, Scan)]
        accumulators: dict[int, _Accumulator] = {}
        carries: dict[int, str] = {}
        if not whole:
            accumulators = {i: self._start(op, number) for i, op in enumerate(stage.ops) if isinstance(op, Reduce)}
            carries = {i: self._carry(op, number) for i, op in enumerate(stage.ops) if isinstance(op, Scan)}
            memo = dict(self.block.memo)
        if scans and len(stage.axes) != 1:
            raise AssertionError("a scan runs along one axis")

        def body() -> None:
            self._ops(number, stage, accumulators, carries)
            if not whole and self._in_place(stage):
                self.writer.line("tl.debug_barrier()")

        inside = list(self.block.inside)
        # What needs no loop stands before the loops, where later stages reach it.
        self._nest(sorted(stage.axes, key=lambda a: not _is_whole(a, self._size(a))), body)
        self.block.inside = inside
        if not whole and not self.blocks.kept:
            self.block.leave(memo)
        for i, accumulator in accumulators.items():
            op = stage.ops[i]
            assert isinstance(op, Reduce)
            self._finish(Ref(number, i), op, accumulator, stage)

    def _size(self, axis: Axis) -> int:
        return self.blocks.sizes.get(axis.symbol, (0, 1))[1]

    def _nest(self, axes: Sequence[Axis], body: Callable[[], None]) -> None:
        """A body once for every point of these axes, in loops over their blocks."""
        if not axes:
            body()
            return
        axis, *rest = axes
        size = self._size(axis)
        self.block.inside.append(axis.symbol)
        if _is_whole(axis, size):
            if axis.symbol not in self.block.axes:
                self.block.axes[axis.symbol] = self.positions(axis, "")
            self._nest(rest, body)
            return
        if self.blocks.kept:
            self.kept(axis, size, body)
            return
        masked = not is_multiple(axis.extent, size)
        wide = not fits(axis.extent, 2 * size)
        extent = self.block.expressions.text(axis.extent, wide or None)
        start = "tl.full((), 0, tl.int64)" if wide else "0"
        if masked and not rest and size > 1:
            # Whole blocks need no masks; one more block, with masks, holds what is left.
            whole = self._whole_blocks(axis.extent, extent, size, wide)
            if whole is not None:
                self._blocks(axis, (start, whole), rest, body, masked=False)
                start = whole
        self._blocks(axis, (start, extent), rest, body, masked=masked)

    def _whole_blocks(self, extent: Dim, text: str, size: int, wide: bool) -> str | None:
        """How many elements of an axis are in whole blocks; None where there are certainly none."""
        if not isinstance(extent, int):
            return self.writer.assign("whole", f"({text}) // {size} * {size}")
        count = extent // size * size
        return None if count == 0 else f"tl.full((), {count}, tl.int64)" if wide else str(count)

    def _blocks(
        self, axis: Axis, ends: tuple[str, str], rest: Sequence[Axis], body: Callable[[], None], masked: bool
    ) -> None:
        """A loop over the blocks of an axis from one position to another."""
        block = self.block
        first = self.writer.fresh(f"{axis.symbol.name}_first")
        memo, inside = dict(block.memo), list(block.inside)
        with self.writer.block(f"for {first} in range({ends[0]}, {ends[1]}, {self._size(axis)}):"):
            block.axes[axis.symbol] = self.positions(axis, first, masked)
            self._nest(rest, body)
        del block.axes[axis.symbol]
        block.leave(memo)
        block.inside = inside

    def kept(self, axis: Axis, size: int, body: Callable[[], None]) -> None:
        """The blocks of an axis one after the other, without a loop: what is known of each stays for later stages."""
        block = self.block
        assert isinstance(axis.extent, int)
        for first in range(0, axis.extent, size):
            if first not in self._pieces:
                self._pieces[first] = self.positions(axis, str(first), first + size > axis.extent), {}
            block.axes[axis.symbol], own = self._pieces[first]
            outside = dict(block.memo)
            block.memo.update(own)
            body()
            del block.axes[axis.symbol]
            own.clear()
            own.update({k: v for k, v in block.memo.items() if k not in outside})
            block.leave(outside)

    def positions(self, axis: Axis, first: str, masked: bool | None = None) -> AxisValue:
        """The positions along an axis in the block that begins at ``first``."""
        dim, size = self.blocks.sizes.get(axis.symbol, (0, 1))
        sizes = {s: v for s, v in self.block.axes.items() if s in self.kernel.sizes}
        return positions(self.writer, axis, first, size, dim, self.blocks.rank, sizes, masked)

    def _ops(
        self, number: int, stage: Stage, accumulators: dict[int, _Accumulator], carries: dict[int, str]
    ) -> None:
        waited = not self._in_place(stage)
        for i, op in enumerate(stage.ops):
            ref = Ref(number, i)
            if isinstance(op, Store) and op.mode == "sum":
                self.add_up(op)
            elif isinstance(op, Store):
                if not waited and op.mode == "set":
                    self.writer.line("tl.debug_barrier()")
                    waited = True
                self.block.store(op)
                if any(isinstance(d, Ref) for d in op.index):  # in any of the pieces of a row
                    self.block.forget(op.buffer, *(own for _, own in self._pieces.values()), self.block.memo)
            elif isinstance(op, Reduce):
                self._reduce(ref, op, stage, accumulators.get(i))
            elif isinstance(op, Scan):
                self._scan(ref, op, stage, carries.get(i))
            else:
                self.block.values[ref] = self.block.simple(op)

    def add_up(self, op: Store) -> None:
        """A value of a sum over all points of the grid."""
        raise AssertionError("a sum over rows needs a program that owns rows")

    # Reductions.

    def _combination(self, op: Reduce) -> Combination:
        return Combination(op.combine, self.block.values[op.value].dtype)

    def _start(self, op: Reduce, number: int) -> _Accumulator:
        """An accumulator with nothing in it."""
        source = _dtype_of(self.kernel, op.value, self.block.values)
        combination = Combination(op.combine, source)
        shape = self.block.shape_text() if self.block.shape else "()"
        value = self.writer.assign(
            op.combine + "_", f"{self.zeros(shape, register_type(combination.dtype))} + {combination.identity()}"
        )
        if not combination.positional:
            return _Accumulator(combination, value)
        axis = self.kernel.stages[number].axes[0]
        last, kind = (LAST, "tl.int32") if fits(axis.extent, 1 << 20) else (2**63 - 1, "tl.int64")
        return _Accumulator(combination, value, self.writer.assign("place", f"{self.zeros(shape, kind)} + {last}"))

    def zeros(self, shape: str, kind: str) -> str:
        """The text of a block of zeros."""
        return f"tl.zeros({shape}, {kind})"

    def _inside(self, stage: Stage) -> list[str]:
        """The masks of the stage's own axes."""
        masks = [self.block.axes[a.symbol].mask for a in stage.axes]
        return [m for m in masks if m is not None]

    def _reduce(self, ref: Ref, op: Reduce, stage: Stage, accumulator: _Accumulator | None) -> None:
        combination = self._combination(op)
        source = self.block.values[op.value]
        key = ("reduce", op.combine, source.text, op.dtype)
        if accumulator is None and key in self.block.memo:
            self.block.values[ref] = self.block.memo[key]
            return
        value = combination.widened(self.writer, self.block.broadcast(source))
        masks = self._inside(stage)
        if masks:
            value = f"tl.where({' & '.join(masks)}, {value}, {combination.identity()})"
        if combination.positional:
            self._reduce_position(ref, stage, combination, value, accumulator)
        elif accumulator is not None:
            kept = accumulator.value
            self.writer.line(f"{kept} = {combination.pair(self.writer, kept, value)}")
        else:
            self._result(ref, op, combination, value, stage)
            self.block.memo[key] = self.block.values[ref]

    def _reduce_position(
        self, ref: Ref, stage: Stage, combination: Combination, value: str, accumulator: _Accumulator | None
    ) -> None:
        axis = self.block.axes[stage.axes[0].symbol]
        place = self.block.spread(axis.text) if len(axis.dims) < len(self.block.shape) else axis.text
        if accumulator is not None:
            a, i = accumulator.value, accumulator.position
            place = f"{place} + tl.zeros_like({i})" if not self.block.shape else place
            self.writer.line(f"{a}, {i} = {combination.pair_at(self.writer, a, i, value, place)}")
            return
        last = self.writer.assign("place", self._masked_place(place, stage))
        self._place(ref, stage, combination, value, last)

    def _masked_place(self, place: str, stage: Stage) -> str:
        masks = self._inside(stage)
        return f"tl.where({' & '.join(masks)}, {place}, {LAST})" if masks else place

    def _place(self, ref: Ref, stage: Stage, combination: Combination, value: str, place: str) -> None:
        dim, keep, dims = self.along(stage)
        if dim is None and not self._reduced(stage):
            self.block.values[ref] = Variable(self.writer.assign("place", f"{place}.to(tl.int64)"), i64, dims)
            return
        function = "larger_at" if combination.combine == "argmax" else "smaller_at"
        self.writer.functions[function] = None
        name = self.writer.fresh("place")
        more = ", keep_dims=True" if keep else ""
        value = self.writer.assign("value", value)
        self.writer.line(f"_, {name} = tl.reduce(({value}, {place}), {dim}, {function}{more})")
        self.block.values[ref] = Variable(self.writer.assign("place", f"{name}.to(tl.int64)"), i64, dims)

    def _finish(self, ref: Ref, op: Reduce, accumulator: _Accumulator, stage: Stage) -> None:
        """The result from an accumulator."""
        if accumulator.combination.positional:
            self._place(ref, stage, accumulator.combination, accumulator.value, accumulator.position)
        else:
            self._result(ref, op, accumulator.combination, accumulator.value, stage)

    def _reduced(self, stage: Stage) -> list[int]:
        """The dimensions of the block that belong to the stage's axes."""
        sizes = self.blocks.sizes
        return sorted({sizes[a.symbol][0] for a in stage.axes if a.symbol in sizes})

    def along(self, stage: Stage) -> tuple[int | None, bool, frozenset[int]]:
        """The dimension to reduce (None: all), whether it is kept with size 1, and over which the result varies."""
        reduced = self._reduced(stage)
        left = frozenset(range(self.blocks.rank)) - set(reduced)
        if not left or not reduced:
            return None, False, left
        assert len(reduced) == 1
        return reduced[0], True, left

    def _result(self, ref: Ref, op: Reduce, combination: Combination, value: str, stage: Stage) -> None:
        dim, keep, dims = self.along(stage)
        if self._reduced(stage):
            value = combination.along(self.writer, value, dim, keep)
        name = self.writer.assign(op.combine + "_", combination.result(self.writer, value, op.dtype))
        self.block.values[ref] = Variable(name, op.dtype, dims)

    # Scans.

    def _carry(self, op: Scan, number: int) -> str:
        """The running sum before the first element."""
        combination = Combination("sum", _dtype_of(self.kernel, op.value, self.block.values))
        reduced = self._reduced(self.kernel.stages[number])
        shape = ["1" if k in reduced else n for k, n in enumerate(self.block.shape)]
        text = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})" if shape else "()"
        return self.writer.assign("carry", f"tl.zeros({text}, {register_type(combination.dtype)})")

    def _scan(self, ref: Ref, op: Scan, stage: Stage, carry: str | None) -> None:
        source = self.block.values[op.value]
        combination = Combination("sum", source.dtype)
        masks = self._inside(stage)
        value = self.block.broadcast(source)
        if masks:
            value = f"tl.where({' & '.join(masks)}, {value}, {constant(0, combination.dtype)})"
        value = self.writer.assign("value", value)
        reduced = self._reduced(stage)
        running = f"tl.cumsum({value}, axis={reduced[0]})" if reduced else value
        if carry is not None:
            running = f"{carry} + {running}"
        running = self.writer.assign("running", running)
        if carry is not None:
            part = f"tl.sum({value}, axis={reduced[0]}, keep_dims=True)" if reduced else value
            self.writer.line(f"{carry} = {carry} + {part}")
        result = self.writer.assign("scan", combination.result(self.writer, running, op.dtype))
        self.block.values[ref] = Variable(result, op.dtype, frozenset(range(self.blocks.rank)))


def _made_of(kernel: LoopKernel, ref: Ref) -> set[Ref]:
    """All values of its stage that a value needs, and itself."""
    found, left = {ref}, [ref]
    while left:
        op = kernel.stages[ref.scope].ops[left.pop().index]
        new = {r for r in op.args if r.scope == ref.scope} - found if isinstance(op, Compute) else set()
        found |= new
        left += new
    return found


def _is_whole(axis: Axis, size: int) -> bool:
    """Whether a block of this size holds the whole axis; one element holds no axis that may be empty."""
    least, most = bounds(axis.extent)
    if most is None and axis.symbol.max is not None:
        most = axis.symbol.max + 1
    return most is not None and size >= most and (size > 1 or least >= 1)


def _dtype_of(kernel: LoopKernel, ref: Ref, values: dict[Ref, Variable]) -> DType:
    """The dtype of a value that may not be emitted yet."""
    if ref in values:
        return values[ref].dtype
    op = kernel.stages[ref.scope].ops[ref.index]
    if isinstance(op, Load):
        return kernel.buffers[op.buffer].dtype
    return getattr(op, "dtype", i64)
