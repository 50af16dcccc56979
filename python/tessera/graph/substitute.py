"""The same operations on other inputs: ``Y(x)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.errors import DTypeError, ShapeError, TesseraError
from tessera.ir.dims import Dim, Expr, Symbol, bounds, is_multiple, symbols
from tessera.ir.dims import substitute as substitute_dim
from tessera.ir.graph import keep, topological
from tessera.ir.value import LEAVES, Node, TensorType, Value
from tessera.op.opdef import apply
from tessera.op.random import renumbered


def describe(value: Value) -> str:
    """An input as messages show it."""
    return f"input {value.node.attrs['name']!r}, declared as {value.type}"


class SizeRangeError(ShapeError):
    """A symbolic size may take values that the declared one may not; ``symbol`` and ``given`` are the two."""

    def __init__(self, declared: Value, found: TensorType, position: int, symbol: Symbol, given: Dim) -> None:
        upper = "" if symbol.max is None else f" and at most {symbol.max}"
        multiple = f", a multiple of {symbol.multiple_of}" if symbol.multiple_of > 1 else ""
        super().__init__(
            f"{describe(declared)}, was given {found}: dimension {position} is {given}, which may be illegal for "
            f"{symbol.name}: that must be at least {symbol.min}{upper}{multiple}; declare {given} with the same range"
        )
        self.symbol, self.given = symbol, given


def check_type(declared: Value, found: TensorType) -> None:
    """Raise DTypeError or ShapeError when an argument's dtype or rank differs from the declaration."""
    if found.dtype != declared.dtype:
        raise DTypeError(
            f"{describe(declared)}, was given {found}: cast it with op.cast or .astype to {declared.dtype}"
        )
    if found.ndim != declared.ndim:
        raise ShapeError(
            f"{describe(declared)}, was given {found}: expected {declared.ndim} dimensions, not {found.ndim}"
        )


def bind_symbols(declared: Value, found: TensorType, bindings: dict[Symbol, Dim]) -> None:
    """Add to ``bindings`` what each symbol of the declared shape stands for in the given one."""
    for position, (want, have) in enumerate(zip(declared.shape, found.shape, strict=True)):
        symbol = _plain_symbol(want)
        if symbol is None:
            continue
        if bindings.setdefault(symbol, have) != have:
            raise ShapeError(
                f"{describe(declared)}, was given {found}: dimension {position} ({symbol.name}) is {have}, "
                f"but {symbol.name} is {bindings[symbol]} in another dimension or input"
            )
        if isinstance(have, int):
            symbol.check(have)
        elif not _within(have, symbol):
            raise SizeRangeError(declared, found, position, symbol, have)


def _within(d: Dim, symbol: Symbol) -> bool:
    """Whether every value of a symbolic dimension is legal for a symbol."""
    low, high = bounds(d)
    below = symbol.max is None or (high is not None and high <= symbol.max)
    return low >= symbol.min and below and is_multiple(d, symbol.multiple_of)


def _plain_symbol(d: Dim) -> Symbol | None:
    """The symbol that a dimension is, or None for an integer or a compound expression."""
    if isinstance(d, Expr) and len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        atom = d.terms[0][0][0]
        return atom if isinstance(atom, Symbol) else None
    return None


def _attribute(value: Any, bindings: Mapping[Symbol, Dim]) -> Any:
    """An attribute with symbols replaced."""
    if isinstance(value, Expr):
        return substitute_dim(value, bindings)
    if isinstance(value, (list, tuple)):
        return type(value)(_attribute(v, bindings) for v in value)
    return value


def _mentions(value: Any, bindings: Mapping[Symbol, Dim]) -> bool:
    if isinstance(value, Expr):
        return any(s in bindings for s in symbols(value))
    return isinstance(value, (list, tuple)) and any(_mentions(v, bindings) for v in value)


def substitute(outputs: Sequence[Value], mapping: Mapping[Value, Value], *, redraw: bool = False) -> list[Value]:
    """``outputs`` with input leaves replaced by other values.

    Symbols of the declared shapes take the sizes of the new ones, in attributes too. Where a type changes, the
    operators infer their results again, so a graph declared for one constant batch size also works for another
    if its operators allow it. Sub-graphs that do not depend on the inputs stay shared. With ``redraw`` random numbers
    from the random state are other ones than those of ``outputs``.

    Raises ShapeError or DTypeError naming the input and the operator that does not accept it.
    """
    bindings: dict[Symbol, Dim] = {}
    for leaf, value in mapping.items():
        check_type(leaf, value.type)
        bind_symbols(leaf, value.type, bindings)
    bindings = {s: d for s, d in bindings.items() if _plain_symbol(d) != s}
    new: dict[Value, Value] = dict(mapping)
    ids: dict[int, int] = {}
    for node in topological(v.node for v in outputs):
        if node.results[0] in new:
            continue
        attrs = renumbered(node, ids) if redraw else None
        source = node if attrs is None else Node(node.op, node.operands, attrs, node.types, node.loc)
        results = _copy(source, tuple(new[v] for v in node.operands), bindings, mapping)
        new.update(zip(node.results, results, strict=True))
    return [new[v] for v in outputs]


def _copy(
    node: Node, operands: tuple[Value, ...], bindings: Mapping[Symbol, Dim], mapping: Mapping[Value, Value]
) -> tuple[Value, ...]:
    """The results of a node on new operands, inferred again where types or symbols changed."""
    if node.op in LEAVES:
        return node.results
    renamed = bool(bindings) and any(_mentions(v, bindings) for v in node.attrs.values())
    if not renamed and all(a.type == b.type for a, b in zip(operands, node.operands, strict=True)):
        return keep(node, operands)
    attrs = {k: _attribute(v, bindings) for k, v in node.attrs.items()} if renamed else node.attrs
    try:
        return apply(node.op, operands, attrs, node.loc)
    except TesseraError as error:
        changes = ", ".join(f"{leaf.node.attrs['name']!r}: {leaf.type} → {v.type}" for leaf, v in mapping.items())
        error.args = (
            f"{error.args[0]}\n  while applying a graph to other inputs ({changes}); "
            "declare the sizes that vary with op.dim",
            *error.args[1:],
        )
        raise
