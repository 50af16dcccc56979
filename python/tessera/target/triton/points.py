"""Elements that a row-wise kernel picks by comparing positions with a label: computed once, not at every position.

Cross entropy compares each class number with the row's label, so that it splits over devices and needs no gather. In
one program that is a comparison and a selection for each element of a row, of which only one matters:

- ``sum_j where(label == j, f(j), 0)`` is ``f(label)``, or 0 for a label that is no position;
- a value stored with ``where(label == j, f(j), g(j))`` in it is stored with ``g(j)``, and then once more at the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Union

import numpy as np

from tessera.ir.dims import Dim, Expr, bounds, sym, symbols
from tessera.ir.dtype import DType, bool_, i64
from tessera.schedule.cost import typical
from tessera.tile.ir import Compute, Const, Index, Load, LoopKernel, Op, Reduce, Ref, Scan, Stage, Store, same_memory

SHORTEST = 2048
"""Elements of a row from which one more access to memory costs less than the comparisons."""


class _NotAtPoint(Exception):
    """A stage computes what cannot be computed at one position."""


@dataclass(frozen=True, slots=True)
class _Pick:
    """A selection at the position ``label`` of a stage's axis."""

    label: Ref
    there: Ref
    elsewhere: Ref


def at_points(kernel: LoopKernel) -> LoopKernel:
    """The kernel with what is picked from long rows computed at the point."""
    stages: list[Stage] = []
    moved: dict[Ref, Ref] = {}
    changed = False
    for number, stage in enumerate(kernel.stages):
        picks = _picks(stage, number)
        if picks:
            try:
                stages += _Point(kernel, number, picks, len(stages), moved).parts()
                changed = True
                continue
            except _NotAtPoint:
                pass
        moved |= {Ref(number, i): Ref(len(stages), i) for i in range(len(stage.ops))}
        stages.append(Stage(stage.axes, tuple(_renamed(op, moved) for op in stage.ops)))
    return replace(kernel, stages=_needed(stages)) if changed else kernel


def _picks(stage: Stage, number: int) -> dict[Ref, _Pick]:
    """The selections of a stage by one label; none where they are not worth while or there are several labels."""
    if len(stage.axes) != 1 or typical(stage.axes[0].extent) < SHORTEST:
        return {}
    found = {Ref(number, i): p for i, op in enumerate(stage.ops) if (p := _pick(stage, number, op)) is not None}
    return found if len({p.label for p in found.values()}) == 1 else {}


def _pick(stage: Stage, number: int, op: Op) -> _Pick | None:
    if not isinstance(op, Compute) or op.function != "where" or op.args[0].scope != number:
        return None
    test = stage.ops[op.args[0].index]
    if not isinstance(test, Compute) or test.function != "eq":
        return None
    for label, place in (test.args, test.args[::-1]):
        if label.scope < number and _is_position(stage, number, place):
            return _Pick(label, op.args[1], op.args[2])
    return None


def _is_position(stage: Stage, number: int, ref: Ref) -> bool:
    """Whether a value is the position along the stage's axis."""
    if ref.scope != number:
        return False
    op = stage.ops[ref.index]
    if isinstance(op, Compute) and op.function == "cast" and _holds_positions(op.dtype, stage.axes[0].extent):
        return _is_position(stage, number, op.args[0])
    return isinstance(op, Index) and op.expr == sym(stage.axes[0].symbol)


def _holds_positions(dtype: DType, extent: Dim) -> bool:
    """Whether numbers of a dtype tell all positions of an axis apart."""
    most = bounds(extent)[1]
    return dtype.is_integer and (dtype == i64 or (most is not None and most - 1 <= int(np.iinfo(dtype.numpy).max)))


class _Point:
    """A stage in three: what is computed at the label, the stage without its selections, stores at the label.

    ``moved``: where the values of earlier stages are; those of this one are added. ``first``: the number of the first
    of the three.
    """

    def __init__(
        self, kernel: LoopKernel, number: int, picks: dict[Ref, _Pick], first: int, moved: dict[Ref, Ref]
    ) -> None:
        self.kernel, self.number, self.picks, self.first, self.moved = kernel, number, picks, first, moved
        self.stage = kernel.stages[number]
        self.ops: list[Op] = []
        self.known: dict[Ref, Ref] = {}
        label = moved[next(iter(picks.values())).label]
        self.position = self._add(Compute("cast", (label,), i64))
        zero, end = self._add(Const(0, i64)), self._add(Index(self.stage.axes[0].extent))
        after, before = (self._add(Compute(f, (self.position, x), bool_)) for f, x in (("ge", zero), ("lt", end)))
        self.inside = self._add(Compute("logical_and", (after, before), bool_))

    def parts(self) -> list[Stage]:
        """The stages; the values of the original one are added to ``moved``. Raises _NotAtPoint."""
        found: dict[Ref, Ref] = {}
        stores: list[Op] = []
        written: set[int] = set()
        for i, op in enumerate(self.stage.ops):
            if isinstance(op, Load) and op.buffer in written:
                raise _NotAtPoint
            if isinstance(op, Reduce) and self._depends(op.value):
                found[Ref(self.number, i)] = self._sum(op)
            elif isinstance(op, Scan) and self._depends(op.value):
                raise _NotAtPoint
            elif isinstance(op, Store):
                written |= same_memory(self.kernel.buffers, op.buffer)
                if any(self._depends(r) for r in (op.value, op.mask, *op.index) if isinstance(r, Ref)):
                    stores.append(self._store(op))
        own = {Ref(self.number, i): Ref(self.first + 1, i) for i in range(len(self.stage.ops))}
        self.moved |= own
        self.moved |= {ref: self._elsewhere(ref) for ref in self.picks}
        main = tuple(
            Const(0, op.dtype) if isinstance(op, Reduce) and Ref(self.number, i) in found
            else _renamed(op, self.moved) for i, op in enumerate(self.stage.ops)
        )
        self.moved |= found
        return [Stage((), tuple(self.ops)), Stage(self.stage.axes, main), Stage((), tuple(stores))]

    def _add(self, op: Op) -> Ref:
        self.ops.append(op)
        return Ref(self.first, len(self.ops) - 1)

    def _elsewhere(self, ref: Ref) -> Ref:
        """The value of a selection at all other positions."""
        while ref in self.picks:
            ref = self.picks[ref].elsewhere
        return self.moved[ref]

    def _op(self, ref: Ref) -> Op:
        return self.kernel.stages[ref.scope].ops[ref.index]

    def _depends(self, ref: Ref) -> bool:
        """Whether a value is made of a selection."""
        if ref.scope != self.number or ref in self.picks:
            return ref in self.picks
        return any(map(self._depends, _operands(self._op(ref))))

    def _sum(self, op: Reduce) -> Ref:
        """The sum of a selection and zeros."""
        pick = self.picks.get(op.value)
        zero = None if pick is None else self._op(pick.elsewhere)
        if pick is None or op.combine != "sum" or not isinstance(zero, Const) or zero.value != 0:
            raise _NotAtPoint
        if zero.dtype != op.dtype:
            raise _NotAtPoint
        nothing = self._add(zero)
        return self._add(Compute("where", (self.inside, self._there(pick.there), nothing), op.dtype))

    def _store(self, op: Store) -> Store:
        if op.mask is not None or op.mode != "set":
            raise _NotAtPoint
        return replace(op, index=self._index(op.index), value=self._there(op.value), mask=self.inside)

    def _there(self, ref: Ref) -> Ref:
        """A value at the label."""
        if ref.scope != self.number:
            return self.moved[ref]
        if ref not in self.known:
            self.known[ref] = self._there(self.picks[ref].there) if ref in self.picks else self._at(self._op(ref))
        return self.known[ref]

    def _at(self, op: Op) -> Ref:
        if isinstance(op, Const):
            return self._add(op)
        if isinstance(op, Compute):
            return self._add(replace(op, args=tuple(map(self._there, op.args))))
        if isinstance(op, Index):
            place, = self._index((op.expr,))
            return place if isinstance(place, Ref) else self._add(Index(place))
        if isinstance(op, Load) and op.mask is None:
            return self._add(replace(op, index=self._index(op.index), mask=self.inside))
        raise _NotAtPoint

    def _index(self, entries: tuple[Union[Dim, Ref], ...]) -> tuple[Union[Dim, Ref], ...]:
        """The entries of an access at the label."""
        axis = self.stage.axes[0].symbol
        found: list[Union[Dim, Ref]] = []
        for d in entries:
            if isinstance(d, Ref):
                found.append(self._there(d))
            elif d == sym(axis):
                found.append(self.position)
            elif isinstance(d, Expr) and axis in symbols(d):
                raise _NotAtPoint
            else:
                found.append(d)
        return tuple(found)


def _operands(op: Op) -> list[Ref]:
    """What an op refers to."""
    found: list[Ref] = []
    for f in fields(op):
        value = getattr(op, f.name)
        found += [r for r in (value if isinstance(value, tuple) else (value,)) if isinstance(r, Ref)]
    return found


def _renamed(op: Op, moved: Mapping[Ref, Ref]) -> Op:
    """The op with its references replaced."""
    changes: dict[str, Any] = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if isinstance(value, Ref):
            changes[f.name] = moved[value]
        elif isinstance(value, tuple) and any(isinstance(v, Ref) for v in value):
            changes[f.name] = tuple(moved[v] if isinstance(v, Ref) else v for v in value)
    return replace(op, **changes) if changes else op


def _needed(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages without what no store needs."""
    needed: set[Ref] = set()
    for number, stage in reversed(list(enumerate(stages))):
        for i, op in reversed(list(enumerate(stage.ops))):
            if isinstance(op, Store) or Ref(number, i) in needed:
                needed.update(_operands(op))
                needed.add(Ref(number, i))
    kept = [[i for i in range(len(s.ops)) if Ref(n, i) in needed] for n, s in enumerate(stages)]
    order = [n for n in range(len(stages)) if kept[n]]
    moved = {Ref(n, i): Ref(at, k) for at, n in enumerate(order) for k, i in enumerate(kept[n])}
    return tuple(Stage(stages[n].axes, tuple(_renamed(stages[n].ops[i], moved) for i in kept[n])) for n in order)
