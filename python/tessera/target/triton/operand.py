"""Operands of products as the copy engine sees them: a tensor of up to five dimensions with constant steps."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim, Expr, Symbol, add, is_multiple, mul, substitute, sym, symbols
from tessera.ir.dtype import DType, f32
from tessera.target.triton.expression import fits
from tessera.target.triton.launch import MapSize, TensorMapArgument
from tessera.tile.ir import Axis, Buffer, Compute, DotKernel, Load, Op

SWIZZLE = 128
_STEP_BYTES = 16
_MOST_DIMENSIONS = 5


@dataclass(frozen=True, slots=True)
class Mapped:
    """An operand that is a tensor in memory with one unit step.

    ``axes``: of its dimensions, outermost first. ``terms_inside``: whether the terms (axis k) are contiguous.
    """

    buffer: int
    dtype: DType
    axes: tuple[Axis, ...]
    shape: tuple[MapSize, ...]
    strides: tuple[MapSize, ...]
    terms_inside: bool

    def argument(self, outer: int, terms: int) -> TensorMapArgument:
        """The tensor map for blocks of ``outer`` rows or columns by ``terms`` terms."""
        inner = (outer, terms) if self.terms_inside else (terms, outer)
        block = (*[1] * (len(self.axes) - 2), *inner)
        return TensorMapArgument(self.buffer, self.dtype, self.shape, self.strides, block, SWIZZLE)


def multiplied(kernel: DotKernel, body: tuple[Op, ...]) -> tuple[tuple[Op, ...], DType]:
    """What the matrix units take of an operand, and its dtype: a narrow float that is widened to f32 is taken as it is.

    Products of two 16-bit or 8-bit floats of one kind are exact in f32.
    """
    last = body[-1]
    if kernel.acc == f32 and len(body) == 2 and isinstance(last, Compute) and last.function == "cast":
        load = body[0]
        if isinstance(load, Load) and last.dtype == f32 and kernel.buffers[load.buffer].dtype.bits <= 16:
            source = kernel.buffers[load.buffer].dtype
            if source.is_float:
                return body[:1], source
    return body, kernel.buffers[last.buffer].dtype if isinstance(last, Load) else last.dtype  # type: ignore[union-attr]


def mapped(kernel: DotKernel, body: tuple[Op, ...], outer: Axis) -> Mapped | None:
    """The operand that ``body`` describes, or None when the copy engine cannot fetch it."""
    load = body[-1]
    if len(body) != 1 or not isinstance(load, Load) or load.mask is not None:
        return None
    buffer = kernel.buffers[load.buffer]
    offset = _offset(buffer, load)
    steps = None if offset is None else _steps(offset, [*kernel.batch, outer, kernel.k])
    if steps is None:
        return None
    inner = kernel.k if steps[kernel.k.symbol] == 1 else outer
    if steps[inner.symbol] != 1:
        return None
    axes = (*(a for a in kernel.batch if steps[a.symbol] != 0), *((outer, kernel.k) if inner is kernel.k else
                                                                 (kernel.k, outer)))
    if len(axes) > _MOST_DIMENSIONS or not all(fits(a.extent, 1024) for a in axes):
        return None
    step = _STEP_BYTES * 8 // buffer.dtype.bits
    strides = [1 if a is inner else step if a.extent == 1 else steps[a.symbol] for a in axes]
    if any(d == 0 or not is_multiple(d, step) for d in strides[:-1]):
        return None
    sizes = [map_size(kernel.sizes, d) for d in (*(a.extent for a in axes), *strides)]
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes):
        return None
    return Mapped(load.buffer, buffer.dtype, axes, tuple(known[: len(axes)]), tuple(known[len(axes) :]),
                  inner is kernel.k)


def _offset(buffer: Buffer, load: Load) -> Dim | None:
    """The element that a load reads, counted from the buffer's first; None when it depends on values."""
    total: Dim = 0
    for entry, stride in zip(load.index, buffer.strides):
        if not isinstance(entry, (int, Expr)):
            return None
        total = add(total, mul(entry, stride))
    return total


def _steps(offset: Dim, axes: list[Axis]) -> dict[Symbol, Dim] | None:
    """The step along each axis, when the offset is the sum of axis times step."""
    start: dict[Symbol, Dim] = {a.symbol: 0 for a in axes}
    if substitute(offset, start) != 0:
        return None
    steps = {s: substitute(offset, {**start, s: 1}) for s in start}
    total: Dim = 0
    for s, step in steps.items():
        total = add(total, mul(sym(s), step))
    return steps if total == offset else None


def map_size(sizes: tuple[Symbol, ...], d: Dim) -> MapSize | None:
    """A number of a tensor map: a constant, or a constant times one of the ``sizes`` of the kernel."""
    if isinstance(d, int):
        return MapSize(d)
    used = symbols(d)
    if len(used) != 1 or used[0] not in sizes:
        return None
    factor = substitute(d, {used[0]: 1})
    if not isinstance(factor, int) or mul(sym(used[0]), factor) != d:
        return None
    return MapSize(factor, sizes.index(used[0]))
