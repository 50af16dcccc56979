"""The head of a generated function: parameters, sizes, which block a program works on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, Symbol, ceildiv, is_multiple, product, sym
from tessera.target.triton.expression import AxisValue, Expressions, fits
from tessera.target.triton.launch import Argument, BufferArgument, Program, SizeArgument, StatusArgument
from tessera.target.triton.library import function_names, module_text
from tessera.target.triton.text import Writer, identifier
from tessera.tile.ir import Axis, Kernel

FLAG = StatusArgument("flag")
"""Whether a check of the run has failed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a kernel is generated.

    ``guarded``: it does nothing once a check of the run has failed. ``float32``: how matrices of f32 are multiplied.
    """

    architecture: str = "sm_90a"
    guarded: bool = False
    deterministic: bool = True
    tiles: tuple[int, int, int] | None = None
    float32: str = "ieee"


class Head:
    """The parameters of a function, and its text when the body is written.

    ``pointers``: the parameter of each buffer; ``sizes``: what stands for each size argument. No parameter is called
    by one of the ``reserved`` names.
    """

    def __init__(self, kernel: Kernel, options: Options, suffix: str = "", reserved: Iterable[str] = ()) -> None:
        self.kernel, self.options = kernel, options
        self.name = identifier(kernel.name + suffix)
        if self.name in function_names():
            self.name += "_kernel"
        self.writer = Writer()
        self.writer.reserve("tl", "triton", "libdevice", "float", "range", self.name, *function_names())
        self.writer.reserve(*reserved)
        self.arguments: list[Argument] = []
        self.parameters: list[str] = []
        self.pointers = [
            self.parameter(b.name, BufferArgument(i, b.dtype)) for i, b in enumerate(kernel.buffers)
        ]
        self.sizes: dict[Symbol, AxisValue] = {}
        for i, s in enumerate(kernel.sizes):
            wide = not fits(sym(s))
            argument = SizeArgument(i, "i64" if wide else "i32", s.multiple_of)
            self.sizes[s] = AxisValue(self.parameter(s.name, argument), wide=wide)
        if options.guarded:
            failed = self.parameter("failed", FLAG)
            with self.writer.block(f"if tl.load({failed}) != 0:"):
                self.writer.line("return")

    def parameter(self, name: str, argument: Argument) -> str:
        """A further parameter; its name in the text."""
        name = self.writer.fresh(name)
        self.parameters.append(name)
        self.arguments.append(argument)
        return name

    def program(self, grid: Sequence[Dim], gluon: bool = False, **options: object) -> Program:
        """The function as written, to be launched over ``grid``; ``gluon``: the text is in that language."""
        signature = f"def {self.name}({', '.join(self.parameters)}):"
        text = "\n".join(["@triton.jit", signature, *self.writer.lines])
        source = module_text(self.writer.functions, text, gluon)
        sizes = (*grid, 1, 1)[:3]
        return Program(self.name, source, tuple(self.arguments), sizes, gluon=gluon, **options)  # type: ignore[arg-type]


def block_numbers(
    writer: Writer, axes: Sequence[tuple[Axis, int]], sizes: Mapping[Symbol, AxisValue],
    program: str = "tl.program_id(0)",
) -> tuple[dict[Symbol, str], Dim]:
    """The number of a program's block along each axis, from its number in the launch; how many programs there are.

    The last axis varies fastest. Axes of one block have no number. ``program``: the number in the launch.
    """
    expressions = Expressions(writer, sizes)
    counts = [(axis.symbol, ceildiv(axis.extent, size)) for axis, size in axes]
    several = [(s, n) for s, n in counts if n != 1]
    numbers: dict[Symbol, str] = {}
    rest = writer.assign("program", program) if several else ""
    for at, (symbol, count) in enumerate(reversed(several)):
        if at == len(several) - 1:
            numbers[symbol] = rest
            break
        blocks = writer.assign(f"{symbol.name}_blocks", f"({expressions.text(count)}).to(tl.int32)") if (
            not isinstance(count, int)) else str(count)
        numbers[symbol] = writer.assign(f"{symbol.name}_block", f"{rest} % {blocks}")
        rest = writer.assign("program", f"{rest} // {blocks}")
    return numbers, product(n for _, n in counts)


def positions(
    writer: Writer, axis: Axis, first: str, size: int, dim: int, rank: int, sizes: Mapping[Symbol, AxisValue],
    masked: bool | None = None,
) -> AxisValue:
    """The positions along an axis of a block that begins at ``first`` (text, "" for 0), and their mask.

    ``first`` is an i64 where the axis is longer than an i32 can tell. ``masked``: whether the block may reach over the
    end of the axis (None: unless the extent is a multiple of the size).
    """
    wide = bool(first) and not fits(axis.extent, 2 * size)
    if size == 1:
        return AxisValue(writer.assign(axis.symbol.name, first), wide=wide) if first else AxisValue("0")
    lanes = f"tl.arange(0, {size}){subscript(dim, rank)}"
    text = writer.assign(axis.symbol.name, f"{first} + {lanes}" if first else lanes)
    mask = None
    if not is_multiple(axis.extent, size) if masked is None else masked:
        mask = writer.assign(f"{axis.symbol.name}_inside", f"{text} < {Expressions(writer, sizes).text(axis.extent)}")
    return AxisValue(text, frozenset({dim}), wide, mask)


def subscript(dim: int, rank: int) -> str:
    """What makes a vector a tensor of the block's rank along one dimension."""
    if rank < 2:
        return ""
    return f"[{', '.join(':' if k == dim else 'None' for k in range(rank))}]"


def grid_positions(
    writer: Writer, axes: Iterable[Axis], blocks: Mapping[Symbol, tuple[int, int]], rank: int,
    sizes: Mapping[Symbol, AxisValue],
) -> tuple[dict[Symbol, AxisValue], Dim]:
    """What stands for the axes of the grid, each cut into blocks of (dimension, size); the number of programs."""
    sized = [(a, blocks.get(a.symbol, (0, 1))) for a in axes]
    numbers, count = block_numbers(writer, [(a, size) for a, (_, size) in sized], sizes)
    found: dict[Symbol, AxisValue] = {}
    for axis, (dim, size) in sized:
        number = numbers.get(axis.symbol, "")
        if number and not fits(axis.extent, 2 * size):
            number = f"{number}.to(tl.int64)"
        first = f"{number} * {size}" if number and size > 1 else number
        found[axis.symbol] = positions(writer, axis, first, size, dim, rank, sizes)
    return found, count
