"""Attention that stays one operator through partitioning, for targets that have a kernel for it."""

from __future__ import annotations

from tessera.dist.cost import typical_elements
from tessera.dist.factors import Factors, Slot
from tessera.dist.strategy import Strategy
from tessera.ir.dims import Dim
from tessera.ir.dtype import bool_, i32
from tessera.ir.sharding import local_start
from tessera.ir.value import Node, TensorType, Value
from tessera.op import where
from tessera.op.opdef import apply, build
from tessera.transform.flash_attention import FORWARD, GRADIENT, mask_of

_HEADS, _QUERIES = "heads", "queries"  # factors


def factors(node: Node) -> Factors:
    """Batch, heads and queries may be split; keys are whole on every device, and so is the size of a head.

    Grouped heads are split by whole groups; a single head of keys is whole. The gradients of keys and values are then
    summands on the devices that have some of the queries, or some of the heads of queries.
    """
    q, k = node.operands[0].type, node.operands[1].type
    shared = k.shape[-3] if k.ndim > 2 else 1
    rows, columns = _slots(q, q.ndim), _slots(k, q.ndim, _group(q, k))
    columns = (*columns[:-2], None, None)
    mask = mask_of(node)
    masks = [] if mask is None else [_slots(mask.type, q.ndim)]
    if node.op == FORWARD:
        return Factors((rows, columns, columns, *masks), (rows, rows[:-1]), frozenset(), "sum")
    operands = (rows, columns, columns, rows, rows[:-1], rows, *masks)
    summed = frozenset({_QUERIES, _HEADS} if shared == 1 else {_QUERIES})
    return Factors(operands, (rows, columns, columns), frozenset(), "sum", (frozenset(), summed, summed))


def _group(q: TensorType, k: TensorType) -> Dim:
    """How many heads of queries share one of keys."""
    if q.ndim < 3 or q.shape[-3] == k.shape[-3]:
        return 1
    heads, shared = q.shape[-3], k.shape[-3]
    assert isinstance(heads, int) and isinstance(shared, int)
    return heads // shared


def _slots(t: TensorType, rank: int, group: Dim = 1) -> tuple[Slot | None, ...]:
    """Of dimensions that stand at the right of (…, heads, queries, anything); the last one is whole."""
    found: list[Slot | None] = []
    for i, size in enumerate(t.shape, rank - t.ndim):
        name = {rank - 2: _QUERIES, rank - 3: _HEADS}.get(i, f"batch{i}")
        found.append(None if i == rank - 1 or size == 1 else (name, group if name == _HEADS else 1))
    return tuple(found)


def operations(node: Node, assumed: int) -> float:
    """Arithmetic of the products."""
    q, k = node.operands[0], node.operands[1]
    return (4 if node.op == FORWARD else 10) * typical_elements(q.shape, assumed) * typical_elements((k.shape[-2],), assumed)


def local(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> tuple[Value, ...]:
    """The node on one device's operands: where queries are split, a mask says which keys come before each."""
    split = strategy.operands[0].dims[-2]
    if not node.attrs["causal"] or split is None:
        return apply(node.op, operands, node.attrs)
    q, k = operands[0], operands[1]
    first = local_start(node.operands[0].shape[-2], split, strategy.operands[0].mesh)
    shape: list[Dim] = [q.shape[-2], k.shape[-2]]
    rows = build("iota", shape=shape, axis=0, dtype=i32) + build("full", shape=[], value=first, dtype=i32)
    before = build("le", build("iota", shape=shape, axis=1, dtype=i32), rows)
    given = operands[6 if node.op == GRADIENT else 3 :]
    if given:
        mask = given[0]
        before = build("logical_and", mask, before) if mask.dtype == bool_ else where(before, mask, float("-inf"))
    without = operands[: len(operands) - len(given)]
    return apply(node.op, (*without, before), {**node.attrs, "causal": False})
