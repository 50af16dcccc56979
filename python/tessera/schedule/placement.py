"""Which values have storage of their own."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dims import Dim
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Node, Value

ALIASES = frozenset({"reshape", "check_range", "stop_gradient"})
"""Operators whose result is the operand's memory, when the operand has memory."""


def held_values(graph: Graph) -> set[int]:
    """The values, by identity, whose storage is the caller's: outputs and new state, and what they are views of."""
    found: set[int] = set()
    for v in (*graph.outputs.values(), *graph.updates.values()):
        found.add(id(v))
        while v.node.op in ALIASES:
            v = v.node.operands[0]
            found.add(id(v))
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """Where a value lies in the storage of another: from element ``start`` of it on."""

    whole: Value
    start: Dim


class Placement:
    """Values with storage. Every other value is computed inside the kernels that read it.

    ``windows``: by identity, the stored values that lie in the storage of another stored value.
    """

    def __init__(self) -> None:
        self.windows: dict[int, Window] = {}
        self._wholes: set[int] = set()
        self._stored: dict[int, Value] = {}
        self._roots: dict[int, Value | None] = {}

    def store(self, v: Value) -> None:
        """Give a value storage; before any value that depends on it is looked up."""
        self._stored[id(v)] = v
        self._roots[id(v)] = v

    def put_into(self, v: Value, whole: Value, start: Dim) -> None:
        """Let a stored value be a part of another, from element ``start`` of it on."""
        self.windows[id(v)] = Window(whole, start)
        self._wholes.add(id(whole))

    def shares_memory(self, v: Value) -> bool:
        """Whether a stored value is part of another, or another part of it."""
        return id(v) in self.windows or id(v) in self._wholes

    def is_stored(self, v: Value) -> bool:
        """Whether the value itself has storage (leaves do)."""
        return v.node.op in LEAVES or id(v) in self._stored

    def is_alias(self, v: Value) -> bool:
        """Whether the value is another view of its operand's storage."""
        return v.node.op in ALIASES and not self.is_stored(v) and self.root(v.node.operands[0]) is not None

    def root(self, v: Value) -> Value | None:
        """The value whose storage holds ``v``, contiguous and in the same order; None when it has none."""
        key = id(v)
        if key in self._roots:
            return self._roots[key]
        if self.is_stored(v):
            found: Value | None = v
        elif v.node.op in ALIASES:
            found = self.root(v.node.operands[0])
        else:
            found = None
        self._roots[key] = found
        return found

    def checks(self, v: Value) -> list[Node]:
        """The check_range nodes between an alias and its storage."""
        found: list[Node] = []
        while self.is_alias(v):
            if v.node.op == "check_range":
                found.append(v.node)
            v = v.node.operands[0]
        return found

    def values(self) -> list[Value]:
        """Values with storage, other than leaves, in the order in which they were placed."""
        return list(self._stored.values())
