"""Factors of a node: which dimensions of its operands and results are split together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.ir.dims import Dim, product
from tessera.ir.value import Node, TensorType
from tessera.op.opdef import get
from tessera.op.shape import dimension_groups

Slot = tuple[str, Dim]
"""A factor and how many elements of it one element of the dimension stands for (1 but for merged dimensions)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """``operands`` and ``results``: per dimension its slot, or None for one that must be whole.

    ``contracted``: factors that no result has, put together by ``combine``; ``summed``: per result those that other
    results have and it has not, put together by sums.
    """

    operands: tuple[tuple[Slot | None, ...], ...]
    results: tuple[tuple[Slot | None, ...], ...]
    contracted: frozenset[str]
    combine: str
    summed: tuple[frozenset[str], ...] = ()


def factors_of(node: Node) -> Factors:
    """The factors of a node, from its operator's factor string."""
    if node.op == "reshape":
        return _reshape_factors(node.operands[0].type, node.types[0])
    definition = get(node.op)
    types = tuple(v.type for v in node.operands)
    text = definition.shard if isinstance(definition.shard, str) else definition.shard(types, node.attrs)
    sides, _, combine = text.partition(";")
    before, _, after = sides.partition("->")
    terms = before.split(",") if types else []
    results = after.split(",")
    fixed: set[str] = set()
    left = [_term(term, t, node.types[0], fixed) for term, t in zip(terms, types, strict=True)]
    right = [_term(term, t, node.types[0], fixed) for term, t in zip(results, node.types, strict=True)]

    def free(names: Sequence[str | None]) -> tuple[Slot | None, ...]:
        return tuple(None if n is None or n in fixed else (n, 1) for n in names)

    if node.op != "broadcast_to":
        # Other new dimensions (of a padded or cut one, say) are made whole: what a device makes depends on its place.
        fixed |= {n for names in right for n in names if n is not None} - {n for names in left for n in names}
    kept = {n for names in right for n in names}
    contracted = {n for names in left for n in names if n is not None and n not in kept} - fixed
    return Factors(tuple(map(free, left)), tuple(map(free, right)), frozenset(contracted), combine or "sum")


def _term(term: str, t: TensorType, result: TensorType, fixed: set[str]) -> list[str | None]:
    """A factor per dimension; those marked ``!`` are added to ``fixed``. A broadcast dimension has none."""
    names: list[str] = []
    for c in term:
        if c == "!":
            fixed.add(names[-1])
        else:
            names.append(c)
    if "*" not in names:
        return [n if d != 1 else _size_one(n, fixed) for n, d in zip(names, t.shape, strict=True)]
    star = names.index("*")
    count = t.ndim - (len(names) - 1)
    # Elementwise dimensions align from the right, whatever stands beside them.
    found: list[str | None] = [*names[:star]]
    for i in range(count):
        found.append(None if t.shape[star + i] == 1 else f"*{count - i}")
    found += names[star + 1 :]
    return [None if d == 1 else n for n, d in zip(found, t.shape, strict=True)]


def _size_one(name: str, fixed: set[str]) -> str | None:
    """Dimensions of size 1 are not worth splitting; their factor stays whole everywhere."""
    fixed.add(name)
    return name


def _reshape_factors(x: TensorType, y: TensorType) -> Factors:
    """Each run of merged dimensions can stay split along its first."""
    left: list[Slot | None] = [None] * x.ndim
    right: list[Slot | None] = [None] * y.ndim
    if not any(d == 0 for d in x.shape):
        for number, (old, new) in enumerate(dimension_groups(x.shape, y.shape)):
            # Leading dimensions of size 1 move nothing.
            old = _without_ones(old, x.shape)
            new = _without_ones(new, y.shape)
            if old and new:
                left[old[0]] = f"g{number}", product(x.shape[i] for i in old[1:])
                right[new[0]] = f"g{number}", product(y.shape[i] for i in new[1:])
    return Factors((tuple(left),), (tuple(right),), frozenset(), "sum")


def _without_ones(dims: Sequence[int], shape: Sequence[Dim]) -> list[int]:
    return [i for i in dims if shape[i] != 1]
