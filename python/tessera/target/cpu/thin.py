"""Matrix products with few rows: b is read once, in place, nothing is packed.

Lanes run along n when b is contiguous there, each row having its accumulators over several vectors; or along k when
b is contiguous along k (a dot product per element, horizontal sums at the end).
"""

from __future__ import annotations

from tessera.ir.dims import Symbol, add, bounds, ceildiv, is_multiple, mul, product
from tessera.target.cpu.access import emit_dim
from tessera.target.cpu.cost import grain_of
from tessera.target.cpu.dot import Frame
from tessera.target.cpu.emit import Val
from tessera.target.cpu.kernel import CompiledText
from tessera.target.cpu.microkernel import ceil_divide, multiply_add

_GROUP = 4  # rows at a time when their number is not constant
_DOT_COLUMNS = 4


class ThinDot:
    """Writes a product with few rows."""

    def __init__(self, frame: Frame) -> None:
        self.f, self.b = frame, frame.b
        f = frame
        rows = f.m.extent if isinstance(f.m.extent, int) else _GROUP
        self.rows = max(1, rows)
        self.along_k = not f.level.ordered and f.penalty(f.b_ops, f.k.symbol) < f.penalty(f.b_ops, f.n.symbol)
        if self.along_k:
            self.vectors = 4
        else:
            limit = 16 if f.level.registers == 32 else 8
            self.vectors = max(1, min(limit, (f.level.registers - 2) // (self.rows + 1)))
            if self.rows == 1:
                self.vectors = limit
            high = bounds(f.n.extent)[1]
            if high is not None:
                self.vectors = max(1, min(self.vectors, ceil_divide(high, f.lanes)))
            if isinstance(f.n.extent, int) and f.n.extent > 0:
                panels = ceil_divide(f.n.extent, self.vectors * f.lanes)
                self.vectors = max(1, ceil_divide(ceil_divide(f.n.extent, f.lanes), panels))
        self.columns_per_panel = self.vectors * f.lanes
        self.item = f.kernel.acc.itemsize

    def scratch(self) -> int:
        """Bytes of the product tile."""
        return self.rows * self.columns_per_panel * self.item

    def write(self) -> CompiledText:
        """The whole kernel."""
        f, b = self.f, self.b
        n = f.n.extent
        cycles_panel = add(mul(f.k.extent, self.rows * self.vectors), self.rows * self.vectors * f.epilogue_cycles())
        per_unit = 1
        if f.tiles:
            per_unit = max(1, f.tiles[1] // self.columns_per_panel)
        elif isinstance(cycles_panel, int):
            per_unit = max(1, 4096 // max(1, cycles_panel))
        width = self.columns_per_panel * per_unit
        if isinstance(n, int):
            width = min(width, max(1, ceil_divide(n, self.columns_per_panel)) * self.columns_per_panel)
        blocks = ceildiv(n, width)
        units = mul(product(a.extent for a in f.batch), blocks)
        block_count = emit_dim(b, blocks, f.sizes)
        with b.loop(b.args["begin"], b.args["end"]) as loop:
            safe = b.select(block_count.eq(0), 1, block_count)
            axes = f.batch_index(b.binary("udiv", loop.i, safe))
            n0 = b.binary("urem", loop.i, safe) * width
            n1 = b.intrinsic("smin", n0 + width, emit_dim(b, n, f.sizes))
            self.columns(axes, n0, n1, b.args["scratch"])
        f.finish()
        cycles = mul(cycles_panel, width // self.columns_per_panel)
        return CompiledText(f.name, units, grain_of(cycles), ceil_divide(self.scratch(), 64) * 64)

    def columns(self, axes: dict[Symbol, Val], n0: Val, n1: Val, tile: Val) -> None:
        """All rows for the columns [n0, n1)."""
        f, b = self.f, self.b
        with b.loop(n0, n1, self.columns_per_panel) as panel:
            if isinstance(f.m.extent, int):
                self._rows(axes, b.const(0, "i64"), self.rows, panel.i, n1, tile)
                return
            m = emit_dim(b, f.m.extent, f.sizes)
            grouped = m & ~(_GROUP - 1)
            with b.loop(0, grouped, _GROUP) as group:
                self._rows(axes, group.i, _GROUP, panel.i, n1, tile)
            with b.loop(grouped, m) as one:
                self._rows(axes, one.i, 1, panel.i, n1, tile)

    def _rows(self, axes: dict[Symbol, Val], m: Val, rows: int, n: Val, n1: Val, tile: Val) -> None:
        """``rows`` rows of one column panel: accumulate into the tile, then the epilogue."""
        f, b = self.f, self.b
        if rows == 0:
            return
        if self.along_k:
            self._dot_products(axes, m, rows, n, n1, tile)
        elif is_multiple(f.n.extent, self.columns_per_panel):
            self._accumulate(axes, m, rows, n, None, tile)
        elif isinstance(f.n.extent, int) and f.n.extent < self.columns_per_panel:
            self._accumulate(axes, m, rows, n, n1, tile)
        else:
            b.branch(
                (n + self.columns_per_panel).le(n1),
                lambda: self._accumulate(axes, m, rows, n, None, tile),
                lambda: self._accumulate(axes, m, rows, n, n1, tile),
            )
        self._epilogue(axes, m, rows, n, n1, tile)

    def _accumulate(self, axes: dict[Symbol, Val], m: Val, rows: int, n: Val, n1: Val | None, tile: Val) -> list[Val]:
        f, b, lanes = self.f, self.b, self.f.lanes
        masks = [None if n1 is None else f.column_mask(n1 - n - j * lanes, lanes) for j in range(self.vectors)]
        element_a, element_b = f.element("a", axes), f.element("b", axes)
        count = rows * self.vectors
        copies = 1
        while copies < 8 and copies * 2 * count <= 8 and not f.level.ordered:
            copies *= 2
        zero = b.const(0, f.t, lanes)

        def step(k: Val, acc: list[Val], copy: int) -> list[Val]:
            acc = list(acc)
            bs = [element_b({"n": n + j * lanes, "k": k}, "n", lanes, masks[j]) for j in range(self.vectors)]
            for i in range(rows):
                a = b.broadcast(element_a({"m": m + i, "k": k}, "k", 1, None), lanes)
                for j in range(self.vectors):
                    at = copy * count + i * self.vectors + j
                    acc[at] = multiply_add(b, a, bs[j], acc[at])
            return acc

        k = emit_dim(b, f.k.extent, f.sizes)
        unroll = max(copies, 4 if count <= 4 else 2 if count <= 8 else 1)
        main = k & ~(unroll - 1)
        with b.loop(0, main, unroll, carried=[zero] * (count * copies)) as loop:
            acc = loop.vars
            for u in range(unroll):
                acc = step(loop.i + u, acc, u % copies)
            loop.next = acc
        totals = loop.results
        if not is_multiple(f.k.extent, unroll):
            with b.loop(main, k, carried=totals) as rest:
                rest.next = step(rest.i, rest.vars, 0)
            totals = rest.results
        while len(totals) > count:
            half = len(totals) // 2
            totals = [x + y for x, y in zip(totals[:half], totals[half:])]
        for i in range(rows):
            for j in range(self.vectors):
                place = b.pointer(tile, i * self.columns_per_panel + j * lanes, f.t)
                b.store(place, totals[i * self.vectors + j], lanes * self.item)
        return []

    def _dot_products(self, axes: dict[Symbol, Val], m: Val, rows: int, n: Val, n1: Val, tile: Val) -> None:
        """Lanes along k: four columns at a time."""
        f, b, lanes = self.f, self.b, self.f.lanes
        element_a, element_b = f.element("a", axes), f.element("b", axes)
        k = emit_dim(b, f.k.extent, f.sizes)
        span = b.intrinsic("smin", n1 - n, self.columns_per_panel)
        columns = _DOT_COLUMNS if rows <= 4 else 2
        copies = 2 if rows * columns <= 4 else 1
        count = rows * columns
        zero = b.const(0, f.t, lanes)
        with b.loop(0, span, columns) as group:
            ns = [b.intrinsic("smin", n + group.i + c, n1 - 1) for c in range(columns)]

            def step(at: Val, mask: Val | None, acc: list[Val], copy: int) -> list[Val]:
                acc = list(acc)
                bs = [element_b({"n": ns[c], "k": at}, "k", lanes, mask) for c in range(columns)]
                for i in range(rows):
                    a = element_a({"m": m + i, "k": at}, "k", lanes, mask)
                    for c in range(columns):
                        x = copy * count + i * columns + c
                        new = multiply_add(b, a, bs[c], acc[x])
                        acc[x] = new if mask is None else b.select(mask, new, acc[x])
                return acc

            block = lanes * copies
            main = k - b.binary("urem", k, block)
            with b.loop(0, main, block, carried=[zero] * (count * copies)) as loop:
                acc = loop.vars
                for u in range(copies):
                    acc = step(loop.i + u * lanes, None, acc, u)
                loop.next = acc
            totals = loop.results
            if not is_multiple(f.k.extent, block):
                with b.loop(main, k, lanes, carried=totals) as rest:
                    rest.next = step(rest.i, f.column_mask(k - rest.i, lanes), rest.vars, 0)
                totals = rest.results
            if copies == 2:
                totals = [x + y for x, y in zip(totals[:count], totals[count:])]
            for i in range(rows):
                for c in range(columns):
                    place = b.pointer(tile, group.i + (i * self.columns_per_panel + c), f.t)
                    b.store(place, self._horizontal(totals[i * columns + c]), self.item)

    def _horizontal(self, x: Val) -> Val:
        """The sum over lanes, by halving."""
        b = self.b
        while x.n > 1:
            half = x.n // 2
            x = b.shuffle(x, None, range(half)) + b.shuffle(x, None, range(half, 2 * half))
        return x

    def _epilogue(self, axes: dict[Symbol, Val], m: Val, rows: int, n: Val, n1: Val, tile: Val) -> None:
        f, b, lanes = self.f, self.b, self.f.lanes
        whole = is_multiple(f.n.extent, lanes)
        span: Val = b.intrinsic("smin", n1 - n, self.columns_per_panel)
        if is_multiple(f.n.extent, self.columns_per_panel):
            span = b.const(self.columns_per_panel, "i64")
        with b.loop(0, rows) as row, b.loop(0, span, lanes, nonempty=True) as loop:
            place = b.pointer(tile, row.i * self.columns_per_panel + loop.i, f.t)
            acc = b.load(place, f.t, lanes, self.item)
            mask = None if whole else f.column_mask(span - loop.i, lanes)
            f.run_epilogue(axes, m + row.i, n + loop.i, lanes, mask, acc)
