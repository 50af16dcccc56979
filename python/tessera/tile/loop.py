"""Build loop kernels: pointwise groups, row and column reductions with their neighbours, scans, scatters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from tessera.ir.dims import Dim
from tessera.ir.value import Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.fusion import Group
from tessera.schedule.index import Axes, Index, symbol_of, uses
from tessera.schedule.pieces import COLUMN_SUM, MAP, REDUCE, SCAN, Piece
from tessera.schedule.placement import Placement
from tessera.tile.emission import Argument, Operand
from tessera.tile.ir import Axis, LoopKernel, Op, Reduce, Ref, Scan, Stage
from tessera.tile.member import MemberEmitter


class LoopBuilder(MemberEmitter):
    """One group as a loop kernel.

    Level k consists of a body that runs once per grid point (2k) and a loop over the reduced axes (2k + 1). A value
    that depends on a reduction of level k belongs to level k + 1. ``spills``: expensive values that later loops need
    are kept in outputs that are written at the end.
    """

    spills = True

    def __init__(self, group: Group, placement: Placement, axes: Axes, external: set[int]) -> None:
        super().__init__(group, placement, axes, external)
        everything = axes.space(group.space)
        self.loop = [self._axis(everything[i]) for i in group.reduced]
        self.grid = [self._axis(d) for i, d in enumerate(everything) if i not in group.reduced]
        self.varying = {a.symbol for a in self.loop}
        self._level = 0
        self._results: dict[int, Ref] = {}
        self._needed: dict[Piece, set[int]] = {}
        self._written: dict[int, tuple[int, Value]] = {}

    def _axis(self, d: Dim) -> Axis:
        symbol = symbol_of(d)
        assert symbol is not None
        return Axis(symbol, self.axes.extents[symbol])

    def build(self) -> tuple[LoopKernel, list[Argument]]:
        """The kernel, over axes and sizes as the schedule names them, and its arguments."""
        levels = self._levels()
        self._needed = self._use_levels(levels)
        spills = self._spills(levels) if self.spills else {}
        for level in range(max(levels.values()) + 1):
            self._level = level
            self.enter(2 * level, 2 * level + 1 if self.loop else None)
            for piece in self.group.members:  # operands first, so that the walk is never deep
                if level in self._needed[piece] and level >= levels[piece] and piece.kind not in (REDUCE, COLUMN_SUM):
                    self.member(piece)
            for piece in self.group.members:
                if levels[piece] == level and piece.kind == REDUCE:
                    self._reduce(piece)
            for piece in self.group.members:
                if levels[piece] == level and piece.kind == COLUMN_SUM:
                    self.column_sum(piece)
            for piece, place in spills.items():
                if levels[piece] == level:
                    self.store(place, self.canonical[id(piece.value)], self.element(piece))
                    self._written[id(piece.value)] = (level, place)
            for piece in self.group.members:
                written = piece.kind not in (REDUCE, COLUMN_SUM) and id(piece.value) in self.external
                if written and levels[piece] == level:
                    for spilled, place in spills.items():
                        if place is piece.value and level in self._needed[spilled]:
                            self.member(spilled)  # before it is overwritten
                    self.write(piece)
        for piece in self.group.members:
            if piece.kind == REDUCE and id(piece.value) in self.external:
                scope = 2 * levels[piece] + 2
                self.enter(scope, None)
                self.store(piece.value, self.canonical[id(piece.value)], self._results[id(piece.value)])
        return self.finish(), self.arguments

    def _levels(self) -> dict[Piece, int]:
        levels: dict[Piece, int] = {}
        for piece in self.group.members:
            level = 0
            for read in piece.reads:
                source = self.group.roots.get(id(read.root))
                if source is not None:
                    level = max(level, levels[source] + (source.kind == REDUCE))
            levels[piece] = level
        return levels

    def _spills(self, levels: dict[Piece, int]) -> dict[Piece, Value]:
        """Expensive values that later loops need again, and the output that holds them until it is written itself."""
        full = [p for p in self.group.members if p.kind == MAP and p.part is None and self._varies(p)]
        free = [p for p in full if id(p.value) in self.external]
        spills: dict[Piece, Value] = {}
        for piece in full:
            last = max(self._needed[piece], default=0)
            if last <= levels[piece] or id(piece.value) in self.external:
                continue
            if cost.element_work(piece.value, self.placement) < cost.EXPENSIVE:
                continue
            for place in free:
                fits = place.value.dtype == piece.value.dtype and place.value.shape == piece.value.shape
                if fits and levels[place] >= last and self._same_place(place, piece):
                    spills[piece] = place.value
                    free.remove(place)
                    break
        return spills

    def _use_levels(self, levels: dict[Piece, int]) -> dict[Piece, set[int]]:
        """The levels at which each member's value is needed; readers compute again what is not written."""
        needed: dict[Piece, set[int]] = {p: set() for p in self.group.members}
        for piece in reversed(self.group.members):
            at = {levels[piece]}
            if piece.kind != REDUCE and id(piece.value) not in self.external:
                at |= needed[piece]
            for read in piece.reads:
                source = self.group.roots.get(id(read.root))
                if source is not None:
                    needed[source] |= at
        return needed

    def _varies(self, piece: Piece) -> bool:
        return any(uses(d, self.varying) for d in self.group.canonical(piece))

    def _same_place(self, a: Piece, b: Piece) -> bool:
        return self.canonical[id(a.value)] == self.canonical[id(b.value)]

    def member(self, piece: Piece) -> Operand:
        """A reduction's result, a value written by an earlier loop, or one computed here."""
        root = id(piece.value)
        if root in self._results:
            return self._results[root]
        level, place = self._written.get(root, (self._level, piece.value))
        if level < self._level:
            return self.load(place, place.shape, self.canonical[root], None)
        return self.element(piece)

    def element(self, piece: Piece) -> Operand:
        """The value that a member computes at this point of the space."""
        if piece.kind != SCAN:
            return super().element(piece)
        at = self.group.canonical(piece)
        return self.remembered(("scan", id(piece.value)), lambda: self._scan(piece, at))

    def _scan(self, piece: Piece, at: Index) -> Operand:
        value = self.converted(self.value(piece.node.operands[0], at), piece)
        self.visit(piece.node)
        rule = get(piece.node.op).lower
        assert isinstance(rule, low.Scan) and self.inner is not None
        return self._in_loop(value, lambda ref: Scan(rule.combine, ref, piece.value.dtype))

    def _reduce(self, piece: Piece) -> None:
        operand = piece.node.operands[0]
        rule = get(piece.node.op).lower
        assert isinstance(rule, low.Reduction)
        value = self.value(operand, self.own_index(piece, operand))
        self.visit(piece.node)
        if not rule.combine.startswith("arg"):
            value = self.converted(value, piece)
        ref = self._in_loop(value, lambda r: Reduce(rule.combine, r, piece.value.dtype))
        self.mark_uniform(ref)
        self._results[id(piece.value)] = ref

    def _in_loop(self, value: Operand, make: Callable[[Ref], Op]) -> Ref:
        assert self.inner is not None
        ref = self.settle(value, self.inner)
        body = self.bodies.setdefault(self.inner, [])
        body.append(make(ref))
        return Ref(self.inner, len(body) - 1)

    def write(self, piece: Piece) -> None:
        """Compute a member and write it; later loops load it."""
        super().write(piece)
        if piece.kind == MAP and piece.part is None:
            self._written[id(piece.value)] = (self._level, piece.value)

    def finish(self) -> LoopKernel:
        """Number the stages that have ops, and assemble the kernel."""
        order = [scope for scope in sorted(self.bodies) if self.bodies[scope]]
        number = {scope: i for i, scope in enumerate(order)}
        stages = tuple(
            Stage(tuple(self.loop) if scope % 2 else (), tuple(renumber(op, number) for op in self.bodies[scope]))
            for scope in order
        )
        buffers = tuple(a.buffer(f"b{i}") for i, a in enumerate(self.arguments))
        loc = self.group.anchor.node.loc or self.loc
        return LoopKernel(self.name("kernel"), (), buffers, tuple(self.grid), stages, loc)


def renumber(op: Op, number: dict[int, int]) -> Op:
    """The op with the scopes of its references replaced."""
    changes = {}
    for f in fields(op):
        value = getattr(op, f.name)
        if isinstance(value, Ref):
            changes[f.name] = Ref(number[value.scope], value.index)
        elif isinstance(value, tuple) and any(isinstance(v, Ref) for v in value):
            changes[f.name] = tuple(Ref(number[v.scope], v.index) if isinstance(v, Ref) else v for v in value)
    return replace(op, **changes) if changes else op


class ScatterBuilder(LoopBuilder):
    """index_add and scatter_add: the base is copied, then updates are added one after the other."""

    def build(self) -> tuple[LoopKernel, list[Argument]]:
        """The kernel: the grid runs over the dimensions that are not indexed."""
        piece = self.group.members[0]
        node = piece.node
        base, indices, updates = node.operands
        axis = node.attrs["axis"]
        row = piece.index
        element = symbol_of(row[axis])
        loop = self.loop
        first = [Axis(element, base.shape[axis])] if element is not None else []
        self.varying = {a.symbol for a in first}
        self.enter(0, 1 if first else None)
        self.store(piece.value, row, self.value(base, row))
        self.fresh()
        self.varying = {a.symbol for a in loop}
        self.enter(2, 3)
        at = self.own_index(piece, updates)
        rank = indices.ndim if isinstance(get(node.op).lower, low.IndexAdd) else 1
        position = at[axis : axis + rank] if isinstance(get(node.op).lower, low.IndexAdd) else at
        target = self.gathered(indices, position, base.shape[axis], None)
        value = self.value(updates, at)
        self.store(piece.value, (*row[:axis], target, *row[axis + 1:]), value, mode="add")
        self.note(node.op)
        kernel = self.finish()
        order = [scope for scope in sorted(self.bodies) if self.bodies[scope]]
        stages = tuple(
            Stage(tuple(first if scope == 1 else loop if scope == 3 else ()), stage.ops)
            for scope, stage in zip(order, kernel.stages)
        )
        return replace(kernel, stages=stages), self.arguments
