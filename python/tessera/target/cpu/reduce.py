"""Accumulators of reductions: identities, combination, and the horizontal step over lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tessera.errors import CompileError
from tessera.ir.dtype import DType
from tessera.target.cpu.compute import maximum_f, maximum_i, minimum_f, minimum_i
from tessera.target.cpu.convert import cast, is_narrow, register_type, round_narrow
from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.levels import Level


class Accumulator:
    """How one Reduce (or Scan) op accumulates values of ``source`` into ``dtype``."""

    def __init__(self, b: Builder, level: Level, combine: str, source: DType, dtype: DType) -> None:
        self.b, self.level = b, level
        self.combine = {"or": "max", "and": "min"}.get(combine, combine)
        self.source, self.dtype = source, dtype
        self.positional = self.combine in ("argmax", "argmin")
        if self.combine not in ("sum", "prod", "max", "min", "argmax", "argmin"):
            raise CompileError(f"the reduction {combine!r} is unknown")
        # narrow floats accumulate as f32 registers
        self.type = register_type(source if self.positional or self.combine in ("max", "min") else dtype)

    def initial(self, n: int) -> list[Val]:
        """The identity in ``n`` lanes (for argmax and argmin: worst value and position 0)."""
        b = self.b
        if self.combine == "sum":
            return [b.const(0, self.type, n)]
        if self.combine == "prod":
            return [b.const(1, self.type, n)]
        worst = b.const(self._worst(), self.type, n)
        return [worst, b.const(0, "i64", n)] if self.positional else [worst]

    def _worst(self) -> float | int | bool:
        highest = self.combine in ("min", "argmin")
        if self.source.is_float:
            return math.inf if highest else -math.inf
        if self.source.kind == "bool":
            return highest
        if self.source.kind == "uint":
            return (1 << self.source.bits) - 1 if highest else 0
        return (1 << (self.source.bits - 1)) - 1 if highest else -(1 << (self.source.bits - 1))

    def lift(self, value: Val) -> Val:
        """A value in the accumulator's type."""
        if self.combine in ("sum", "prod") and self.source != self.dtype:
            if is_narrow(self.source) and self.type == "float":
                return value
            return cast(self.b, self.level, value, self.source, self.dtype)
        return value

    def add(self, total: Sequence[Val], value: Sequence[Val], mask: Val | None = None) -> list[Val]:
        """The accumulator with one more value (and its position) in the lanes of ``mask``."""
        b = self.b
        n = total[0].n
        x, y = total[0], b.broadcast(value[0], n)
        if self.positional:
            better = self._better(y, x)
            if mask is not None:
                better = better & mask
            position = b.broadcast(value[1], n)
            return [b.select(better, y, x), b.select(better, position, total[1])]
        new = self._combine(x, y)
        return [new if mask is None else b.select(mask, new, x)]

    def _combine(self, x: Val, y: Val) -> Val:
        b = self.b
        if self.combine == "sum":
            return x + y
        if self.combine == "prod":
            return x * y
        if self.source.is_float:
            return (maximum_f if self.combine == "max" else minimum_f)(b, x, y)
        return (maximum_i if self.combine == "max" else minimum_i)(b, self.source, x, y)

    def _better(self, y: Val, x: Val) -> Val:
        """Whether y is a strictly better extremum than x; NaN is better than any number."""
        up = self.combine == "argmax"
        if self.source.is_float:
            return (y.gt(x) if up else y.lt(x)) | (y.isnan() & ~x.isnan())
        if self.source.kind in ("uint", "bool"):
            return y.ugt(x) if up else y.ult(x)
        return y.gt(x) if up else y.lt(x)

    def merge(self, x: Sequence[Val], y: Sequence[Val]) -> list[Val]:
        """Two accumulators as one; of equal extrema the lower position."""
        b = self.b
        if not self.positional:
            return [self._combine(x[0], y[0])]
        tie = ~self._better(x[0], y[0]) & y[1].lt(x[1])
        better = self._better(y[0], x[0]) | tie
        return [b.select(better, y[0], x[0]), b.select(better, y[1], x[1])]

    def horizontal(self, parts: Sequence[Sequence[Val]]) -> Val:
        """One value from several vector accumulators: pairwise, then by halving the lanes."""
        b = self.b
        parts = [list(p) for p in parts]
        while len(parts) > 1:
            merged = [self.merge(x, y) for x, y in zip(parts[::2], parts[1::2])]
            parts = merged + parts[len(parts) - len(parts) % 2:]
        total = parts[0]
        while total[0].n > 1:
            half = total[0].n // 2
            low = [b.shuffle(v, None, range(half)) for v in total]
            high = [b.shuffle(v, None, range(half, 2 * half)) for v in total]
            total = self.merge(low, high)
        return self.result(total)

    def result(self, total: Sequence[Val]) -> Val:
        """The register value of ``dtype``."""
        if self.positional:
            return total[1]
        if is_narrow(self.dtype):
            return round_narrow(self.b, self.level, self.dtype, total[0])
        return total[0]
