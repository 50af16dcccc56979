"""Large reductions to few results, in two steps: chunks, then their partial results."""

from __future__ import annotations

from typing import Any

from tessera.ir.dims import Dim, add, ceildiv, mul
from tessera.ir.dtype import DType, f32
from tessera.ir.value import Node, TensorType, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost

CHUNKS = 64
"""Partial results of a large reduction; fixed, so that results do not depend on the number of threads."""
LONG = 32768
"""Elements per result from which a reduction is done in two steps."""
NARROW = 64
"""Results from which a reduction has enough parallelism as it is."""


def is_long(node: Node) -> bool:
    """Whether a reduction has few results and many elements for each."""
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


def in_two_steps(node: Node, x: Value) -> Value:
    """Reduce chunks of one axis, then the partial results."""
    axis = _chunked_axis(node)
    assert axis is not None
    result = node.results[0]
    accumulate = f32 if result.dtype.is_float and result.dtype.bits < 32 else result.dtype
    if x.dtype != accumulate:
        x = derived("cast", (x,), {"dtype": accumulate}, accumulate, x.shape, node)
    extent = x.shape[axis]
    chunks = _divisor(extent) if isinstance(extent, int) else CHUNKS
    length = ceildiv(extent, chunks)
    padding = add(mul(chunks, length), mul(extent, -1))
    if padding != 0:
        high = [padding if a == axis else 0 for a in range(x.ndim)]
        attrs = {"low": [0] * x.ndim, "high": high, "value": _identity(node.op, accumulate)}
        padded = tuple(mul(chunks, length) if a == axis else d for a, d in enumerate(x.shape))
        x = derived("pad", (x,), attrs, accumulate, padded, node)
    cut = (*x.shape[:axis], chunks, length, *x.shape[axis + 1:])
    x = derived("reshape", (x,), {"shape": list(cut)}, accumulate, cut, node)
    axes = [axis + 1, *(a if a < axis else a + 1 for a in node.attrs["axes"] if a != axis)]
    partial = _reduce(node, x, sorted(axes), accumulate)
    kept_dims = [i for i in range(len(cut)) if i not in axes]
    total = _reduce(node, partial, [kept_dims.index(axis)], accumulate)
    if total.shape != result.shape:
        total = derived("reshape", (total,), {"shape": list(result.shape)}, accumulate, result.shape, node)
    if accumulate != result.dtype:
        total = derived("cast", (total,), {"dtype": result.dtype}, result.dtype, result.shape, node)
    return total


def _reduce(node: Node, x: Value, axes: list[int], dtype: DType) -> Value:
    shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    return derived(node.op, (x,), {"axes": axes, "keepdims": False}, dtype, shape, node)


def derived(
    op: str, operands: tuple[Value, ...], attrs: dict[str, Any], dtype: DType, shape: tuple[Dim, ...], at: Node
) -> Value:
    """A node that stands for part of another."""
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
