"""Build matrix-product kernels: operand loads, epilogue, stores."""

from __future__ import annotations

from tessera.errors import InternalError
from tessera.ir.dims import Dim, Symbol
from tessera.ir.dtype import DType, f32, f64, i32, i64
from tessera.schedule.index import symbol_of
from tessera.schedule.pieces import COLUMN_SUM, DOT, Piece, dot_operands
from tessera.tile.emission import Argument, Operand
from tessera.tile.ir import Axis, DotKernel, Ref
from tessera.tile.member import MemberEmitter

LEFT, RIGHT, EPILOGUE, ACCUMULATOR = 0, 1, 2, 3


def accumulator(dtype: DType) -> DType:
    """The dtype in which a product of this dtype accumulates."""
    if dtype.is_float:
        return f64 if dtype == f64 else f32
    return i64 if dtype == i64 else i32


class DotBuilder(MemberEmitter):
    """One group around a matrix product."""

    def build(self) -> tuple[DotKernel, list[Argument]]:
        """The kernel, over axes and sizes as the schedule names them, and its arguments."""
        piece = self.group.anchor
        assert piece.kind == DOT
        node = piece.node
        self.note(node.op)
        rank = len(piece.space)
        left, right = dot_operands(node, piece.index, self.axes, rank)
        for scope, operand, index in ((LEFT, node.operands[0], left), (RIGHT, node.operands[1], right)):
            self.fresh()
            self.enter(None, scope)
            self._last(self.value(operand, index), scope)
        self.fresh()
        self.enter(None, EPILOGUE)
        for member in self.group.members:
            if member.kind == COLUMN_SUM:
                continue
            self.element(member)  # operands first, so that the walk is never deep
            if id(member.value) in self.external:
                self.write(member)
        for member in self.group.members:
            if member.kind == COLUMN_SUM:  # last, so that a product can do without them
                self.column_sum(member)
        shape = node.results[0].shape
        batch = tuple(self._axis(d, n) for d, n in zip(piece.index[:-2], shape[:-2]) if n != 1)
        m, n = self._axis(piece.index[-2], shape[-2], "_m"), self._axis(piece.index[-1], shape[-1], "_n")
        k = self._axis(self.axes.axis(rank, node.operands[0].shape[-1]), node.operands[0].shape[-1])
        buffers = tuple(a.buffer(f"b{i}") for i, a in enumerate(self.arguments))
        kernel = DotKernel(
            self.name("matmul"), (), buffers, batch, m, n, k, tuple(self.bodies[LEFT]), tuple(self.bodies[RIGHT]),
            tuple(self.bodies[EPILOGUE]), accumulator(piece.value.dtype), node.loc or self.loc,
        )
        return kernel, self.arguments

    @staticmethod
    def _axis(d: Dim, extent: Dim, unused: str = "_one") -> Axis:
        """The axis of an index entry; a dimension of size 1 has an axis that nothing mentions."""
        return Axis(symbol_of(d) or Symbol(unused, 0, 0), extent)

    def _last(self, value: Operand, scope: int) -> None:
        """Make the operand's element the last op of its body."""
        ref = self.settle(value, scope)
        if ref.scope != scope or ref.index != len(self.bodies[scope]) - 1:
            raise InternalError("the element of a product's operand is not the last op of its body")

    def element(self, piece: Piece) -> Operand:
        """The accumulator, or what the epilogue makes of it."""
        if piece.kind != DOT:
            return super().element(piece)
        acc = accumulator(piece.value.dtype)
        ref = Ref(ACCUMULATOR, 0)
        return ref if acc == piece.value.dtype else self.compute("cast", (ref,), piece.value.dtype)
