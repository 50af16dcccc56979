"""Pieces: what must be computed for each stored value, over which iteration space, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tessera.ir.dims import Dim, Symbol, add, mul, product, sym
from tessera.ir.dtype import DType
from tessera.ir.graph import Graph
from tessera.ir.value import LEAVES, Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule.expression import Expression, reduced_axes
from tessera.schedule.index import Axes, Index, broadcast
from tessera.schedule.materialise import can_inline
from tessera.schedule.placement import Placement

MAP, REDUCE, SCAN, DOT, SCATTER, CHECK = "map", "reduce", "scan", "dot", "scatter", "check"
COLUMN_SUM = "column sum"
"""A sum over all dimensions but the last one, that a kernel over rows forms beside its own work."""
WINDOW = "window"
"""A value that lies in another's memory: nothing runs, but what reads the value comes after what writes it."""
PORTABLE, WHOLE = "portable", "whole"
"""Operators whose operands are tensors in memory: run by the portable kernel, or by one that the target has for it."""


@dataclass(frozen=True, slots=True)
class Read:
    """An element that a piece reads: of the value ``root``, seen in ``shape``, at ``index`` over the piece's axes."""

    root: Value
    shape: tuple[Dim, ...]
    index: Index


@dataclass(eq=False, slots=True)
class Piece:
    """The computation of one stored value, or one check.

    space    extents of the iteration space, without sizes of 1; axis ``i`` of it is ``Axes.axis(i, space[i])``.
    reduced  positions in ``space`` that the value does not have (reduction) or that run in order (scan, scatter).
    index    where in ``value`` the element of a point of the space lies.
    part     for a concatenation that is written operand by operand, the operand's number.
    """

    kind: str
    node: Node
    value: Value
    position: int
    space: tuple[Dim, ...] = ()
    reduced: tuple[int, ...] = ()
    index: Index = ()
    reads: list[Read] = field(default_factory=list)
    checks: list[Node] = field(default_factory=list)
    part: int | None = None

    @property
    def grid(self) -> tuple[Dim, ...]:
        """Extents of the axes that are not reduced."""
        return tuple(d for i, d in enumerate(self.space) if i not in self.reduced)


class _Reader(Expression[None]):
    """Records what an element reads."""

    def __init__(self, placement: Placement, axes: Axes) -> None:
        super().__init__(placement, axes)
        self.reads: dict[tuple[Any, ...], Read] = {}
        self.checks: dict[int, Node] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._gathered: dict[tuple[Any, ...], Dim] = {}

    def stored(self, root: Value, shape: tuple[Dim, ...], index: Index, mask: None) -> None:
        self.reads.setdefault((id(root), shape, index), Read(root, shape, index))

    def constant(self, value: bool | int | float, dtype: DType) -> None:
        return None

    def position(self, d: Dim, dtype: DType) -> None:
        return None

    def compute(self, function: str, args: tuple[None, ...], dtype: DType) -> None:
        return None

    def random(self, key: tuple[None, None], operation: int, element: Dim, dtype: DType) -> None:
        return None

    def indirect(self, value: None, key: tuple[Any, ...], limit: Dim) -> Dim:
        if key not in self._gathered:
            self._gathered[key] = sym(Symbol(f"_gathered{len(self._gathered)}"))
        return self._gathered[key]

    def checked(self, node: Node) -> None:
        self.checks[id(node)] = node

    def remembered(self, key: tuple[Any, ...], make: Callable[[], None]) -> None:
        if key not in self._seen:
            self._seen.add(key)
            make()


def spread(axes: Axes, shape: tuple[Dim, ...]) -> tuple[tuple[Dim, ...], Index]:
    """The iteration space of a tensor and the index of its elements over the space's axes."""
    space: list[Dim] = []
    index: list[Dim] = []
    for d in shape:
        if d == 1:
            index.append(0)
        else:
            index.append(axes.axis(len(space), d))
            space.append(d)
    return tuple(space), tuple(index)


def cut(graph: Graph, nodes: list[Node], placement: Placement, axes: Axes) -> list[Piece]:
    """The pieces of a graph, in topological order."""
    pieces: list[Piece] = []
    for node in nodes:
        if node.op in LEAVES:
            continue
        if node.op == "check_range":
            pieces.append(_check(node, placement, len(pieces)))
        for v in node.results:
            if placement.is_stored(v):
                pieces += _pieces_of(node, v, placement, axes, len(pieces))
    return pieces


def _check(node: Node, placement: Placement, position: int) -> Piece:
    operand = node.operands[0]
    root = placement.root(operand)
    assert root is not None
    checks = placement.checks(operand)
    return Piece(CHECK, node, node.results[0], position, reads=[Read(root, operand.shape, ())], checks=checks)


def _pieces_of(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> list[Piece]:
    rule = get(node.op).lower
    if node.op == "slice" and id(v) in placement.windows:
        return [_window(node, v, node.operands[0], placement, position)]
    if isinstance(rule, (low.Portable, low.Composite)):
        if v.index:
            return []
        piece = Piece(PORTABLE if isinstance(rule, low.Portable) else WHOLE, node, v, position)
        for o in node.operands:
            root = placement.root(o)
            assert root is not None
            piece.reads.append(Read(root, o.shape, ()))
            piece.checks += placement.checks(o)
        return [piece]
    if isinstance(rule, low.Concat):
        return _concat_parts(node, v, placement, axes, position)
    if can_inline(node) or isinstance(rule, low.View):
        return [_map(node, v, placement, axes, position)]
    maker = {low.Reduction: reduction, low.Scan: _scan, low.Dot: _dot, low.IndexAdd: _scatter, low.ScatterAdd: _scatter}
    return [maker[type(rule)](node, v, placement, axes, position)]


def _finish(piece: Piece, reader: _Reader) -> Piece:
    piece.reads = list(reader.reads.values())
    piece.checks = list(reader.checks.values())
    return piece


def _map(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> Piece:
    space, index = spread(axes, v.shape)
    reader = _Reader(placement, axes)
    reader.inline(v, index)
    return _finish(Piece(MAP, node, v, position, space, (), index), reader)


def _concat_parts(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> list[Piece]:
    axis = node.attrs["axis"]
    out: list[Piece] = []
    start: Dim = 0
    for number, operand in enumerate(node.operands):
        if operand.shape[axis] == 0:
            continue
        if _lies_in(operand, v, mul(start, product(v.shape[axis + 1 :])), placement):
            out.append(_window(node, v, operand, placement, position + len(out), number))
            start = add(start, operand.shape[axis])
            continue
        space, index = spread(axes, operand.shape)
        reader = _Reader(placement, axes)
        reader.value(operand, index)
        target = (*index[:axis], add(index[axis], start), *index[axis + 1:])
        out.append(_finish(Piece(MAP, node, v, position + len(out), space, (), target, part=number), reader))
        start = add(start, operand.shape[axis])
    return out


def _lies_in(operand: Value, v: Value, start: Dim, placement: Placement) -> bool:
    """Whether an operand of a concatenation is where the result needs it, from element ``start`` of it on."""
    root = placement.root(operand)
    window = None if root is None else placement.windows.get(id(root))
    return window is not None and window.whole is v and window.start == start


def _window(
    node: Node, v: Value, operand: Value, placement: Placement, position: int, part: int | None = None
) -> Piece:
    root = placement.root(operand)
    assert root is not None
    return Piece(WINDOW, node, v, position, reads=[Read(root, operand.shape, ())],
                 checks=placement.checks(operand), part=part)


def reduction(
    node: Node, v: Value, placement: Placement, axes: Axes, position: int, kind: str = REDUCE
) -> Piece:
    """The piece that stores a reduction as ``v``."""
    x = node.operands[0]
    space, full = spread(axes, x.shape)
    wanted = set(reduced_axes(node))
    reader = _Reader(placement, axes)
    reader.value(x, full)
    index = tuple(0 if i in wanted else d for i, d in enumerate(full))
    if not node.attrs["keepdims"]:
        index = tuple(d for i, d in enumerate(index) if i not in wanted)
    return _finish(Piece(kind, node, v, position, space, _positions(x.shape, wanted), index), reader)


def _scan(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> Piece:
    space, index = spread(axes, v.shape)
    reader = _Reader(placement, axes)
    reader.value(node.operands[0], index)
    return _finish(Piece(SCAN, node, v, position, space, _positions(v.shape, set(reduced_axes(node))), index), reader)


def _dot(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> Piece:
    space, index = spread(axes, v.shape)
    reader = _Reader(placement, axes)
    left, right = dot_operands(node, index, axes, len(space))
    reader.value(node.operands[0], left)
    reader.value(node.operands[1], right)
    return _finish(Piece(DOT, node, v, position, space, (), index), reader)


def dot_operands(node: Node, index: Index, axes: Axes, rank: int) -> tuple[Index, Index]:
    """Indices of both operands of a product for a result index; the inner axis follows ``rank`` others."""
    a, b = node.operands
    batch = node.results[0].shape[:-2]
    inner = axes.axis(rank, a.shape[-1])
    left = (*broadcast(a.shape[:-2], batch, index[:-2]), index[-2], inner)
    right = (*broadcast(b.shape[:-2], batch, index[:-2]), inner, index[-1])
    return left, right


def _scatter(node: Node, v: Value, placement: Placement, axes: Axes, position: int) -> Piece:
    base, indices, updates = node.operands
    axis = node.attrs["axis"]
    space, at = spread(axes, updates.shape)
    rank = indices.ndim if isinstance(get(node.op).lower, low.IndexAdd) else 1
    wanted = set(range(axis, axis + rank))
    reader = _Reader(placement, axes)
    reader.value(updates, at)
    reader.value(indices, at[axis : axis + rank] if isinstance(get(node.op).lower, low.IndexAdd) else at)
    element = axes.axis(len(space), base.shape[axis])
    row = (*at[:axis], 0 if base.shape[axis] == 1 else element, *at[axis + rank:])
    reader.value(base, row)
    return _finish(Piece(SCATTER, node, v, position, space, _positions(updates.shape, wanted), row), reader)


def _positions(shape: tuple[Dim, ...], wanted: set[int]) -> tuple[int, ...]:
    """Positions in the space (sizes of 1 dropped) of the wanted dimensions of a shape."""
    out: list[int] = []
    position = 0
    for i, d in enumerate(shape):
        if d == 1:
            continue
        if i in wanted:
            out.append(position)
        position += 1
    return tuple(out)
