"""Products that form sums over rows of what they store: a bias's gradient beside that of what it was added to.

On Hopper the warps that run the epilogue add up each piece's columns and leave the sums in a workspace; a second launch
adds these in order. Everywhere else the sums have launches of their own, which read what the product has stored.
"""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dims import Dim, Symbol, bounds, dmax
from tessera.ir.dtype import f32
from tessera.schedule.index import strides
from tessera.target.triton import columns
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Generated, Program
from tessera.tile.ir import Axis, Buffer, Compute, DotKernel, Load, LoopKernel, Op, Ref, Stage, Store


def of(kernel: DotKernel) -> tuple[Store, ...]:
    """The sums of a product."""
    return tuple(op for op in kernel.epilogue if isinstance(op, Store) and op.mode == "sum")


def without(kernel: DotKernel) -> DotKernel:
    """The product that forms no sums."""
    return replace(kernel, epilogue=tuple(op for op in kernel.epilogue if op not in of(kernel)))


def apart(kernel: DotKernel, product: Generated, options: Options) -> Generated:
    """A product, and launches that form its sums."""
    second = columns.generate(_rows(kernel), options)
    return Generated((*product.programs, *second.programs), dmax(product.workspace, second.workspace))


def _rows(kernel: DotKernel) -> LoopKernel:
    """A kernel that goes through the rows that a product has stored."""
    ops: list[Op] = []
    for total in of(kernel):
        source = _stored(kernel, total.value)
        ops += [Load(source.buffer, source.index), Compute("cast", (Ref(0, len(ops)),), f32)]
        ops.append(replace(total, value=Ref(0, len(ops) - 1)))
    grid, stages = (*kernel.batch, kernel.m), (Stage((kernel.n,), tuple(ops)),)
    return LoopKernel(f"{kernel.name}_sums", kernel.sizes, kernel.buffers, grid, stages, kernel.loc)


def _stored(kernel: DotKernel, value: Ref) -> Store:
    """The store of what a sum adds up."""
    op = kernel.epilogue[value.index]
    if isinstance(op, Compute) and op.function == "cast":
        value = op.args[0]
    return next(op for op in kernel.epilogue if isinstance(op, Store) and op.mode == "set" and op.value == value)


def partials(kernel: DotKernel, pieces: Dim) -> Buffer:
    """The workspace, behind the kernel's buffers: sums × pieces × columns."""
    shape: tuple[Dim, ...] = (len(of(kernel)), pieces, kernel.n.extent)
    return Buffer("partials", f32, shape, strides(shape), "out")


def totals(kernel: DotKernel, workspace: Buffer, options: Options) -> Program:
    """The launch that adds what pieces have left."""
    pieces = workspace.shape[1]
    most = bounds(pieces)[1]
    part = Axis(Symbol("part", 0, None if most is None else most - 1), pieces)
    return columns.totals(kernel, [total.buffer for total in of(kernel)], workspace, part, kernel.n, options)
