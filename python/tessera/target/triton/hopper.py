"""Products on Hopper: a persistent grid, the copy engine, and warps with parts of their own.

One warp asks the copy engine for blocks of both operands, several steps ahead. Eight warps multiply, with the
accumulators in registers, and run the epilogue; meanwhile the blocks of the next tile arrive.
Barriers in shared memory say which blocks are there (``ready``) and which may be overwritten (``free``).

An epilogue with much arithmetic that begins by rounding the product to 16 bits is run by four warps of its own: the
eight leave the rounded tile in shared memory, in pieces (``given``, ``taken``), and go on to the next tile. They then
ask for blocks themselves, since registers for sixteen warps would not hold their accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, Symbol, bounds, ceildiv, dmin, mul, product
from tessera.ir.dtype import DType
from tessera.target.triton import apart
from tessera.target.triton.expression import Expressions, fits
from tessera.target.triton.gluon import ELEMENTS, product_layout, row_layout, shared_layout
from tessera.target.triton.head import Head, Options
from tessera.target.triton.hopper_epilogue import PIECE, ROWS, WARPS, Epilogue
from tessera.target.triton.launch import Program
from tessera.target.triton.library import module_text
from tessera.target.triton.narrow_functions import of_narrow
from tessera.target.triton.operand import SWIZZLE, Mapped
from tessera.target.triton.text import Writer
from tessera.tile.ir import Axis, DotKernel

TERMS = 64
"""16-bit terms in a block: rows of 128 bytes."""
WIDEST_8_BIT = 128
"""Columns of a tile of 8-bit floats: their sums are held twice."""
_PROGRAMS = 132
_BAND = 8
_PIECES = ("pieces", "given", "taken")
_SHARED = 227 * 1024 - 1024
_COPY_REGISTERS = 24


_NAMES = (
    "gluon", "core", "hopper", "mbarrier", "tma", "min", "a_blocks", "b_blocks", "ready", "free", "tile", "step",
    "turn", "k_step", "first_step", "arrived", "layout", "flat", "total", "last", "left_block", "right_block", "result",
    "part", "band", "in_band", "band_rows", "m_first", "n_first", "rows", "held", "stage", "pieces", "halves", "given",
    "taken", "lap", "half", "inside", "next_tile", "next_step", "next_half", "next_m", "next_n",
)


def terms(dtype: DType) -> int:
    """Terms of a dtype in a block."""
    return TERMS * 16 // dtype.bits


@dataclass(frozen=True, slots=True)
class Tile:
    """Columns of a tile, and for how many blocks there is room."""

    columns: int

    def stages(self, apart: bool = False) -> int:
        """Blocks of both operands that fit in shared memory beside the epilogue's; ``apart``: a rounded tile."""
        block = (ROWS + self.columns) * TERMS * 2
        return min(8, (_SHARED - ROWS * (self.columns * 2 if apart else PIECE * 4)) // block)


def generate(
    kernel: DotKernel, options: Options, a: Mapped, b: Mapped, tile: Tile, part_steps: int = 0, hidden: bool = False
) -> Program:
    """The program of a product whose operands are ``a`` and ``b``.

    ``part_steps``: the first axis of the batch counts parts of the terms, each of so many blocks; 0: it does not.
    ``hidden``: the epilogue is run by warps of its own, and rounds as a kernel of its own would.
    """
    return _Product(kernel, options, a, b, tile, part_steps, hidden).program()


class _Product:
    def __init__(
        self, kernel: DotKernel, options: Options, a: Mapped, b: Mapped, tile: Tile, part_steps: int, hidden: bool
    ) -> None:
        self.kernel, self.a, self.b, self.part_steps = kernel, a, b, part_steps
        found = apart.rounding(kernel) if hidden else apart.rounded_first(kernel)
        self.apart = None if part_steps or tile.columns < apart.LEAST else found
        self.hidden = hidden
        self.columns, self.stages = tile.columns, tile.stages(self.apart is not None)
        self.ahead = apart.ahead(kernel) if self.apart else ()
        if self.apart and not hidden:
            self.ahead = (*self.ahead, *apart.early(kernel))
        self.packed = () if hidden else tuple(i for i in self.ahead if apart.is_pair(kernel, i))
        self.height = apart.rows(kernel) if self.apart else ROWS
        self.depth = 1 if hidden else apart.depth(kernel)
        if not hidden:
            self.kernel = of_narrow(kernel)
        self.head = Head(kernel, options, reserved=_NAMES)
        self.writer = self.head.writer
        self.values = [*self.head.pointers, *(v.text for v in self.head.sizes.values())]
        self.terms = terms(a.dtype)
        self.maps = [self.head.parameter("a_map", a.argument(ROWS, self.terms)),
                     self.head.parameter("b_map", b.argument(self.columns, self.terms))]
        self.tiles = [ceildiv(kernel.m.extent, ROWS), ceildiv(kernel.n.extent, self.columns)]
        self.count = mul(product(x.extent for x in kernel.batch), mul(*self.tiles))
        self.functions: dict[str, None] = {}
        self.may_be_empty = bounds(kernel.k.extent)[0] < 1

    def program(self) -> Program:
        """Emit everything."""
        if self.apart:
            parts = [
                self._place(), self._ask(), self._store(), *([self._fetch()] if self.ahead else []), self._finish(),
                self._multiply_apart(), self._main(),
            ]
        else:
            parts = [self._copy(), self._store(), self._multiply(), self._main()]
        source = module_text(self.functions, "\n\n".join(parts), gluon=True)
        grid = (dmin(self.count, _PROGRAMS), 1, 1)
        arguments = tuple(self.head.arguments)
        return Program(self.head.name, source, arguments, grid, WARPS, contract=not self.hidden, gluon=True)

    # Functions.

    def rows(self) -> str:
        """The layout of a piece of the epilogue in rows."""
        if self.apart:
            return row_layout(PIECE, apart.WARPS, apart.neighbours(self.kernel))
        return row_layout(PIECE, WARPS)

    def _function(self, suffix: str, parameters: Sequence[str], writer: Writer) -> str:
        self.functions.update(writer.functions)
        name = f"{self.head.name}{suffix}"
        return "\n".join(["@gluon.jit", f"def {name}({', '.join(parameters)}):", *writer.lines]) + "\n"

    def _new_writer(self) -> Writer:
        writer = Writer()
        writer.reserve("tl", "libdevice", "float", "range", *_NAMES, *self.values, *self.maps)
        return writer

    def _copy(self) -> str:
        """The warp that asks for blocks."""
        w = self._new_writer()
        w.line("step, turn = 0, 1")
        with self._each_tile(w) as place, w.block(f"for k_step in range({self._range(w, place)}):"):
            w.line("mbarrier.wait(free.index(step), turn)")
            w.line("arrived = ready.index(step)")
            w.line(f"mbarrier.expect(arrived, {(ROWS + self.columns) * TERMS * 2})")
            for text in self._copies(place, "k_step"):
                w.line(text)
            self._advance(w)
        return self._function("_copy", [*self.values, *self.maps, "a_blocks", "b_blocks", "ready", "free"], w)

    def _multiply(self) -> str:
        """The warps that multiply."""
        w = self._new_writer()
        element = self.a.dtype
        w.line(f"layout: tl.constexpr = {product_layout(self.columns, WARPS, element.bits)}")
        w.line(f"flat: tl.constexpr = tl.{shared_layout(SWIZZLE, element, 2)}")
        w.line("step, turn = 0, 0")
        with self._each_tile(w) as place:
            (self._steps_of_8_bits if element.bits == 8 else self._steps_of_16_bits)(w, place)
            batch = [place[x.symbol] for x in self.kernel.batch]
            self._pieces(w, "result", self.columns, 0, batch)
        return self._function("_multiply", [*self.values, "a_blocks", "b_blocks", "ready", "free"], w)

    def _steps_of_16_bits(self, w: Writer, place: dict[Symbol, str]) -> None:
        """One product is on its way while the next is asked for; its blocks are free when it is done."""
        w.line(f"total = hopper.warpgroup_mma_init(tl.zeros(({ROWS}, {self.columns}), tl.float32, layout))")
        w.line("last = 0")
        with w.block(f"for k_step in range({self._range(w, place)}):"):
            self._blocks_of_a_step(w)
            w.line("total = hopper.warpgroup_mma(left_block, right_block, total, is_async=True)")
            w.line("total = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(1, deps=(total,)))")
            first = "first_step" if self.part_steps else "0"
            w.line(f"mbarrier.arrive(free.index(last), count=1, pred=k_step > {first})")
            w.line("last = step")
            self._advance(w)
        w.line("result = hopper.warpgroup_mma_wait(0, deps=(total,))")
        condition = f", pred={self._steps(w)} > 0" if self.may_be_empty else ""
        w.line(f"mbarrier.arrive(free.index(last), count=1{condition})")

    def _steps_of_8_bits(self, w: Writer, place: dict[Symbol, str]) -> None:
        """The units keep some 14 bits of a sum of 8-bit products, so that each block's is added to the total in f32."""
        w.line(f"result = tl.zeros(({ROWS}, {self.columns}), tl.float32, layout)")
        with w.block(f"for k_step in range({self._range(w, place)}):"):
            self._blocks_of_a_step(w)
            w.line(f"part = hopper.warpgroup_mma_init(tl.zeros(({ROWS}, {self.columns}), tl.float32, layout))")
            w.line("part = hopper.warpgroup_mma(left_block, right_block, part, use_acc=False, is_async=True)")
            w.line("result = result + hopper.warpgroup_mma_wait(0, deps=(part,))")
            w.line("mbarrier.arrive(free.index(step), count=1)")
            self._advance(w)

    def _blocks_of_a_step(self, w: Writer) -> None:
        w.line("mbarrier.wait(ready.index(step), turn)")
        w.line(f"left_block = {self._block('a', self.a, ROWS)}")
        w.line(f"right_block = {self._block('b', self.b, self.columns)}")

    def _pieces(self, w: Writer, text: str, columns: int, first: int, batch: list[str]) -> None:
        """The epilogue on pieces of the result: halves of halves."""
        if columns > PIECE:
            half = columns // 2
            left, right = w.fresh("left"), w.fresh("right")
            w.line(f"{left}, {right} = {text}.reshape(({ROWS}, 2, {half})).permute((0, 2, 1)).split()")
            self._pieces(w, left, half, first, batch)
            self._pieces(w, right, half, first + half, batch)
            return
        if self.apart:
            number = first // PIECE
            w.line(f"mbarrier.wait(taken.index({number}), lap)")
            value = f"tl.convert_layout({text}.to({ELEMENTS[self.apart]}), held, assert_trivial=True)"
            w.line(f"pieces.index({number}).store({value})")
            w.line(f"mbarrier.arrive(given.index({number}), count=1)")
            return
        at = ["m_first", f"n_first + {first}" if first else "n_first"]
        w.line(f"{self.head.name}_store({', '.join([*self.values, text, *at, *batch])})")

    def _store(self) -> str:
        """The epilogue."""
        w = self._new_writer()
        batch = [w.fresh(x.symbol.name) for x in self.kernel.batch]
        fetched = [w.fresh("fetched") for _ in self.ahead]
        epilogue = Epilogue(self, w, ("m_first", "n_first"), batch)
        epilogue.fetched = dict(zip(self.ahead, fetched))
        if self.hidden:
            epilogue.fetched |= {i: w.assign("fetched", epilogue.raw(i)) for i in apart.early(self.kernel)}
        epilogue.emit()
        return self._function("_store", [*self.values, "total", *fetched, "m_first", "n_first", *batch], w)

    # The epilogue on warps of its own.

    def _place(self) -> str:
        """Where a tile begins, and its numbers along the batch axes."""
        w = self._new_writer()
        place = self.tile_numbers(w)
        w.line(f"return {', '.join(['m_first', 'n_first', *(place[x.symbol] for x in self.kernel.batch)])}")
        return self._function("_place", [*self.values, "tile"], w)

    def _ask(self) -> str:
        """Ask for the blocks of a step of a tile."""
        w = self._new_writer()
        batch = [w.fresh(x.symbol.name) for x in self.kernel.batch]
        place = {x.symbol: b for x, b in zip(self.kernel.batch, batch)}
        w.line("arrived = ready.index(step)")
        w.line(f"mbarrier.expect(arrived, {(ROWS + self.columns) * TERMS * 2}, pred=inside)")
        for text in self._copies(place, "k_step"):
            w.line(text[:-1] + ", pred=inside)")
        parameters = [*self.values, *self.maps, "a_blocks", "b_blocks", "ready", "step", "k_step", "inside", "m_first",
                      "n_first", *batch]
        return self._function("_ask", parameters, w)

    def _copies(self, place: dict[Symbol, str], step: str) -> list[str]:
        """The requests for the blocks of a step."""
        found: list[str] = []
        for name, operand, outer, blocks in zip(self.maps, (self.a, self.b), ("m_first", "n_first"), "ab"):
            at = [
                d.coordinate(place[d.axis.symbol] if d.axis in self.kernel.batch else
                             f"{step} * {self.terms}" if d.axis is self.kernel.k else outer)
                for d in operand.dimensions
            ]
            given = f"{name}, [{', '.join(at)}], arrived, {blocks}_blocks.index(step)"
            found.append(f"tma.async_copy_global_to_shared({given})")
        return found

    def _multiply_apart(self) -> str:
        """The warps that ask for blocks and multiply them; ``next`` things are of the block that is asked for."""
        w = self._new_writer()
        name, element = self.head.name, self.a.dtype
        w.line(f"layout: tl.constexpr = {product_layout(self.columns, WARPS, element.bits)}")
        w.line(f"flat: tl.constexpr = tl.{shared_layout(SWIZZLE, element, 2)}")
        w.line(f"held: tl.constexpr = {product_layout(PIECE, WARPS)}")
        count = Expressions(w, self.head.sizes).text(self.count)
        steps = w.assign("steps", f"({self._steps(w)}) + 0")
        values = ", ".join(self.values)
        at = [w.fresh("next_m"), w.fresh("next_n"), *(w.fresh("next_batch") for _ in self.kernel.batch)]
        asked = f"{values}, {', '.join(self.maps)}, a_blocks, b_blocks, ready"
        inside = f"(next_tile < {count}) & ({steps} > 0)" if self.may_be_empty else f"next_tile < {count}"

        def ask(slot: str) -> None:
            w.line(f"{name}_ask({asked}, {slot}, next_step, {inside}, {', '.join(at)})")
            w.line("next_step += 1")
            with w.block(f"if next_step == {steps}:"):
                w.line("next_step = 0")
                w.line("next_tile += tl.num_programs(0)")
                w.line(f"{', '.join(at)} = {name}_place({values}, min(next_tile, {count} - 1))")

        w.line("next_tile = tl.program_id(0)")
        w.line("next_step = 0")
        w.line(f"{', '.join(at)} = {name}_place({values}, next_tile)")
        with w.block(f"for stage in range({self.stages - 1}):"):
            ask("stage")
        w.line("step, turn, lap = 0, 0, 1")
        w.line(f"last = {self.stages - 1}")
        with w.block(f"for tile in range(tl.program_id(0), {count}, tl.num_programs(0)):"):
            w.line(f"total = hopper.warpgroup_mma_init(tl.zeros(({ROWS}, {self.columns}), tl.float32, layout))")
            with w.block(f"for k_step in range({steps}):"):
                self._blocks_of_a_step(w)
                w.line("total = hopper.warpgroup_mma(left_block, right_block, total, is_async=True)")
                w.line("total = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(1, deps=(total,)))")
                w.line("tl.thread_barrier()")
                ask("last")
                w.line("last = step")
                self._advance(w)
            w.line("result = hopper.warpgroup_mma_wait(0, deps=(total,))")
            self._pieces(w, "result", self.columns, 0, [])
            w.line("lap = lap ^ 1")
        return self._function(
            "_multiply", [*self.values, *self.maps, "a_blocks", "b_blocks", "ready", *_PIECES], w)

    def _fetch(self) -> str:
        """What the epilogue reads beside the product, for 64 rows of a piece."""
        w = self._new_writer()
        batch = [w.fresh(x.symbol.name) for x in self.kernel.batch]
        epilogue = Epilogue(self, w, ("m_first", "n_first"), batch)
        found = [w.assign("fetched", self._kept(w, i, epilogue.raw(i))) for i in self.ahead]
        w.line(f"return {', '.join(found)}")
        return self._function("_fetch", [*self.values, "m_first", "n_first", *batch], w)

    def _kept(self, w: Writer, number: int, text: str) -> str:
        """What is read ahead as it is kept: the compiler takes pairs of 16-bit elements apart as soon as it has them,
        and so waits for them, unless they are numbers.
        """
        return w.call("packed_pairs", text) if number in self.packed else text

    def _finish(self) -> str:
        """The warps that run the epilogue: what they read for the next pieces, if it is little, is on its way."""
        w = self._new_writer()
        height, name, values = self.height, self.head.name, ", ".join(self.values)
        w.line(f"rows: tl.constexpr = {self.rows()}")
        w.line("lap = 0")
        batch = [w.fresh("next_batch") for _ in self.kernel.batch]
        fetched = [[w.fresh("fetched") for _ in self.ahead] for _ in range(self.depth + 1)]
        if self.ahead:
            w.line("next_tile, next_half = tl.program_id(0), 0")
            self._move(w, batch)
            for names in fetched[:-1]:
                self._fetch_next(w, names, batch)
        with self._each_tile(w) as place:
            with w.block(f"for half in range({self._pieces_of_tile}):"):
                if self.ahead:
                    self._fetch_next(w, fetched[-1], batch)
                w.line(f"mbarrier.wait(given.index(half // {ROWS // height}), lap)")
                total = w.assign("total", "halves.index(half).load(rows)")
                last = f"half % {ROWS // height} == {ROWS // height - 1}"
                w.line(f"mbarrier.arrive(taken.index(half // {ROWS // height}), count=1, pred={last})")
                at = [*self._piece_at("half", "m_first", "n_first"), *(place[x.symbol] for x in self.kernel.batch)]
                w.line(f"{name}_store({', '.join([values, total, *fetched[0], *at])})")
                for old, new in zip(fetched, fetched[1:]):
                    for one, next_one in zip(old, new):
                        w.line(f"{one} = {next_one}")
            w.line("lap = lap ^ 1")
        return self._function("_finish", [*self.values, "halves", "given", "taken"], w)

    @property
    def _pieces_of_tile(self) -> int:
        return self.columns // PIECE * (ROWS // self.height)

    def _piece_at(self, number: str, m_first: str, n_first: str) -> list[str]:
        """Where a piece of a tile begins."""
        each = ROWS // self.height
        return [f"{m_first} + {number} % {each} * {self.height}", f"{n_first} + {number} // {each} * {PIECE}"]

    def _fetch_next(self, w: Writer, names: list[str], batch: list[str]) -> None:
        """Ask for what the piece after the last one reads, which may be of the next tile."""
        at = [*self.values, *self._piece_at("next_half", "next_m", "next_n"), *batch]
        w.line(f"{', '.join(names)} = {self.head.name}_fetch({', '.join(at)})")
        w.line("next_half += 1")
        with w.block(f"if next_half == {self._pieces_of_tile}:"):
            w.line("next_half = 0")
            w.line("next_tile += tl.num_programs(0)")
            self._move(w, batch)

    def _move(self, w: Writer, batch: list[str]) -> None:
        """Where ``next_tile`` begins; after the last tile, where that does."""
        count = Expressions(w, self.head.sizes).text(self.count)
        given = [*self.values, f"min(next_tile, {count} - 1)"]
        w.line(f"{', '.join(['next_m', 'next_n', *batch])} = {self.head.name}_place({', '.join(given)})")

    def _allocate_pieces(self, w: Writer) -> None:
        """Shared memory for a rounded tile, and its barriers."""
        assert self.apart is not None
        element, count = ELEMENTS[self.apart], self.columns // PIECE
        flat = f"tl.{shared_layout(SWIZZLE, self.apart, 2)}"
        w.line(f"pieces = tl.allocate_shared_memory({element}, [{count}, {ROWS}, {PIECE}], {flat})")
        halves = [count * ROWS // self.height, self.height, PIECE]
        w.line(f"halves = pieces._reinterpret({element}, {halves}, {flat})")
        for name in ("given", "taken"):
            w.line(f"{name} = tl.allocate_shared_memory(tl.int64, [{count}, 1], mbarrier.MBarrierLayout())")
        with w.block(f"for stage in tl.static_range({count}):"):
            w.line("mbarrier.init(given.index(stage), count=1)")
            w.line("mbarrier.init(taken.index(stage), count=1)")

    def _main(self) -> str:
        w = self.writer
        for name, operand, outer, given in zip("ab", (self.a, self.b), (ROWS, self.columns), self.maps):
            block = operand.argument(outer, self.terms).block
            element = ELEMENTS[operand.dtype]
            w.line(f"{name}_blocks = tl.allocate_shared_memory({element}, [{self.stages}, "
                   f"{', '.join(map(str, block))}], {given}.layout)")
        names = ("ready",) if self.apart else ("ready", "free")
        for name in names:
            w.line(f"{name} = tl.allocate_shared_memory(tl.int64, [{self.stages}, 1], mbarrier.MBarrierLayout())")
        with w.block(f"for stage in tl.static_range({self.stages}):"):
            for name in names:
                w.line(f"mbarrier.init({name}.index(stage), count=1)")
        if self.apart:
            self._allocate_pieces(w)
        w.line("hopper.fence_async_shared()")
        values, name = ", ".join(self.values), self.head.name
        maps = ", ".join(self.maps)
        w.line("tl.warp_specialize([")
        if self.apart:
            w.line(f"    ({name}_multiply, ({values}, {maps}, a_blocks, b_blocks, ready, {', '.join(_PIECES)})),")
            w.line(f"    ({name}_finish, ({values}, halves, given, taken)),")
            w.line(f"], [{apart.WARPS}], [{apart.REGISTERS}])")
        else:
            w.line(f"    ({name}_multiply, ({values}, a_blocks, b_blocks, ready, free)),")
            w.line(f"    ({name}_copy, ({values}, {maps}, a_blocks, b_blocks, ready, free)),")
            w.line(f"], [1], [{_COPY_REGISTERS}])")
        return self._function("", self.head.parameters, w)

    # Pieces of text.

    def _steps(self, w: Writer) -> str:
        return Expressions(w, self.head.sizes).text(ceildiv(self.kernel.k.extent, self.terms))

    def _range(self, w: Writer, place: dict[Symbol, str]) -> str:
        """The blocks of terms that are multiplied for a tile."""
        if not self.part_steps:
            return self._steps(w)
        w.line(f"first_step = {place[self.kernel.batch[0].symbol]} * {self.part_steps}")
        return f"first_step, min(first_step + {self.part_steps}, {self._steps(w)})"

    def _advance(self, w: Writer) -> None:
        w.line("step += 1")
        with w.block(f"if step == {self.stages}:"):
            w.line("step = 0")
            w.line("turn = turn ^ 1")

    def _block(self, name: str, operand: Mapped, outer: int) -> str:
        """The block of an operand as the matrix units take it: rows by terms, or terms by columns."""
        sizes = [outer, self.terms] if operand.terms_inside else [self.terms, outer]
        text = f"{name}_blocks.index(step)"
        if len(operand.dimensions) > 2:
            text += f"._reinterpret({ELEMENTS[operand.dtype]}, {sizes}, flat)"
        turned = operand.terms_inside if name == "b" else not operand.terms_inside
        return text + (".permute((1, 0))" if turned else "")

    def _each_tile(self, w: Writer) -> _TileLoop:
        return _TileLoop(self, w)

    def tile_numbers(self, w: Writer) -> dict[Symbol, str]:
        """Where a tile begins (``m_first``, ``n_first``), from its number; what stands for the batch axes."""
        expressions = Expressions(w, self.head.sizes)
        m_tiles, n_tiles = self.tiles
        place: dict[Symbol, str] = {}
        rest = "tile"
        for x in reversed(self.kernel.batch):
            if x is self.kernel.batch[-1]:
                inside = w.assign("in_batch", f"tile % ({expressions.text(mul(m_tiles, n_tiles))})")
                rest = w.assign("entry", f"tile // ({expressions.text(mul(m_tiles, n_tiles))})")
            name = w.fresh(x.symbol.name)
            last = x is self.kernel.batch[0]
            w.line(f"{name} = {rest}" if last else f"{name} = {rest} % ({expressions.text(x.extent)})")
            if not last:
                rest = w.assign("entry", f"{rest} // ({expressions.text(x.extent)})")
            place[x.symbol] = name
        tile = inside if self.kernel.batch else "tile"
        rows, columns = expressions.text(m_tiles), expressions.text(n_tiles)
        if isinstance(m_tiles, int) and m_tiles <= _BAND:
            w.line(f"m_first = {tile} % {rows} * {ROWS}")
            w.line(f"n_first = {tile} // {rows} * {self.columns}")
            return place
        w.line(f"band = {tile} // ({_BAND} * ({columns})) * {_BAND}")
        w.line(f"in_band = {tile} % ({_BAND} * ({columns}))")
        w.line(f"band_rows = min({rows} - band, {_BAND})")
        w.line(f"m_first = (band + in_band % band_rows) * {ROWS}")
        w.line(f"n_first = in_band // band_rows * {self.columns}")
        return place


class _TileLoop:
    """The loop over the tiles of a program."""

    def __init__(self, owner: _Product, w: Writer) -> None:
        self.owner, self.w = owner, w

    def __enter__(self) -> dict[Symbol, str]:
        text = Expressions(self.w, self.owner.head.sizes).text(self.owner.count)
        self.block = self.w.block(f"for tile in range(tl.program_id(0), {text}, tl.num_programs(0)):")
        self.block.__enter__()
        return self.owner.tile_numbers(self.w)

    def __exit__(self, *failure: object) -> None:
        self.block.__exit__(None, None, None)


def suits(kernel: DotKernel, axis: Axis) -> bool:
    """Whether tiles along an axis can be numbered in 32 bits."""
    return fits(axis.extent, 1024)


def tile_count(kernel: DotKernel, tile: Tile) -> Dim:
    """How many tiles a product has."""
    tiles = mul(ceildiv(kernel.m.extent, ROWS), ceildiv(kernel.n.extent, tile.columns))
    return mul(product(x.extent for x in kernel.batch), tiles)
