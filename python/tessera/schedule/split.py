"""Large reductions to few results, in two steps: chunks, then their partial results."""

from __future__ import annotations

from typing import Any

from tessera.ir.dims import Dim, add, ceildiv, mul
from tessera.ir.dtype import DType, f32
from tessera.ir.value import Node, TensorType, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.machine import Machine

FEWEST = 128
"""Elements of an axis from which it is cut."""
LEAST_ROWS, CHUNK = 64, 4096
"""Rows, or elements of one axis, that are summed at once, at least, where chunks are spread over a machine; elements of
several axes."""


def is_long(node: Node, machine: Machine) -> bool:
    """Whether a reduction has few results and many elements for each."""
    rule = get(node.op).lower
    if not isinstance(rule, low.Reduction) or rule.combine.startswith("arg") or machine.ordered:
        return False
    shape, axes = node.operands[0].shape, node.attrs["axes"]
    reduced = cost.typical_size([shape[a] for a in axes])
    kept = cost.typical_size([d for i, d in enumerate(shape) if i not in axes])
    if not kept or _chunked_axis(node) is None:
        return False
    rows = _along_rows(node)
    workers = kept if rows else -(-kept // machine.columns)
    return reduced >= (machine.row_length if rows else machine.column_length) and workers < machine.results


def _along_rows(node: Node) -> bool:
    """Whether the innermost axis is reduced."""
    shape = node.operands[0].shape
    return max((i for i, d in enumerate(shape) if d != 1), default=0) in node.attrs["axes"]


def _chunked_axis(node: Node) -> int | None:
    """The reduced axis to cut: the first one that is long enough."""
    shape = node.operands[0].shape
    return next((a for a in node.attrs["axes"] if cost.typical(shape[a]) >= FEWEST), None)


def _chunks(node: Node, axis: int, machine: Machine) -> int:
    """Into how many pieces the axis is cut; fixed, so that results do not depend on how many workers there are."""
    extent = node.operands[0].shape[axis]
    wanted = machine.chunks
    if machine.spread:
        shape = node.operands[0].shape
        kept = cost.typical_size([d for i, d in enumerate(shape) if i not in node.attrs["axes"]])
        workers = kept if _along_rows(node) else -(-kept // machine.columns)
        others = cost.typical_size([shape[a] for a in node.attrs["axes"] if a != axis])
        if not _along_rows(node):
            most = min(cost.typical(extent), cost.typical(extent) * others // LEAST_ROWS)
        elif others < LEAST_ROWS:
            most = cost.typical(extent) // LEAST_ROWS
        else:
            most = min(cost.typical(extent), cost.typical(extent) * others // CHUNK)
        wanted = max(2, min(machine.chunks // workers, most))
    return _divisor(extent, wanted) if isinstance(extent, int) else wanted


def in_two_steps(node: Node, x: Value, machine: Machine) -> Value:
    """Reduce chunks of one axis, then the partial results."""
    axis = _chunked_axis(node)
    assert axis is not None
    result = node.results[0]
    accumulate = f32 if result.dtype.is_float and result.dtype.bits < 32 else result.dtype
    if x.dtype != accumulate:
        x = derived("cast", (x,), {"dtype": accumulate}, accumulate, x.shape, node)
    extent = x.shape[axis]
    chunks = _chunks(node, axis, machine)
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


def undivided(total: Node) -> Value | None:
    """What the second step of a sum sums in the end, where that is over all dimensions but the last one."""
    partial = total.operands[0].node
    if total.op != "sum" or partial.op != "sum" or total.attrs["axes"] != [0] or total.operands[0].ndim != 2:
        return None
    cut = partial.operands[0]
    if cut.node.op != "reshape" or partial.attrs["keepdims"] or total.attrs["keepdims"]:
        return None
    source = cut.node.operands[0]
    if cut.ndim - 1 in partial.attrs["axes"] or cut.dtype != total.results[0].dtype:
        return None
    at, = (a for a in range(cut.ndim - 1) if a not in partial.attrs["axes"])
    if cut.shape[:at] + cut.shape[at + 2:] != source.shape[:at] + source.shape[at + 1:]:
        return None
    pad = source.node
    if pad.op == "pad":
        only_rows = not any(pad.attrs["low"]) and pad.attrs["high"][-1] == 0 and pad.attrs["value"] == 0
        return pad.operands[0] if only_rows else None
    return source


def derived(
    op: str, operands: tuple[Value, ...], attrs: dict[str, Any], dtype: DType, shape: tuple[Dim, ...], at: Node
) -> Value:
    """A node that stands for part of another."""
    return Node(op, operands, attrs, (TensorType(dtype, tuple(shape)),), at.loc).results[0]


def _divisor(extent: int, wanted: int) -> int:
    """The number of chunks: one that divides the extent where there is one near what is wanted."""
    return next((c for c in range(wanted, max(wanted // 4 - 1, 1), -1) if extent % c == 0), wanted)


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
