"""Rewrites before fusion: checks of indices that are not known to be in range, and large reductions in two steps."""

from __future__ import annotations

from typing import Any

from tessera.ir.dims import Dim, add, bounds, ceildiv, mul
from tessera.ir.dtype import DType, f32
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.value import LEAVES, Node, TensorType, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost

CHUNKS = 64
"""Partial results of a large reduction; fixed, so that results do not depend on the number of threads."""
LONG = 32768
"""Elements per result from which a reduction is done in two steps."""
NARROW = 64
"""Results from which a reduction has enough parallelism as it is."""

_INDEXED = (low.Take, low.TakeAlongAxis, low.IndexAdd, low.ScatterAdd)


def prepare(graph: Graph, nodes: list[Node]) -> Graph:
    """The graph as fusion expects it; the same graph when there is nothing to do."""
    if not any(_concerns(node) for node in nodes):
        return graph
    ranges = _Ranges()

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op in LEAVES:
            return keep(node, operands)
        rule = get(node.op).lower
        if isinstance(rule, _INDEXED):
            return _with_check(node, operands, ranges)
        if _is_long(node):
            return (_two_steps(node, operands[0]),)
        return keep(node, operands)

    return rebuild(graph, visit)


def _concerns(node: Node) -> bool:
    return node.op not in LEAVES and (isinstance(get(node.op).lower, _INDEXED) or _is_long(node))


# Index checks.


class _Ranges:
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
    from tessera.ir.dims import dmax, dmin

    low_end: Dim | None = None
    high_end: Dim | None = None
    for found in ranges:
        if found is None:
            return None
        low_end = found[0] if low_end is None else dmin(low_end, found[0])
        high_end = found[1] if high_end is None else dmax(high_end, found[1])
    return None if low_end is None or high_end is None else (low_end, high_end)


def _with_check(node: Node, operands: tuple[Value, ...], ranges: _Ranges) -> tuple[Value, ...]:
    index = operands[1]
    limit = operands[0].shape[node.attrs["axis"]]
    if ranges.fits(index, limit):
        return keep(node, operands)
    attrs = {"low": 0, "high": add(limit, -1), "ignore": None, "what": f"{node.op}: index"}
    checked = Node("check_range", (index,), attrs, (index.type,), node.loc).results[0]
    return keep(node, (operands[0], checked, *operands[2:]))


# Large reductions.


def _is_long(node: Node) -> bool:
    rule = get(node.op).lower
    if not isinstance(rule, low.Reduction) or rule.combine.startswith("arg"):
        return False
    shape, axes = node.operands[0].shape, node.attrs["axes"]
    reduced = cost.typical_size([shape[a] for a in axes])
    kept = cost.typical_size([d for i, d in enumerate(shape) if i not in axes])
    return reduced >= LONG and kept < NARROW and kept > 0 and _chunked_axis(node) is not None


def _chunked_axis(node: Node) -> int | None:
    """The reduced axis to cut: the first one that is long enough."""
    shape = node.operands[0].shape
    return next((a for a in node.attrs["axes"] if cost.typical(shape[a]) >= 2 * CHUNKS), None)


def _two_steps(node: Node, x: Value) -> Value:
    """Reduce chunks of one axis, then the partial results."""
    axis = _chunked_axis(node)
    assert axis is not None
    result = node.results[0]
    accumulate = f32 if result.dtype.is_float and result.dtype.bits < 32 else result.dtype
    if x.dtype != accumulate:
        x = _node("cast", (x,), {"dtype": accumulate}, accumulate, x.shape, node)
    extent = x.shape[axis]
    chunks = _divisor(extent) if isinstance(extent, int) else CHUNKS
    length = ceildiv(extent, chunks)
    padding = add(mul(chunks, length), mul(extent, -1))
    if padding != 0:
        high = [padding if a == axis else 0 for a in range(x.ndim)]
        attrs = {"low": [0] * x.ndim, "high": high, "value": _identity(node.op, accumulate)}
        padded = tuple(mul(chunks, length) if a == axis else d for a, d in enumerate(x.shape))
        x = _node("pad", (x,), attrs, accumulate, padded, node)
    cut = (*x.shape[:axis], chunks, length, *x.shape[axis + 1:])
    x = _node("reshape", (x,), {"shape": list(cut)}, accumulate, cut, node)
    axes = [axis + 1, *(a if a < axis else a + 1 for a in node.attrs["axes"] if a != axis)]
    partial = _reduce(node, x, sorted(axes), accumulate)
    kept_dims = [i for i in range(len(cut)) if i not in axes]
    total = _reduce(node, partial, [kept_dims.index(axis)], accumulate)
    if total.shape != result.shape:
        total = _node("reshape", (total,), {"shape": list(result.shape)}, accumulate, result.shape, node)
    if accumulate != result.dtype:
        total = _node("cast", (total,), {"dtype": result.dtype}, result.dtype, result.shape, node)
    return total


def _reduce(node: Node, x: Value, axes: list[int], dtype: DType) -> Value:
    shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    return _node(node.op, (x,), {"axes": axes, "keepdims": False}, dtype, shape, node)


def _node(op: str, operands: tuple[Value, ...], attrs: dict[str, Any], dtype: DType, shape: tuple[Dim, ...], at: Node) -> Value:
    return Node(op, operands, attrs, (TensorType(dtype, tuple(shape)),), at.loc).results[0]


def _divisor(extent: int) -> int:
    """The number of chunks: one that divides the extent where there is one near ``CHUNKS``."""
    return next((c for c in range(CHUNKS, CHUNKS // 4 - 1, -1) if extent % c == 0), CHUNKS)


def _identity(op: str, dtype: DType) -> bool | int | float:
    """The value that does not change the result of a reduction."""
    if op in ("sum", "prod"):
        one = op == "prod"
        return bool(one) if dtype.kind == "bool" else float(one) if dtype.is_float else int(one)
    smallest = op == "max"
    if dtype.is_float:
        return float("-inf") if smallest else float("inf")
    if dtype.kind == "bool":
        return not smallest
    if dtype.kind == "uint":
        return 0 if smallest else 2**dtype.bits - 1
    return -(2 ** (dtype.bits - 1)) if smallest else 2 ** (dtype.bits - 1) - 1
