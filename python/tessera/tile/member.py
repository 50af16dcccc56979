"""Emission within a group: members read each other where they are computed, everything else from memory."""

from __future__ import annotations

from tessera.errors import InternalError
from tessera.ir.dims import Dim
from tessera.ir.value import Value
from tessera.schedule.fusion import Group, seen_in
from tessera.schedule.index import Axes, Index, rename
from tessera.schedule.pieces import Piece
from tessera.schedule.placement import Placement
from tessera.tile.emission import Emitter, Operand


class MemberEmitter(Emitter):
    """What loop and product kernels of a group have in common. ``external``: values that must be written."""

    def __init__(self, group: Group, placement: Placement, axes: Axes, external: set[int]) -> None:
        super().__init__(placement, axes)
        self.group = group
        self.external = external
        self.canonical: dict[int, Index] = {r: group.canonical(p) for r, p in group.roots.items() if p.part is None}

    def stored(self, root: Value, shape: tuple[Dim, ...], index: Index, mask: Operand | None) -> Operand:
        """Another member's value, or a load."""
        piece = self.group.roots.get(id(root))
        if piece is None:
            return self.load(root, shape, index, mask)
        if seen_in(self.axes, root, shape, index) != self.canonical.get(id(root)):
            raise InternalError(f"{root!r} is read at {index}, which is not where its kernel computes it")
        return self.member(piece)

    def member(self, piece: Piece) -> Operand:
        """The value of another member at this point of the space."""
        return self.element(piece)

    def element(self, piece: Piece) -> Operand:
        """The value that a pointwise member computes at this point of the space."""
        if piece.part is None:
            return self.inline(piece.value, self.group.canonical(piece))
        operand = piece.node.operands[piece.part]
        return self.value(operand, self.own_index(piece, operand))

    def own_index(self, piece: Piece, operand: Value) -> Index:
        """The index of an operand that spans the piece's space, over the group's axes."""
        own = iter(self.axes.space(piece.space))
        index = tuple(0 if d == 1 else next(own) for d in operand.shape)
        return rename(index, self.group.mappings[piece])

    def converted(self, value: Operand, piece: Piece) -> Operand:
        """A value in the dtype of a reduction or scan of it."""
        operand = piece.node.operands[0]
        return value if operand.dtype == piece.value.dtype else self.compute("cast", (value,), piece.value.dtype)

    def column_sum(self, piece: Piece) -> None:
        """Let what a sum over rows adds up be added to it."""
        operand = piece.node.operands[0]
        value = self.converted(self.value(operand, self.own_index(piece, operand)), piece)
        self.visit(piece.node)
        self.store(piece.value, self.canonical[id(piece.value)], value, mode="sum")

    def write(self, piece: Piece) -> None:
        """Compute a member and write it to memory."""
        value = self.element(piece)
        self.note(piece.node.op)
        self.store(piece.value, self.group.canonical(piece), value)
