"""LoopKernel → LLVM IR.

Two forms. *Lanes over the grid*: the vector axis is a grid axis, every lane is a grid point; used for pointwise
work and for reductions over outer axes. *Lanes over the stages*: one grid point at a time, the vector axis is the
innermost axis of each stage; used for reductions over inner axes, with a horizontal step in a fixed order.
Axes that all accesses step through as one are merged first. The remainder of a vector loop runs under a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tessera.ir.dims import Dim, Symbol, add, bounds, ceildiv, mul, product
from tessera.ir.dtype import DType, i64
from tessera.target.cpu.access import (
    FlatLoad,
    FlatOp,
    FlatStore,
    emit_dim,
    linear,
)
from tessera.target.cpu.body import Body, Point
from tessera.target.cpu.convert import memory_type
from tessera.target.cpu.cost import cycles_per_vector, grain_of, scaled
from tessera.target.cpu.emit import Module, Val
from tessera.target.cpu.kernel import CompiledText, open_kernel
from tessera.target.cpu.levels import Level
from tessera.target.cpu.microkernel import transpose
from tessera.target.cpu.reduce import Accumulator
from tessera.target.cpu.vectorize import LoopPlan, plan_loops
from tessera.tile.ir import Axis, Buffer, Compute, Const, LoopKernel, Random, Reduce, Ref, Scan

NONTEMPORAL_BYTES = 32 << 20
"""Working set from which pure outputs bypass the caches."""
_STREAM_BYTES = 1 << 20
_CHUNK = 8192
_TILE = 16


def generate(module: Module, level: Level, kernel: LoopKernel, name: str) -> CompiledText:
    """Write the kernel into ``module`` as the entry ``name``; returns its grid, grain and scratch."""
    plan = plan_loops(level, kernel)
    writer = _Writer(module, level, kernel, plan, name)
    return writer.write()


def _may_exceed(buffer: Buffer, limit: int) -> bool:
    """Whether a buffer can have more than ``limit`` bytes."""
    high = bounds(product(buffer.shape))[1]
    return high is None or high * buffer.dtype.itemsize > limit


def _combiner(accs: dict[int, Accumulator], state: dict[int, list[list[Val]]], k: int, position: Val,
              mask: Val | None) -> Callable[[int, Reduce | Scan, Val, DType], Val | None]:
    """What takes the values of Reduce and Scan ops into copy ``k`` of the accumulators."""

    def combine(i: int, op: Reduce | Scan, value: Val, dtype: DType) -> Val | None:
        total = state[i][k]
        state[i][k] = accs[i].add(total, [accs[i].lift(value), position][:len(total)], mask)
        return accs[i].result(state[i][k]) if isinstance(op, Scan) else None

    return combine


class _Writer:
    """Writes one LoopKernel."""

    def __init__(self, module: Module, level: Level, kernel: LoopKernel, plan: LoopPlan, name: str) -> None:
        self.module, self.level, self.kernel, self.plan, self.name = module, level, kernel, plan, name
        self.b, self.pointers, self.sizes, finish = open_kernel(module, level, kernel, name)
        self.finish = finish
        self.fence = False  # whether stores bypass the caches and must be ordered at the end
        self.body = Body(self.b, level, kernel.buffers, self.pointers, self.sizes)

    def write(self) -> CompiledText:
        plan = self.plan
        if plan.vector is None:
            grid, grain = self._write_rows()
        else:
            grid, grain = self._write_lanes_over_grid()
        if self.fence:
            self.module.declare("llvm.x86.sse.sfence", "declare void @llvm.x86.sse.sfence()")
            self.b.line("call void @llvm.x86.sse.sfence()")
        self.finish()
        return CompiledText(self.name, grid, grain, 0)

    @property
    def vector(self) -> Symbol:
        """The grid axis of the lanes."""
        assert self.plan.vector is not None
        return self.plan.vector

    # the unit loop

    def _units(self, extents: Sequence[Dim], write: Callable[[list[Val]], None]) -> None:
        """Loop over units [begin, end) of a row-major index space; indices advance with carries."""
        b = self.b
        values = [emit_dim(b, e, self.sizes) for e in extents]
        begin, end = b.args["begin"], b.args["end"]
        start = []
        rest = begin
        for v in reversed(values[1:]):
            safe = v if v.const else b.select(v.eq(0), 1, v)
            start.insert(0, b.binary("urem", rest, safe))
            rest = b.binary("udiv", rest, safe)
        if values:
            start.insert(0, rest)
        with b.loop(begin, end, carried=start if len(start) > 1 else []) as loop:
            indices = loop.vars if loop.vars else ([loop.i] if values else [])
            write(list(indices))
            if loop.vars:
                following = []
                carry = b.const(True, "i1")
                for index, extent in zip(reversed(indices), reversed(values)):
                    up = b.select(carry, index + 1, index)
                    full = up.ge(extent) if len(following) < len(indices) - 1 else b.const(False, "i1")
                    following.insert(0, b.select(full, 0, up))
                    carry = full
                loop.next = following

    def _cycles(self) -> Dim:
        """Cycles of one vector of grid points (lanes over the grid) or of one grid point."""
        total: Dim = 4
        for axes, ops in self.plan.stages:
            per = cycles_per_vector(ops)
            extent = product(a.extent for a in axes)
            if self.plan.vector is None and axes:
                total = add(total, add(4, scaled(per, extent, self.plan.lanes)))
            else:
                total = add(total, mul(per, extent))
        return total

    # lanes over the grid

    def _write_lanes_over_grid(self) -> tuple[Dim, Dim]:
        plan = self.plan
        outer, last = plan.grid[:-1], plan.grid[-1]
        tile = self._tile_axis()
        chunk = self._chunk()
        extents: list[Dim] = [ceildiv(a.extent, _TILE) if a is tile else a.extent for a in outer]
        chunks = ceildiv(last.extent, chunk)
        one_chunk = chunks == 1
        if not one_chunk:
            extents.append(chunks)

        def unit(indices: list[Val]) -> None:
            b = self.b
            axes = {a.symbol: i for a, i in zip(outer, indices)}
            extent = emit_dim(b, last.extent, self.sizes)
            start: Val = b.const(0, "i64")
            stop = extent
            if not one_chunk:
                start = indices[-1] * chunk
                stop = b.intrinsic("smin", start + chunk, extent)
            width = self._known_width(last.extent, chunk)
            if tile is None:
                self._vector_loop(axes, start, stop, width)
            else:
                first = axes[tile.symbol] * _TILE
                bound = b.intrinsic("smin", first + _TILE, emit_dim(b, tile.extent, self.sizes))
                self._tiled_loop(axes, tile.symbol, first, bound, start, stop, width)

        self._units(extents, unit)
        size = last.extent if one_chunk else chunk
        cycles = scaled(1, mul(self._cycles(), size), plan.lanes)
        if tile is not None:
            cycles = mul(cycles, _TILE)
        return product(extents), grain_of(cycles)

    def _chunk(self) -> int:
        """Elements along the vector axis in one unit."""
        width = self.plan.lanes * self.plan.unroll
        if any(axes for axes, _ in self.plan.stages):
            return width
        cycles = self._cycles()
        per_vector = cycles if isinstance(cycles, int) else 32
        vectors = max(8, min(_CHUNK // self.plan.lanes, 40000 // max(1, per_vector)))
        return max(width, vectors * self.plan.lanes // width * width)

    @staticmethod
    def _known_width(extent: Dim, chunk: int) -> int | None:
        """Elements in a unit when it is the same for all units."""
        if isinstance(extent, int) and (extent % chunk == 0 or extent <= chunk):
            return min(extent, chunk)
        return None

    def _tile_axis(self) -> Axis | None:
        """The outer grid axis along which strided loads are contiguous, if any: it is walked in small tiles."""
        plan = self.plan
        if any(axes for axes, _ in plan.stages):
            return None
        for _, ops in plan.stages:
            for op in ops:
                if isinstance(op, (FlatLoad, FlatStore)):
                    form = linear(op.place.offset, [a.symbol for a in plan.grid])
                    if form.along(plan.vector) in (0, 1, None):
                        continue
                    for axis in plan.grid[:-1]:
                        if form.along(axis.symbol) == 1:
                            return axis
        return None

    def _vector_loop(self, axes: dict[Symbol, Val], start: Val, stop: Val, width: int | None) -> None:
        """Grid points [start, stop) of the vector axis."""
        flags = self._nontemporal_condition(axes, start)
        if flags is None:
            self._vector_segments(axes, start, stop, width)
            return
        condition, buffers = flags

        def fast() -> list[Val]:
            self.body.nontemporal = buffers
            streamed = [i for i, x in enumerate(self.kernel.buffers) if _may_exceed(x, _STREAM_BYTES)]
            self.body.prefetched = frozenset(streamed)
            self._vector_segments(axes, start, stop, width)
            self.body.nontemporal = self.body.prefetched = frozenset()
            return []

        def plain() -> list[Val]:
            self._vector_segments(axes, start, stop, width)
            return []

        self.b.branch(condition, fast, plain)

    def _segments(self, start: Val, stop: Val, width: int | None, lanes: int, unroll: int,
                  write: Callable[[Val, int, Val | None], None]) -> None:
        """Calls ``write(base, vectors, mask)`` in a main loop of full vectors and for the remainder."""
        b = self.b
        step = lanes * unroll
        main = stop
        whole = width is not None and width % step == 0
        if not whole:
            span = stop - start
            main = start + (span - b.binary("urem", span, step))
        if width is None or width >= step:
            with b.loop(start, main, step) as loop:
                write(loop.i, unroll, None)
        if not whole:
            with b.loop(main, stop, lanes) as loop:
                write(loop.i, 1, self._tail_mask(stop - loop.i, lanes))

    def _tail_mask(self, remaining: Val, lanes: int) -> Val | None:
        b = self.b
        if lanes == 1:
            return None
        count = b.convert("trunc", b.intrinsic("smin", remaining, lanes), "i32")
        return b.iota("i32", lanes).ult(b.broadcast(count, lanes))

    def _vector_segments(self, axes: dict[Symbol, Val], start: Val, stop: Val, width: int | None) -> None:
        plan = self.plan

        def write(base: Val, vectors: int, mask: Val | None) -> None:
            points = [
                Point({**axes, self.vector: base + u * plan.lanes}, plan.vector, plan.lanes, mask)
                for u in range(vectors)
            ]
            self._points(points)

        self._segments(start, stop, width, plan.lanes, plan.unroll, write)

    def _tiled_loop(self, axes: dict[Symbol, Val], tile: Symbol, first: Val, bound: Val, start: Val, stop: Val,
                    width: int | None) -> None:
        """Vectors outside, the tile axis inside: lines that strided loads touch are used while in cache."""
        plan, b = self.plan, self.b
        strided = self._transposed_loads(tile)

        def one_by_one(base: Val, mask: Val | None) -> list[Val]:
            with b.loop(first, bound) as loop:
                self._points([Point({**axes, tile: loop.i, self.vector: base}, plan.vector, plan.lanes, mask)])
            return []

        def write(base: Val, vectors: int, mask: Val | None) -> None:
            if mask is None and strided:
                b.branch((bound - first).eq(_TILE), lambda: self._transposed_block(axes, tile, first, base, strided),
                         lambda: one_by_one(base, mask))
            else:
                one_by_one(base, mask)

        self._segments(start, stop, width, plan.lanes, 1, write)

    def _transposed_loads(self, tile: Symbol) -> list[FlatLoad]:
        """Loads that are contiguous along the tile axis and strided along the vector axis."""
        plan, found = self.plan, []
        if plan.lanes < 2 or _TILE % plan.lanes:
            return []
        for _, ops in plan.stages:
            for op in ops:
                if isinstance(op, FlatLoad) and op.mask is None and not op.place.indirect:
                    form = linear(op.place.offset, [tile, self.vector])
                    if form.along(tile) == 1 and form.along(plan.vector) not in (0, 1, None):
                        found.append(op)
        return found

    def _transposed_block(self, axes: dict[Symbol, Val], tile: Symbol, first: Val, base: Val,
                          strided: Sequence[FlatLoad]) -> list[Val]:
        """A block of lanes × tile: strided loads read rows, transposed in registers, then the points run."""
        plan, b, lanes = self.plan, self.b, self.plan.lanes
        stages = []
        for op in strided:
            dtype = self.kernel.buffers[op.place.buffer].dtype
            t = memory_type(dtype)
            stage = b.alloca(t, _TILE * lanes)
            for block in range(0, _TILE, lanes):
                rows = []
                for r in range(lanes):
                    point = Point({**axes, tile: first + block, self.vector: base + r}, tile, lanes)
                    rows.append(b.load(self.body.row_pointer(point, op.place), t, lanes, dtype.itemsize))
                for r, row in enumerate(transpose(b, rows)):
                    b.store(b.pointer(stage, (block + r) * lanes, t), row, dtype.itemsize * lanes)
            stages.append((op, stage, t))
        with b.loop(first, first + _TILE) as loop:
            self.body.staged = {id(op): b.pointer(s, (loop.i - first) * lanes, t) for op, s, t in stages}
            self._points([Point({**axes, tile: loop.i, self.vector: base}, plan.vector, lanes)])
            self.body.staged = {}
        return []

    def _nontemporal_condition(self, axes: dict[Symbol, Val], start: Val) -> tuple[Val, frozenset[int]] | None:
        """When stores may bypass the caches: (aligned and large, buffers); None when they never should."""
        plan, b = self.plan, self.b
        if plan.vector is None or any(stage_axes for stage_axes, _ in plan.stages):
            return None
        total: Dim = 0
        for buffer in self.kernel.buffers:
            total = add(total, mul(product(buffer.shape), buffer.dtype.itemsize))
        high = bounds(total)[1]
        if high is not None and high < NONTEMPORAL_BYTES:
            return None
        stores = [o for _, ops in plan.stages for o in ops if isinstance(o, FlatStore)]
        loaded = {o.place.buffer for _, ops in plan.stages for o in ops if isinstance(o, FlatLoad)}
        condition = emit_dim(b, total, self.sizes).ge(NONTEMPORAL_BYTES)
        buffers = set()
        for op in stores:
            buffer = self.kernel.buffers[op.place.buffer]
            contiguous = linear(op.place.offset, [self.vector]).along(self.vector) == 1
            vector_bytes = buffer.dtype.itemsize * plan.lanes
            if not contiguous or op.mode != "set" or op.mask is not None or op.place.indirect or vector_bytes < 16:
                continue
            if op.place.buffer in loaded or buffer.role != "out" or buffer.may_alias:
                continue
            offset = emit_dim(b, op.place.offset, {**self.sizes, **axes, self.vector: start})
            address = b.convert("ptrtoint", self.pointers[op.place.buffer], "i64") + offset * buffer.dtype.itemsize
            condition = condition & (address & (vector_bytes - 1)).eq(0)
            buffers.add(op.place.buffer)
        if not buffers:
            return None
        self.fence = True
        return condition, frozenset(buffers)

    def _points(self, points: list[Point]) -> None:
        """All stages for vectors of grid points in lockstep."""
        for number, (axes, ops) in enumerate(self.plan.stages):
            if axes:
                self._stage_in_lockstep(points, number, axes, ops)
            else:
                for point in points:
                    self._run_once(point, number, ops)

    def _run_once(self, point: Point, number: int, ops: Sequence[FlatOp]) -> None:
        """A stage without axes (or whose axes have extent 1): a reduction of one value."""

        def combine(i: int, op: Reduce | Scan, value: Val, dtype: DType) -> Val:
            acc = Accumulator(self.b, self.level, op.combine, dtype, op.dtype)
            if acc.positional:
                return self.b.const(0, "i64", value.n)
            return acc.result([acc.lift(value)])

        self.body.run(point, number, ops, combine)

    def _stage_in_lockstep(self, points: list[Point], number: int, axes: list[Axis], ops: Sequence[FlatOp]) -> None:
        b = self.b
        accs = self._accumulators(number, ops)
        n = self.plan.lanes if self.plan.vector is not None else 1
        totals = {i: [acc.initial(n) for _ in points] for i, acc in accs.items()}
        flat = [v for i in accs for t in totals[i] for v in t]

        def nest(remaining: list[Axis], fixed: dict[Symbol, Val], carried: list[Val]) -> list[Val]:
            if remaining:
                axis = remaining[0]
                with b.loop(0, emit_dim(b, axis.extent, self.sizes), carried=carried) as loop:
                    loop.next = nest(remaining[1:], {**fixed, axis.symbol: loop.i}, loop.vars)
                return loop.results
            state = self._unpack(accs, carried, len(points))
            for k, point in enumerate(points):
                inner = point.inner(fixed)

                self.body.run(inner, number, ops, _combiner(accs, state, k, fixed[axes[-1].symbol], None))
            return [v for i in accs for t in state[i] for v in t]

        results = self._unpack(accs, nest(axes, {}, flat), len(points))
        for i, acc in accs.items():
            if isinstance(ops[i], Reduce):
                for k, point in enumerate(points):
                    point.values[number, i] = (acc.result(results[i][k]), acc.dtype)

    def _accumulators(self, number: int, ops: Sequence[FlatOp]) -> dict[int, Accumulator]:
        """The accumulator of each Reduce and Scan of a stage."""
        return {
            i: Accumulator(self.b, self.level, op.combine, self._dtype_of(number, ops, op.value), op.dtype)
            for i, op in enumerate(ops) if isinstance(op, (Reduce, Scan))
        }

    def _dtype_of(self, number: int, ops: Sequence[FlatOp], ref: Ref) -> DType:
        op = ops[ref.index] if ref.scope == number else self.plan.stages[ref.scope][1][ref.index]
        if isinstance(op, FlatLoad):
            return self.kernel.buffers[op.place.buffer].dtype
        if isinstance(op, (Compute, Const, Random, Reduce, Scan)):
            return op.dtype
        return i64

    @staticmethod
    def _unpack(accs: dict[int, Accumulator], flat: Sequence[Val], copies: int) -> dict[int, list[list[Val]]]:
        out: dict[int, list[list[Val]]] = {}
        at = 0
        for i, acc in accs.items():
            width = 2 if acc.positional else 1
            out[i] = [list(flat[at + k * width: at + (k + 1) * width]) for k in range(copies)]
            at += width * copies
        return out

    # lanes over the stages

    def _write_rows(self) -> tuple[Dim, Dim]:
        plan = self.plan
        self.body.prefetched = frozenset(
            i for i, x in enumerate(self.kernel.buffers)
            if bounds(product(x.shape))[0] * x.dtype.itemsize >= NONTEMPORAL_BYTES)

        def unit(indices: list[Val]) -> None:
            point = Point({a.symbol: i for a, i in zip(plan.grid, indices)})
            for number, (axes, ops) in enumerate(plan.stages):
                if not axes:
                    self._run_once(point, number, ops)
                elif plan.lanes == 1:
                    self._stage_in_lockstep([point], number, axes, ops)
                else:
                    self._row_stage(point, number, axes, ops)

        self._units([a.extent for a in plan.grid], unit)
        return product(a.extent for a in plan.grid), grain_of(self._cycles())

    def _row_stage(self, point: Point, number: int, axes: list[Axis], ops: Sequence[FlatOp]) -> None:
        b, lanes = self.b, self.plan.lanes
        accs = self._accumulators(number, ops)
        last = axes[-1]
        unroll = self.plan.unroll
        if isinstance(last.extent, int):
            while unroll > 1 and last.extent < lanes * unroll:
                unroll //= 2
        flat = [v for acc in accs.values() for _ in range(unroll) for v in acc.initial(lanes)]
        positional = any(acc.positional for acc in accs.values())

        def step(fixed: dict[Symbol, Val], base: Val, vectors: int, mask: Val | None, carried: list[Val]) -> list[Val]:
            state = self._unpack(accs, carried, unroll)
            for k in range(vectors):
                position = base + k * lanes
                inner = point.inner({**fixed, last.symbol: position}, last.symbol, lanes, mask)

                where = b.broadcast(position, lanes) + b.iota("i64", lanes) if positional else position
                self.body.run(inner, number, ops, _combiner(accs, state, k, where, mask))
            return [v for i in accs for t in state[i] for v in t]

        def nest(remaining: list[Axis], fixed: dict[Symbol, Val], carried: list[Val]) -> list[Val]:
            if len(remaining) > 1:
                axis = remaining[0]
                with b.loop(0, emit_dim(b, axis.extent, self.sizes), carried=carried) as loop:
                    loop.next = nest(remaining[1:], {**fixed, axis.symbol: loop.i}, loop.vars)
                return loop.results
            return self._row_loop(last, unroll, carried, lambda *a: step(fixed, *a))

        results = self._unpack(accs, nest(axes, {}, flat), unroll)
        for i, acc in accs.items():
            point.values[number, i] = (acc.horizontal(results[i]), acc.dtype)

    def _row_loop(self, axis: Axis, unroll: int, carried: list[Val],
                  step: Callable[[Val, int, Val | None, list[Val]], list[Val]]) -> list[Val]:
        """The innermost vector loop: full vectors, ``unroll`` at a time, then masked single ones."""
        b, lanes = self.b, self.plan.lanes
        extent = emit_dim(b, axis.extent, self.sizes)
        block = lanes * unroll
        whole = isinstance(axis.extent, int) and axis.extent % block == 0
        main = extent if whole else extent - b.binary("urem", extent, block)
        if not isinstance(axis.extent, int) or axis.extent >= block:
            with b.loop(0, main, block, carried=carried) as loop:
                loop.next = step(loop.i, unroll, None, loop.vars)
            carried = loop.results
        if not whole:
            with b.loop(main, extent, lanes, carried=carried) as loop:
                loop.next = step(loop.i, 1, self._tail_mask(extent - loop.i, lanes), loop.vars)
            carried = loop.results
        return carried
