"""Canonical names for axes and sizes, so that equal kernels are equal whatever graph they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera.ir.dims import Dim, Expr, Symbol, substitute, sym, symbols
from tessera.schedule.index import symbol_of
from tessera.tile.ir import AttentionKernel, DotKernel, Index, Kernel, Load, Random, Store
from tessera.tile.rewrite import axes, bodies, substitute_symbols


def canonicalise(kernel: Kernel) -> tuple[Kernel, tuple[Symbol, ...]]:
    """The kernel in canonical names, and the graph's symbols behind its sizes.

    Grid axes are i0, i1, …, loops j0, …, axes of products b0, …, m, n, k, sizes s0, s1, …
    """
    mapping: dict[Symbol, Symbol] = {}
    if isinstance(kernel, DotKernel):
        for i, axis in enumerate(kernel.batch):
            mapping[axis.symbol] = _named(f"b{i}", axis.symbol)
        for name, axis in (("m", kernel.m), ("n", kernel.n), ("k", kernel.k)):
            mapping[axis.symbol] = _named(name, axis.symbol)
    elif not isinstance(kernel, AttentionKernel):
        for i, axis in enumerate(kernel.grid):
            mapping[axis.symbol] = _named(f"i{i}", axis.symbol)
        loops = [a for a in axes(kernel) if a.symbol not in mapping]
        for i, axis in enumerate(loops):
            mapping[axis.symbol] = _named(f"j{i}", axis.symbol)
    sizes = tuple(s for s in _symbols_of(kernel) if s not in mapping)
    for i, s in enumerate(sizes):
        mapping[s] = _named(f"s{i}", s)
    values: dict[Symbol, Dim] = {old: sym(new) for old, new in mapping.items()}
    cache: dict[Expr, Dim] = {}

    def one(d: Dim) -> Dim:
        if isinstance(d, int):
            return d
        found = cache.get(d)
        if found is None:
            symbol = symbol_of(d)
            found = cache[d] = values[symbol] if symbol is not None else substitute(d, values)
        return found

    kernel = substitute_symbols(kernel, one, lambda s: mapping[s])
    return replace(kernel, sizes=tuple(mapping[s] for s in sizes)), sizes


def _named(name: str, symbol: Symbol) -> Symbol:
    return Symbol(name, symbol.min, symbol.max, symbol.multiple_of)


def _symbols_of(kernel: Kernel) -> list[Symbol]:
    """All symbols of a kernel in order of appearance."""
    found: dict[Symbol, None] = {}
    seen: set[Expr] = set()

    def note(d: Any) -> None:
        if isinstance(d, Expr) and d not in seen:
            seen.add(d)
            found.update(dict.fromkeys(symbols(d)))

    for axis in axes(kernel):
        note(axis.extent)
    for buffer in kernel.buffers:
        for d in buffer.shape:
            note(d)
    for body in bodies(kernel):
        for op in body:
            if isinstance(op, (Load, Store)):
                for d in op.index:
                    note(d)
            elif isinstance(op, Index):
                note(op.expr)
            elif isinstance(op, Random):
                note(op.element)
    return list(found)
