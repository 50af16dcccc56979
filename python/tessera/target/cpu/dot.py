"""DotKernel → LLVM IR: blocked matrix products with fused prologues and epilogue.

A unit of the grid is a block of the product: some row panels × some column panels of one batch entry. Units with
the same columns follow each other, so a thread packs its columns of b once. a is read in place when its rows have
a constant distance, and packed panel by panel otherwise. The epilogue runs on each register tile right after its
last k block, lanes along n. Products with few rows read b in place (see ``thin``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, Symbol, add, bounds, ceildiv, dmin, floordiv, is_multiple, mul, product, symbols
from tessera.target.cpu.access import (
    FlatLoad,
    FlatOp,
    dims_of,
    emit_dim,
    flatten_op,
    linear,
    merge_axes,
    substitute_op,
)
from tessera.target.cpu.body import Body, Point, prepare
from tessera.target.cpu.convert import cast, register_type
from tessera.target.cpu.cost import cycles_per_vector, grain_of
from tessera.target.cpu.emit import Module, Val
from tessera.target.cpu.kernel import CompiledText, open_kernel
from tessera.target.cpu.levels import Level
from tessera.target.cpu.microkernel import (
    K_UNROLL,
    Element,
    Tile,
    ceil_divide,
    pack_a_columns,
    pack_a_rows,
    pack_b_rows,
    pack_b_transposed,
    register_rows,
    write_microkernel,
)
from tessera.tile.ir import Axis, Buffer, DotKernel, Op

_K_BLOCK = 512
_COLUMNS = 128
_ROWS = 128
_WHOLE_B_BYTES = 8 << 20
_UNBOUNDED_K = 16384
_OVERLAP = 0.02  # tolerated share of rows that are computed twice
ACCUMULATOR = 3  # scope of the accumulator in an epilogue


def generate(
    module: Module, level: Level, kernel: DotKernel, name: str, tiles: tuple[int, int, int] | None
) -> CompiledText:
    """Write the kernel into ``module`` as the entry ``name``; returns its grid, grain and scratch.

    ``tiles``: rows and columns of a unit and terms of a block of k, instead of those chosen here.
    """
    from tessera.target.cpu.thin import ThinDot

    frame = Frame(module, level, kernel, name, tiles)
    m = kernel.m.extent
    thin_rows = register_rows(level, 2)
    if isinstance(m, int) and m <= thin_rows:
        return ThinDot(frame).write()
    return _BlockedDot(frame).write()


@dataclass(frozen=True, slots=True)
class InPlace:
    """An operand that is a plain load of accumulator-typed elements: where, and its steps along both axes."""

    load: FlatLoad
    outer_step: Dim
    k_step: Dim


class Frame:
    """What all forms of a product share: the open builder, operand elements, the epilogue, batch axes."""

    def __init__(
        self, module: Module, level: Level, kernel: DotKernel, name: str, tiles: tuple[int, int, int] | None
    ) -> None:
        self.module, self.level, self.kernel, self.name, self.tiles = module, level, kernel, name, tiles
        bodies = [self._flat(kernel.buffers, ops) for ops in (kernel.a, kernel.b, kernel.epilogue)]
        self.batch, mapping = merge_axes(kernel.batch, [d for ops in bodies for o in ops for d in dims_of(o)])
        self.a, self.b_ops, self.epilogue_ops = ([substitute_op(o, mapping) for o in ops] for ops in bodies)
        self.m, self.n, self.k = kernel.m, kernel.n, kernel.k
        self.b, self.pointers, self.sizes, self.finish = open_kernel(module, level, kernel, name)
        self.body = Body(self.b, level, kernel.buffers, self.pointers, self.sizes)
        self.t = register_type(kernel.acc)
        self.lanes = level.lanes(kernel.acc.bits)

    @staticmethod
    def _flat(buffers: Sequence[Buffer], ops: Sequence[Op]) -> list[FlatOp]:
        return prepare([flatten_op(o, buffers) for o in ops])

    def in_place(self, ops: Sequence[FlatOp], axis: Axis) -> InPlace | None:
        """How to read an operand in place, when it is one unmasked load of the accumulator's dtype."""
        load = ops[-1]
        if len(ops) != 1 or not isinstance(load, FlatLoad) or load.mask is not None or load.place.indirect:
            return None
        if self.kernel.buffers[load.place.buffer].dtype != self.kernel.acc:
            return None
        form = linear(load.place.offset, [axis.symbol, self.k.symbol])
        outer, inner = form.along(axis.symbol), form.along(self.k.symbol)
        if outer is None or inner is None:
            return None
        return InPlace(load, outer, inner)

    def element(self, which: str, axes: Mapping[Symbol, Val]) -> Element:
        """The elements of operand ``a`` or ``b`` at the batch position ``axes``."""
        ops, scope = (self.a, 0) if which == "a" else (self.b_ops, 1)
        symbol = {"m": self.m.symbol, "n": self.n.symbol, "k": self.k.symbol}

        def write(at: dict[str, Val], vector: str, lanes: int, mask: Val | None) -> Val:
            place = {**axes, **{symbol[name]: v for name, v in at.items()}}
            point = Point(place, symbol[vector] if lanes > 1 else None, lanes, mask)
            self.body.run(point, scope, ops)
            value, dtype = point.values[scope, len(ops) - 1]
            value = cast(self.b, self.level, value, dtype, self.kernel.acc) if dtype != self.kernel.acc and not (
                register_type(dtype) == self.t and dtype.is_float) else value
            return self.b.broadcast(value, lanes)

        return write

    def penalty(self, ops: Sequence[FlatOp], axis: Symbol) -> int:
        """How many loads of an operand are not contiguous along ``axis``."""
        loads = [o for o in ops if isinstance(o, FlatLoad)]
        return sum(linear(o.place.offset, [axis]).along(axis) not in (0, 1) for o in loads)

    def run_epilogue(self, axes: Mapping[Symbol, Val], m: Val, n: Val, lanes: int, mask: Val | None, acc: Val) -> None:
        """The epilogue for ``lanes`` elements of row m from column n."""
        if self.n.extent == 1:  # a single column: one active lane, whatever the width of the tile
            lanes, mask, acc = 1, None, self.b.lane(acc, 0) if lanes > 1 else acc
        point = Point({**axes, self.m.symbol: m, self.n.symbol: n}, self.n.symbol if lanes > 1 else None, lanes, mask)
        point.values[ACCUMULATOR, 0] = (acc, self.kernel.acc)
        self.body.run(point, 2, self.epilogue_ops)

    def batch_index(self, unit: Val) -> dict[Symbol, Val]:
        """Batch axes from the row-major batch number."""
        b, out, rest = self.b, {}, unit
        for i, axis in enumerate(reversed(self.batch)):
            extent = emit_dim(b, axis.extent, self.sizes)
            if i == len(self.batch) - 1:
                out[axis.symbol] = rest
            else:
                safe = extent if extent.const else b.select(extent.eq(0), 1, extent)
                out[axis.symbol] = b.binary("urem", rest, safe)
                rest = b.binary("udiv", rest, safe)
        return out

    def epilogue_cycles(self) -> int:
        """Estimated cycles of the epilogue for one vector."""
        return cycles_per_vector(self.epilogue_ops)

    def column_mask(self, left: Val, lanes: int) -> Val:
        """Lanes below ``left`` (any i64)."""
        b = self.b
        count = b.convert("trunc", b.intrinsic("smax", b.intrinsic("smin", left, lanes), 0), "i32")
        return b.iota("i32", lanes).ult(b.broadcast(count, lanes))


class _BlockedDot:
    """The general form."""

    def __init__(self, frame: Frame) -> None:
        self.f, self.b = frame, frame.b
        level, n = frame.level, frame.n.extent
        vectors = 2
        if isinstance(n, int) and n <= frame.lanes:
            vectors = 1
        rows = register_rows(level, vectors)
        self.rows_of_two, self.panels = self._row_panels(rows)
        self.tile = Tile(self.rows_of_two[0], vectors, frame.lanes, frame.t)
        self.a_place = self._usable_in_place()
        item = self.tile.itemsize
        columns = frame.tiles[1] if frame.tiles else _COLUMNS * 4 // item * (2 if self.a_place is None else 1)
        self.column_panels = max(1, columns // self.tile.columns)
        if isinstance(n, int):
            self.column_panels = min(self.column_panels, ceil_divide(n, self.tile.columns))
            blocks = ceil_divide(n, self.tile.columns * self.column_panels)
            self.column_panels = ceil_divide(ceil_divide(n, self.tile.columns), blocks)
        self.block_columns = self.column_panels * self.tile.columns
        self.column_blocks = ceildiv(n, self.block_columns)
        self._choose_row_blocks()
        self._choose_k_blocks()
        self._lay_out_scratch()

    # decisions

    def _row_panels(self, rows: int) -> tuple[tuple[int, int, int], Dim]:
        """((most rows, fewer rows, panels with most), panels).

        One size of panel when the overlap of the last with the one before costs little (it saves compiling a second
        microkernel), otherwise a constant extent is divided evenly in two sizes.
        """
        m = self.f.m.extent
        if not isinstance(m, int):
            return (rows, rows, 0), ceildiv(m, rows)
        size = min(range(rows - rows // 7, rows + 1), key=lambda r: (ceil_divide(m, r) * r, -r))
        if ceil_divide(m, size) * size <= m * (1 + _OVERLAP):
            return (size, size, 0), ceil_divide(m, size)
        panels = max(1, ceil_divide(m, rows))
        few, more = divmod(m, panels)
        return (few + (more > 0), few, more), panels

    def _usable_in_place(self) -> InPlace | None:
        place = self.f.in_place(self.f.a, self.f.m)
        if place is None or not isinstance(place.outer_step, int) or place.outer_step <= 0:
            return None
        distance = place.outer_step * self.tile.itemsize
        if distance % 4096 == 0 and self.tile.rows > 4:
            return None  # all rows of a panel would share the sets of the first-level cache
        if place.outer_step != 1 and place.k_step != 1:
            return None
        if place.outer_step == 1 and isinstance(place.k_step, int) and self._collides(place.k_step):
            return None
        return place

    def _collides(self, k_step: int) -> bool:
        """Whether the lines of a panel, ``k_step`` elements apart, are too many for the cache sets that they share."""
        distance = k_step * self.tile.itemsize
        room = 8 * (65536 // math.gcd(distance, 65536))  # half the ways of a second-level cache with 64 KiB a way
        high = bounds(self.f.k.extent)[1]
        longest = _K_BLOCK * 4 // self.tile.itemsize
        return distance >= 512 and (longest if high is None else min(high, longest)) > room

    def _choose_row_blocks(self) -> None:
        per_block = max(1, (self.f.tiles[0] if self.f.tiles else _ROWS) // self.tile.rows)
        if isinstance(self.panels, int):
            blocks = max(1, ceil_divide(self.panels, per_block))
            per_block = ceil_divide(self.panels, blocks)
        self.row_panels = per_block
        self.row_blocks = ceildiv(self.panels, per_block)

    def _choose_k_blocks(self) -> None:
        k = self.f.k.extent
        most = _K_BLOCK * 4 // self.tile.itemsize
        if self.f.level.registers == 16:
            most *= 2
        if self.f.tiles:
            most = ceil_divide(self.f.tiles[2], 16) * 16
        high = bounds(k)[1]
        self.one_k_block = high is not None and high <= most
        if isinstance(k, int) and k > most:
            blocks = ceil_divide(k, most)
            most = ceil_divide(ceil_divide(k, blocks), 16) * 16
        self.k_block = most
        item = self.tile.itemsize
        self.whole_b = high is not None and high * self.block_columns * item <= max(
            _WHOLE_B_BYTES, _UNBOUNDED_K * 64)
        if self.one_k_block:
            self.whole_b = True

    def _lay_out_scratch(self) -> None:
        """Byte offsets of the packed b, the packed a panel and the product tiles."""
        tile, item = self.tile, self.tile.itemsize
        k = self.f.k.extent
        depth: Dim = mul(ceildiv(k if self.whole_b else dmin(k, self.k_block), tile.lanes), tile.lanes)
        self.panel_bytes = mul(depth, tile.columns * item)
        b_bytes = mul(self.panel_bytes, self.column_panels)
        self.a_along_k = False
        self.a_width = ceil_divide(tile.rows, tile.lanes) * tile.lanes
        a_bytes = 0
        if self.a_place is None:
            self.a_along_k = self.f.penalty(self.f.a, self.f.k.symbol) < self.f.penalty(self.f.a, self.f.m.symbol)
            high = bounds(k)[1]
            longest = self.k_block if high is None else min(self.k_block, high)
            longest = -(-max(1, longest) // tile.lanes) * tile.lanes
            self.a_row_step = longest + tile.lanes
            a_bytes = tile.rows * self.a_row_step * item if self.a_along_k else longest * self.a_width * item
        tiles = 1 if self.one_k_block else self.row_panels * self.column_panels
        self.tile_bytes = tile.rows * tile.columns * item
        self.tile_at = 0
        room = tiles * self.tile_bytes
        if not isinstance(self.f.m.extent, int):
            from tessera.target.cpu.thin import ThinDot

            room = max(room, ThinDot(self.f).scratch())
        self.a_at = ceil_divide(room, 64) * 64
        self.b_at = self.a_at + ceil_divide(a_bytes, 64) * 64 + 64
        self.scratch = add(mul(ceildiv(b_bytes, 64), 64), self.b_at)

    # code

    def write(self) -> CompiledText:
        """The whole kernel."""
        f, b = self.f, self.b
        units = mul(product(a.extent for a in f.batch), mul(self.column_blocks, self.row_blocks))
        row_blocks = emit_dim(b, self.row_blocks, f.sizes)
        column_blocks = emit_dim(b, self.column_blocks, f.sizes)
        begin, end = b.args["begin"], b.args["end"]
        b_has_batch = any(
            s in {a.symbol for a in f.batch} for o in f.b_ops for d in dims_of(o) for s in symbols(d)
        )
        with b.loop(begin, end, carried=[b.const(-1, "i64")]) as loop:
            row_block = b.binary("urem", loop.i, b.select(row_blocks.eq(0), 1, row_blocks))
            rest = b.binary("udiv", loop.i, b.select(row_blocks.eq(0), 1, row_blocks))
            safe = b.select(column_blocks.eq(0), 1, column_blocks)
            column_block, batch = b.binary("urem", rest, safe), b.binary("udiv", rest, safe)
            axes = f.batch_index(batch)
            key = rest if b_has_batch else column_block
            if isinstance(f.m.extent, int):
                self._unit(axes, row_block, column_block, key.ne(loop.vars[0]))
                loop.next = [key]
            else:
                loop.next = self._guarded_unit(axes, row_block, column_block, key, loop.vars[0])
        f.finish()
        return CompiledText(f.name, units, grain_of(self._unit_cycles()), self.scratch)

    def _guarded_unit(self, axes: dict[Symbol, Val], row_block: Val, column_block: Val, key: Val, packed: Val
                      ) -> list[Val]:
        """A symbolic number of rows: few rows take the thin form, reading b in place."""
        from tessera.target.cpu.thin import ThinDot

        f, b = self.f, self.b
        m = emit_dim(b, f.m.extent, f.sizes)

        def few() -> list[Val]:
            n0 = column_block * self.block_columns
            n1 = b.intrinsic("smin", n0 + self.block_columns, emit_dim(b, f.n.extent, f.sizes))
            ThinDot(f).columns(axes, n0, n1, b.pointer(b.args["scratch"], self.tile_at, "i8"))
            return [packed]

        def many() -> list[Val]:
            self._unit(axes, row_block, column_block, key.ne(packed))
            return [key]

        if bounds(f.m.extent)[0] >= self.tile.rows:
            return many()
        return b.branch(m.lt(self.tile.rows), few, many)

    def _unit_cycles(self) -> Dim:
        tile, f = self.tile, self.f
        rows = min(self.row_panels * tile.rows, f.m.extent) if isinstance(f.m.extent, int) else dmin(
            self.row_panels * tile.rows, f.m.extent)
        vectors = self.column_panels * tile.vectors
        per_k = mul(rows, vectors)
        return add(floordiv(mul(per_k, f.k.extent), 2), mul(per_k, f.epilogue_cycles()))

    def _unit(self, axes: dict[Symbol, Val], row_block: Val, column_block: Val, must_pack: Val) -> None:
        f, b = self.f, self.b
        scratch = b.args["scratch"]
        n_extent = emit_dim(b, f.n.extent, f.sizes)
        n0 = column_block * self.block_columns
        n1 = b.intrinsic("smin", n0 + self.block_columns, n_extent)
        panels = b.binary("udiv", n1 - n0 + (self.tile.columns - 1), self.tile.columns)
        if isinstance(f.n.extent, int) and f.n.extent % self.block_columns == 0:
            panels = b.const(self.column_panels, "i64")
        k = emit_dim(b, f.k.extent, f.sizes)
        packed = b.pointer(scratch, self.b_at, "i8")
        panel_bytes = emit_dim(b, self.panel_bytes, f.sizes)
        zero = b.const(0, "i64")
        if self.whole_b:
            def pack() -> list[Val]:
                self._pack_b(axes, packed, panel_bytes, n0, n1, panels, zero, k)
                return []

            b.branch(must_pack, pack)
        p0 = row_block * self.row_panels
        p1 = b.intrinsic("smin", p0 + self.row_panels, emit_dim(b, self.panels, f.sizes))
        if self.one_k_block:
            self._row_panels_loop(axes, p0, p1, n0, n1, panels, zero, k, packed, panel_bytes, None, None)
            return
        # at least one round: an empty k still stores the epilogue of zeros
        stop = b.intrinsic("smax", k, 1)
        with b.loop(0, stop, self.k_block, nonempty=True) as loop:
            k1 = b.intrinsic("smin", loop.i + self.k_block, k)
            if self.whole_b:
                start = b.pointer(packed, loop.i * (self.tile.columns * self.tile.itemsize), "i8")
            else:
                self._pack_b(axes, packed, panel_bytes, n0, n1, panels, loop.i, k1)
                start = packed
            last = (loop.i + self.k_block).ge(stop)
            self._row_panels_loop(axes, p0, p1, n0, n1, panels, loop.i, k1, start, panel_bytes, loop.i.ne(0), last)

    def _pack_b(self, axes: dict[Symbol, Val], packed: Val, panel_bytes: Val, n0: Val, n1: Val, panels: Val,
                k0: Val, k1: Val) -> None:
        f, b = self.f, self.b
        element = f.element("b", axes)
        along_k = f.penalty(f.b_ops, f.k.symbol) < f.penalty(f.b_ops, f.n.symbol)
        ragged = not is_multiple(f.n.extent, self.tile.columns)
        with b.loop(0, panels) as panel:
            target = b.pointer(packed, panel.i * panel_bytes, "i8")
            start = n0 + panel.i * self.tile.columns
            if along_k:
                whole = is_multiple(f.k.extent, self.tile.lanes) and (
                    self.whole_b or self.k_block % self.tile.lanes == 0)
                pack_b_transposed(b, self.tile, element, target, start, n1 - 1, k0, k1, not whole)
            elif not ragged:
                pack_b_rows(b, self.tile, element, target, start, None, k0, k1)
            else:
                full = (start + self.tile.columns).le(n1)
                b.branch(
                    full,
                    lambda: pack_b_rows(b, self.tile, element, target, start, None, k0, k1) or [],
                    lambda: pack_b_rows(b, self.tile, element, target, start, n1, k0, k1) or [],
                )

    def _row_panels_loop(self, axes: dict[Symbol, Val], p0: Val, p1: Val, n0: Val, n1: Val, panels: Val, k0: Val,
                         k1: Val, packed: Val, panel_bytes: Val, add_to: Val | None, last: Val | None) -> None:
        f, b, tile = self.f, self.b, self.tile
        scratch = b.args["scratch"]
        most, few, count = self.rows_of_two
        m_extent = emit_dim(b, f.m.extent, f.sizes)
        with b.loop(p0, p1) as panel:
            if most != few:
                first = panel.i * few + b.intrinsic("smin", panel.i, count)
                skip = b.const(0, "i64")
                larger = panel.i.lt(count)
                rows = b.select(larger, most, b.const(few, "i64"))
            elif isinstance(f.m.extent, int) and f.m.extent % most == 0:
                first, skip, larger, rows = panel.i * most, b.const(0, "i64"), None, b.const(most, "i64")
            else:
                # the last panel overlaps the one before it: rows below ``skip`` are computed but not stored again
                wanted = panel.i * most
                first = b.intrinsic("smin", wanted, m_extent - most)
                skip, larger, rows = wanted - first, None, b.const(most, "i64")
            a, row_step, k_step = self._a_panel(axes, first, m_extent, k0, k1)
            with b.loop(0, panels) as column:
                c = b.pointer(scratch, self.tile_at, "i8")
                if add_to is not None:
                    number = (panel.i - p0) * self.column_panels + column.i
                    c = b.pointer(c, number * self.tile_bytes, "i8")
                source = b.pointer(packed, column.i * panel_bytes, "i8")
                self._call(a, row_step, k_step, source, c, k1 - k0, add_to, larger)
                start = n0 + column.i * tile.columns

                def finish() -> list[Val]:
                    self._epilogue(axes, first, skip, rows, start, n1, c)
                    return []

                if last is None:
                    finish()
                else:
                    b.branch(last, finish)

    def _a_panel(self, axes: dict[Symbol, Val], first: Val, m_extent: Val, k0: Val, k1: Val
                 ) -> tuple[Val, int, Val | int]:
        """Pointer, row step and k step of a panel of a: in place, or packed now."""
        f, b, tile = self.f, self.b, self.tile
        if self.a_place is not None:
            place = self.a_place.load.place
            values = {**f.sizes, **axes, f.m.symbol: first, f.k.symbol: k0}
            step = self.a_place.k_step
            assert isinstance(self.a_place.outer_step, int)
            pointer = b.pointer(f.pointers[place.buffer], emit_dim(b, place.offset, values), tile.t)
            return pointer, self.a_place.outer_step, step if isinstance(step, int) else emit_dim(b, step, f.sizes)
        target = b.pointer(b.args["scratch"], self.a_at, "i8")
        element = f.element("a", axes)
        if self.a_along_k:
            pack_a_rows(b, tile, element, target, self.a_row_step, first, m_extent - 1, k0, k1)
            return target, self.a_row_step, 1
        pack_a_columns(b, tile, element, target, self.a_width, first, m_extent, k0, k1)
        return target, 1, self.a_width

    def _call(self, a: Val, row_step: int, k_step: Val | int, source: Val, c: Val, k: Val, add_to: Val | None,
              larger: Val | None) -> None:
        f, b = self.f, self.b

        def call(rows: int) -> list[Val]:
            tile = Tile(rows, self.tile.vectors, self.tile.lanes, self.tile.t)
            constant = k_step if isinstance(k_step, int) else None
            even = is_multiple(f.k.extent, K_UNROLL)  # blocks of k are multiples of 16
            symbol = write_microkernel(f.module, f.level, tile, row_step, constant, add_to is not None, even)
            args = [str(a)] + ([] if constant is not None else [str(k_step)]) + [str(source), str(c), str(k)]
            args += [str(add_to)] if add_to is not None else []
            b.line(f"call void {symbol}({', '.join(args)})")
            return []

        most, few, _ = self.rows_of_two
        if larger is None:
            call(few)
        else:
            b.branch(larger, lambda: call(most), lambda: call(few))

    def _epilogue(self, axes: dict[Symbol, Val], first: Val, skip: Val, rows: Val, start: Val, n1: Val, c: Val
                  ) -> None:
        f, b, tile = self.f, self.b, self.tile
        ragged = not is_multiple(f.n.extent, tile.columns)

        def body(masked: bool) -> list[Val]:
            with b.loop(skip, rows, nonempty=True) as row:
                for j in range(tile.vectors):
                    n = start + j * tile.lanes
                    place = b.pointer(c, row.i * tile.columns + j * tile.lanes, tile.t)
                    acc = b.load(place, tile.t, tile.lanes, tile.lanes * tile.itemsize)
                    mask = f.column_mask(n1 - n, tile.lanes) if masked else None
                    f.run_epilogue(axes, first + row.i, n, tile.lanes, mask, acc)
            return []

        if not ragged:
            body(False)
        elif isinstance(f.n.extent, int) and f.n.extent < tile.columns:
            body(True)
        else:
            b.branch((start + tile.columns).le(n1), lambda: body(False), lambda: body(True))
