"""Products that have a kernel better than the general one, and the shape of that kernel.

The choice is made from sizes alone (symbolic ones count as their typical size), so it needs no GPU and is the same
everywhere. Times are estimated in cycles of a multiprocessor from what the tiles multiply and fetch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tessera.ir.dims import Dim, Symbol, bounds, ceildiv, mul, product, sym
from tessera.ir.dtype import DType, f32
from tessera.schedule.cost import typical
from tessera.schedule.index import strides
from tessera.target.triton import apart, hopper, loops, product_sums
from tessera.target.triton.gluon import ELEMENTS
from tessera.target.triton.head import Options
from tessera.target.triton.hopper import ROWS, TERMS, WIDEST_8_BIT, Tile, terms
from tessera.target.triton.launch import Generated
from tessera.target.triton.operand import mapped, multiplied
from tessera.tile.ir import Axis, Buffer, Compute, DotKernel, Load, LoopKernel, Op, Ref, Stage, Store

_SMALLEST = 1 << 22
"""Multiplications from which the start of a persistent grid does not matter."""
_FEWEST = 33
"""Rows and columns from which tiles are filled well enough."""
_MULTIPROCESSORS = 132
_MULTIPLIES = 1856
"""Multiplications of 16-bit floats in a cycle."""
_FETCH = 54
"""Bytes of operands that arrive in a cycle."""
_STEP = 560
"""Cycles that a block of terms takes at least: one is waited for, multiplied, given back and asked for anew."""
_STORE = 16
"""Results that the epilogue handles in a cycle."""
_MEMORY = 13
"""Bytes from and to memory in a cycle, for each multiprocessor."""
_MOST_TENSORS, _MOST_WORK = 4, 24
"""Tensors of the result's size, and operations, up to which an epilogue is run by the warps that multiply."""
_APART = 9
"""Work of an epilogue that warps of its own do in a cycle."""
_MARGIN = 1.1
"""How much faster an epilogue has to be on warps of its own to be run by them."""
_PART = 10
"""Bytes of memory's time that each sum of a part takes: it is written, and read once."""
_START = 2500
_LAUNCH = 6000
_SPLITS = (1, 2, 3, 4, 5, 6, 7, 8)
_TILES = (Tile(256), Tile(128), Tile(64))


@dataclass(frozen=True, slots=True)
class Form:
    """A tile, and into how many parts the terms are cut."""

    tile: Tile
    parts: int = 1

    def text(self) -> str:
        """As reports and caches name it."""
        parts = f", {self.parts} parts of terms" if self.parts > 1 else ""
        return f"tiles of {ROWS} x {self.tile.columns}{parts}"


def generate(kernel: DotKernel, options: Options, form: Form | None = None) -> Generated | None:
    """The launches of a product for Hopper's matrix units and copy engine; None when they do not suit it.

    ``form``: the tile and parts; None: those that are estimated to take the least time.
    """
    if options.architecture != "sm_90a" or not _suits(kernel):
        return None
    form = form or choose(kernel)
    heavy = is_heavy(kernel)
    if product_sums.of(kernel):
        return None if heavy or form.parts > 1 else _with_sums(kernel, options, form.tile)
    if form.parts == 1 and (not heavy or is_hidden(kernel, form.tile)):
        program = _program(kernel, options, form.tile, hidden=heavy)
        return None if program is None else Generated((program,))
    first, second, workspace = split(kernel, form.parts)
    program = _program(first, options, form.tile, _part_steps(kernel, form.parts))
    return None if program is None else Generated((program, loops.generate(second, options)), workspace)


def _with_sums(kernel: DotKernel, options: Options, tile: Tile) -> Generated | None:
    """The launches of a product that forms sums, where it has warps for that."""
    if kernel.batch or tile.columns < apart.LEAST or apart.rounded_first(kernel) is None:
        return None
    pieces = mul(ceildiv(kernel.m.extent, ROWS), ROWS // apart.rows(kernel))
    workspace = product_sums.partials(kernel, pieces)
    program = _program(replace(kernel, buffers=(*kernel.buffers, workspace)), options, tile)
    if program is None:
        return None
    second = product_sums.totals(kernel, workspace, options)
    return Generated((program, second), mul(4, product(workspace.shape)))


def _part_steps(kernel: DotKernel, parts: int) -> int:
    """Blocks of terms in each of so many parts but the last, which may have fewer."""
    return _blocks(_blocks(typical(kernel.k.extent), _terms(kernel)), parts)


def _blocks(size: int, each: int) -> int:
    return -(-size // each)


def _program(
    kernel: DotKernel, options: Options, tile: Tile, part_steps: int = 0, hidden: bool = False
) -> hopper.Program | None:
    kind = element(kernel)
    if kind is None or (kind.bits == 8 and tile.columns > WIDEST_8_BIT):
        return None
    a = mapped(kernel, multiplied(kernel, kernel.a)[0], kernel.m)
    b = mapped(kernel, multiplied(kernel, kernel.b)[0], kernel.n)
    if a is None or b is None or (kind.bits == 8 and not (a.terms_inside and b.terms_inside)):
        return None
    return hopper.generate(kernel, options, a, b, tile, part_steps, hidden)


def element(kernel: DotKernel) -> DType | None:
    """The dtype of the left factor where the matrix units take both operands: 16-bit floats of one kind, or 8-bit."""
    a, b = (multiplied(kernel, body)[1] for body in (kernel.a, kernel.b))
    return a if a in ELEMENTS and b in ELEMENTS and (a == b or a.bits == b.bits == 8) else None


def _terms(kernel: DotKernel) -> int:
    """Terms in a block."""
    kind = element(kernel)
    return TERMS if kind is None else terms(kind)


def _suits(kernel: DotKernel) -> bool:
    """Whether the sizes, and what the epilogue does with memory, suit the kernel."""
    m, n, k = (typical(a.extent) for a in (kernel.m, kernel.n, kernel.k))
    batch = math.prod(typical(a.extent) for a in kernel.batch)
    if kernel.acc != f32 or element(kernel) is None:
        return False
    if min(m, n) < _FEWEST or k < _terms(kernel) or batch * m * n * k < _SMALLEST:
        return False
    if not all(hopper.suits(kernel, a) for a in (*kernel.batch, kernel.m, kernel.n, kernel.k)):
        return False
    count = bounds(hopper.tile_count(kernel, _TILES[-1]))[1]
    if count is not None and count >= 2**31 - 1024:
        return False
    for op in kernel.epilogue:
        if isinstance(op, Store) and any(isinstance(e, Ref) for e in op.index):
            return False
        if isinstance(op, Store) and (op.mode == "add" or (op.mode == "set" and not apart.is_whole(kernel, op))):
            return False
    return True


def is_heavy(kernel: DotKernel) -> bool:
    """Whether the warps that multiply should not run the epilogue: an optimizer's update reads and writes more than
    the product, and nothing is multiplied meanwhile. It would also be compiled for each piece of a tile.
    """
    tensors = [o for o in kernel.epilogue if isinstance(o, (Load, Store)) and apart.is_whole(kernel, o)]
    return len(tensors) > _MOST_TENSORS or sum(isinstance(o, Compute) for o in kernel.epilogue) > _MOST_WORK


def is_hidden(kernel: DotKernel, tile: Tile) -> bool:
    """Whether a heavy epilogue is better run by warps of its own, beside the products of the next tile, than by a
    kernel of its own, which also has to read the sums.
    """
    if tile.columns < apart.LEAST or apart.rounding(kernel) is None:
        return False
    tiles, multiplied = _tiles(kernel, tile), _steps_cycles(tile, _part_steps(kernel, 1)) + _START
    size, moved = tiles * ROWS * tile.columns, apart.moved(kernel)
    update = ROWS * tile.columns * max(moved / _MEMORY, apart.work(kernel) / _APART)
    beside = _blocks(tiles, _MULTIPROCESSORS) * max(multiplied, update) + update
    return _MARGIN * beside < cycles(kernel, Form(tile)) + _LAUNCH + size * (8 + moved) / (_MEMORY * _MULTIPROCESSORS)


def choose(kernel: DotKernel) -> Form:
    """The form that is estimated to take the least time."""
    return min(forms(kernel), key=lambda f: cycles(kernel, f))


def forms(kernel: DotKernel) -> Iterator[Form]:
    """All tiles, with all numbers of parts that the terms can be cut into."""
    k = kernel.k.extent
    kind, block = element(kernel), _terms(kernel)
    for tile in _TILES:
        if kind is not None and kind.bits == 8 and tile.columns > WIDEST_8_BIT:
            continue
        yield Form(tile)
        for parts in _SPLITS:
            if isinstance(k, int) and k >= 4 * block * parts:
                steps, each = _blocks(k, block), _part_steps(kernel, parts)
                if _blocks(steps, each) == parts:
                    yield Form(tile, parts)


def cycles(kernel: DotKernel, form: Form) -> float:
    """Estimated cycles of a multiprocessor until the last is done."""
    m, n, k = (typical(a.extent) for a in (kernel.m, kernel.n, kernel.k))
    batch = math.prod(typical(a.extent) for a in kernel.batch)
    rows, columns, parts = ROWS, form.tile.columns, form.parts
    tiles = _tiles(kernel, form.tile) * parts
    tile = _steps_cycles(form.tile, _part_steps(kernel, parts)) + rows * columns / _STORE + _START
    moved = 2 * batch * (m * k + k * n)
    time = max(_blocks(tiles, _MULTIPROCESSORS) * tile, moved / (_MEMORY * _MULTIPROCESSORS))
    return time + (_LAUNCH + _PART * parts * batch * m * n / (_MEMORY * _MULTIPROCESSORS) if parts > 1 else 0)


def _tiles(kernel: DotKernel, tile: Tile) -> int:
    """Tiles of the result."""
    batch = math.prod(typical(a.extent) for a in kernel.batch)
    return _blocks(typical(kernel.m.extent), ROWS) * _blocks(typical(kernel.n.extent), tile.columns) * batch


def _steps_cycles(tile: Tile, steps: int) -> float:
    """Estimated cycles in which so many blocks of terms of a tile are multiplied."""
    fetched = (ROWS + tile.columns) * TERMS * 2  # 128 bytes of terms
    return steps * max(ROWS * tile.columns * TERMS / _MULTIPLIES, fetched / _FETCH, _STEP)


def split(kernel: DotKernel, parts: int) -> tuple[DotKernel, LoopKernel, Dim]:
    """A product whose terms are cut into ``parts``: the products of the parts into a workspace; their sum, in order,
    with the epilogue; the bytes of the workspace.
    """
    part = Axis(Symbol("part", 0, parts - 1), parts)
    axes = (*kernel.batch, kernel.m, kernel.n)
    shape: tuple[Dim, ...] = (parts, *(a.extent for a in axes))
    workspace = Buffer("partial", f32, shape, strides(shape), "out")
    at = tuple(sym(a.symbol) for a in axes)
    number = len(kernel.buffers)
    first = replace(
        kernel, name=f"{kernel.name}_parts", buffers=(*kernel.buffers, workspace), batch=(part, *kernel.batch),
        epilogue=(Store(number, (sym(part.symbol), *at), Ref(3, 0)),),
    )
    total: list[Op] = [Load(number, (0, *at))]
    for i in range(1, parts):
        total += [Load(number, (i, *at)), Compute("add", (Ref(0, len(total) - 1), Ref(0, len(total))), f32)]
    ops = [_moved(op, len(total)) for op in kernel.epilogue]
    second = LoopKernel(
        f"{kernel.name}_sum", kernel.sizes, (*kernel.buffers, replace(workspace, role="in")), axes,
        (Stage((), (*total, *ops)),), kernel.loc,
    )
    return first, second, mul(4, product(shape))


def _moved(op: Op, before: int) -> Op:
    """An op of the epilogue as one that follows the sum over parts, which takes ``before`` ops."""
    def ref(r: Ref) -> Ref:
        return Ref(0, before - 1 if r.scope == 3 else before + r.index)

    if isinstance(op, Compute):
        return replace(op, args=tuple(map(ref, op.args)))
    if isinstance(op, Load):
        return replace(op, mask=op.mask and ref(op.mask))
    if isinstance(op, Store):
        return replace(op, value=ref(op.value), mask=op.mask and ref(op.mask))
    if hasattr(op, "key"):
        return replace(op, key=tuple(map(ref, op.key)))  # type: ignore[call-arg]
    return op
