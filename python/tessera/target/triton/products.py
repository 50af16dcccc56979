"""Any matrix product in Triton: each program forms a block of the result, terms in order, then runs the epilogue."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tessera.ir.dims import Dim, Symbol, add, is_multiple, mul, sym
from tessera.ir.dtype import DType, bf16, f16, f32
from tessera.schedule.cost import typical
from tessera.target.triton.block import Block, Variable
from tessera.target.triton.convert import cast, register_type
from tessera.target.triton.expression import AxisValue, fits
from tessera.target.triton.head import Head, Options, block_numbers, positions
from tessera.target.triton.launch import Program
from tessera.target.triton.operand import multiplied
from tessera.target.triton.tiles import power
from tessera.tile.ir import Axis, DotKernel, Load, Op, Ref


@dataclass(frozen=True, slots=True)
class Sizes:
    """The block of a product: rows, columns, and terms at a time."""

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 2

    def text(self) -> str:
        """As reports and caches name it."""
        return f"blocks of {self.m} x {self.n}, {self.k} terms, {self.warps} warps, {self.stages} stages"


_EXACT = Sizes(16, 16, 16)
_FAST = Sizes(64, 64, 32)
_LARGE = Sizes(128, 128, 32, warps=8, stages=3)
_THIN = Sizes(16, 64, 64, stages=8)
_THIN_NARROW = Sizes(16, 32, 128, stages=6)
"""Few rows: the other operand streams from memory, several blocks ahead, into as many programs as there are."""
_FEW = 32
_PROGRAMS = 100
"""Programs that keep a large chip busy."""


def generate(kernel: DotKernel, options: Options, sizes: Sizes | None = None) -> Program:
    """The program of a product; ``sizes``: its block, None for the usual one."""
    return _Product(kernel, options, sizes).program()


def uses_matrix_units(kernel: DotKernel) -> bool:
    """Whether factors are multiplied by matrix instructions; else sums of products are formed."""
    return _operand_dtype(kernel) is not None


def chosen(kernel: DotKernel, options: Options) -> Sizes:
    """The usual block of a product."""
    operand = _operand_dtype(kernel)
    return fitted(kernel, _EXACT if operand is None else _most(kernel, operand, options))


def fitted(kernel: DotKernel, most: Sizes) -> Sizes:
    """A block that is no larger than the product."""
    return replace(
        most, m=min(most.m, max(16, _extent(kernel.m))), n=min(most.n, max(16, _extent(kernel.n))),
        k=min(most.k, max(16, _extent(kernel.k))),
    )


class _Product:
    def __init__(self, kernel: DotKernel, options: Options, sizes: Sizes | None) -> None:
        self.kernel = kernel
        self.head = Head(kernel, options)
        self.writer = self.head.writer
        self.operand = _operand_dtype(kernel)
        self.sizes = sizes or chosen(kernel, options)
        self.batch: dict[Symbol, AxisValue] = {}

    def program(self) -> Program:
        """Emit everything."""
        kernel, writer, sizes = self.kernel, self.writer, self.sizes
        axes = [*((a, 1) for a in kernel.batch), (kernel.m, sizes.m), (kernel.n, sizes.n)]
        numbers, count = block_numbers(writer, axes, self.head.sizes)
        for axis in kernel.batch:
            self.batch[axis.symbol] = self._positions(axis, numbers.get(axis.symbol, ""), 1, 0)
        m, n = (self._first(a, s, numbers) for a, s in ((kernel.m, sizes.m), (kernel.n, sizes.n)))
        rows = self._positions(kernel.m, m, sizes.m, 0)
        columns = self._positions(kernel.n, n, sizes.n, 1)
        total = writer.assign("total", f"tl.zeros(({sizes.m}, {sizes.n}), {register_type(kernel.acc)})")
        self._terms(total, rows, columns)
        block = self._block({kernel.m.symbol: rows, kernel.n.symbol: columns}, (sizes.m, sizes.n))
        block.values[Ref(3, 0)] = Variable(total, kernel.acc, frozenset({0, 1}))
        block.run(2, kernel.epilogue)
        warps = sizes.warps if sizes.m * sizes.n >= 512 and self.operand is not None else 1
        return self.head.program((count,), warps=warps, stages=sizes.stages, contract=True)

    def _first(self, axis: Axis, size: int, numbers: dict[Symbol, str]) -> str:
        number = numbers.get(axis.symbol, "")
        if number and not fits(axis.extent, 2 * size):
            return f"{number}.to(tl.int64) * {size}"
        return f"{number} * {size}" if number else ""

    def _positions(self, axis: Axis, first: str, size: int, dim: int) -> AxisValue:
        return positions(self.writer, axis, first, size, dim, 2, self.head.sizes)

    def _block(self, axes: dict[Symbol, AxisValue], shape: tuple[int, int]) -> Block:
        everything = {**self.head.sizes, **self.batch, **axes}
        return Block(self.writer, self.kernel.buffers, self.head.pointers, everything, [str(n) for n in shape])

    def _terms(self, total: str, rows: AxisValue, columns: AxisValue) -> None:
        """The loop over the terms."""
        kernel, sizes = self.kernel, self.sizes
        wide = not fits(kernel.k.extent, 2 * sizes.k)
        probe = Block(self.writer, kernel.buffers, self.head.pointers, self.head.sizes)
        extent = probe.expressions.text(kernel.k.extent, wide or None)
        start = "tl.full((), 0, tl.int64)" if wide else "0"
        first = self.writer.fresh("k_first")
        with self.writer.block(f"for {first} in range({start}, {extent}, {sizes.k}):"):
            a = self._factor(0, _with_rows(kernel), {kernel.m.symbol: rows}, first, (sizes.m, sizes.k), 1)
            b = self._factor(1, kernel.b, {kernel.n.symbol: columns}, first, (sizes.k, sizes.n), 0)
            if self.operand is not None:
                precision = f', input_precision="{_float32(self.head.options)}"' if self.operand == f32 else ""
                self.writer.line(f"{total} = tl.dot({a}, {b}, {total}{precision})")
            else:
                products = f"{a}[:, :, None] * {b}[None, :, :]"
                self.writer.line(f"{total} = {total} + tl.sum({products}, axis=1)")

    def _factor(
        self, scope: int, body: tuple[Op, ...], outer: dict[Symbol, AxisValue], first: str, shape: tuple[int, int],
        dim: int,
    ) -> str:
        """An operand's block, 0 beyond the last term."""
        k = self._positions(self.kernel.k, first, self.sizes.k, dim)
        block = self._block({**outer, self.kernel.k.symbol: k}, shape)
        value = block.run(scope, body)
        assert value is not None
        wide = self.kernel.acc if self.operand is None else self.operand
        text = value.text if value.dtype == wide else cast(self.writer, value.text, value.dtype, wide)
        if self.operand in (bf16, f16):
            text = f"({text}).to(tl.{'bfloat16' if self.operand == bf16 else 'float16'})"
        if len(value.dims) < 2:
            text = block.spread(text)
        if not is_multiple(self.kernel.k.extent, self.sizes.k):
            text = f"tl.where({k.mask}, {text}, tl.zeros({block.shape_text()}, {self._kind()}))"
        return self.writer.assign("ab"[scope], text)

    def _kind(self) -> str:
        narrow = {bf16: "tl.bfloat16", f16: "tl.float16"}
        return register_type(self.kernel.acc) if self.operand is None else narrow.get(self.operand, "tl.float32")


def _with_rows(kernel: DotKernel) -> tuple[Op, ...]:
    """The left operand with an address for each row, of which all but the first are masked, where there is one row.

    A load of a single row is not copied ahead of its use: 30 instead of 24 µs for 1 x 8192 x 4096.
    """
    if kernel.m.extent != 1:
        return kernel.a
    row = mul(sym(kernel.m.symbol), kernel.k.extent)

    def addressed(op: Op) -> Op:
        index = getattr(op, "index", ())
        if not isinstance(op, Load) or not index or isinstance(index[-1], Ref):
            return op
        return replace(op, index=(*index[:-1], add(index[-1], row)))

    return tuple(map(addressed, kernel.a))


def _float32(options: Options) -> str:
    return "ieee" if options.architecture == "gfx90a" else options.float32


def _most(kernel: DotKernel, operand: DType, options: Options) -> Sizes:
    """The block, for sizes that fill it."""
    if operand == f32 and _float32(options) == "ieee":
        return _FAST
    m, n, k = (typical(a.extent) for a in (kernel.m, kernel.n, kernel.k))
    batch = math.prod(typical(a.extent) for a in kernel.batch)
    if options.architecture.startswith("gfx"):  # less shared memory, and no copies ahead into it
        return _FAST
    if m <= _FEW and k >= 1024:
        thin = _THIN if batch * n >= _PROGRAMS * _THIN.n else _THIN_NARROW
        return replace(thin, stages=3) if operand == f32 else thin
    large = batch * (m // _LARGE.m) * (n // _LARGE.n)
    return _LARGE if large >= _PROGRAMS else _FAST


def _operand_dtype(kernel: DotKernel) -> DType | None:
    """The dtype of the factors in a matrix instruction; None: sums of products in the accumulator's dtype."""
    if kernel.acc != f32:
        return None
    found = {multiplied(kernel, body)[1] for body in (kernel.a, kernel.b)}
    if len(found) == 1 and found <= {bf16, f16}:
        return found.pop()
    return bf16 if all(d.bits == 8 for d in found) else f32


def _extent(axis: Axis) -> int:
    d: Dim = axis.extent
    return power(d) if isinstance(d, int) else 1 << 30
