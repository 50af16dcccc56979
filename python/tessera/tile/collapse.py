"""Merge adjacent axes that every access runs through like one: contiguous tensors become one-dimensional."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, Union

from tessera.ir.dims import Call, Dim, Expr, Symbol, add, bounds, mul, substitute, sym, symbols
from tessera.schedule.index import symbol_of
from tessera.tile.ir import (
    AttentionKernel,
    Axis,
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
from tessera.tile.rewrite import accesses, bodies, map_op, resized, with_bodies

K = TypeVar("K", bound=Union[LoopKernel, DotKernel])


def collapse(kernel: Kernel) -> Kernel:
    """The kernel with as few axes as its accesses allow."""
    if isinstance(kernel, LoopKernel):
        return _collapse_loops(_collapse_grid(kernel))
    if isinstance(kernel, AttentionKernel):
        return kernel
    return _collapse_batch(kernel)


def _collapse_axes(
    kernel: K, axes: tuple[Axis, ...], with_axes: Callable[[K, tuple[Axis, ...]], K]
) -> tuple[K, tuple[Axis, ...]]:
    """Neighbours among ``axes`` merged from the inside outwards; ``with_axes`` puts the new ones into the kernel."""
    for at in reversed(range(len(axes) - 1)):
        merged = _merge(kernel, axes[at], axes[at + 1])
        if merged is not None:
            kernel, axis = merged
            axes = (*axes[:at], axis, *axes[at + 2:])
            kernel = with_axes(kernel, axes)
    return kernel, axes


def _collapse_batch(kernel: DotKernel) -> DotKernel:
    kernel, _ = _collapse_axes(kernel, kernel.batch, lambda k, axes: replace(k, batch=axes))
    if len(kernel.batch) == 1 and not _mentions(kernel.b, kernel.batch[0].symbol):
        merged = _merge(kernel, kernel.batch[0], kernel.m)
        if merged is not None:
            kernel = replace(merged[0], batch=(), m=merged[1])
    return kernel


def _collapse_grid(kernel: LoopKernel) -> LoopKernel:
    return _collapse_axes(kernel, kernel.grid, lambda k, axes: replace(k, grid=axes))[0]


def _collapse_loops(kernel: LoopKernel) -> LoopKernel:
    longest = max((s.axes for s in kernel.stages), key=len, default=())
    if any(s.axes and s.axes != longest for s in kernel.stages):
        return kernel

    def with_axes(changed: LoopKernel, axes: tuple[Axis, ...]) -> LoopKernel:
        return replace(changed, stages=tuple(Stage(axes if s.axes else (), s.ops) for s in changed.stages))

    return _collapse_axes(kernel, longest, with_axes)[0]


def _mentions(body: tuple[Op, ...], symbol: Symbol) -> bool:
    for op in body:
        exprs: tuple[Any, ...] = ()
        if isinstance(op, (Load, Store)):
            exprs = op.index
        elif isinstance(op, Index):
            exprs = (op.expr,)
        elif isinstance(op, Random):
            exprs = (op.element,)
        if any(isinstance(e, Expr) and symbol in symbols(e) for e in exprs):
            return True
    return False


@dataclass(slots=True)
class _Pair:
    outer: Symbol
    inner: Symbol
    extent: Dim
    """Of the inner axis."""
    merged: Expr

    def mentions(self, d: Any) -> bool:
        if not isinstance(d, Expr):
            return False
        found = symbols(d)
        return self.outer in found or self.inner in found

    def rewrite(self, d: Dim | Ref) -> Dim | None:
        """The expression over the merged axis; None when it does not run through the pair like one axis."""
        if isinstance(d, Ref):
            return None
        if not isinstance(d, Expr) or not self.mentions(d):
            return d
        if self.extent == 1:
            return substitute(d, {self.outer: self.merged, self.inner: 0})
        outer = _coefficient(d, self.outer)
        inner = _coefficient(d, self.inner)
        if outer is None or inner is None or inner == 0 or outer != mul(inner, self.extent):
            return None
        return substitute(d, {self.outer: 0, self.inner: self.merged})


def _coefficient(d: Expr, symbol: Symbol) -> Dim | None:
    """The coefficient of a symbol in which the expression is linear; None when it is not."""
    total: Dim = 0
    for atoms, c in d.terms:
        for atom in atoms:
            if isinstance(atom, Call) and symbol in symbols(sym(atom)):
                return None
        if symbol in atoms:
            rest = list(atoms)
            rest.remove(symbol)
            if symbol in rest:
                return None
            total = add(total, Expr({tuple(rest): c}) if rest else c)
    return total


def _merge(kernel: K, outer: Axis, inner: Axis) -> tuple[K, Axis] | None:
    """The kernel over the merged axis, which is not yet among its axes; None when an access forbids it."""
    extent = mul(outer.extent, inner.extent)
    high = bounds(extent)[1]
    symbol = Symbol(f"{outer.symbol.name}_", 0, None if high is None else max(high - 1, 0))
    pair = _Pair(outer.symbol, inner.symbol, inner.extent, sym(symbol))
    joined = _joined_dimensions(kernel, pair)
    if joined is None:
        return None
    shapes = {}
    for number, at in joined.items():
        shape = kernel.buffers[number].shape
        shapes[number] = (*shape[:at], mul(shape[at], shape[at + 1]), *shape[at + 2:])
    failed = False

    def entry(d: Any) -> Any:
        nonlocal failed
        if isinstance(d, (int, Ref)):
            return d
        new = pair.rewrite(d)
        failed |= new is None
        return d if new is None else new

    def index(number: int, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        at = joined.get(number)
        if at is not None:
            flat = add(mul(entries[at], kernel.buffers[number].shape[at + 1]), entries[at + 1])
            entries = (*entries[:at], flat, *entries[at + 2:])
        return tuple(map(entry, entries))

    new = [tuple(map_op(op, index, entry) for op in body) for body in bodies(kernel)]
    if failed:
        return None
    buffers = tuple(resized(b, shapes[i]) if i in shapes else b for i, b in enumerate(kernel.buffers))
    return replace(with_bodies(kernel, new), buffers=buffers), Axis(symbol, extent)


def _is_symbol(d: Dim | Ref, symbol: Symbol) -> bool:
    return not isinstance(d, Ref) and symbol_of(d) == symbol


def _joined_dimensions(kernel: Kernel, pair: _Pair) -> dict[int, int] | None:
    """Per buffer whose adjacent dimensions the pair indexes, the position of the first; None when merging fails."""
    joined: dict[int, int] = {}
    if pair.extent == 1:
        return joined
    for _, _, op in accesses(kernel):
        at = [i for i, e in enumerate(op.index) if pair.mentions(e)]
        if len(at) == 2:
            first, second = op.index[at[0]], op.index[at[1]]
            adjacent = at[1] == at[0] + 1 and _is_symbol(first, pair.outer) and _is_symbol(second, pair.inner)
            if not adjacent or kernel.buffers[op.buffer].shape[at[1]] != pair.extent:
                return None
            if joined.setdefault(op.buffer, at[0]) != at[0]:
                return None
        elif len(at) > 2 or (len(at) == 1 and pair.rewrite(op.index[at[0]]) is None):
            return None
    for _, _, op in accesses(kernel):
        at = joined.get(op.buffer)
        if at is not None and any(isinstance(e, Ref) for e in op.index[at : at + 2]):
            return None
    return joined
