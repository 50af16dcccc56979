"""Operands of products as the copy engine sees them: a tensor of up to five dimensions with constant steps."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Atom, Call, Dim, Expr, Symbol, add, floordiv, is_multiple, mul, substitute, sym, symbols
from tessera.ir.dtype import DType, f32
from tessera.schedule.index import atom_of
from tessera.target.triton.expression import fits
from tessera.target.triton.launch import MapSize, TensorMapArgument
from tessera.tile.ir import Axis, Buffer, Compute, DotKernel, Load, Op

SWIZZLE = 128
_STEP_BYTES = 16
_MOST_DIMENSIONS = 5
PART, LONGEST = 64, 256
"""Of an axis that is cut, parts are of multiples of so many: contiguous elements and terms; rows or columns."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of an operand in memory: an axis, or a digit of its positions as mixed-radix numbers.

    The digit counts ``step`` positions; with a ``modulus`` it begins anew after so many.
    """

    axis: Axis
    symbol: Symbol
    extent: Dim
    step: int = 1
    modulus: int = 0

    def coordinate(self, position: str) -> str:
        """Where a position along the axis lies."""
        text = f"({position}) // {self.step}" if self.step > 1 else f"({position})" if self.modulus else position
        return f"{text} % {self.modulus}" if self.modulus else text


@dataclass(frozen=True, slots=True)
class Mapped:
    """An operand that is a tensor in memory with one unit step.

    ``dimensions``: outermost first. ``terms_inside``: whether the terms (axis k) are contiguous. ``spread``: rows or
    columns are contiguous in parts of so many only, and those of a block lie along the third dimension from the inside.
    ``start``: the buffer's element with which the tensor begins.
    """

    buffer: int
    dtype: DType
    dimensions: tuple[Dimension, ...]
    shape: tuple[MapSize, ...]
    strides: tuple[MapSize, ...]
    terms_inside: bool
    spread: int = 0
    start: MapSize = MapSize(0)

    def argument(self, outer: int, terms: int) -> TensorMapArgument:
        """The tensor map for blocks of ``outer`` rows or columns by ``terms`` terms."""
        inner = (outer, terms) if self.terms_inside else (terms, outer)
        if self.spread:
            inner = (outer // self.spread, terms, self.spread)
        block = (*[1] * (len(self.dimensions) - len(inner)), *inner)
        return TensorMapArgument(self.buffer, self.dtype, self.shape, self.strides, block, SWIZZLE, self.start)


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
    found = None if offset is None else _dimensions(offset, [*kernel.batch, outer, kernel.k])
    if found is None:
        return None
    first = substitute(found[0], dict.fromkeys((d.symbol for d in found[1]), 0))
    steps = _steps(add(found[0], mul(-1, first)), [d.symbol for d in found[1]])
    start = map_size(kernel.sizes, first)
    if steps is None or start is None or start.factor < 0:
        return None
    used = [d for d in found[1] if steps[d.symbol] != 0 or d.axis in (outer, kernel.k)]
    inside = next((d for d in used if steps[d.symbol] == 1 and d.axis is kernel.k), None)
    inside = inside or next((d for d in used if steps[d.symbol] == 1 and d.axis is outer), None)
    if inside is None or inside.step > 1:
        return None
    other = next(d for d in used if d.axis is (outer if inside.axis is kernel.k else kernel.k) and d.step == 1)
    further = [d for d in used if d.axis is outer and d.step > 1] if inside.axis is outer else []
    spread = min(further, key=lambda d: d.step, default=None)
    row = SWIZZLE * 8 // buffer.dtype.bits
    if not _are_whole(inside, other, outer, row) or (spread is not None and not _holds_blocks(spread, inside)):
        return None
    last = [d for d in (spread, other, inside) if d is not None]
    dimensions = (*(d for d in used if d not in last), *last)
    if len(dimensions) > _MOST_DIMENSIONS or not all(fits(d.extent, 1024) for d in dimensions):
        return None
    step = _STEP_BYTES * 8 // buffer.dtype.bits
    strides = [1 if d is inside else step if d.extent == 1 else steps[d.symbol] for d in dimensions]
    if any(d == 0 or not is_multiple(d, step) for d in strides[:-1]) or not is_multiple(first, step):
        return None
    sizes = [map_size(kernel.sizes, d) for d in (*(d.extent for d in dimensions), *strides)]
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes) or any(n.factor < 0 for n in known):
        return None
    return Mapped(load.buffer, buffer.dtype, dimensions, tuple(known[: len(dimensions)]),
                  tuple(known[len(dimensions) :]), inside.axis is kernel.k, 0 if spread is None else PART, start)


def _are_whole(inside: Dimension, other: Dimension, outer: Axis, row: int) -> bool:
    """Whether blocks, ``row`` elements of which are contiguous, do not reach over the ends of parts of an axis."""
    return inside.modulus % max(PART, row) == 0 and other.modulus % (LONGEST if other.axis is outer else PART) == 0


def _holds_blocks(spread: Dimension, inside: Dimension) -> bool:
    """Whether the parts of a block lie along one dimension."""
    return inside.extent == PART and spread.modulus * PART % LONGEST == 0


def _dimensions(offset: Dim, axes: list[Axis]) -> tuple[Dim, list[Dimension]] | None:
    """The offset over dimensions: digits of an axis are dimensions of their own."""
    calls = {a for m, _ in offset.terms for a in m if isinstance(a, Call)} if isinstance(offset, Expr) else set()
    found: list[Dimension] = []
    swap: dict[Atom, Dim] = {}
    for axis in axes:
        own = {c: digit for c in calls if (digit := _digit(c, axis.symbol)) is not None}
        if not own:
            found.append(Dimension(axis, axis.symbol, axis.extent))
            continue
        digits = sorted(set(own.values()), reverse=True)
        if not _are_complete(digits) or not is_multiple(axis.extent, digits[0][0]):
            return None
        symbols_of = {d: Symbol(f"{axis.symbol.name}_{d[0]}", 0, None) for d in digits}
        swap.update((c, sym(symbols_of[d])) for c, d in own.items())
        for step, modulus in digits:
            extent = modulus or floordiv(axis.extent, step)
            found.append(Dimension(axis, symbols_of[step, modulus], extent, step, modulus))
    if any(c not in swap for c in calls):
        return None
    total: Dim = 0
    for atoms, c in offset.terms if isinstance(offset, Expr) else (((), offset),):
        term: Dim = c
        for atom in atoms:
            term = mul(term, swap[atom] if atom in swap else sym(atom))
        total = add(total, term)
    return total, found


def _digit(d: Dim | Atom, axis: Symbol) -> tuple[int, int] | None:
    """Step and modulus, or 0 for none, of what quotients and remainders of an axis tell; None for anything else."""
    if isinstance(d, Expr):
        atom = atom_of(d)
        return None if atom is None else _digit(atom, axis)
    if not isinstance(d, Call):
        return (1, 0) if d == axis else None
    inner = _digit(d.a, axis)
    if inner is None or not isinstance(d.b, int) or d.b < 1 or inner[1] % d.b:
        return None
    if d.function == "mod":
        return inner[0], d.b
    return (inner[0] * d.b, inner[1] // d.b) if d.function == "floordiv" else None


def _are_complete(digits: list[tuple[int, int]]) -> bool:
    """Whether digits, the highest first, tell a position."""
    steps = [step for step, _ in digits]
    return steps[-1] == 1 and digits[0][1] == 0 and all(
        step * modulus == above for above, (step, modulus) in zip(steps, digits[1:]))


def _offset(buffer: Buffer, load: Load) -> Dim | None:
    """The element that a load reads, counted from the buffer's first; None when it depends on values."""
    total: Dim = 0
    for entry, stride in zip(load.index, buffer.strides):
        if not isinstance(entry, (int, Expr)):
            return None
        total = add(total, mul(entry, stride))
    return total


def _steps(offset: Dim, axes: list[Symbol]) -> dict[Symbol, Dim] | None:
    """The step along each axis, when the offset is the sum of axis times step."""
    start: dict[Symbol, Dim] = dict.fromkeys(axes, 0)
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
