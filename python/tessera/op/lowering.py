"""How an operator becomes kernels: declarations that scheduling and Tile IR construction read.

One of these classes stands in the ``lower`` field of every OpDef. They say what the operator is,
not how a target computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.ir.dims import Dim
from tessera.ir.value import TensorType, Value


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Each output element from the operand elements at the same (broadcast) index.

    ``compute`` is the Tile IR compute name. Operands broadcast as in NumPy.
    """

    compute: str


@dataclass(frozen=True, slots=True)
class Reduction:
    """Combines over attribute ``axes`` (``keepdims`` attribute); combine: sum, prod, max, min, argmax, argmin."""

    combine: str


@dataclass(frozen=True, slots=True)
class Scan:
    """Inclusive running combination along attribute ``axis``; combine: sum."""

    combine: str


@dataclass(frozen=True, slots=True)
class View:
    """A pure re-indexing: ``index_map(index, operand_type, result_type, attrs)`` gives the operand's index
    for a result index; both are tuples of Dim expressions.
    """

    index_map: Callable[[tuple[Dim, ...], TensorType, TensorType, Mapping[str, Any]], tuple[Dim, ...]]


@dataclass(frozen=True, slots=True)
class Pad:
    """Attributes ``low``, ``high`` (per dimension) and scalar ``value``."""


@dataclass(frozen=True, slots=True)
class Concat:
    """Operands joined along attribute ``axis``."""


@dataclass(frozen=True, slots=True)
class Iota:
    """0, 1, 2, … along attribute ``axis``."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Every element is the scalar attribute ``value``."""


@dataclass(frozen=True, slots=True)
class Dot:
    """``matmul``: batch dimensions broadcast, last two are (m, k) and (k, n)."""


@dataclass(frozen=True, slots=True)
class Take:
    """``take(x, index)`` along ``axis``: index dimensions replace the axis."""


@dataclass(frozen=True, slots=True)
class TakeAlongAxis:
    """``take_along_axis(x, index)``: same rank, one element per index element."""


@dataclass(frozen=True, slots=True)
class IndexAdd:
    """``index_add(x, index, updates)``: x with updates added at rows ``index`` of ``axis`` (transpose of take)."""


@dataclass(frozen=True, slots=True)
class ScatterAdd:
    """``scatter_add(x, index, updates)``: transpose of take_along_axis."""


@dataclass(frozen=True, slots=True)
class Random:
    """``random_uniform``: Philox4x32-10 keyed by seed, operation id and global element index."""


@dataclass(frozen=True, slots=True)
class CheckRange:
    """Identity on an integer tensor that fails the run when an element lies outside [low, high]."""


@dataclass(frozen=True, slots=True)
class Portable:
    """No generated kernel yet: a compiled plan calls the portable C++ kernel for this node."""

    reason: str


@dataclass(frozen=True, slots=True)
class Collective(Portable):
    """An exchange with other devices of a mesh: a compiled plan has an instruction for it."""


@dataclass(frozen=True, slots=True)
class Custom(Portable):
    """A custom operator, called as it is on every target; ``scratch``: operand types and attributes to the bytes of
    memory that its kernel needs.
    """

    scratch: Callable[[tuple[TensorType, ...], Mapping[str, Any]], Dim]


@dataclass(frozen=True, slots=True)
class Composite:
    """Defined by a graph: ``body(*operands, **attrs)`` builds it with operators and returns one value or several."""

    body: Callable[..., Value | tuple[Value, ...]]


Lowering = (
    Pointwise | Reduction | Scan | View | Pad | Concat | Iota | Fill | Dot | Take | TakeAlongAxis
    | IndexAdd | ScatterAdd | Random | CheckRange | Portable | Custom | Composite
)
