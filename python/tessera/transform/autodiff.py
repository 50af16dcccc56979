"""Reverse-mode differentiation as a graph transformation.

The gradient of a graph is a graph over the same values: each node on a path from ``wrt`` to the
outputs is visited once, in reverse topological order, and its vector-Jacobian product (``OpDef.vjp``)
turns the gradients of its results into gradients of its operands. The result is built of ordinary
operators, so it can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tessera.errors import ArgumentError, DTypeError, GradientError, InternalError, ShapeError
from tessera.ir.provenance import Location, location
from tessera.ir.value import Node, Value
from tessera.op import opdef
from tessera.op.lowering import Composite
from tessera.op.opdef import NoVjp


def gradients(
    outputs: Sequence[Value], wrt: Sequence[Value], seeds: Sequence[Value | None] | None = None
) -> list[Value]:
    """The gradient of ``outputs`` with respect to each of ``wrt``.

    ``wrt`` may be any floating-point values, leaves or not. ``seeds`` are the gradients of the outputs
    (same shape and dtype each; None: zero); without them every output must be a scalar, whose gradient
    is 1, so that the gradient of their sum is returned. A result has the shape and dtype of its ``wrt``
    value and is a zero tensor where no path leads to it.

    Raises GradientError for an operator on a path that has no gradient, for an output that is not a
    scalar and for values that are not floating-point.
    """
    outputs, wrt = list(outputs), list(wrt)
    for value in wrt:
        if not value.dtype.is_float:
            raise GradientError(
                f"gradient: {value!r} has dtype {value.dtype}; gradients exist for floating-point tensors only"
            )
    start = _seeds(outputs, seeds)
    found = _pull_back(start, wrt, frozenset())
    return [g if (g := found.get(value)) is not None else _zeros(value) for value in wrt]


def _seeds(outputs: Sequence[Value], seeds: Sequence[Value | None] | None) -> list[tuple[Value, Value]]:
    """(output, its gradient) for each output whose gradient is not zero."""
    if seeds is None:
        for value in outputs:
            if not value.dtype.is_float:
                raise GradientError(
                    f"gradient: the loss must be a floating-point scalar, but it is {value.type}{_at(value.node.loc)}"
                )
            if value.shape != ():
                raise GradientError(
                    f"gradient: the loss must be a scalar, but it has shape {_shape(value)}{_at(value.node.loc)}; "
                    "reduce it (sum, mean) or pass seeds, the gradient of each output"
                )
        return [(v, _full(v, 1.0)) for v in outputs]
    if len(seeds) != len(outputs):
        raise ArgumentError(f"gradient: {len(outputs)} outputs need as many seeds, but {len(seeds)} are given")
    for i, (value, seed) in enumerate(zip(outputs, seeds)):
        if seed is None:
            continue
        if not value.dtype.is_float:
            raise GradientError(f"gradient: output {i} is {value.type}; only floating-point outputs have gradients")
        if seed.shape != value.shape:
            raise ShapeError(
                f"gradient: seed {i} has shape {_shape(seed)} but output {i} has shape {_shape(value)}; "
                "they must be equal"
            )
        if seed.dtype != value.dtype:
            raise DTypeError(
                f"gradient: seed {i} has dtype {seed.dtype} but output {i} has dtype {value.dtype}; cast the seed"
            )
    return [(v, s) for v, s in zip(outputs, seeds) if s is not None]


def _full(value: Value, number: float) -> Value:
    with location(value.node.loc):
        return opdef.apply("full", (), {"shape": list(value.shape), "value": number, "dtype": value.dtype})[0]


def _zeros(value: Value) -> Value:
    return _full(value, 0.0)


def _pull_back(
    seeds: Sequence[tuple[Value, Value]], wrt: Sequence[Value], leaves: frozenset[Value]
) -> dict[Value, Value]:
    """Gradients of the ``wrt`` values that a path reaches. Nothing below ``leaves`` is looked at."""
    order, active = _active([v.node for v, _ in seeds], wrt, leaves)
    sums = _Sums()
    for value, seed in seeds:
        if value in active:
            sums.add(value, seed)
    for node in reversed(order):
        if not any(v in active for v in node.operands):
            continue
        cotangents = tuple(None if v in leaves else sums.total(v) for v in node.results)
        if all(c is None for c in cotangents):
            continue
        for operand, cotangent in _vjp(node, cotangents):
            if operand in active:
                sums.add(operand, cotangent)
    return {v: g for v in wrt if (g := sums.total(v)) is not None}


def _active(
    roots: Iterable[Node], wrt: Sequence[Value], leaves: frozenset[Value]
) -> tuple[list[Node], set[Value]]:
    """Nodes between ``wrt`` and the roots in topological order, and their results that depend on ``wrt``."""
    targets = set(wrt)
    active = set(wrt)
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = []
    for root in roots:
        stack.append((root, False))
        while stack:
            node, ready = stack.pop()
            if not ready:
                if node in seen:
                    continue
                seen.add(node)
                stack.append((node, True))
                if not all(v in leaves for v in node.results):
                    stack.extend((v.node, False) for v in node.operands if v not in leaves and v.node not in seen)
                continue
            depends = any(v in active for v in node.operands)
            results = [v for v in node.results if v in targets or (depends and v.dtype.is_float and v not in leaves)]
            if results:
                order.append(node)
                active.update(results)
    return order, active


class _Sums:
    """Gradient contributions per value, added up in order of arrival when they are read."""

    def __init__(self) -> None:
        self._parts: dict[Value, list[Value]] = {}

    def add(self, value: Value, part: Value) -> None:
        self._parts.setdefault(value, []).append(part)

    def total(self, value: Value) -> Value | None:
        parts = self._parts.get(value)
        if not parts:
            return None
        if len(parts) > 1:
            with location(value.node.loc):
                total = parts[0]
                for part in parts[1:]:
                    total = opdef.apply("add", (total, part))[0]
            self._parts[value] = parts = [total]
        return parts[0]


def _vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[tuple[Value, Value]]:
    """(operand, gradient) pairs of one node, checked; an operand may appear more than once."""
    definition = opdef.get(node.op)
    if isinstance(definition.vjp, NoVjp):
        raise GradientError(f"{node.op} has no gradient: {definition.vjp.reason}{_at(node.loc)}")
    if definition.vjp is None:
        if not isinstance(definition.lower, Composite):
            raise InternalError(f"{node.op}: the operator is not a composite and states no vjp")
        return list(_inlined(node, definition.lower, cotangents).items())
    with location(node.loc):
        made = definition.vjp(node, cotangents)
    if made is None:
        assert isinstance(definition.lower, Composite)
        return list(_inlined(node, definition.lower, cotangents).items())
    found = list(made)
    if len(found) != len(node.operands):
        raise InternalError(f"{node.op}: vjp gave {len(found)} gradients for {len(node.operands)} operands")
    for i, (operand, gradient) in enumerate(zip(node.operands, found)):
        if gradient is not None and operand.dtype.is_float and gradient.type != operand.type:
            raise InternalError(
                f"{node.op}: vjp gave a gradient of type {gradient.type} for operand {i} of type {operand.type}"
                f"{_at(node.loc)}"
            )
    return [(v, g) for v, g in zip(node.operands, found) if g is not None and v.dtype.is_float]


def _inlined(
    node: Node, composite: Composite, cotangents: tuple[Value | None, ...]
) -> Mapping[Value, Value]:
    """Gradients through a composite's body, built on the node's own operands (each taken as independent).

    The forward part is built a second time; common subexpression elimination merges it with the
    decomposed forward node.
    """
    with location(node.loc):
        body = composite.body(*node.operands, **node.attrs)
    values = body if isinstance(body, tuple) else (body,)
    if tuple(v.type for v in values) != node.types:
        given, stated = (", ".join(str(t) for t in types) for types in ([v.type for v in values], node.types))
        raise InternalError(f"{node.op}: the body gives {given}, the operator's type rule {stated}")
    operands = list(dict.fromkeys(v for v in node.operands if v.dtype.is_float))
    seeds = [(v, c) for v, c in zip(values, cotangents) if c is not None]
    return _pull_back(seeds, operands, frozenset(node.operands))


def composite_gradients(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value]:
    """The gradient for each operand of a composite through its body, zeros where no path leads to it."""
    definition = opdef.get(node.op)
    assert isinstance(definition.lower, Composite)
    found = _inlined(node, definition.lower, cotangents)
    return [found[v] if v in found else _zeros(v) for v in node.operands]


def _shape(value: Value) -> str:
    return "[" + ", ".join(str(d) for d in value.shape) + "]"


def _at(loc: Location | None) -> str:
    return "" if loc is None else f"\n  at {loc}"
