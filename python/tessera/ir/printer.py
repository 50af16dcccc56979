"""The text form of a graph; docs/decisions/0001-contracts.md has the grammar."""

from __future__ import annotations

from tessera.errors import GraphError
from tessera.ir.attribute import attributes_text, string_text
from tessera.ir.dims import Symbol
from tessera.ir.graph import Graph
from tessera.ir.sharding import Sharding
from tessera.ir.value import Node, TensorType, Value

_TypeTexts = dict[tuple[TensorType, Sharding | None], str]
VERSION = 1
"""Version of the text form."""


def print_graph(graph: Graph) -> str:
    """The text of a graph: deterministic, and ``parse_graph`` reads it back to a graph of the same text."""
    names: dict[Value, str] = {}
    types: _TypeTexts = {}
    lines = [f"tessera.graph {VERSION}", f"graph {string_text(graph.name)} {{"]
    nodes = graph.nodes()
    mesh = graph.mesh()
    lines += [] if mesh is None else [f"  mesh {mesh}"]
    lines += [dim_text(symbol) for symbol in graph.symbols()]
    for node in nodes:
        for value in node.results:
            names[value] = f"%{len(names)}"
        lines.append(_node_text(node, names, types))
    lines += [f"  output {string_text(name)} = {names[value]}" for name, value in graph.outputs.items()]
    lines += [f"  update {names[param]} = {names[value]}" for param, value in graph.updates.items()]
    lines.append("}\n")
    return "\n".join(lines)


def dim_text(symbol: Symbol) -> str:
    """The declaration of a symbol."""
    high = "inf" if symbol.max is None else symbol.max
    return f"  dim {symbol.name} in [{symbol.min}, {high}] multiple_of {symbol.multiple_of}"


def _node_text(node: Node, names: dict[Value, str], types: _TypeTexts) -> str:
    for t in node.types:
        if (t, t.sharding) not in types:
            types[t, t.sharding] = str(t)
    results = ", ".join([names[v] for v in node.results])
    operands = f"({', '.join([names[v] for v in node.operands])})" if node.operands else ""
    attrs = node.attrs
    try:
        attributes = f" {attributes_text(attrs)}" if attrs else ""
    except GraphError as error:
        at = "" if node.loc is None else f"\n  at {node.loc}"
        raise GraphError(f"{node.op}: {error}{at}") from None
    result_types = ", ".join([types[t, t.sharding] for t in node.types])
    result_types = result_types if len(node.types) == 1 else f"({result_types})"
    loc = "" if node.loc is None else f" at {string_text(node.loc.file)}:{node.loc.line}"
    return f"  {results} = {node.op}{operands}{attributes} : {result_types}{loc}"
