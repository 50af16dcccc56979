"""Small all-reduces over the same axes joined into few: one message in place of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from tessera.dist.cost import Machine
from tessera.ir.graph import Graph, keep
from tessera.ir.provenance import location
from tessera.ir.value import LEAVES, Node, Value
from tessera.op.collective import NAMES, group_size
from tessera.op.opdef import build

_FILLED = 8  # a bucket is large enough when its bytes take as long as so many messages
_NAMED = 4  # how many of the layouts that would remove a bucket's parts are named


@dataclass(slots=True)
class _Bucket:
    members: list[Node] = field(default_factory=list[Node])
    bytes: int = 0


def join_reductions(graph: Graph, machine: Machine) -> Graph:
    """One device's program with its small all-reduces joined.

    Those are joined that reduce the same way over the same axes, are as far from the last exchange that follows from
    them (so that none waits for another, nor what many exchanges wait for for what none does), and are small enough that
    to put them side by side in memory costs less than a message. What is reduced, and so every bit of it, is the same.
    """
    nodes = graph.nodes()
    buckets = [b for b in _buckets(nodes, machine) if len(b.members) > 1]
    return _rebuilt(graph, nodes, buckets) if buckets else graph


def _buckets(nodes: Sequence[Node], machine: Machine) -> list[_Bucket]:
    level = _levels(nodes)
    follow = _exchanges_after(nodes)
    found: list[_Bucket] = []
    open_: dict[Hashable, _Bucket] = {}
    limit = _FILLED * machine.link.latency * machine.link.bandwidth
    small = [n for n in nodes if n.op == "all_reduce" and _is_small(n, machine)]
    for node in sorted(small, key=lambda n: level[n]):  # in the order in which they can be ready
        attrs = node.attrs
        key = (tuple(attrs["axes"]), attrs["combine"], node.types[0].dtype, follow[node])
        bucket = open_.get(key)
        if bucket is None or bucket.bytes + _bytes(node) > limit:
            bucket = open_[key] = _Bucket()
            found.append(bucket)
        bucket.members.append(node)
        bucket.bytes += _bytes(node)
    return found


def _bytes(node: Node) -> int:
    size = node.results[0].size
    assert isinstance(size, int)
    return size * node.types[0].dtype.itemsize


def _is_small(node: Node, machine: Machine) -> bool:
    """Whether writing and reading it again, on both sides, takes less time than its messages; a user's own stay."""
    if not isinstance(node.results[0].size, int) or node.results[0].size == 0 or node.attrs["cause"] == "shard_map":
        return False
    messages = (group_size(node.attrs) - 1).bit_length()
    return machine.compute(0, 4 * _bytes(node)) < messages * machine.link.latency


def _levels(nodes: Sequence[Node]) -> dict[Node, int]:
    """The longest way from a leaf to each node."""
    found: dict[Node, int] = {}
    for node in nodes:
        found[node] = 1 + max((found[v.node] for v in node.operands), default=0)
    return found


def _exchanges_after(nodes: Sequence[Node]) -> dict[Node, int]:
    """The most exchanges that follow one after the other from each node. Two that are equal do not need each other."""
    found: Counter[Node] = Counter()
    for node in reversed(nodes):
        here = found[node] + (node.op in NAMES)
        for v in node.operands:
            found[v.node] = max(found[v.node], here)
    return found


def _rebuilt(graph: Graph, nodes: Sequence[Node], buckets: Sequence[_Bucket]) -> Graph:
    """The graph with each bucket as one node; buckets come when all of their operands are there."""
    bucket_of = {n: b for b in buckets for n in b.members}
    new: dict[Value, Value] = {}
    stack = [v.node for v in reversed([*graph.inputs, *graph.roots()])]
    while stack:
        node = stack[-1]
        if node.results[0] in new:
            stack.pop()
            continue
        bucket = bucket_of.get(node)
        together = (node,) if bucket is None else bucket.members
        pending = [v.node for n in together for v in n.operands if v not in new]
        if pending:
            stack += reversed(pending)
            continue
        stack.pop()
        if bucket is not None:
            new.update(zip([n.results[0] for n in together], _joined(bucket.members, new), strict=True))
        elif node.op in LEAVES:
            new.update((v, v) for v in node.results)
        else:
            new.update(zip(node.results, keep(node, tuple(new[v] for v in node.operands)), strict=True))
    return graph.replace(new)


def _joined(members: Sequence[Node], new: dict[Value, Value]) -> list[Value]:
    first = members[0]
    with location(first.loc):
        flat = [build("reshape", new[n.operands[0]], shape=[n.operands[0].size]) for n in members]
        all_ = build("concat", *flat, axis=0)
        attrs = {**first.attrs, "cause": _causes(members), "fix": _fixes(members)}
        reduced = build("all_reduce", all_, **attrs)
    found: list[Value] = []
    at = 0
    for node in members:
        size = node.results[0].size
        assert isinstance(size, int)
        with location(node.loc):
            part = build("slice", reduced, start=[at], stop=[at + size], step=[1])
            found.append(build("reshape", part, shape=list(node.results[0].shape)))
        at += size
    return found


def _causes(members: Sequence[Node]) -> str:
    """The operators that need the parts, with how often: ``add (3 times) and matmul``."""
    counted = Counter(n.attrs["cause"] for n in members)
    return " and ".join(c if times == 1 else f"{c} ({times} times)" for c, times in counted.items())


def _fixes(members: Sequence[Node]) -> str:
    fixes = list(dict.fromkeys(n.attrs["fix"] for n in members if n.attrs["fix"]))
    more = len(fixes) - _NAMED
    text = ", ".join(fixes[:_NAMED])
    return f"{text}, and {more} more" if more > 0 else text
