"""The verifier: whether a graph is well-formed."""

from __future__ import annotations

from typing import Any

from tessera.errors import GraphError, TesseraError
from tessera.ir.attribute import IDENTIFIER, attribute_text
from tessera.ir.dims import Symbol
from tessera.ir.graph import Graph
from tessera.ir.type_rule import result_types
from tessera.ir.value import CONSTANT, INPUT, LEAVES, PARAM, Node, Value


def verify(graph: Graph) -> None:
    """Raise GraphError, naming the node and the user's line, unless the graph is well-formed.

    Checked: no cycles; every value is a result of its node; leaves have a name, no operands and one type,
    and the payload of a constant fits it; names of inputs, parameters and constants are unique; every
    other node's types are those of its operator's type rule; attributes have a text form; a symbol has
    one range; an update's target is a parameter and the new value has its type.
    """
    _check_roots(graph)
    nodes = _ordered(graph)
    names: dict[tuple[str, str], Node] = {}
    for number, node in enumerate(nodes):
        _check_attributes(number, node)
        if node.op in LEAVES:
            _check_leaf(number, node)
            other = names.setdefault((node.op, node.attrs["name"]), node)
            if other is not node:
                _fail(number, node, f"there is another {node.op} named {node.attrs['name']!r}{_at(other)}")
        else:
            _check_types(number, node)
    listed = {v.node for v in graph.inputs}
    for number, node in enumerate(nodes):
        if node.op == INPUT and node not in listed:
            _fail(number, node, f"the input {node.attrs['name']!r} is not listed among the graph's inputs")
    _check_symbols(graph.symbols())


def _fail(number: int | None, node: Node, message: str) -> None:
    label = "" if number is None else f" {number}"
    raise GraphError(f"node{label} ({node.op}): {message}{_at(node)}")


def _at(node: Node) -> str:
    return "" if node.loc is None else f"\n  at {node.loc}"


def _check_value(value: Any, what: str) -> None:
    if not isinstance(value, Value):
        raise GraphError(f"{what} is a {type(value).__name__}, not a value")
    results = value.node.results
    if not (0 <= value.index < len(results) and results[value.index] is value):
        _fail(None, value.node, f"{what} is not one of the node's results")


def _check_roots(graph: Graph) -> None:
    outputs: dict[Any, Any] = graph.outputs  # may hold anything: that is what is checked
    for name, value in outputs.items():
        if not isinstance(name, str) or not name:
            raise GraphError(f"an output is named {name!r}; the name must be a string that is not empty")
        _check_value(value, f"output {name!r}")
    for value in graph.inputs:
        _check_value(value, "an input")
        if value.node.op != INPUT:
            _fail(None, value.node, "it is listed among the graph's inputs")
    for param, value in graph.updates.items():
        _check_value(param, "the target of an update")
        _check_value(value, "the new value of an update")
        if param.node.op != PARAM:
            _fail(None, param.node, "it is updated, but only a param can be")
        if param.type != value.type:
            name = param.node.attrs.get("name")
            _fail(None, value.node, f"it updates the parameter {name!r} of type {param.type} with a {value.type}")


def _ordered(graph: Graph) -> list[Node]:
    """The nodes as ``Graph.nodes`` orders them; GraphError for a cycle (there ``topological`` would not end)."""
    order: list[Node] = []
    open_nodes: set[Node] = set()
    closed: set[Node] = set()
    for root in (*graph.inputs, *graph.roots()):
        stack: list[tuple[Node, int]] = [(root.node, 0)]
        while stack:
            node, at = stack.pop()
            if node in closed:
                continue
            if at == 0 and node in open_nodes:
                _fail(None, node, "the node depends on itself")
            open_nodes.add(node)
            if at < len(node.operands):
                _check_value(node.operands[at], f"operand {at} of {node.op}")
                stack += [(node, at + 1), (node.operands[at].node, 0)]
            else:
                closed.add(node)
                order.append(node)
    return order


def _check_attributes(number: int, node: Node) -> None:
    attrs: dict[Any, Any] = node.attrs
    for name, value in attrs.items():
        if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
            _fail(number, node, f"{name!r} is not a name for an attribute")
        try:
            attribute_text(value)
        except GraphError as error:
            _fail(number, node, f"attribute {name!r}: {error}")


def _check_leaf(number: int, node: Node) -> None:
    if node.operands or len(node.types) != 1:
        _fail(number, node, "a leaf has no operands and one result")
    wanted = {"name", "trainable"} if node.op == PARAM else {"name"}
    if set(node.attrs) != wanted:
        _fail(number, node, f"the attributes must be {', '.join(sorted(wanted))}, not {', '.join(sorted(node.attrs))}")
    if not isinstance(node.attrs["name"], str) or not isinstance(node.attrs.get("trainable", True), bool):
        _fail(number, node, "name must be a string and trainable a bool")
    shape = getattr(node.payload, "shape", None)
    if node.op == CONSTANT and shape is not None and tuple(shape) != node.types[0].shape:
        _fail(number, node, f"the data has shape {tuple(shape)} but the type is {node.types[0]}")


def _check_types(number: int, node: Node) -> None:
    if not node.types:
        _fail(number, node, "the node has no result")
    try:
        inferred = result_types(node.op, tuple(v.type for v in node.operands), node.attrs)
    except TesseraError as error:
        _fail(number, node, str(error))
        return
    if inferred != node.types:
        stated, right = (", ".join(str(t) for t in types) for types in (node.types, inferred))
        _fail(number, node, f"its type is {stated} but the operator gives {right}")


def _check_symbols(symbols: list[Symbol]) -> None:
    known: dict[str, Symbol] = {}
    for symbol in symbols:
        other = known.setdefault(symbol.name, symbol)
        if other != symbol:
            raise GraphError(
                f"two symbolic dimensions are named {symbol.name!r} but differ: "
                f"min={other.min}, max={other.max}, multiple_of={other.multiple_of} and "
                f"min={symbol.min}, max={symbol.max}, multiple_of={symbol.multiple_of}"
            )
