"""The register-tiled inner kernel of matrix products and the packing of its operands.

After Goto and van de Geijn 2008 and BLIS (Van Zee and van de Geijn 2015): an ``rows`` × (``vectors``·lanes) tile of
the product stays in registers while k runs; b comes from a packed panel, a is broadcast element by element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tessera.target.cpu.emit import Builder, Module, Val
from tessera.target.cpu.levels import Level

K_UNROLL = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of a register tile and its element type (an LLVM type)."""

    rows: int
    vectors: int
    lanes: int
    t: str

    @property
    def columns(self) -> int:
        """Columns of the tile."""
        return self.vectors * self.lanes

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return {"float": 4, "i32": 4, "double": 8, "i64": 8}[self.t]


def ceil_divide(a: int, b: int) -> int:
    """ceil(a / b)."""
    return -(-a // b)


def multiply_add(b: Builder, x: Val, y: Val, z: Val) -> Val:
    """x·y + z for floats and integers."""
    return b.fma(x, y, z) if z.is_float else x * y + z


def register_rows(level: Level, vectors: int) -> int:
    """Rows of the tile: accumulators, b vectors of two steps of k and a spare must fit the registers."""
    if level.registers == 32:
        return 13
    if not level.has_fma:
        return 4  # products need registers too
    return 6 if vectors == 2 else 12


def write_microkernel(module: Module, level: Level, tile: Tile, row_step: int, k_step: int | None,
                      accumulate: bool, even: bool) -> str:
    """``void f(ptr a, [i64 k_step], ptr b, ptr c, i64 k[, i1 add])``; returns its symbol.

    a(i, k) lies at a + i·row_step + k·k_step elements (``k_step`` None: an argument); b is packed, ``columns``
    elements per k; c is a contiguous tile, overwritten, or with ``accumulate`` and ``add`` added to. ``even``: k is
    a multiple of ``K_UNROLL``. At an ordered level, what c has is where the sums start, not a summand.
    """
    name = f"tsr_mk_{tile.t}_{tile.rows}x{tile.vectors}x{tile.lanes}_{row_step}_{k_step}_{int(accumulate)}{int(even)}"

    def write(symbol: str) -> str:
        args = [("ptr noalias", "a")] + ([("i64", "ks")] if k_step is None else [])
        args += [("ptr noalias", "b"), ("ptr noalias", "c"), ("i64", "k")] + ([("i1", "add")] if accumulate else [])
        b = Builder(module, symbol, "void", args, level.has_fma)
        step = b.args["ks"] if k_step is None else b.const(k_step, "i64")
        zero = b.const(0, tile.t, tile.lanes)
        count = tile.rows * tile.vectors
        unroll = K_UNROLL

        def body(times: int, state: list[Val]) -> list[Val]:
            ap, bp, acc = state[0], state[1], list(state[2:])
            for u in range(times):
                bs = [b.load(b.pointer(bp, u * tile.columns + j * tile.lanes, tile.t), tile.t, tile.lanes,
                             tile.itemsize * tile.lanes) for j in range(tile.vectors)]
                row = b.pointer(ap, step * u if u else 0, tile.t)
                for i in range(tile.rows):
                    a = b.load(b.pointer(row, i * row_step, tile.t), tile.t, 1, tile.itemsize)
                    a = b.broadcast(a, tile.lanes)
                    for j in range(tile.vectors):
                        acc[i * tile.vectors + j] = multiply_add(b, a, bs[j], acc[i * tile.vectors + j])
            return [b.pointer(ap, step * times, tile.t), b.pointer(bp, times * tile.columns, tile.t), *acc]

        c = b.args["c"]
        places = [b.pointer(c, i * tile.lanes, tile.t) for i in range(count)]
        align = tile.lanes * tile.itemsize

        def before() -> list[Val]:
            return [b.load(p, tile.t, tile.lanes, align) for p in places]

        first = [zero] * count
        if accumulate and level.ordered:
            first = b.branch(b.args["add"], before, lambda: [zero] * count)
        k = b.args["k"]
        main = k & ~(unroll - 1)
        with b.loop(0, main, unroll, carried=[b.args["a"], b.args["b"], *first]) as loop:
            loop.next = body(unroll, loop.vars)
        acc = loop.results[2:]
        if not even:
            with b.loop(main, k, 1, carried=loop.results) as rest:
                rest.next = body(1, rest.vars)
            acc = rest.results[2:]
        if accumulate and not level.ordered:
            acc = b.branch(b.args["add"], lambda: [old + x for old, x in zip(before(), acc)], lambda: acc)
        for p, x in zip(places, acc):
            b.store(p, x, align)
        return b.finish()

    return module.helper(name, write)


def transpose(b: Builder, rows: list[Val]) -> list[Val]:
    """The transpose of a square of vectors, by log2(n) rounds of two-vector shuffles."""
    n = len(rows)
    rows = list(rows)
    s = n // 2
    while s:
        for i in range(n):
            if i & s:
                continue
            x, y = rows[i], rows[i + s]
            rows[i] = b.shuffle(x, y, [lane if not lane & s else n + lane - s for lane in range(n)])
            rows[i + s] = b.shuffle(x, y, [lane + s if not lane & s else n + lane for lane in range(n)])
        s //= 2
    return rows


Element = Callable[[dict[str, Val], str, int, "Val | None"], Val]
"""``element({axis: value}, vector axis, lanes, mask)``: operand elements as accumulator-typed vectors."""


def pack_b_rows(b: Builder, tile: Tile, element: Element, target: Val, n0: Val, n_end: Val | None,
                k0: Val, k1: Val) -> None:
    """Pack columns n0 … of b for k in [k0, k1): lanes along n. ``n_end`` (if given) bounds the columns."""
    masks: list[Val | None] = []
    for j in range(tile.vectors):
        if n_end is None:
            masks.append(None)
        else:
            left = b.intrinsic("smax", b.intrinsic("smin", n_end - n0 - j * tile.lanes, tile.lanes), 0)
            count = b.convert("trunc", left, "i32")
            masks.append(b.iota("i32", tile.lanes).ult(b.broadcast(count, tile.lanes)))
    with b.loop(k0, k1, carried=[target]) as loop:
        for j in range(tile.vectors):
            x = element({"n": n0 + j * tile.lanes, "k": loop.i}, "n", tile.lanes, masks[j])
            b.store(b.pointer(loop.vars[0], j * tile.lanes, tile.t), x, tile.lanes * tile.itemsize)
        loop.next = [b.pointer(loop.vars[0], tile.columns, tile.t)]


def pack_b_transposed(b: Builder, tile: Tile, element: Element, target: Val, n0: Val, last: Val,
                      k0: Val, k1: Val, masked: bool) -> None:
    """Pack columns n0 … of b for k in [k0, k1): lanes along k, transposed in registers.

    Columns after ``last`` repeat it; rows of the target are written up to the next multiple of the lanes.
    """
    lanes = tile.lanes
    with b.loop(k0, k1, lanes) as loop:
        mask = None
        if masked:
            count = b.convert("trunc", b.intrinsic("smin", k1 - loop.i, lanes), "i32")
            mask = b.iota("i32", lanes).ult(b.broadcast(count, lanes))
        base = b.pointer(target, (loop.i - k0) * tile.columns, tile.t)
        with b.loop(0, tile.columns, lanes) as block:
            columns = [
                element({"n": b.intrinsic("smin", n0 + block.i + r, last), "k": loop.i}, "k", lanes, mask)
                for r in range(lanes)
            ]
            for r, x in enumerate(transpose(b, columns)):
                b.store(b.pointer(base, block.i + r * tile.columns, tile.t), x, lanes * tile.itemsize)


def pack_a_rows(b: Builder, tile: Tile, element: Element, target: Val, row_step: int, m0: Val, last: Val,
                k0: Val, k1: Val) -> None:
    """Pack ``rows`` rows of a, each contiguous along k with ``row_step`` elements between rows."""
    with b.loop(0, tile.rows) as row:
        m = b.intrinsic("smin", m0 + row.i, last)
        base = b.pointer(target, row.i * row_step, tile.t)
        with b.loop(k0, k1, tile.lanes) as loop:
            count = b.convert("trunc", b.intrinsic("smin", k1 - loop.i, tile.lanes), "i32")
            mask = b.iota("i32", tile.lanes).ult(b.broadcast(count, tile.lanes))
            x = element({"m": m, "k": loop.i}, "k", tile.lanes, mask)
            b.store(b.pointer(base, loop.i - k0, tile.t), x, tile.itemsize)


def pack_a_columns(b: Builder, tile: Tile, element: Element, target: Val, width: int, m0: Val, m_end: Val,
                   k0: Val, k1: Val) -> None:
    """Pack a panel of a with ``width`` elements per k: lanes along m."""
    vectors = width // tile.lanes
    masks = []
    for j in range(vectors):
        left = b.intrinsic("smax", b.intrinsic("smin", m_end - m0 - j * tile.lanes, tile.lanes), 0)
        masks.append(b.iota("i32", tile.lanes).ult(b.broadcast(b.convert("trunc", left, "i32"), tile.lanes)))
    with b.loop(k0, k1, carried=[target]) as loop:
        for j in range(vectors):
            x = element({"m": m0 + j * tile.lanes, "k": loop.i}, "m", tile.lanes, masks[j])
            b.store(b.pointer(loop.vars[0], j * tile.lanes, tile.t), x, tile.itemsize)
        loop.next = [b.pointer(loop.vars[0], width, tile.t)]
