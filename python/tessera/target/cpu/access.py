"""Index expressions of Tile IR kernels: linear parts, axis merging, and their emission."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Union

from tessera.ir.dims import Call, Dim, Expr, Symbol, add, bounds, mul, substitute, sym, symbols
from tessera.target.cpu.emit import Builder, Val
from tessera.tile.ir import Axis, Buffer, Compute, Const, Index, Load, Op, Random, Reduce, Ref, Scan, Stage, Store


@dataclass(frozen=True, slots=True)
class Place:
    """A memory location: element ``offset`` plus the sum of value·stride of the ``indirect`` parts."""

    buffer: int
    offset: Dim
    indirect: tuple[tuple[Ref, Dim], ...]


@dataclass(frozen=True, slots=True)
class FlatLoad:
    """``Load`` with its index flattened."""

    place: Place
    mask: Ref | None
    other: bool | int | float


@dataclass(frozen=True, slots=True)
class FlatStore:
    """``Store`` with its index flattened."""

    place: Place
    value: Ref
    mode: str
    mask: Ref | None


FlatOp = Union[Const, Index, Compute, Random, Reduce, Scan, FlatLoad, FlatStore]


def flatten_op(op: Op, buffers: Sequence[Buffer]) -> FlatOp:
    """The op with multi-dimensional indices turned into element offsets."""
    if isinstance(op, (Load, Store)):
        buffer = buffers[op.buffer]
        offset: Dim = 0
        indirect = []
        for entry, stride in zip(op.index, buffer.strides):
            if isinstance(entry, Ref):
                indirect.append((entry, stride))
            else:
                offset = add(offset, mul(entry, stride))
        place = Place(op.buffer, offset, tuple(indirect))
        if isinstance(op, Load):
            return FlatLoad(place, op.mask, op.other)
        return FlatStore(place, op.value, op.mode, op.mask)
    return op


def dims_of(op: FlatOp) -> list[Dim]:
    """All index expressions of an op."""
    if isinstance(op, (FlatLoad, FlatStore)):
        return [op.place.offset]
    if isinstance(op, Index):
        return [op.expr]
    if isinstance(op, Random):
        return [op.element]
    return []


def substitute_op(op: FlatOp, values: Mapping[Symbol, Dim]) -> FlatOp:
    """The op with symbols replaced in its index expressions."""
    if isinstance(op, (FlatLoad, FlatStore)):
        return replace(op, place=replace(op.place, offset=substitute(op.place.offset, values)))
    if isinstance(op, Index):
        return replace(op, expr=substitute(op.expr, values))
    if isinstance(op, Random):
        return replace(op, element=substitute(op.element, values))
    return op


@dataclass(frozen=True, slots=True)
class Linear:
    """``sum(coefficients[a]·a) + rest``; ``nonlinear``: axes that occur in ``rest``."""

    coefficients: dict[Symbol, Dim]
    rest: Dim
    nonlinear: frozenset[Symbol]

    def along(self, axis: Symbol | None) -> Dim | None:
        """The coefficient of ``axis`` (0 when it does not occur), or None when it is not linear in it."""
        if axis is None:
            return 0
        if axis in self.nonlinear:
            return None
        return self.coefficients.get(axis, 0)


def linear(d: Dim, axes: Iterable[Symbol]) -> Linear:
    """The linear form of an index expression in ``axes``."""
    wanted = set(axes)
    coefficients: dict[Symbol, Dim] = {}
    rest: Dim = 0
    nonlinear: set[Symbol] = set()
    for monomial, c in d.terms if isinstance(d, Expr) else (((), d),) if d else ():
        inside = [a for a in monomial if isinstance(a, Symbol) and a in wanted]
        hidden = {s for a in monomial if isinstance(a, Call) for s in symbols(sym(a)) if s in wanted}
        if len(inside) == 1 and not hidden:
            others = list(monomial)
            others.remove(inside[0])
            factor: Dim = c
            for a in others:
                factor = mul(factor, sym(a))
            coefficients[inside[0]] = add(coefficients.get(inside[0], 0), factor)
            continue
        nonlinear |= hidden | (set(inside) if len(inside) > 1 or hidden else set())
        term: Dim = c
        for a in monomial:
            term = mul(term, sym(a))
        rest = add(rest, term)
    for axis in nonlinear & coefficients.keys():
        rest = add(rest, mul(coefficients.pop(axis), sym(axis)))
    return Linear(coefficients, rest, frozenset(nonlinear))


def merge_axes(axes: Sequence[Axis], dims: Sequence[Dim], protected: bool = False
               ) -> tuple[list[Axis], dict[Symbol, Dim]]:
    """Drop axes of extent 1 and merge neighbours that all expressions step through as one axis.

    Returns the new axes and what to substitute for the old symbols. ``protected``: do not merge (the position
    along an axis is observed).
    """
    mapping: dict[Symbol, Dim] = {}
    kept = []
    for axis in axes:
        if isinstance(axis.extent, int) and axis.extent == 1:
            mapping[axis.symbol] = 0
        else:
            kept.append(axis)
    if protected:
        return kept, mapping
    forms = [linear(d, [a.symbol for a in kept]) for d in dims]
    merged: list[Axis] = []
    for axis in kept:
        if merged and all(_steps_as_one(f, merged[-1], axis) for f in forms):
            outer = merged.pop()
            symbol = Symbol(f"{outer.symbol.name}_{axis.symbol.name}")
            extent = mul(outer.extent, axis.extent)
            for f in forms:
                c = f.coefficients.pop(axis.symbol, 0)
                f.coefficients.pop(outer.symbol, None)
                if c != 0:
                    f.coefficients[symbol] = c
            for old, new in list(mapping.items()):
                mapping[old] = substitute(new, {outer.symbol: 0, axis.symbol: sym(symbol)})
            mapping[outer.symbol] = 0
            mapping[axis.symbol] = sym(symbol)
            merged.append(Axis(symbol, extent))
        else:
            merged.append(axis)
    return merged, mapping


def _steps_as_one(f: Linear, outer: Axis, inner: Axis) -> bool:
    a, c = f.along(outer.symbol), f.along(inner.symbol)
    return a is not None and c is not None and a == mul(c, inner.extent)


def substitute_stages(stages: Sequence[tuple[list[Axis], list[FlatOp]]], values: Mapping[Symbol, Dim]
                      ) -> list[tuple[list[Axis], list[FlatOp]]]:
    """All stages with symbols replaced."""
    return [(axes, [substitute_op(o, values) for o in ops]) for axes, ops in stages]


def flatten_stages(stages: Sequence[Stage], buffers: Sequence[Buffer]) -> list[tuple[list[Axis], list[FlatOp]]]:
    """The stages with flattened memory accesses."""
    return [(list(s.axes), [flatten_op(o, buffers) for o in s.ops]) for s in stages]


def emit_dim(b: Builder, d: Dim, values: Mapping[Symbol, Val]) -> Val:
    """The i64 value of an index expression; a vector when one of ``values`` that it uses is one."""
    if isinstance(d, int):
        return b.const(d, "i64")
    total: Val | None = None
    constant = 0
    for monomial, c in d.terms:
        if not monomial:
            constant = c
            continue
        term: Val | None = None
        for atom in monomial:
            value = values[atom] if isinstance(atom, Symbol) else _emit_call(b, atom, values)
            term = value if term is None else _times(b, term, value)
        assert term is not None
        if c != 1:
            term = term * c
        total = term if total is None else _plus(b, total, term)
    if total is None:
        return b.const(constant, "i64")
    return total + constant if constant else total


def _times(b: Builder, x: Val, y: Val) -> Val:
    return b.binary("mul", b.broadcast(x, max(x.n, y.n)), y)


def _plus(b: Builder, x: Val, y: Val) -> Val:
    return b.binary("add", b.broadcast(x, max(x.n, y.n)), y)


def _emit_call(b: Builder, call: Call, values: Mapping[Symbol, Val]) -> Val:
    x, y = emit_dim(b, call.a, values), emit_dim(b, call.b, values)
    n = max(x.n, y.n)
    x, y = b.broadcast(x, n), b.broadcast(y, n)
    if call.function in ("max", "min"):
        return b.intrinsic("s" + call.function, x, y)
    divide = call.function == "floordiv"
    low, high = bounds(call.a)
    if isinstance(call.b, int) and low >= 0:
        if n > 1 and high is not None and high < 2**31:
            narrow = b.convert("trunc", x, "i32")
            return b.convert("zext", b.binary("udiv" if divide else "urem", narrow, call.b), "i64")
        return b.binary("udiv" if divide else "urem", x, call.b)
    safe = b.select(y.eq(0), 1, y)
    q, r = b.binary("sdiv", x, safe), b.binary("srem", x, safe)
    adjust = r.ne(0) & (r ^ safe).lt(0)
    if divide:
        return q - b.convert("zext", adjust, "i64")
    return r + b.select(adjust, safe, 0)
