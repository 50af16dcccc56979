"""Hints: how the readers of a value would like it to lie, from constraints and state backward through the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera.dist.factors import Factors, Slot
from tessera.ir.dims import floordiv, mul
from tessera.ir.graph import Graph
from tessera.ir.sharding import Sharding, Split, effective
from tessera.ir.value import LEAVES, Node, Value
from tessera.op.collective import FULL_TO_SHARD, NAMES, SHARD_TO_FULL, manual_axes, stated_sharding

FactorsOf = Mapping[Node, Factors]


@dataclass(frozen=True, slots=True)
class Hint:
    """A wish: a sharding, and the dimensions about which the reader does not care, as it contracts them."""

    sharding: Sharding
    open: frozenset[int] = frozenset()

    def goal(self, now: Sharding) -> Sharding:
        """What a value that lies as ``now`` has to become: open dimensions may stay as they are."""
        dims = list(self.sharding.dims)
        used = set(self.sharding.used)
        for i in sorted(self.open):
            split = now.dims[i]
            if split is not None and used.isdisjoint(split.axes):
                dims[i] = split
                used.update(split.axes)
        return Sharding(self.sharding.mesh, tuple(dims))


def find_hints(graph: Graph, factors: FactorsOf) -> dict[Value, Hint]:
    """A wish per value, where there is one: that of the first reader (in the order of the graph) that has one."""
    flow = _flow(graph, factors)
    hints: dict[Value, Hint] = {}
    for param, value in graph.updates.items():
        if param.type.sharding is not None:
            hints.setdefault(value, Hint(effective(param.type.sharding)))
    for node in reversed(graph.nodes()):
        if node.op in LEAVES:
            continue
        if node.op == "constrain":
            wanted = Hint(stated_sharding(node.attrs, node.operands[0].shape))
            hints[node.results[0]] = wanted
            hints[node.operands[0]] = wanted
            continue
        if node.op == FULL_TO_SHARD:
            hints.setdefault(node.operands[0], Hint(stated_sharding(node.attrs, node.operands[0].shape)))
            continue
        wish = hints.get(node.results[0])
        if wish is not None and node.op in NAMES:
            hints.setdefault(node.operands[0], wish)
        if wish is not None and node.op == SHARD_TO_FULL and "manual" in node.attrs:
            hints.setdefault(node.operands[0], _without(wish, set(manual_axes(node.attrs))))
        if wish is not None and node in factors:
            _pass_on(node, factors[node], wish, hints, flow)
    return hints


def _flow(graph: Graph, factors: FactorsOf) -> dict[Value, Sharding]:
    """How values would lie if every operator kept the splits of its operands, without any exchange but those stated."""
    lies = {leaf: s for node in graph.nodes() for leaf in node.results if (s := leaf.type.sharding) is not None}
    for node in graph.nodes():
        if node.op == "constrain":
            lies[node.results[0]] = stated_sharding(node.attrs, node.results[0].shape)
            continue
        found = [(slots, lies[v]) for v, slots in zip(node.operands, factors[node].operands, strict=True) if v in lies] \
            if node in factors else []
        splits: dict[str, Split] = {}
        for slots, have in found:
            used = {a for s in splits.values() for a in s.axes}
            for slot, split in zip(slots, have.dims, strict=True):
                if slot is not None and split is not None and slot[0] not in splits and used.isdisjoint(split.axes):
                    splits[slot[0]] = Split(split.axes, mul(split.block, slot[1]))
        if splits:
            mesh = found[0][1].mesh
            for value, slots in zip(node.results, factors[node].results, strict=True):
                lies[value] = Sharding(mesh, tuple(_dimension(slot, splits) for slot in slots))
    return lies


def _without(wish: Hint, manual: set[str]) -> Hint:
    """The wish in a body that is written for some axes, which are none of its own."""
    dims = tuple(None if s is None or manual & set(s.axes) else s for s in wish.sharding.dims)
    return Hint(Sharding(wish.sharding.mesh, dims), wish.open)


def _pass_on(
    node: Node, factors: Factors, wish: Hint, hints: dict[Value, Hint], flow: Mapping[Value, Sharding]
) -> None:
    splits: dict[str, Split] = {}
    settled: set[str] = set()
    for i, (slot, split) in enumerate(zip(factors.results[0], wish.sharding.dims, strict=True)):
        if slot is None:
            continue
        if i not in wish.open:
            settled.add(slot[0])
        if split is not None:
            splits[slot[0]] = Split(split.axes, mul(split.block, slot[1]))
    if not splits:
        return
    for operand, slots in zip(node.operands, factors.operands, strict=True):
        if operand not in hints:
            dims = tuple(_dimension(slot, splits) for slot in slots)
            free = frozenset(
                i for i, slot in enumerate(slots) if slot is not None and slot[0] not in settled and dims[i] is None
            )
            wanted, dims = dims, _without_taken(dims, free, flow.get(operand))
            free |= {i for i, s in enumerate(wanted) if s is not None and dims[i] is None}  # nor does it care about those now
            if any(dims):
                hints[operand] = Hint(Sharding(wish.sharding.mesh, dims), free)


def _without_taken(
    dims: tuple[Split | None, ...], free: frozenset[int], flow: Sharding | None
) -> tuple[Split | None, ...]:
    """Without axes that will divide a dimension that the reader contracts: it then scatters the sum of parts instead."""
    if flow is None:
        return dims
    taken = {a for i in free if (s := flow.dims[i]) is not None for a in s.axes}
    return tuple(None if s is None or taken.intersection(s.axes) else s for s in dims)


def _dimension(slot: Slot | None, splits: Mapping[str, Split]) -> Split | None:
    split = None if slot is None else splits.get(slot[0])
    if slot is None or split is None:
        return None
    block = floordiv(split.block, slot[1])
    return Split(split.axes, block) if mul(block, slot[1]) == split.block else None
