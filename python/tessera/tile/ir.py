"""Tile IR: one kernel as a target-neutral program.

A kernel is a ``LoopKernel`` (pointwise work, reductions, scans, gathers, scatters, fused in any mix), a
``DotKernel`` (matrix product with prologues and an epilogue) or an ``AttentionKernel``. Bodies are SSA lists of ops: op
``i`` of a body is referred to as ``Ref(scope, i)``. All index expressions are ``Dim`` expressions whose symbols are the
kernel's axes and its size arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union

from tessera.ir.dims import Dim, Symbol
from tessera.ir.dtype import DType
from tessera.ir.provenance import Location


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop axis: its symbol (used in index expressions) runs over [0, extent)."""

    symbol: Symbol
    extent: Dim


@dataclass(frozen=True, slots=True)
class Buffer:
    """A kernel argument: dtype, shape and element strides. ``role``: ``in``, ``out``, ``inout``.

    ``may_alias``: indices of other buffers that may be the very same memory (in-place updates); any two
    other buffers do not overlap.
    """

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    role: Literal["in", "out", "inout"]
    may_alias: tuple[int, ...] = ()


def same_memory(buffers: Sequence[Buffer], number: int) -> set[int]:
    """The buffers that may be the memory of one, itself among them."""
    return {number, *buffers[number].may_alias, *(i for i, b in enumerate(buffers) if number in b.may_alias)}


@dataclass(frozen=True, slots=True)
class Ref:
    """Op ``index`` of body ``scope``: for a LoopKernel the stage number, for a DotKernel see there."""

    scope: int
    index: int


@dataclass(frozen=True, slots=True)
class Const:
    """A scalar constant."""

    value: bool | int | float
    dtype: DType


@dataclass(frozen=True, slots=True)
class Index:
    """The i64 value of an integer expression over axes and sizes."""

    expr: Dim


@dataclass(frozen=True, slots=True)
class Load:
    """Element of a buffer. Each index entry is a Dim or a Ref to an integer value (indirect, already in range).

    With ``mask`` (a bool Ref) false the element is not read and the result is ``other``.
    """

    buffer: int
    index: tuple[Union[Dim, Ref], ...]
    mask: Ref | None = None
    other: bool | int | float = 0


@dataclass(frozen=True, slots=True)
class Compute:
    """A pointwise function: name from ``COMPUTES``, operands of equal dtype unless the function says otherwise.

    bf16, f16 and f8 operands are computed in f32 and rounded once to ``dtype``.
    """

    function: str
    args: tuple[Ref, ...]
    dtype: DType
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Random:
    """f32 or f64 uniform in [0, 1): Philox4x32-10; see docs/decisions/0001-contracts.md.

    ``key``: Refs to the two i64 words (seed, counter); ``operation``: the id; ``element``: global index.
    """

    key: tuple[Ref, Ref]
    operation: Dim
    element: Dim
    dtype: DType


@dataclass(frozen=True, slots=True)
class Reduce:
    """Combine ``value`` over all axes of its stage; usable in later stages.

    combine: sum prod max min (max/min propagate NaN; ``or``/``and`` are max/min on bool), argmax argmin
    (i64 position along the stage's single axis of the first extremum; a NaN counts as the extremum).
    ``dtype`` is the result dtype; sums of bf16/f16 accumulate in f32, f32 in f32.
    """

    combine: str
    value: Ref
    dtype: DType


@dataclass(frozen=True, slots=True)
class Scan:
    """Inclusive running ``sum`` of ``value`` along the stage's single axis."""

    combine: str
    value: Ref
    dtype: DType


StoreMode = Literal["set", "add", "sum"]


@dataclass(frozen=True, slots=True)
class Store:
    """Write ``value`` to a buffer; mode ``add`` adds to what is there (in axis order: deterministic).

    Mode ``sum``: the element is the sum over all points of the grid, in a fixed order; the index tells the position
    along the single axis of the stage alone. In the epilogue of a product: over all points of the batch and of ``m``,
    of what another store writes, or of that widened; the index tells the position along ``n``.
    """

    buffer: int
    index: tuple[Union[Dim, Ref], ...]
    value: Ref
    mode: StoreMode = "set"
    mask: Ref | None = None


Op = Union[Const, Index, Load, Compute, Random, Reduce, Scan, Store]


def references(op: Op) -> tuple[Ref, ...]:
    """The values that an op uses."""
    if isinstance(op, Compute):
        return op.args
    if isinstance(op, Random):
        return op.key
    found: tuple[Ref, ...] = (op.value,) if isinstance(op, (Reduce, Scan, Store)) else ()
    if isinstance(op, (Load, Store)):
        found = (*(e for e in op.index if isinstance(e, Ref)), *((op.mask,) if op.mask is not None else ()), *found)
    return found


@dataclass(frozen=True, slots=True)
class Stage:
    """A loop over ``axes`` (none: executed once) around ``ops``, inside one point of the kernel's grid.

    Stages run in order. A Ref to an earlier stage must be to a Reduce or, if that stage has no axes, to any op.
    A Load may read what an earlier stage of the same grid point stored.
    """

    axes: tuple[Axis, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class LoopKernel:
    """Every point of the ``grid`` axes is independent; each runs all stages.

    A purely pointwise kernel has all axes in ``grid`` and one stage without axes. A row reduction has the
    rows in ``grid`` and the columns as stage axes; a column reduction the other way round.
    """

    name: str
    sizes: tuple[Symbol, ...]
    buffers: tuple[Buffer, ...]
    grid: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    loc: Location | None = None


@dataclass(frozen=True, slots=True)
class DotKernel:
    """acc[batch, m, n] = sum over k of a(batch, m, k) * b(batch, k, n), then ``epilogue``.

    ``a`` and ``b`` are bodies (scope 0 and 1) whose last op is the operand element as a function of the axes;
    a single Load (optionally a cast) is the common case. ``epilogue`` is a body (scope 2) that refers to the
    accumulator as ``Ref(3, 0)`` and ends in Stores. ``acc``: accumulator dtype (f32 for bf16, f16, f32; f64;
    i32 or i64 for integers).
    """

    name: str
    sizes: tuple[Symbol, ...]
    buffers: tuple[Buffer, ...]
    batch: tuple[Axis, ...]
    m: Axis
    n: Axis
    k: Axis
    a: tuple[Op, ...]
    b: tuple[Op, ...]
    epilogue: tuple[Op, ...]
    acc: DType
    loc: Location | None = None


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """softmax(q kᵀ · scale) v for every head, or its gradients; only GPU targets have this form.

    All buffers are contiguous. Forward: q [heads, L, E], k and v [shared heads, S, E], out like q, sums [heads, L]:
    the logarithm of the sum of exp(score) over the keys of a query. ``backward``: q, k, v, out, sums, the gradient of
    out, then the gradients of q, k and v. Query head i uses shared head i // (heads / shared heads). ``causal``:
    position i attends to positions up to i. ``masked``: the last buffer is a mask [batch or 1, heads of a batch or 1,
    L or 1, S or 1], of bool (true: attend) or of numbers that are added to the scores.
    """

    name: str
    sizes: tuple[Symbol, ...]
    buffers: tuple[Buffer, ...]
    causal: bool
    scale: float
    backward: bool
    loc: Location | None = None
    masked: bool = False


Kernel = Union[LoopKernel, DotKernel, AttentionKernel]

COMPUTES: tuple[str, ...] = (
    # unary
    "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1",
    "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "sigmoid",
    "logical_not", "bitwise_not", "isnan", "isinf", "isfinite", "cast",
    # binary
    "add", "sub", "mul", "div", "floordiv", "mod", "pow", "maximum", "minimum", "atan2",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right",
    # ternary
    "where",
)
"""Names of pointwise functions; semantics as NumPy's (``round``: half to even; ``mod`` and ``floordiv``: floored,
an integer divided by zero gives 0; ``maximum``/``minimum`` propagate NaN; ``shift_right`` is arithmetic for signed
types; ``cast`` of a float to an integer truncates and saturates, NaN to 0; to bool: nonzero is true)."""
