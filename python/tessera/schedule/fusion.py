"""Group pieces into kernels.

Two groups merge when one iteration space serves both, every value that passes between them is read exactly where it is
computed, no third group must run between them, and it saves memory traffic. Products take their pointwise consumers
first (epilogues), then reductions their producers, consumers and siblings, then pointwise groups merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tessera.ir.dims import Call, Dim, Expr, Symbol, mul, product
from tessera.ir.value import Value
from tessera.op.opdef import get
from tessera.schedule import cost
from tessera.schedule.index import Axes, Index, recombine, rename, symbol_of
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.options import Schedule
from tessera.schedule.pieces import COLUMN_SUM, DOT, MAP, PORTABLE, REDUCE, SCAN, WHOLE, Piece

Mapping = dict[Symbol, Dim]

MOST_BUFFERS = 30
MOST_MEMBERS = 32
SMALL = 32768
"""Elements below which parallelism does not matter."""
PART = 16
"""Columns, of which there are multiples in a part of a product's rows that is stored by itself."""
FEW = 16
"""Grid points below which a kernel has too little parallelism for a large tensor."""


@dataclass(eq=False, slots=True)
class Group:
    """Pieces that become one kernel (or one check, or one portable call).

    ``mappings`` gives, per member, its own axes as expressions over the axes of the group's space.
    """

    members: list[Piece]
    space: tuple[Dim, ...]
    reduced: tuple[int, ...]
    mappings: dict[Piece, Mapping]
    roots: dict[int, Piece] = field(default_factory=dict)
    reads: set[int] = field(default_factory=set)
    successors: dict[Group, None] = field(default_factory=dict)
    predecessors: dict[Group, None] = field(default_factory=dict)

    anchor: Piece = field(init=False)
    kind: str = field(init=False)
    position: int = field(init=False)
    rank: int = 0
    """Place in a topological order of the groups, which merging keeps up."""

    def __post_init__(self) -> None:
        """The anchor, the member that gives the group its form; its kind; where the first member stood in the graph."""
        self.anchor = next((m for m in self.members if m.kind not in (MAP, COLUMN_SUM)), self.members[0])
        self.kind = self.anchor.kind
        self.position = self.members[0].position

    def canonical(self, piece: Piece) -> Index:
        """Where a member's value is computed, over the group's axes."""
        return rename(piece.index, self.mappings[piece])


class Fusion:
    """The state of grouping."""

    def __init__(self, pieces: list[Piece], axes: Axes, machine: Machine = CPU) -> None:
        self.axes, self.machine = axes, machine
        self.groups: dict[Group, None] = {}
        self._owners: dict[int, list[Group]] = {}
        self._readers: dict[int, dict[Group, None]] = {}
        self._sizes: dict[tuple[Dim, ...], Dim] = {}
        checks: dict[int, Group] = {}
        for rank, piece in enumerate(pieces):
            group = self._alone(piece, rank)
            if piece.kind == "check":
                checks[id(piece.node)] = group
        for group in self.groups:
            for node in group.members[0].checks:
                self._link(checks[id(node)], group)
            self._read(group)

    def _alone(self, piece: Piece, rank: int) -> Group:
        """A new group of one piece."""
        group = Group([piece], piece.space, piece.reduced, {piece: {}}, rank=rank)
        self.groups[group] = None
        for v in _produced(piece):
            group.roots[id(v)] = piece
            self._owners.setdefault(id(v), []).append(group)
        return group

    def _read(self, group: Group) -> None:
        """Let a new group follow those that compute what it reads."""
        for read in group.members[0].reads:
            group.reads.add(id(read.root))
            self._readers.setdefault(id(read.root), {})[group] = None
            for owner in self._owners.get(id(read.root), ()):
                self._link(owner, group)

    def _link(self, before: Group, after: Group) -> None:
        if before is not after:
            before.successors[after] = None
            after.predecessors[before] = None

    def run(self, sums: Callable[[Fusion], Sequence[Group]] = lambda _: ()) -> None:
        """Merge until nothing merges any more. ``sums``: merges sums over rows with what goes through these rows.

        It gives the groups that are made in doing so.
        """
        self._grow_all(list(self.groups), (DOT,), (MAP,))
        self._grow_all(list(self.groups), (REDUCE, SCAN), (MAP, REDUCE, SCAN))
        self._grow_all(sums(self), (REDUCE,), (MAP, REDUCE, SCAN))
        self._grow_all(list(self.groups), (MAP,), (MAP,))

    def _grow_all(self, groups: Sequence[Group], kinds: tuple[str, ...], partners: tuple[str, ...]) -> None:
        for group in groups:
            if group in self.groups and group.kind in kinds:
                self._grow(group, partners)

    def owners(self, v: Value) -> list[Group]:
        """The groups that compute a value."""
        return self._owners[id(v)]

    def readers(self, root: int) -> Iterable[Group]:
        """The groups that read a value, by identity."""
        return self._readers[root]

    def taken_apart(self, steps: Iterable[tuple[Group, Sequence[Piece]]]) -> list[Group]:
        """Groups of one piece each, of which one needs the next, in the place of groups that have merged with none."""
        found: list[Group] = []
        for old, pieces in steps:
            del self.groups[old]
            for root in old.reads:
                del self._readers[root][old]
            for root in old.roots:
                self._owners[root].remove(old)
            for piece in pieces:
                group = self._alone(piece, old.rank)
                self._read(group)
                for root in group.roots:
                    for reader in self._readers.get(root, ()):
                        self._link(group, reader)
                found.append(group)
            for before in old.predecessors:
                del before.successors[old]
                self._link(before, found[-len(pieces)])
            for after in old.successors:
                del after.predecessors[old]
        if found:
            for rank, group in enumerate(sorted(self.groups, key=_rank)):
                group.rank = rank
        return found

    def _grow(self, group: Group, partners: tuple[str, ...]) -> None:
        tried: dict[Group, int] = {}
        grown = True
        while grown:
            grown = False
            for other in self._neighbours(group, epilogue=group.kind == DOT):
                if other.kind not in partners or tried.get(other) == len(group.members) + len(other.members):
                    continue
                tried[other] = len(group.members) + len(other.members)
                merged = self.merge(group, other)
                if merged is not None:
                    group, grown = merged, True
                    break

    def _neighbours(self, group: Group, epilogue: bool) -> Iterable[Group]:
        found = dict(group.successors)
        if not epilogue:
            found.update(group.predecessors)
            for root in sorted(group.reads, key=self._first_reader):
                for other in self._readers[root]:
                    if other.space == group.space or not other.space:
                        found[other] = None
            for before in group.predecessors:
                found.update((g, None) for g in before.successors if g.space == group.space)
            if not group.space:
                found.update((g, None) for g in self.groups if not g.space)
        found.pop(group, None)
        return sorted(found, key=lambda g: g.position)

    def _first_reader(self, root: int) -> int:
        return min((g.position for g in self._readers[root]), default=0)

    def merge(self, a: Group, b: Group) -> Group | None:
        """The merged group, when merging is possible and worth while."""
        buffers = a.reads | b.reads | a.roots.keys() | b.roots.keys()
        if len(a.members) + len(b.members) > MOST_MEMBERS or len(buffers) > MOST_BUFFERS:
            return None
        for main, other in ((a, b), (b, a)):
            if a.kind == MAP and b.kind == MAP and len(main.space) < len(other.space):
                continue
            if main.kind == MAP and other.kind != MAP:
                continue
            mappings = self._fit(main, other)
            if mappings is None:
                continue
            merged = Group(
                sorted([*main.members, *other.members], key=lambda p: p.position), main.space, main.reduced,
                {**main.mappings, **mappings}, {**main.roots, **other.roots}, main.reads | other.reads,
            )
            if not self._worthwhile(main, other, merged) or not self._consistent(merged):
                continue
            first, last = (a, b) if a.rank < b.rank else (b, a)
            later = self._between(first, last)
            if later is not None:
                self._insert(first, last, merged, later)
                self._replace(a, b, merged)
                return merged
        return None

    def _fit(self, main: Group, other: Group) -> dict[Piece, Mapping] | None:
        """Mappings of the other group's members onto the main group's space."""
        out: dict[Piece, Mapping] = {}
        for piece in other.members:
            mapping = self._permuted(piece, main, other, out) if main.kind == DOT else None
            if mapping is None:
                mapping = self.place(piece, main)
            if mapping is None:
                return None
            out[piece] = mapping
        return out

    def _permuted(self, piece: Piece, main: Group, other: Group, placed: dict[Piece, Mapping]) -> Mapping | None:
        """A mapping for a transposing consumer of a product, whose rows stay rows: it is stored as it is computed."""
        own = [symbol_of(d) for d in self.axes.space(piece.space)]
        if piece.kind != MAP or piece.part is not None or len(own) < 3 or 0 in piece.space:
            return None
        last = self.axes.axis(len(main.space) - 1, main.space[-1])
        for read in piece.reads:
            source = main.roots.get(id(read.root)) or other.roots.get(id(read.root))
            if source is None or source.part is not None:
                continue
            mapping = main.mappings.get(source, placed.get(source))
            if mapping is None:
                continue
            found = self._solve(seen_in(self.axes, read.root, read.shape, read.index), rename(source.index, mapping))
            if found is None or found.keys() != set(own) or self._size(piece.space) != self._size(main.space):
                continue
            whole = len(own) == len(main.space) and all(symbol_of(d) is not None for d in found.values())
            inner = found[own[-1]]  # type: ignore[index]
            if inner == last if whole else self._is_part_of_rows(inner, last, piece.space[-1]):
                return found
        return None

    def _solve(self, index: Index, at: Index) -> Mapping | None:
        """The axes that ``index`` is made of, so that it equals ``at``; None where that is no mixed-radix number."""
        found: Mapping = {}
        for d, place in zip(index, at, strict=True):
            if isinstance(d, int):
                if d != 0 or place != 0:
                    return None
                continue
            digits: list[tuple[int, Symbol]] = []
            for atoms, c in d.terms:
                if len(atoms) != 1 or not isinstance(atoms[0], Symbol) or atoms[0] in found or c < 1:
                    return None
                digits.append((c, atoms[0]))
            digits.sort(key=lambda digit: digit[0])
            step: Dim = 1
            for i, (c, symbol) in enumerate(digits):
                extent = self.axes.extents.get(symbol)
                if c != step or extent is None:
                    return None
                rest = self.axes.divide(place, c)
                most = i == len(digits) - 1
                found[symbol] = rest if most else self.axes.remainder(rest, extent)
                step = mul(step, extent)
            if isinstance(step, Expr) and len(digits) > 1:
                return None
            along = symbol_of(place)
            if len(digits) == 1 and along is not None and self.axes.extents[along] != step:
                return None  # a pad or a slice reads along the same axis and has another extent
        return found

    def _is_part_of_rows(self, inner: Dim, last: Dim, extent: Dim) -> bool:
        """Whether an axis counts columns in a part of a product's rows that is long enough to be stored by itself."""
        if not self.machine.parts_rows or not isinstance(extent, int) or extent % PART:
            return False
        return inner in (last, self.axes.remainder(last, extent))

    def place(self, piece: Piece, group: Group) -> Mapping | None:
        """A mapping of a piece's axes onto the space of a loop that is not its own; None where there is none."""
        if piece.kind == COLUMN_SUM:
            along_rows = group.kind == DOT or group.reduced == (len(group.space) - 1,)
            if not along_rows or 0 in piece.space or piece.space[-1:] != group.space[-1:]:
                return None
            if self._size(piece.space) != self._size(group.space):
                return None
            return self._regroup(piece, group.space, range(len(group.space)))
        if piece.kind not in (MAP, REDUCE, SCAN):
            return None
        whole = piece.space == group.space
        if piece.kind == MAP:
            if whole:
                return {}
            if 0 in piece.space:
                return None
            if self._size(piece.space) == self._size(group.space):
                return self._regroup(piece, group.space, range(len(group.space)))
            if group.reduced:
                kept = [i for i in range(len(group.space)) if i not in group.reduced]
                extents = tuple(group.space[i] for i in kept)
                if piece.space == extents or self._size(piece.space) == self._size(extents):
                    return self._regroup(piece, extents, kept)
            return None
        if whole:
            return {} if piece.reduced == group.reduced else None
        ordered = piece.kind == SCAN or get(piece.node.op).lower.combine.startswith("arg")  # type: ignore[union-attr]
        if group.kind != REDUCE or ordered or 0 in piece.space or self._size(piece.space) != self._size(group.space):
            return None
        mapping = self._regroup(piece, group.space, range(len(group.space)))
        return mapping if mapping is not None and self._same_reduction(piece, group, mapping) else None

    def _regroup(self, piece: Piece, extents: tuple[Dim, ...], positions: Iterable[int]) -> Mapping | None:
        """The piece's axes over a space of other dimensions and the same size; None if that divides the innermost."""
        index = tuple(self.axes.axis(p, e) for p, e in zip(positions, extents))
        mapped = self.axes.reshape(index, extents, piece.space)
        if mapped and _divides(mapped[-1]):
            return None
        own = self.axes.space(piece.space)
        return {s: d for o, d in zip(own, mapped) if (s := symbol_of(o)) is not None and o != d}

    def _same_reduction(self, piece: Piece, group: Group, mapping: Mapping) -> bool:
        """Whether the piece reduces just what the group reduces."""
        own = self.axes.space(piece.space)
        reduced = {symbol_of(self.axes.axis(i, group.space[i])) for i in group.reduced}
        for i, axis in enumerate(own):
            mapped = rename((axis,), mapping)[0]
            inside = [s in reduced for s in _symbols(mapped)]
            if inside and (all(inside) != (i in piece.reduced) or any(inside) != all(inside)):
                return False
        sizes = (tuple(piece.space[i] for i in piece.reduced), tuple(group.space[i] for i in group.reduced))
        return self._size(sizes[0]) == self._size(sizes[1])

    def _size(self, space: tuple[Dim, ...]) -> Dim:
        if space not in self._sizes:
            self._sizes[space] = product(space)
        return self._sizes[space]

    def _worthwhile(self, main: Group, other: Group, merged: Group) -> bool:
        if main.kind in (REDUCE, SCAN) and cost.typical_size(main.space) > SMALL:
            grid = cost.typical_size([d for i, d in enumerate(main.space) if i not in main.reduced])
            whole = self._size(main.space)
            if grid < FEW and any(p.kind == MAP and self._size(p.space) == whole for p in other.members):
                return False
        return True

    def _consistent(self, group: Group) -> bool:
        """Whether every value that stays inside is read where it is computed."""
        canonical: dict[int, Index] = {}
        for piece in group.members:
            mapping = group.mappings[piece]
            for read in piece.reads:
                source = group.roots.get(id(read.root))
                if source is None:
                    continue
                if piece.kind == DOT or source.kind == COLUMN_SUM or source.part is not None:
                    return False
                if id(read.root) not in canonical:
                    canonical[id(read.root)] = group.canonical(source)
                if seen_in(self.axes, read.root, read.shape, rename(read.index, mapping)) != canonical[id(read.root)]:
                    return False
        return True

    @staticmethod
    def _between(first: Group, last: Group) -> list[Group] | None:
        """What must run after ``first`` among the groups ranked before ``last``; None when ``last`` needs any of it."""
        stack = [g for g in first.successors if g.rank < last.rank]
        seen = dict.fromkeys(stack)
        while stack:
            for after in stack.pop().successors:
                if after is last:
                    return None
                if after.rank < last.rank and after not in seen:
                    seen[after] = None
                    stack.append(after)
        return list(seen)

    def _insert(self, first: Group, last: Group, merged: Group, later: list[Group]) -> None:
        """Rank the group that replaces two: after all that ``last`` needs, before all that needs ``first``.

        The ranks of the groups concerned are dealt out anew among them (Pearce and Kelly, 2006).
        """
        stack = [g for g in last.predecessors if g.rank > first.rank]
        earlier = dict.fromkeys(stack)
        while stack:
            for before in stack.pop().predecessors:
                if before.rank > first.rank and before not in earlier:
                    earlier[before] = None
                    stack.append(before)
        ordered = sorted(earlier, key=_rank)
        after = sorted(later, key=_rank)
        ranks = sorted(g.rank for g in (first, last, *ordered, *after))
        for group, rank in zip((*ordered, merged), ranks):
            group.rank = rank
        for group, rank in zip(reversed(after), reversed(ranks)):
            group.rank = rank

    def _replace(self, a: Group, b: Group, merged: Group) -> None:
        for old in (a, b):
            del self.groups[old]
            for root in old.reads:
                del self._readers[root][old]
            for before in old.predecessors:
                del before.successors[old]
                if before not in (a, b):
                    self._link(before, merged)
            for after in old.successors:
                del after.predecessors[old]
                if after not in (a, b):
                    self._link(merged, after)
            old.predecessors, old.successors = {}, {}
        self.groups[merged] = None
        for root in merged.reads:
            self._readers[root][merged] = None
        for root in merged.roots:
            self._owners[root] = [g for g in self._owners[root] if g not in (a, b)] + [merged]


def seen_in(axes: Axes, root: Value, shape: tuple[Dim, ...], index: Index) -> Index:
    """An index into a view of a stored value, as an index into the value itself."""
    if shape != root.shape:
        index = axes.reshape(index, shape, root.shape)
    return tuple(recombine(d) for d in index)


def _produced(piece: Piece) -> tuple[Value, ...]:
    if piece.kind == "check":
        return ()
    return piece.node.results if piece.kind in (PORTABLE, WHOLE) else (piece.value,)


def _rank(group: Group) -> int:
    return group.rank


def _divides(d: Dim) -> bool:
    return isinstance(d, Expr) and any(isinstance(a, Call) for atoms, _ in d.terms for a in atoms)


def _symbols(d: Dim) -> list[Symbol]:
    return [a for atoms, _ in d.terms for a in atoms if isinstance(a, Symbol)] if isinstance(d, Expr) else []


def fuse(pieces: list[Piece], axes: Axes, options: Schedule, machine: Machine = CPU) -> list[Group]:
    """The groups, each one kernel, check or portable call; unordered apart from their links."""
    fusion = Fusion(pieces, axes, machine)
    if options.fusion:
        fusion.run()
    return list(fusion.groups)
