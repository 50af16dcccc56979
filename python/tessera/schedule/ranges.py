"""Bounds of integer values, and the checks of indices that are not known to be in range."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from tessera.ir.dims import Dim, add, bounds, dmax, dmin, mul
from tessera.ir.graph import keep
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get

Range = tuple[Dim | None, Dim | None]
"""The lowest and the highest possible element; None where that is unknown."""

_UNKNOWN: Range = (None, None)


class Ranges:
    """Bounds of integer values that follow from how they are computed."""

    def __init__(self) -> None:
        self._known: dict[int, Range] = {}

    def fits(self, v: Value, limit: Dim) -> bool:
        """Whether all elements certainly lie in [0, limit)."""
        low_end, high_end = self.of(v)
        if low_end is None or high_end is None:
            return False
        return bounds(low_end)[0] >= 0 and bounds(add(add(limit, -1), mul(high_end, -1)))[0] >= 0

    def of(self, v: Value) -> Range:
        """The lowest and the highest possible element."""
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
        combines = node.op in ("cast", "concat", "maximum", "minimum")
        if combines or (node.op not in LEAVES and isinstance(get(node.op).lower, low.View)):
            return tuple(o for o in node.operands if o.dtype.is_integer)
        return ()

    def _compute(self, node: Node) -> Range:
        if node.op == "check_range":
            ends = node.attrs["low"], node.attrs["high"]
            return ends if node.attrs["ignore"] is None else _UNKNOWN
        if node.op == "iota":
            return 0, add(node.attrs["shape"][node.attrs["axis"]], -1)
        if node.op == "full":
            value = node.attrs["value"]
            return (value, value) if not isinstance(value, (bool, float)) else _UNKNOWN
        if node.op in ("argmax", "argmin"):
            return 0, add(node.operands[0].shape[node.attrs["axis"]], -1)
        if node.op == "where":
            return self._where(node)
        sources = self._sources(node)
        found = [self._known[id(o)] for o in sources]
        if node.op == "maximum":
            return _extremum(dmax, [r[0] for r in found], known=False), _extremum(dmax, [r[1] for r in found])
        if node.op == "minimum":
            return _extremum(dmin, [r[0] for r in found]), _extremum(dmin, [r[1] for r in found], known=False)
        return _union(found)

    def _where(self, node: Node) -> Range:
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


def _extremum(combine: Callable[[Dim, Dim], Dim], ends: list[Dim | None], known: bool = True) -> Dim | None:
    """The extremum of ends; with ``known``, None when one of them is unknown, else that of the others."""
    given = [e for e in ends if e is not None]
    return None if not given or (known and len(given) < len(ends)) else reduce(combine, given)


def _union(ranges: list[Range]) -> Range:
    return _extremum(dmin, [r[0] for r in ranges]), _extremum(dmax, [r[1] for r in ranges])


def with_check(node: Node, operands: tuple[Value, ...], ranges: Ranges) -> tuple[Value, ...]:
    """The node's results, its index operand checked where it may be out of range."""
    index = operands[1]
    limit = operands[0].shape[node.attrs["axis"]]
    if ranges.fits(index, limit):
        return keep(node, operands)
    attrs = {"low": 0, "high": add(limit, -1), "ignore": None, "what": f"{node.op}: index"}
    checked = Node("check_range", (index,), attrs, (index.type,), node.loc).results[0]
    return keep(node, (operands[0], checked, *operands[2:]))
