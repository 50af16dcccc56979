"""Removal of work that has no effect."""

from __future__ import annotations

from tessera.ir.graph import Graph, topological


def drop_dead_updates(graph: Graph) -> Graph:
    """Drop state updates that write the value that the state already has.

    The update of a parameter that nothing else uses stays, since the parameter is state of the graph only
    through it. Nodes that nothing uses need no pass: a graph holds only what its outputs and updates reach.
    """
    changing = [value for param, value in graph.updates.items() if value is not param]
    if len(changing) == len(graph.updates):
        return graph
    used = set(topological(v.node for v in (*graph.outputs.values(), *changing)))
    updates = {p: v for p, v in graph.updates.items() if v is not p or p.node not in used}
    if len(updates) == len(graph.updates):
        return graph
    return Graph(graph.outputs, name=graph.name, inputs=graph.inputs, updates=updates)
