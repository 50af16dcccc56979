"""Reductions over a block: identities, the combination of two values, and of all along a dimension."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.dtype import DType, bool_, f32, i32
from tessera.target.triton.convert import cast, constant, is_narrow, register_type, rounded
from tessera.target.triton.text import Writer

_FUNCTIONS = {"sum": "total", "prod": "times", "max": "larger", "min": "smaller", "or": "larger", "and": "smaller",
              "argmax": "larger_at", "argmin": "smaller_at"}
LAST = 2**31 - 1
"""A position after all others, in i32; in i64 the largest there."""


@dataclass(frozen=True, slots=True)
class Combination:
    """How values are combined: ``combine`` of Reduce, over ``source``, held as ``dtype`` while it goes on."""

    combine: str
    source: DType

    @property
    def dtype(self) -> DType:
        """The dtype of the accumulator."""
        if self.source == bool_:
            return i32
        return f32 if is_narrow(self.source) else self.source

    @property
    def positional(self) -> bool:
        """Whether the result is a position."""
        return self.combine.startswith("arg")

    def widened(self, writer: Writer, text: str) -> str:
        """A value in the accumulator's dtype."""
        return cast(writer, text, self.source, i32) if self.source == bool_ else text

    def identity(self) -> str:
        """The value that changes nothing."""
        if self.combine in ("sum", "prod"):
            return constant(self.combine == "prod", self.dtype)
        low = self.combine in ("max", "or", "argmax")
        if self.source == bool_:
            return constant(not low, i32)
        if self.dtype.is_float:
            return constant(float("-inf") if low else float("inf"), self.dtype)
        if self.dtype.kind == "uint":
            return constant(0 if low else 2**self.dtype.bits - 1, self.dtype)
        least = -(2 ** (self.dtype.bits - 1))
        return constant(least if low else -least - 1, self.dtype)

    def pair(self, writer: Writer, a: str, b: str) -> str:
        """The text of the combination of two tensors."""
        if self.combine == "sum":
            return f"{a} + {b}"
        if self.combine == "prod":
            return f"{a} * {b}"
        if not self.dtype.is_float:
            return f"tl.{'maximum' if self.combine in ('max', 'or') else 'minimum'}({a}, {b})"
        return writer.call(_FUNCTIONS[self.combine], a, b)

    def pair_at(self, writer: Writer, a: str, i: str, b: str, j: str) -> str:
        """The text of the better of two values, and its position."""
        return writer.call(_FUNCTIONS[self.combine], a, i, b, j)

    def along(self, writer: Writer, text: str, dim: int | None, keep: bool) -> str:
        """The text of the combination along a dimension; None: along all."""
        more = f"axis={dim}" + (", keep_dims=True" if keep else "")
        own = "" if self.dtype.is_float or self.dtype.bits >= 32 else f".to({register_type(self.dtype)})"
        if self.combine == "sum":
            return f"tl.sum({text}, {more}){own}"
        if not self.dtype.is_float and self.combine != "prod":
            return f"tl.{'max' if self.combine in ('max', 'or') else 'min'}({text}, {more}){own}"
        writer.functions[_FUNCTIONS[self.combine]] = None
        return f"tl.reduce({text}, {dim}, {_FUNCTIONS[self.combine]}{', keep_dims=True' if keep else ''})"

    def result(self, writer: Writer, text: str, dtype: DType) -> str:
        """The text of the result from the accumulator."""
        if self.source == bool_:
            return f"{text} != 0"
        return rounded(writer, dtype, text) if is_narrow(dtype) else f"({text}).to({register_type(dtype)})"
