"""A rough cost model: how long a unit of work takes, hence how many units are worth a thread."""

from __future__ import annotations

from collections.abc import Iterable

from tessera.ir.dims import Dim, bounds, ceildiv, dmax, floordiv, mul
from tessera.target.cpu.access import FlatLoad, FlatOp, FlatStore
from tessera.tile.ir import Compute, Random, Reduce, Scan

_CYCLES = {
    "div": 6, "reciprocal": 6, "sqrt": 8, "rsqrt": 14, "exp": 14, "exp2": 14, "expm1": 16, "log": 20, "log2": 20,
    "log1p": 30, "sin": 60, "cos": 60, "tan": 80, "asin": 30, "acos": 30, "atan": 40, "atan2": 50, "sinh": 30,
    "cosh": 24, "tanh": 22, "erf": 20, "sigmoid": 20, "pow": 150, "floordiv": 60, "mod": 60,
}
THREAD_CYCLES = 9000
"""Work below which handing a piece to another thread does not pay (about 3 microseconds)."""


def cycles_per_vector(ops: Iterable[FlatOp]) -> int:
    """Estimated cycles to evaluate a body for one vector of lanes."""
    total = 1.0
    for op in ops:
        if isinstance(op, Compute):
            total += _CYCLES.get(op.function, 0.6)
        elif isinstance(op, FlatLoad):
            total += 8 if op.place.indirect else 1.5
        elif isinstance(op, FlatStore):
            total += 16 if op.place.indirect else 2
        elif isinstance(op, Random):
            total += 40
        elif isinstance(op, (Reduce, Scan)):
            total += 1
    return max(1, round(total))


def grain_of(cycles: Dim) -> Dim:
    """The least number of units worth a thread when a unit takes ``cycles``."""
    if isinstance(cycles, int):
        return max(1, -(-THREAD_CYCLES // max(1, cycles)))
    low, _ = bounds(cycles)
    if low >= THREAD_CYCLES:
        return 1
    return dmax(1, ceildiv(THREAD_CYCLES, dmax(1, cycles)))


def scaled(cycles: int, extent: Dim, lanes: int) -> Dim:
    """Cycles for ``extent`` elements at ``cycles`` per ``lanes`` elements, at least 1."""
    return dmax(1, floordiv(mul(extent, cycles), lanes))
