"""Tensor types, nodes and values: the elements of Graph IR.

A graph is a DAG of immutable nodes in SSA form. A ``Node`` applies one operator to operand values
and has one or more results; a ``Value`` is one result. Sub-graphs are shared by reference, so that
building, differentiating and substituting never copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.ir.dims import Dim, product
from tessera.ir.dtype import DType
from tessera.ir.provenance import Location

INPUT = "input"
"""Leaf: a named input. Attribute ``name``."""
PARAM = "param"
"""Leaf: named mutable state. Attributes ``name``, ``trainable``; payload: the concrete storage."""
CONSTANT = "constant"
"""Leaf: a named dense constant. Attribute ``name``; payload: a NumPy array."""
LEAVES = frozenset({INPUT, PARAM, CONSTANT})


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype, shape and, once sharded, the sharding of a value."""

    dtype: DType
    shape: tuple[Dim, ...]
    sharding: Any = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(d) for d in self.shape)}]"


class Node:
    """One operation: operator name, operands, attributes, result types, provenance.

    ``payload`` holds what the text form does not: a parameter's storage or a constant's data.
    Do not mutate a node after it was built.
    """

    __slots__ = ("op", "operands", "attrs", "types", "loc", "payload", "results", "__weakref__")

    def __init__(
        self,
        op: str,
        operands: Sequence[Value],
        attrs: Mapping[str, Any],
        types: Sequence[TensorType],
        loc: Location | None = None,
        payload: Any = None,
    ) -> None:
        self.op = op
        self.operands: tuple[Value, ...] = tuple(operands)
        self.attrs: dict[str, Any] = dict(attrs)
        self.types: tuple[TensorType, ...] = tuple(types)
        self.loc = loc
        self.payload = payload
        self.results: tuple[Value, ...] = tuple(Value(self, i) for i in range(len(self.types)))

    def __repr__(self) -> str:
        return f"<{self.op} {', '.join(str(t) for t in self.types)}>"


class Value:
    """One result of a node: a symbolic tensor.

    The user's operators (``+``, ``@``, ``x[...]``) are attached to this class by ``tessera.op``,
    evaluation and calling by ``tessera.graph``; see ``attach``.
    """

    __slots__ = ("node", "index")

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index

    @property
    def type(self) -> TensorType:
        """The tensor type."""
        return self.node.types[self.index]

    @property
    def dtype(self) -> DType:
        """The element type."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape; each dimension an int or a symbolic expression."""
        return self.type.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return self.type.size

    def __repr__(self) -> str:
        name = self.node.attrs.get("name")
        label = f" {name!r}" if self.node.op in LEAVES and name else ""
        return f"Tensor({self.type}, {self.node.op}{label})"


def attach(name: str, function: Any) -> None:
    """Give ``Value`` a method or property from a higher layer (operators, evaluation, drawing)."""
    setattr(Value, name, function)
