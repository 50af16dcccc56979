"""Hints: how the readers of a value would like it to lie, from constraints and state backward through the graph."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.dist.factors import Factors, Slot
from tessera.dist.layout import sharding_of
from tessera.ir.dims import floordiv, mul
from tessera.ir.graph import Graph
from tessera.ir.sharding import Sharding, Split, effective
from tessera.ir.value import LEAVES, Node, Value

FactorsOf = Mapping[Node, Factors]


def find_hints(graph: Graph, factors: FactorsOf) -> dict[Value, Sharding]:
    """A wish per value, where there is one: that of the first reader (in the order of the graph) that has one."""
    hints: dict[Value, Sharding] = {}
    for param, value in graph.updates.items():
        if param.type.sharding is not None:
            hints.setdefault(value, effective(param.type.sharding))
    for node in reversed(graph.nodes()):
        if node.op in LEAVES:
            continue
        if node.op == "constrain":
            wanted = sharding_of(node.attrs, node.operands[0].shape)
            hints[node.results[0]] = wanted
            hints[node.operands[0]] = wanted
            continue
        wish = hints.get(node.results[0])
        if wish is not None and node in factors:
            _pass_on(node, factors[node], wish, hints)
    return hints


def _pass_on(node: Node, factors: Factors, wish: Sharding, hints: dict[Value, Sharding]) -> None:
    splits: dict[str, Split] = {}
    for slot, split in zip(factors.results[0], wish.dims, strict=True):
        if slot is not None and split is not None:
            splits[slot[0]] = Split(split.axes, mul(split.block, slot[1]))
    if not splits:
        return
    for operand, slots in zip(node.operands, factors.operands, strict=True):
        if operand not in hints:
            dims = tuple(_dimension(slot, splits) for slot in slots)
            if any(dims):
                hints[operand] = Sharding(wish.mesh, dims)


def _dimension(slot: Slot | None, splits: Mapping[str, Split]) -> Split | None:
    split = None if slot is None else splits.get(slot[0])
    if slot is None or split is None:
        return None
    block = floordiv(split.block, slot[1])
    return Split(split.axes, block) if mul(block, slot[1]) == split.block else None
