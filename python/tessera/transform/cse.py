"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable

from tessera.ir.attribute import attributes_key
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.value import LEAVES, Node, Value

COMMUTATIVE = frozenset({
    "add", "mul", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
})
"""Operators whose operands may be swapped. Not ``maximum`` and ``minimum``: of 0.0 and -0.0 either may come."""


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Merge nodes that apply the same operator with the same attributes to the same operands.

    Leaves keep their identity. Random draws are merged only when key and id are the same, since both
    then are the same numbers. Of merged nodes the first in topological order stays, with its location.
    """
    known: dict[Hashable, tuple[Value, ...]] = {}

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op in LEAVES:
            return node.results
        named = operands
        if node.op in COMMUTATIVE and id(operands[0]) > id(operands[1]):
            named = (operands[1], operands[0])
        key = (node.op, named, attributes_key(node.attrs), node.types)
        found = known.get(key)
        if found is None:
            found = known[key] = keep(node, operands)
        return found

    return rebuild(graph, visit)
