"""``graph.collectives``: everything that the devices of a mesh exchange, before anything runs."""

from __future__ import annotations

from typing import Any

from tessera.dist.report import CollectivePlan
from tessera.errors import ArgumentError
from tessera.graph.compile import compile_with
from tessera.graph.pipeline import Options
from tessera.graph.sharded import ShardedCompiled


def collectives(subject: Any, *examples: Any, **named_examples: Any) -> CollectivePlan:
    """The exchanges of a tensor, a graph, or a function with example arguments (as for ``graph.compile``).

    Each entry has its kind, mesh axes, bytes, link, the operator and the line that need it, and the layout that would
    remove it; printing the plan lists them. The bytes are exactly those that a run counts. Raises ArgumentError for a
    graph in which nothing is sharded.
    """
    compiled = subject
    if not isinstance(subject, ShardedCompiled):
        compiled = compile_with(subject, Options(("portable",), planned_only=True), examples, named_examples)
    if not isinstance(compiled, ShardedCompiled):
        raise ArgumentError("collectives: no tensor of the graph is sharded, so that it runs on one device")
    return compiled.collectives
