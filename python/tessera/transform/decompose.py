"""Replace composite operators by the primitives they are made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Union

from tessera.errors import InternalError
from tessera.ir.attribute import attributes_key
from tessera.ir.graph import Graph, rebuild, topological
from tessera.ir.graph import keep as keep_node
from tessera.ir.provenance import location
from tessera.ir.value import INPUT, LEAVES, Node, Value
from tessera.op import opdef
from tessera.op.lowering import Composite

Kept = Union[frozenset[str], Callable[[Node], bool]]
"""The composites that stay: their names, or a test."""


def decompose(graph: Graph, keep: Kept = frozenset()) -> Graph:
    """The graph with every composite replaced by its body, except those in ``keep``.

    A body is traced once per operator, attributes and operand types, then copied; the copies get the
    location of the composite they stand for.
    """
    templates: dict[Hashable, _Template] = {}

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        template = _template(node, keep, templates)
        return keep_node(node, operands) if template is None else template.copy(node, operands)

    return rebuild(graph, visit)


class _Template:
    """A traced body: placeholder operands, nodes in topological order without composites, results."""

    def __init__(self, operands: list[Value], nodes: list[Node], results: list[Value]) -> None:
        self._operands, self._nodes, self._results = operands, nodes, results

    def copy(self, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        """The body on other operands, in the place of ``node``."""
        new: dict[Value, Value] = dict(zip(self._operands, operands))
        for old in self._nodes:
            # A leaf that the body refers to (a table, a parameter) is shared, not copied.
            if old.op in LEAVES:
                made = old
            else:
                made = Node(old.op, [new[v] for v in old.operands], old.attrs, old.types, node.loc)
            new.update(zip(old.results, made.results))
        return tuple([new[v] for v in self._results])


def _stays(node: Node, keep: Kept) -> bool:
    return keep(node) if callable(keep) else node.op in keep


def _template(node: Node, keep: Kept, templates: dict[Hashable, _Template]) -> _Template | None:
    """The traced body of a composite node; None for one that stays."""
    definition = opdef.REGISTRY.get(node.op)
    if definition is None or not isinstance(definition.lower, Composite) or _stays(node, keep):
        return None
    types = tuple(v.type for v in node.operands)
    key = (node.op, types, attributes_key(node.attrs))
    found = templates.get(key)
    if found is None:
        found = templates[key] = _trace(node, definition.lower, keep, templates)
    return found


def _trace(
    node: Node, composite: Composite, keep: Kept, templates: dict[Hashable, _Template]
) -> _Template:
    placeholders = [Node(INPUT, (), {"name": f"_{i}"}, (v.type,)) for i, v in enumerate(node.operands)]
    operands = [n.results[0] for n in placeholders]
    with location(node.loc):
        body = composite.body(*operands, **node.attrs)
    values = list(body) if isinstance(body, tuple) else [body]
    if tuple(v.type for v in values) != node.types:
        raise InternalError(
            f"{node.op}: the body gives ({', '.join(str(v.type) for v in values)}), "
            f"the operator's type rule ({', '.join(str(t) for t in node.types)})"
        )
    new: dict[Value, Value] = {v: v for v in operands}
    for inner in topological(v.node for v in values):
        if inner in placeholders:
            continue
        inner_operands = tuple([new[v] for v in inner.operands])
        template = _template(inner, keep, templates)
        results = keep_node(inner, inner_operands) if template is None else template.copy(inner, inner_operands)
        new.update(zip(inner.results, results))
    results = [new[v] for v in values]
    leaves = set(placeholders)
    return _Template(operands, [n for n in topological(v.node for v in results) if n not in leaves], results)
