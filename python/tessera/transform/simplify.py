"""Simplification: algebra, constant folding, common subexpressions and dead updates, until nothing changes."""

from __future__ import annotations

from tessera.ir.graph import Graph
from tessera.transform.algebra import simplify_algebra
from tessera.transform.cse import eliminate_common_subexpressions
from tessera.transform.dce import drop_dead_updates
from tessera.transform.fold import fold_constants

_MAX_ROUNDS = 8


def simplify(graph: Graph) -> Graph:
    """A graph of the same outputs and updates with less work. Nothing that IEEE arithmetic can tell changes.

    ``stop_gradient`` is removed: differentiate first.
    """
    for _ in range(_MAX_ROUNDS):
        before = graph.roots()
        graph = eliminate_common_subexpressions(fold_constants(simplify_algebra(graph)))
        if all(a is b for a, b in zip(before, graph.roots(), strict=True)):
            break
    return drop_dead_updates(graph)
