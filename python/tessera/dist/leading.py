"""Exchanges along the first dimension: what GPUs' libraries do without moving anything in memory themselves."""

from __future__ import annotations

from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, Value
from tessera.op.opdef import apply, build

_ALONG = ("all_gather", "reduce_scatter")


def along_the_first_dimension(graph: Graph) -> Graph:
    """One device's program in which gathered and scattered dimensions come first, by transposes around exchanges.

    Kernels write their results transposed and read transposed operands, which is cheaper than rows put together behind
    an exchange.
    """

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op not in _ALONG or all(d == 1 for d in node.operands[0].shape[: node.attrs["dim"]]):
            return keep(node, operands)
        with location(node.loc):
            rank, dim = operands[0].ndim, node.attrs["dim"]
            first = [dim, *(i for i in range(rank) if i != dim)]
            back = [first.index(i) for i in range(rank)]
            shape = [node.results[0].shape[i] for i in first]
            moved = build("transpose", operands[0], perm=first)
            joined, = apply(node.op, (moved,), {**node.attrs, "dim": 0, "shape": shape})
            return (build("transpose", joined, perm=back),)

    return rebuild(graph, visit)
