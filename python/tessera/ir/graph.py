"""Graph: named outputs and state updates over a DAG of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from tessera.errors import GraphError
from tessera.ir.dims import Expr, Symbol, symbols
from tessera.ir.sharding import MeshShape
from tessera.ir.value import CONSTANT, INPUT, PARAM, Node, Value


class Graph:
    """A function from inputs and state to outputs and new state.

    ``inputs`` are the input leaves in the caller's order (also those that nothing uses), ``outputs``
    maps names to values in order, ``updates`` maps a parameter leaf to the value that replaces its
    state when the graph has run.
    """

    def __init__(
        self,
        outputs: Mapping[str, Value],
        *,
        name: str = "main",
        inputs: Sequence[Value] | None = None,
        updates: Mapping[Value, Value] | None = None,
    ) -> None:
        self.name = name
        self.outputs: dict[str, Value] = dict(outputs)
        self.updates: dict[Value, Value] = dict(updates or {})
        self._sorted: tuple[list[Value], list[Node]] | None = None
        # A dict, as a list would compare with ``==``, which is an operator on values.
        self.inputs: list[Value] = list(inputs or ())
        self.inputs = list(dict.fromkeys([*self.inputs, *self._leaves(INPUT)]))

    def __repr__(self) -> str:
        def listed(values: Iterable[tuple[str, Value]]) -> str:
            return ", ".join(f"{name}: {v.type}" for name, v in values)

        inputs = listed((v.node.attrs["name"], v) for v in self.inputs)
        updates = f", {len(self.updates)} updates" if self.updates else ""
        return f"<graph {self.name}: ({inputs}) -> ({listed(self.outputs.items())}){updates}>"

    def roots(self) -> list[Value]:
        """Outputs, then updates, then updated parameters."""
        return [*self.outputs.values(), *self.updates.values(), *self.updates.keys()]

    def nodes(self) -> list[Node]:
        """All nodes in a topological order that is the same for every run (inputs first)."""
        roots = [*getattr(self, "inputs", ()), *self.roots()]
        known = self._sorted
        # Values compare with an operator of their own: ``is``, not ``==``.
        if known is None or len(known[0]) != len(roots) or any(a is not b for a, b in zip(known[0], roots)):
            known = self._sorted = roots, topological(v.node for v in roots)
        return list(known[1])

    def _leaves(self, op: str) -> Iterator[Value]:
        return (n.results[0] for n in self.nodes() if n.op == op)

    def params(self) -> list[Value]:
        """Parameter leaves, in topological order."""
        return list(self._leaves(PARAM))

    def constants(self) -> list[Value]:
        """Dense constant leaves, in topological order."""
        return list(self._leaves(CONSTANT))

    def symbols(self) -> list[Symbol]:
        """Symbols of all shapes and attributes, in order of appearance."""
        found: dict[Symbol, None] = {}
        seen: set[Expr] = set()
        for node in self.nodes():
            for value in chain(*(t.shape for t in node.types), node.attrs.values()):
                stack = [value]
                while stack:
                    d = stack.pop()
                    if isinstance(d, (list, tuple)):
                        stack += reversed(d)
                    elif isinstance(d, Expr) and d not in seen:
                        seen.add(d)
                        found.update(dict.fromkeys(symbols(d)))
        return list(found)

    def mesh(self) -> MeshShape | None:
        """The mesh over which values are sharded; GraphError when there are several."""
        meshes = dict.fromkeys(t.sharding.mesh for n in self.nodes() for t in n.types if t.sharding is not None)
        if len(meshes) > 1:
            raise GraphError(f"one graph has values on several meshes: {'; '.join(map(str, meshes))}")
        return next(iter(meshes), None)

    def __str__(self) -> str:
        from tessera.ir.printer import print_graph

        return print_graph(self)

    def _repr_html_(self) -> str:
        from tessera.ir.draw import to_html

        return to_html(self)

    def _repr_svg_(self) -> str:
        from tessera.ir.draw import to_svg

        return to_svg(self)

    def replace(self, mapping: Mapping[Value, Value]) -> Graph:
        """The same graph over other values: every root that ``mapping`` has is replaced."""
        return Graph(
            {k: mapping.get(v, v) for k, v in self.outputs.items()},
            name=self.name,
            inputs=[mapping.get(v, v) for v in self.inputs],
            updates={mapping.get(p, p): mapping.get(v, v) for p, v in self.updates.items()},
        )


def topological(roots: Iterable[Node]) -> list[Node]:
    """Nodes reachable from roots, operands first; iterative, so that depth is no limit."""
    order: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            pending = [v.node for v in node.operands if v.node not in done] if node.operands else ()
            if pending:
                stack += reversed(pending)
            else:
                stack.pop()
                done.add(node)
                order.append(node)
    return order


def rebuild(graph: Graph, visit: Callable[[Node, tuple[Value, ...]], Sequence[Value]]) -> Graph:
    """A new graph in which ``visit(node, new_operands)`` gives the values that replace a node's results.

    ``visit`` sees nodes in topological order; to keep a node it returns ``keep(node, new_operands)``.
    """
    new: dict[Value, Value] = {}
    for node in graph.nodes():
        operands = tuple(new[v] for v in node.operands)
        for old, value in zip(node.results, visit(node, operands), strict=True):
            new[old] = value
    return graph.replace(new)


def keep(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
    """The node's results, on new operands; the very same node when nothing changed."""
    for new, old in zip(operands, node.operands):
        if new is not old:
            return Node(node.op, operands, node.attrs, node.types, node.loc, node.payload).results
    return node.results
