"""Local rewriting: rules that replace the result of one node, and what the rules share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tessera.errors import InternalError
from tessera.ir.dims import Dim, Expr
from tessera.ir.dtype import DType
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, Value
from tessera.op import opdef
from tessera.op.lowering import Pointwise

Rule = Callable[[Node, "Builder"], "Value | None"]
"""A value equal to the node's only result, or None when the rule does not apply."""
Number = bool | int | float

_MAX_STEPS = 64


class Builder:
    """What a rule builds with: ``build(op, *operands, **attrs)`` gives a new, already simplified value."""

    def __init__(self, rewrite: Callable[[Value], Value]) -> None:
        self._rewrite = rewrite
        self._uses: Counter[Value] = Counter()

    def __call__(self, op: str, *operands: Value, **attrs: Any) -> Value:
        """A node of this operator, or what it simplifies to."""
        return self._rewrite(opdef.apply(op, operands, attrs)[0])

    def used_once(self, value: Value) -> bool:
        """Whether the graph uses the value at most once; so that replacing that use makes the value go away."""
        return self._uses[value] <= 1

    def count(self, old: Value, new: Value, uses: Counter[Value]) -> None:
        """``new`` stands for ``old`` in the new graph."""
        self._uses[new] += uses[old]


class Rewriter:
    """Applies rules by operator name, to the nodes of a graph and to what the rules build.

    ``rules`` are the rules for each operator; ``pointwise`` come first for every pointwise operator.
    """

    def __init__(self, rules: Mapping[str, Sequence[Rule]], pointwise: Sequence[Rule] = ()) -> None:
        self._rules = rules
        self._pointwise = pointwise

    def run(self, graph: Graph) -> Graph:
        """The graph with every rule applied wherever it fits."""
        uses: Counter[Value] = Counter(v for node in graph.nodes() for v in node.operands)
        uses.update(graph.roots())

        def rewrite(value: Value) -> Value:
            for _ in range(_MAX_STEPS):
                new = self._step(value, build)
                if new is None:
                    break
                if new.type != value.type:
                    raise InternalError(f"a rewrite of {value.node.op} changed {value.type} to {new.type}")
                value = new
            return value

        def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
            results = keep(node, operands)
            if len(results) == 1:
                results = (rewrite(results[0]),)
            for old, new in zip(node.results, results):
                build.count(old, new, uses)
            return results

        build = Builder(rewrite)
        return rebuild(graph, visit)

    def _step(self, value: Value, build: Builder) -> Value | None:
        node = value.node
        rules: Iterable[Rule] = self._rules.get(node.op, ())
        if self._pointwise and is_pointwise(node):
            rules = (*self._pointwise, *rules)
        if rules:
            with location(node.loc):
                for rule in rules:
                    if (new := rule(node, build)) is not None:
                        return new
        return None


def is_pointwise(node: Node) -> bool:
    """Whether the node's operator works element by element with broadcasting."""
    definition = opdef.REGISTRY.get(node.op)
    return definition is not None and isinstance(definition.lower, Pointwise)


def number(value: Value) -> Number | None:
    """The number that every element of a ``full`` is, or None for any other value."""
    if value.node.op != "full":
        return None
    found = value.node.attrs["value"]
    return None if isinstance(found, Expr) else found


def is_number(value: Value, wanted: float) -> bool:
    """Whether a value is a ``full`` of exactly this number (0.0 is not -0.0; integers have one zero)."""
    found = number(value)
    if found is None or isinstance(found, bool) or found != wanted:
        return False
    return not value.dtype.is_float or math.copysign(1.0, found) == math.copysign(1.0, wanted)


def full(build: Builder, value: Number, shape: Sequence[Dim], dtype: DType) -> Value:
    """A tensor of one number."""
    return build("full", shape=list(shape), value=value, dtype=dtype)


def broadcast(build: Builder, value: Value, shape: tuple[Dim, ...]) -> Value:
    """The value, broadcast to a shape where it does not have it."""
    return value if value.shape == shape else build("broadcast_to", value, shape=list(shape))


def reshaped(build: Builder, value: Value, shape: tuple[Dim, ...]) -> Value:
    """The value, reshaped to a shape where it does not have it."""
    return value if value.shape == shape else build("reshape", value, shape=list(shape))


def converted(build: Builder, value: Value, dtype: DType) -> Value:
    """The value, cast to a dtype where it does not have it."""
    return value if value.dtype == dtype else build("cast", value, dtype=dtype)


def common_shape(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """The NumPy broadcast of shapes that are known to broadcast."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            if d != 1:
                out[i] = d
    return tuple(out)
