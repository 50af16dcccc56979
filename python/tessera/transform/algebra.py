"""Algebraic simplification: the table of rewrites, applied bottom-up."""

from __future__ import annotations

from tessera.ir.graph import Graph
from tessera.transform import algebra_pointwise, algebra_reduce, algebra_view
from tessera.transform.rewrite import Rewriter

_REWRITER = Rewriter(
    {**algebra_pointwise.RULES, **algebra_view.RULES, **algebra_reduce.RULES}, pointwise=algebra_pointwise.POINTWISE
)


def simplify_algebra(graph: Graph) -> Graph:
    """Apply the identities of ``algebra_pointwise``, ``algebra_view`` and ``algebra_reduce`` where they fit.

    ``stop_gradient`` is removed, so this comes after differentiation.
    """
    return _REWRITER.run(graph)
