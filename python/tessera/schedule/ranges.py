"""Bounds of integer values, and the checks of indices that are not known to be in range."""

from __future__ import annotations

from tessera.ir.dims import Dim, add, bounds, dmax, dmin, mul
from tessera.ir.graph import keep
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get


class Ranges:
    """Bounds of integer values that follow from how they are computed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Dim, Dim] | None] = {}

    def fits(self, v: Value, limit: Dim) -> bool:
        """Whether all elements certainly lie in [0, limit)."""
        found = self.of(v)
        if found is None:
            return False
        low_end, high_end = found
        return bounds(low_end)[0] >= 0 and bounds(add(add(limit, -1), mul(high_end, -1)))[0] >= 0

    def of(self, v: Value) -> tuple[Dim, Dim] | None:
        """(lowest, highest) possible element; None when unknown."""
        stack = [v]
        while stack:
            top = stack[-1]
            if id(top) in self._known:
                stack.pop()
                continue
            waiting = [o for o in self._sources(top.node) if id(o) not in self._known]
            if waiting:
                stack += waiting
            else:
                self._known[id(top)] = self._compute(top.node)
                stack.pop()
        return self._known[id(v)]

    @staticmethod
    def _sources(node: Node) -> tuple[Value, ...]:
        if node.op == "where":
            return node.operands[1:]
        if node.op in ("cast", "concat") or (node.op not in LEAVES and isinstance(get(node.op).lower, low.View)):
            return tuple(o for o in node.operands if o.dtype.is_integer)
        return ()

    def _compute(self, node: Node) -> tuple[Dim, Dim] | None:
        if node.op == "check_range":
            ends = node.attrs["low"], node.attrs["high"]
            return ends if node.attrs["ignore"] is None else None
        if node.op == "iota":
            return 0, add(node.attrs["shape"][node.attrs["axis"]], -1)
        if node.op == "full":
            value = node.attrs["value"]
            return (value, value) if not isinstance(value, (bool, float)) else None
        if node.op in ("argmax", "argmin"):
            return 0, add(node.operands[0].shape[node.attrs["axis"]], -1)
        if node.op == "where":
            return self._where(node)
        sources = self._sources(node)
        if not sources:
            return None
        return _union([self._known[id(o)] for o in sources])

    def _where(self, node: Node) -> tuple[Dim, Dim] | None:
        """``where(x != i, x, y)`` with x checked except for i: the usual way to replace ignored labels."""
        condition, a, b = node.operands
        tests = {"ne": a, "eq": b}
        checked = tests.get(condition.node.op)
        if checked is not None and checked.node.op == "check_range" and checked.node.attrs["ignore"] is not None:
            x, y = condition.node.operands
            if x is checked and y.node.op == "full" and y.node.attrs["value"] == checked.node.attrs["ignore"]:
                ends = checked.node.attrs["low"], checked.node.attrs["high"]
                return _union([ends, self._known[id(b if checked is a else a)]])
        return _union([self._known[id(a)], self._known[id(b)]])


def _union(ranges: list[tuple[Dim, Dim] | None]) -> tuple[Dim, Dim] | None:
    low_end: Dim | None = None
    high_end: Dim | None = None
    for found in ranges:
        if found is None:
            return None
        low_end = found[0] if low_end is None else dmin(low_end, found[0])
        high_end = found[1] if high_end is None else dmax(high_end, found[1])
    return None if low_end is None or high_end is None else (low_end, high_end)


def with_check(node: Node, operands: tuple[Value, ...], ranges: Ranges) -> tuple[Value, ...]:
    """The node's results, its index operand checked where it may be out of range."""
    index = operands[1]
    limit = operands[0].shape[node.attrs["axis"]]
    if ranges.fits(index, limit):
        return keep(node, operands)
    attrs = {"low": 0, "high": add(limit, -1), "ignore": None, "what": f"{node.op}: index"}
    checked = Node("check_range", (index,), attrs, (index.type,), node.loc).results[0]
    return keep(node, (operands[0], checked, *operands[2:]))
