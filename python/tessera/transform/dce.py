"""Removal of work that has no effect."""

from __future__ import annotations

from tessera.ir.graph import Graph


def drop_dead_updates(graph: Graph) -> Graph:
    """Drop state updates that write the value that the state already has.

    Nodes that nothing uses need no pass: a graph holds only what its outputs and updates reach.
    """
    updates = {param: value for param, value in graph.updates.items() if value is not param}
    if len(updates) == len(graph.updates):
        return graph
    return Graph(graph.outputs, name=graph.name, inputs=graph.inputs, updates=updates)
