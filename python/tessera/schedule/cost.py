"""What operators cost and how large symbolic sizes typically are: the numbers behind the decisions of fusion."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dims import Dim, substitute, symbols
from tessera.ir.value import Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule.placement import Placement

TYPICAL = 1024
"""The size assumed for a symbolic dimension, within its range, when sizes are compared."""

_WEIGHTS = {
    "div": 3, "sqrt": 3, "rsqrt": 4, "reciprocal": 3, "mod": 5, "floordiv": 5, "pow": 25, "atan2": 25,
    "exp": 10, "exp2": 10, "expm1": 12, "log": 10, "log2": 10, "log1p": 12, "sin": 15, "cos": 15, "tan": 20,
    "asin": 15, "acos": 15, "atan": 15, "sinh": 15, "cosh": 15, "tanh": 12, "erf": 15, "sigmoid": 12,
}
RANDOM = 40
"""Work of a random number."""

CHEAP = 4
"""Work per element that is less than writing and reading a tensor."""
CHEAP_BROADCAST = 3
"""Work per element that may be repeated for every element of a larger tensor."""
EXPENSIVE = 8
"""Work per element that is more than writing and reading it in the cache."""
MOST_WORK = 300
MOST_TENSORS = 24
MOST_DEPTH = 60


def work(node: Node) -> int:
    """Work per result element of an operator that can be inlined, in simple vector instructions."""
    rule = get(node.op).lower
    if isinstance(rule, low.Pointwise):
        return function_work(rule.compute)
    if isinstance(rule, low.Random):
        return RANDOM
    if isinstance(rule, (low.Pad, low.Concat)):
        return 1
    if isinstance(rule, (low.Take, low.TakeAlongAxis, low.IndexAdd, low.ScatterAdd)):
        return 2
    return 1 if isinstance(rule, (low.Dot, low.Reduction)) else 0


def function_work(function: str) -> int:
    """Work of a pointwise function of Tile IR."""
    return _WEIGHTS.get(function, 1)


def element_work(v: Value, placement: Placement) -> int:
    """Work to compute an element of a value from stored values."""
    total = 0
    stack: list[Value] = [v]
    seen: set[int] = set()
    while stack:
        node = stack.pop().node
        if id(node) not in seen:
            seen.add(id(node))
            total += work(node)
            stack += [o for o in node.operands if placement.root(o) is None]
    return total


def typical(d: Dim) -> int:
    """The value of a dimension when every symbol has its typical size."""
    if isinstance(d, int):
        return d
    sizes: dict = {}
    for s in symbols(d):
        n = TYPICAL if s.max is None else min(TYPICAL, s.max)
        n = max(n, s.min)
        sizes[s] = max(n // s.multiple_of * s.multiple_of, s.min)
    value = substitute(d, sizes)
    assert isinstance(value, int)
    return value


def typical_size(shape: Sequence[Dim]) -> int:
    """The number of elements when every symbol has its typical size."""
    n = 1
    for d in shape:
        n *= typical(d)
    return n
