"""Make a graph ready to run: one leaf per parameter, distinct names, the random state advanced."""

from __future__ import annotations

import numpy as np

from tessera.errors import ArgumentError, OutOfMemoryError
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.value import CONSTANT, PARAM, Node, Value
from tessera.op.parameter import Parameter
from tessera.op.random import RNG_STATE, advanced


def prepare(graph: Graph) -> Graph:
    """The graph as it is compiled and saved.

    Parameters of one name become one leaf, constants get distinct names, inputs must have distinct names, and a
    graph that draws random numbers advances the random state ``tessera.rng`` once per run.
    """
    _check_inputs(graph)
    _check_sizes(graph)
    graph = _merge_leaves(graph)
    for leaf in graph.params():
        if leaf.node.attrs["name"] == RNG_STATE and leaf not in graph.updates:
            updates = {**graph.updates, leaf: advanced(leaf)}
            graph = Graph(graph.outputs, name=graph.name, inputs=graph.inputs, updates=updates)
    return graph


def _check_inputs(graph: Graph) -> None:
    seen: set[str] = set()
    for leaf in graph.inputs:
        name = leaf.node.attrs["name"]
        if name in seen:
            raise ArgumentError(f"two inputs are called {name!r}; give each its own name: op.tensor(shape, name=…)")
        seen.add(name)


def _check_sizes(graph: Graph) -> None:
    """Raise OutOfMemoryError for a tensor whose bytes no address can count."""
    for node in graph.nodes():
        for t in node.types:
            if isinstance(t.size, int) and (total := t.size * t.dtype.itemsize) >= 2**63:
                at = "" if node.loc is None else f"\n  at {node.loc}"
                raise OutOfMemoryError(f"[{node.op}] a tensor of type {t} has {total} bytes{at}")


def _merge_leaves(graph: Graph) -> Graph:
    """One leaf per parameter name; equal constants become one, others that share a name are renamed."""
    parameters: dict[str, Value] = {}
    constants: dict[str, Value] = {}

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op == PARAM:
            name = node.attrs["name"]
            first = parameters.setdefault(name, node.results[0])
            if first.node.payload is not node.payload and name != RNG_STATE:
                raise ArgumentError(f"two different parameters are called {name!r}; give each its own name")
            return (first,)
        if node.op == CONSTANT:
            return (_distinct(node, constants),)
        return keep(node, operands)

    return rebuild(graph, visit)


def _distinct(node: Node, constants: dict[str, Value]) -> Value:
    """An equal constant that is there already, or this one under a name of its own."""
    base, number = node.attrs["name"], 0
    name = base
    while name in constants:
        other = constants[name].node
        if other.types == node.types and (other.payload is node.payload or _same(other.payload, node.payload)):
            return constants[name]
        number += 1
        name = f"{base}_{number}"
    value = node.results[0]
    if number:
        value = Node(CONSTANT, (), {**node.attrs, "name": name}, node.types, node.loc, node.payload).results[0]
    constants[name] = value
    return value


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type have the same bits."""
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def parameters_of(graph: Graph) -> dict[str, Parameter]:
    """The storage of each parameter of the graph, by name."""
    found: dict[str, Parameter] = {}
    for leaf in graph.params():
        payload = leaf.node.payload
        if not isinstance(payload, Parameter):
            raise ArgumentError(
                f"parameter {leaf.node.attrs['name']!r} has no storage; load the graph from a file with weights"
            )
        found[leaf.node.attrs["name"]] = payload
    return found


def constants_of(graph: Graph) -> dict[str, np.ndarray]:
    """The data of each dense constant, by name."""
    return {leaf.node.attrs["name"]: np.asarray(leaf.node.payload) for leaf in graph.constants()}
