"""Rewriting the index expressions and buffers of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar, Union, cast

from tessera.ir.dims import Dim, Symbol
from tessera.tile.ir import (
    AttentionKernel,
    Axis,
    Buffer,
    DotKernel,
    Index,
    Kernel,
    Load,
    LoopKernel,
    Op,
    Random,
    Ref,
    Stage,
    Store,
)

K = TypeVar("K", bound=Union[LoopKernel, DotKernel, AttentionKernel])


def bodies(kernel: Kernel) -> list[tuple[Op, ...]]:
    """All bodies of a kernel, in scope order."""
    if isinstance(kernel, LoopKernel):
        return [stage.ops for stage in kernel.stages]
    if isinstance(kernel, AttentionKernel):
        return []
    return [kernel.a, kernel.b, kernel.epilogue]


def with_bodies(kernel: K, new: list[tuple[Op, ...]]) -> K:
    """The kernel with other bodies."""
    if isinstance(kernel, LoopKernel):
        return cast(K, replace(kernel, stages=tuple(Stage(s.axes, ops) for s, ops in zip(kernel.stages, new))))
    if isinstance(kernel, AttentionKernel):
        return kernel
    return cast(K, replace(kernel, a=new[0], b=new[1], epilogue=new[2]))


def axes(kernel: Kernel) -> list[Axis]:
    """All axes, each once: grid or batch, m, n, k, then those of loops."""
    if isinstance(kernel, DotKernel):
        return [*kernel.batch, kernel.m, kernel.n, kernel.k]
    if isinstance(kernel, AttentionKernel):
        return []
    return list(dict.fromkeys([*kernel.grid, *(a for s in kernel.stages for a in s.axes)]))


def accesses(kernel: Kernel) -> Iterator[tuple[int, int, Load | Store]]:
    """(body, position, op) of every load and store."""
    for scope, body in enumerate(bodies(kernel)):
        for position, op in enumerate(body):
            if isinstance(op, (Load, Store)):
                yield scope, position, op


def map_op(op: Op, index: Callable[[int, tuple[Any, ...]], tuple[Any, ...]], expr: Callable[[Dim], Dim]) -> Op:
    """The op with ``index(buffer, entries)`` applied to accesses and ``expr`` to other integer expressions."""
    if isinstance(op, (Load, Store)):
        new = index(op.buffer, op.index)
        return op if new is op.index else replace(op, index=new)
    if isinstance(op, Index):
        return Index(expr(op.expr))
    if isinstance(op, Random):
        return replace(op, element=expr(op.element))
    return op


def map_axes(kernel: Kernel, change: Callable[[Axis], Axis]) -> Kernel:
    """The kernel with every axis replaced."""
    if isinstance(kernel, AttentionKernel):
        return kernel
    if isinstance(kernel, DotKernel):
        return replace(
            kernel, batch=tuple(map(change, kernel.batch)), m=change(kernel.m), n=change(kernel.n), k=change(kernel.k)
        )
    stages = tuple(Stage(tuple(map(change, s.axes)), s.ops) for s in kernel.stages)
    return replace(kernel, grid=tuple(map(change, kernel.grid)), stages=stages)


def substitute_symbols(kernel: Kernel, one: Callable[[Dim], Dim], symbol: Callable[[Symbol], Symbol]) -> Kernel:
    """The kernel with every expression mapped by ``one`` and every axis symbol by ``symbol``."""

    def entries(_: int, index: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(e if isinstance(e, (int, Ref)) else one(e) for e in index)

    new = [tuple(map_op(op, entries, one) for op in body) for body in bodies(kernel)]
    kernel = map_axes(with_bodies(kernel, new), lambda a: Axis(symbol(a.symbol), one(a.extent)))
    buffers = tuple(
        replace(b, shape=tuple(map(one, b.shape)), strides=tuple(map(one, b.strides))) for b in kernel.buffers
    )
    return replace(kernel, buffers=buffers)


def resized(buffer: Buffer, shape: tuple[Dim, ...]) -> Buffer:
    """The buffer, seen row-major in another shape."""
    from tessera.schedule.index import strides

    return replace(buffer, shape=shape, strides=strides(shape))
