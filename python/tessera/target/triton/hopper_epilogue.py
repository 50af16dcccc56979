"""The epilogue of a product on Hopper, on a piece of a tile: layouts, what is read ahead, stores, sums of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tessera.ir.dims import Expr, Symbol, bounds, is_multiple, sym, symbols
from tessera.ir.dtype import DType, f32
from tessera.target.triton import apart, product_sums
from tessera.target.triton.block import Block, Variable, all_of
from tessera.target.triton.convert import from_memory, to_memory
from tessera.target.triton.expression import AxisValue, Expressions, fits
from tessera.target.triton.gluon import ELEMENTS, product_layout
from tessera.target.triton.head import Head
from tessera.target.triton.text import Writer
from tessera.tile.ir import DotKernel, Load, Op, Ref, Store

ROWS = 128
"""Rows of a tile: 16 for each warp that multiplies."""
WARPS = 8
"""Those that multiply."""
PIECE = 64
"""Columns on which the epilogue works at once."""


class Owner(Protocol):
    """The product: columns of a tile, rows of a piece, loads that are done ahead as pairs, dtype of a rounded tile."""

    kernel: DotKernel
    head: Head
    columns: int
    height: int
    packed: tuple[int, ...]
    apart: DType | None

    def rows(self) -> str:
        """The layout of a piece in rows."""
        ...


class Epilogue(Block):
    """The epilogue on a piece of 64 columns.

    What is computed from the product and from vectors stays in the product's layout, and is brought into rows when it
    is stored, in its own width. With other operands of two dimensions the product is brought into rows first.
    """

    def __init__(self, owner: Owner, w: Writer, first: tuple[str, str], batch: list[str]) -> None:
        self.tile = (ROWS, owner.columns)
        self.fetched: dict[int, str] = {}
        self.packed, self.height = owner.packed, owner.height
        kernel = self.kernel = owner.kernel
        loads = [op for op in kernel.epilogue if isinstance(op, Load)]
        gathered = any(isinstance(e, Ref) for op in loads for e in op.index)
        self.in_rows = bool(owner.apart) or gathered or any(apart.is_whole(kernel, op) for op in loads) or any(
            isinstance(op, Store) and (op.mask is not None or not apart.is_whole(kernel, op)) for op in kernel.epilogue)
        w.line(f"rows: tl.constexpr = {owner.rows()}")
        if not self.in_rows:
            w.line(f"held: tl.constexpr = {product_layout(PIECE, WARPS)}")
        self.sizes = owner.head.sizes
        fixed = {x.symbol: AxisValue(b) for x, b in zip(kernel.batch, batch)}
        self.row_axes = {**owner.head.sizes, **fixed, **self._positions(w, "rows", first)}
        axes = self.row_axes if self.in_rows else {**owner.head.sizes, **fixed, **self._positions(w, "held", first)}
        super().__init__(w, kernel.buffers, owner.head.pointers, axes, (str(self.height), str(PIECE)))

    def _positions(self, w: Writer, layout: str, first: tuple[str, str]) -> dict[Symbol, AxisValue]:
        found: dict[Symbol, AxisValue] = {}
        axes = ((self.kernel.m, self.height, 0, "[:, None]"), (self.kernel.n, PIECE, 1, "[None, :]"))
        for axis, size, dim, subscript in axes:
            start = first[dim]
            wide = not fits(axis.extent, 1024)
            lanes = f"tl.arange(0, {size}, layout=tl.SliceLayout({1 - dim}, {layout})){subscript}"
            text = w.assign(axis.symbol.name, f"{start} + {lanes}")
            extent = Expressions(w, self.sizes).text(axis.extent)
            whole = is_multiple(axis.extent, self.tile[dim])
            mask = None if whole else w.assign(f"{axis.symbol.name}_inside", f"{text} < {extent}")
            found[axis.symbol] = AxisValue(text, frozenset({dim}), wide, mask)
        return found

    def emit(self) -> None:
        """Emit everything."""
        if self.height < ROWS:
            total = self.writer.assign("total", "total.to(tl.float32)")
            self.values[Ref(3, 0)] = Variable(total, self.kernel.acc, frozenset({0, 1}))
            self.run(2, self.kernel.epilogue)
            return
        layout = "rows" if self.in_rows else "held"
        trivial = "" if self.in_rows else ", assert_trivial=True"
        total = self.writer.assign("total", f"tl.convert_layout(total, {layout}{trivial})")
        self.values[Ref(3, 0)] = Variable(total, self.kernel.acc, frozenset({0, 1}))
        self.run(2, self.kernel.epilogue)

    def raw(self, number: int) -> str:
        """The text of a load of the epilogue, of what is in memory."""
        op = self.kernel.epilogue[number]
        assert isinstance(op, Load)
        address, dims = self.address(op.buffer, op.index)
        masks = self.masks(dims, [s for d in op.index if isinstance(d, Expr) for s in symbols(d)])
        return f"tl.load({address}{f', mask={all_of(masks)}, other=0' if masks else ''})"

    def run(self, scope: int, ops: Sequence[Op]) -> Variable | None:
        """Emit a body; what was loaded ahead is there."""
        for number, name in self.fetched.items():
            op = ops[number]
            assert isinstance(op, Load)
            address, dims = self.address(op.buffer, op.index)
            dtype = self.buffers[op.buffer].dtype
            if number in self.packed:
                name = self.writer.call("unpacked_pairs", name, ELEMENTS[dtype])
                name = f"tl.convert_layout({name}, rows, assert_trivial=True)"
            text = self.writer.assign("x", from_memory(self.writer, dtype, name))
            self.memo["load", op.buffer, address, None, repr(op.other)] = Variable(text, dtype, dims)
        return super().run(scope, ops)

    def _leave_sum(self, op: Store) -> None:
        """The sums of a piece's columns, for the launch that adds those of all pieces."""
        value, row = self.broadcast(self.values[op.value]), self.axes[self.kernel.m.symbol]
        if row.mask is not None:
            value = f"tl.where({row.mask}, {value}, 0.0)"
        text = self.writer.assign("part", f"tl.sum({value}, axis=0)[None, :]")
        most = bounds(self.buffers[-1].shape[1])[1]
        piece, ref = Symbol("piece", 0, most), Ref(2, len(self.kernel.epilogue))
        self.axes[piece] = AxisValue(self.writer.assign("piece", f"m_first // {self.height}"))
        self.values[ref] = Variable(text, f32, frozenset({1}))
        number = product_sums.of(self.kernel).index(op)
        super().store(Store(len(self.buffers) - 1, (number, sym(piece), sym(self.kernel.n.symbol)), ref))

    def store(self, op: Store) -> None:
        """Write a value, in rows."""
        if op.mode == "sum":
            self._leave_sum(op)
            return
        value = self.values[op.value]
        if self.in_rows or value.dims != {0, 1}:
            super().store(op)
            return
        dtype = self.buffers[op.buffer].dtype
        text = self.writer.assign("narrow", f"({to_memory(self.writer, dtype, value.text)})")
        text = self.writer.assign("stored", f"tl.convert_layout({text}, rows)")
        held = dict(self.axes)
        self.axes.update(self.row_axes)
        address, dims = self.address(op.buffer, op.index)
        masks = self.masks(dims, self.inside)
        self.axes.update(held)
        mask = f", mask={' & '.join(f'({m})' for m in masks)}" if masks else ""
        self.writer.line(f"tl.store({address}, {text}{mask})")
        self.forget(op.buffer)
