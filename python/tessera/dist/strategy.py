"""Strategies of a node: the ways in which its work can be divided over a mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations

from tessera.dist.factors import Factors, Slot
from tessera.ir.dims import Dim, floordiv, mul
from tessera.ir.sharding import MeshShape, Sharding, Split, whole
from tessera.ir.value import Node, Value

_MOST = 512  # strategies looked at per node

_MOVES = frozenset({"transpose", "reshape", "broadcast_to", "slice", "flip", "stop_gradient"})
"""Operators that move elements: the result of parts is the part of the result, however parts are combined."""
_ALL_SUMS = {"add": (0, 1), "sub": (0, 1), "where": (1, 2), "index_add": (0, 2), "scatter_add": (0, 2)}
"""Operators that are linear in these operands together: all of them are parts, or none."""
_ONE_SUM = {
    "neg": (0,), "mul": (0, 1), "div": (0,), "matmul": (0, 1), "take": (0,), "take_along_axis": (0,), "cumsum": (0,),
}
"""Operators that are linear in each of these operands while the others are complete."""

Assignment = Mapping[str, Split]
Partial = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Strategy:
    """How operands must lie, how the results then lie, and the split of each factor."""

    operands: tuple[Sharding, ...]
    results: tuple[Sharding, ...]
    assignment: tuple[tuple[str, Split], ...]
    carried: Partial = ()

    @property
    def axes(self) -> frozenset[str]:
        """The mesh axes over which the work is divided."""
        return frozenset(a for _, split in self.assignment for a in split.axes)


def is_zero(value: Value) -> bool:
    """Whether every element is zero: then it is the sum of zeros, too."""
    node = value.node
    while node.op in ("broadcast_to", "reshape"):
        node = node.operands[0].node
    return node.op == "full" and isinstance(node.attrs["value"], (int, float)) and node.attrs["value"] == 0


def strategies(
    node: Node, factors: Factors, have: Sequence[Sharding | None], hint: Sharding | None, mesh: MeshShape,
    exact: bool = False,
) -> list[Strategy]:
    """All ways worth considering, those that divide more first. ``have`` is None for what can lie anyhow.

    ``exact``: none in which devices hold parts of floating-point numbers, as their sum depends on the mesh.
    """
    proposals = _proposals(factors, have, hint, mesh)
    found: list[Strategy] = []
    carries = carried_partials(node, have)
    for assignment in _assignments(proposals):
        used = {a for split in assignment.values() for a in split.axes}
        for carried in carries:
            if used.isdisjoint(a for a, _ in carried):
                made = _strategy(node, factors, have, assignment, carried, mesh)
                if made is not None and not (exact and _rounds(node, made)):
                    found.append(made)
        if len(found) >= _MOST:
            break
    return found


def _rounds(node: Node, strategy: Strategy) -> bool:
    return any(s.partial and t.dtype.is_float for s, t in zip(strategy.results, node.types, strict=True))


def _proposals(
    factors: Factors, have: Sequence[Sharding | None], hint: Sharding | None, mesh: MeshShape
) -> dict[str, list[Split]]:
    found: dict[str, dict[Split, None]] = {}

    def propose(slots: Sequence[Slot | None], sharding: Sharding) -> None:
        for slot, split in zip(slots, sharding.dims, strict=True):
            if slot is None or split is None:
                continue
            options = found.setdefault(slot[0], {})
            for count in range(len(split.axes), 0, -1):  # also over the outer axes alone
                block = mul(split.block, mesh.count(split.axes[count:]))
                options[Split(split.axes[:count], mul(block, slot[1]))] = None

    for slots, sharding in zip(factors.operands, have, strict=True):
        if sharding is not None:
            propose(slots, sharding)
    if hint is not None:
        propose(factors.results[0], hint)
    return {factor: list(options) for factor, options in found.items()}


def _assignments(proposals: dict[str, list[Split]]) -> Iterator[dict[str, Split]]:
    """Choices of a split (or none) for each factor in which no axis serves twice."""
    names = list(proposals)
    for choice in combinations(*([*proposals[n], None] for n in names)):
        axes = [a for split in choice if split is not None for a in split.axes]
        if len(axes) == len(set(axes)):
            yield {n: s for n, s in zip(names, choice, strict=True) if s is not None}


def _placed(slots: Sequence[Slot | None], assignment: Assignment) -> tuple[Split | None, ...] | None:
    """The splits of dimensions; None when a block does not fall between elements of a dimension."""
    dims: list[Split | None] = []
    for slot in slots:
        split = None if slot is None else assignment.get(slot[0])
        if slot is None or split is None:
            dims.append(None)
            continue
        block = _divided(split.block, slot[1])
        if block is None:
            return None
        dims.append(Split(split.axes, block))
    return tuple(dims)


def _divided(block: Dim, unit: Dim) -> Dim | None:
    if unit == 1:
        return block
    found = floordiv(block, unit)
    return found if mul(found, unit) == block else None


def _strategy(
    node: Node, factors: Factors, have: Sequence[Sharding | None], assignment: Assignment, carried: Partial,
    mesh: MeshShape,
) -> Strategy | None:
    operands: list[Sharding] = []
    for position, slots in enumerate(factors.operands):
        dims = _placed(slots, assignment)
        if dims is None:
            return None
        now = have[position]
        keeps = bool(carried) and now is not None and bool(now.partial) and carries_at(node, position)
        operands.append(Sharding(mesh, dims, carried if keeps else ()))
    made = [(axis, factors.combine) for f in factors.contracted if f in assignment for axis in assignment[f].axes]
    if made and any(c != factors.combine for _, c in carried):
        return None
    partial = _ordered({*carried, *made}, mesh)
    results: list[Sharding] = []
    for number, slots in enumerate(factors.results):
        dims = _placed(slots, assignment)
        if dims is None:
            return None
        summed = factors.summed[number] if factors.summed else frozenset[str]()
        own = [(axis, "sum") for f in summed if f in assignment for axis in assignment[f].axes]
        results.append(Sharding(mesh, dims, _ordered({*partial, *own}, mesh) if own else partial))
    return Strategy(tuple(operands), tuple(results), tuple(assignment.items()), carried)


def _ordered(partial: set[tuple[str, str]], mesh: MeshShape) -> Partial:
    return tuple(sorted(partial, key=lambda p: mesh.names.index(p[0])))


def carries_at(node: Node, position: int) -> bool:
    """Whether operand ``position`` may be partial where the result then is."""
    allowed = _ALL_SUMS.get(node.op) or _ONE_SUM.get(node.op)
    return allowed is None or position in allowed


def carried_partials(node: Node, have: Sequence[Sharding | None]) -> list[Partial]:
    """What of the operands' partial axes may stay partial in the result: nothing, and all if that is right."""
    partials = [s.partial if s is not None else () for s in have]
    found = [p for p in partials if p]
    if not found:
        return [()]
    first = found[0]
    return [first, ()] if _may_carry(node, partials, first) else [()]  # on a tie later: sums may join


def _may_carry(node: Node, partials: Sequence[Partial], first: Partial) -> bool:
    combines = {c for _, c in first}
    if node.op in _MOVES:
        return True
    if node.op in ("sum", "prod", "max", "min"):
        return combines == {node.op}
    if combines != {"sum"}:
        return False
    if node.op == "cast":
        source, target = node.operands[0].dtype, node.results[0].dtype
        return source.is_float and target.is_float and target.bits >= source.bits and target.bits >= 32
    if node.op == "pad":
        return node.attrs["value"] == 0
    if node.op == "concat":
        return all(p == first or is_zero(v) for p, v in zip(partials, node.operands, strict=True))
    if node.op in _ALL_SUMS:
        summands = _ALL_SUMS[node.op]
        return all(
            (p == first or (not p and is_zero(v))) if i in summands else not p
            for i, (p, v) in enumerate(zip(partials, node.operands, strict=True))
        )
    if node.op in _ONE_SUM:
        if node.op == "div" and not node.results[0].dtype.is_float:
            return False
        parts = [i for i, p in enumerate(partials) if p]
        return len(parts) == 1 and parts[0] in _ONE_SUM[node.op]
    return False


def all_whole(node: Node, mesh: MeshShape) -> Strategy:
    """Every device does all the work."""
    return Strategy(
        tuple(whole(mesh, v.ndim) for v in node.operands), tuple(whole(mesh, t.ndim) for t in node.types), ()
    )
