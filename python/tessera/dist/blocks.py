"""Sums that are the same bits on every mesh: a fixed number of blocks, combined in a fixed binary tree.

Every contraction and sum of floating-point numbers is cut into ``BLOCKS`` blocks before anything is known of a mesh. A
device then forms whole blocks in the order of their elements, and adds blocks in the order of the tree, wherever they
come from. What cannot be cut is summed whole, by every device that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dims import Dim
from tessera.ir.dtype import DType, f32
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, Value
from tessera.op.opdef import build

BLOCKS = 8
"""Into how many blocks a sum is cut; meshes that split a summed dimension over a divisor of it gather least."""


def in_blocks(graph: Graph) -> Graph:
    """The graph, of primitives, with its sums in blocks."""

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if not node.results[0].dtype.is_float or node.op not in _RULES:
            return keep(node, operands)
        with location(node.loc):
            found = _RULES[node.op](node, operands)
        return keep(node, operands) if found is None else (found,)

    return rebuild(graph, visit)


def _divides(d: Dim) -> bool:
    return isinstance(d, int) and d > 0 and d % BLOCKS == 0


def _wide(x: Value) -> Value:
    """In the dtype in which sums are formed."""
    return _cast(x, f32) if x.dtype.is_float and x.dtype.bits < 32 else x


def _cast(x: Value, dtype: DType) -> Value:
    return x if x.dtype == dtype else build("cast", x, dtype=dtype)


def _reshaped(x: Value, shape: Sequence[Dim]) -> Value:
    return build("reshape", x, shape=list(shape))


def _cut(x: Value, axis: int) -> Value:
    """A dimension as two: the blocks, and the elements of a block."""
    size = x.shape[axis]
    assert isinstance(size, int)
    return _reshaped(x, (*x.shape[:axis], BLOCKS, size // BLOCKS, *x.shape[axis + 1 :]))


def _tree(x: Value, axis: int) -> Value:
    """The sum along the blocks, neighbours first; without the dimension."""
    count = BLOCKS
    while count > 1:
        count //= 2
        x = _reshaped(x, (*x.shape[:axis], count, 2, *x.shape[axis + 1 :]))
        x = _reshaped(
            _one(x, axis + 1, 0) + _one(x, axis + 1, 1), (*x.shape[:axis], count, *x.shape[axis + 2 :])
        )
    return _reshaped(x, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _one(x: Value, axis: int, at: int) -> Value:
    start = [at if i == axis else 0 for i in range(x.ndim)]
    stop = [at + 1 if i == axis else d for i, d in enumerate(x.shape)]
    return build("slice", x, start=start, stop=stop, step=[1] * x.ndim)


def _matmul(node: Node, operands: tuple[Value, ...]) -> Value | None:
    a, b = map(_wide, operands)
    if not _divides(a.shape[-1]):
        return None
    a, b = _cut(a, a.ndim - 1), _cut(b, b.ndim - 2)
    order = [*range(a.ndim - 3), a.ndim - 2, a.ndim - 3, a.ndim - 1]
    parts = build("matmul", build("transpose", a, perm=order), b)
    return _cast(_tree(parts, parts.ndim - 3), node.results[0].dtype)


def _sum(node: Node, operands: tuple[Value, ...]) -> Value | None:
    x, axes = _wide(operands[0]), list(node.attrs["axes"])
    cut = [i for i in axes if _divides(x.shape[i])]
    if not cut:
        return None
    for i in reversed(cut):
        x = _cut(x, i)
    moved = {i: i + sum(c < i for c in cut) for i in axes}  # where each dimension is now; blocks stand before their own
    x = build("sum", x, axes=[moved[i] + (i in cut) for i in axes], keepdims=False)
    for i in reversed(cut):
        x = _tree(x, moved[i] - sum(a < i for a in axes))
    return _cast(_reshaped(x, node.results[0].shape), node.results[0].dtype)


_RULES = {"matmul": _matmul, "sum": _sum}
