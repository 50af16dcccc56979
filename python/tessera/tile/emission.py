"""Emit Tile IR ops for the elements of values: the bodies that kernels are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Union

from tessera.ir.dims import Call, Dim, Expr, Symbol, add, sym, symbols
from tessera.ir.dtype import DType, i64
from tessera.ir.provenance import Location
from tessera.ir.value import Node, Value
from tessera.schedule.expression import Expression
from tessera.schedule.index import Axes, Index, fold, strides, symbol_of
from tessera.schedule.placement import Placement
from tessera.tile.ir import Buffer, Compute, Const, Load, Op, Random, Ref, Store, StoreMode
from tessera.tile.ir import Index as IndexOp

Operand = Union[Ref, Const]
"""An emitted op, or a constant that is placed beside each of its users."""

LONGEST_NAME = 48


@dataclass(slots=True)
class Argument:
    """A kernel argument: a stored value, seen in a shape."""

    root: Value
    shape: tuple[Dim, ...]
    read: bool = False
    written: bool = False

    def buffer(self, name: str) -> Buffer:
        """Its declaration."""
        role = "inout" if self.read and self.written else "out" if self.written else "in"
        return Buffer(name, self.root.dtype, self.shape, strides(self.shape), role)


class Emitter(Expression[Operand]):
    """Appends ops to bodies. ``inner`` is the body of a loop, ``outer`` the body before it that runs once.

    What does not vary over the loop goes to ``outer``. Either may be None: then all goes to the other.
    """

    def __init__(self, placement: Placement, axes: Axes) -> None:
        super().__init__(placement, axes)
        self.arguments: list[Argument] = []
        self.bodies: dict[int, list[Op]] = {}
        self.outer: int | None = None
        self.inner: int | None = None
        self.varying: set[Symbol] = set()
        self.names: dict[str, None] = {}
        self.loc: Location | None = None
        self._slots: dict[tuple[Any, ...], int] = {}
        self._uniform: set[Ref] = set()
        self._indirect: dict[Symbol, Operand] = {}
        self._memo: dict[tuple[Any, ...], Operand] = {}
        self._outer_memo: dict[tuple[Any, ...], Operand] = {}

    def enter(self, outer: int | None, inner: int | None) -> None:
        """Go on in other bodies; what earlier loops computed is out of reach."""
        self.outer, self.inner = outer, inner
        self._memo = {}

    def fresh(self) -> None:
        """Forget everything emitted so far: nothing is shared with what follows."""
        self._memo, self._outer_memo = {}, {}

    # Bodies.

    def is_uniform(self, operand: Operand | None) -> bool:
        """Whether the operand is the same for all iterations of the loop."""
        return operand is None or isinstance(operand, Const) or operand in self._uniform

    def mark_uniform(self, ref: Ref) -> None:
        """The op's value can be used outside its loop (a reduction)."""
        self._uniform.add(ref)

    def append(
        self, make: Callable[..., Op], args: Iterable[Operand | None], uniform: bool, key: tuple[Any, ...]
    ) -> Ref:
        """Emit ``make(*refs)``, or find the same op emitted before."""
        operands = tuple(args)
        outside = self.outer is not None and (self.inner is None or (uniform and all(map(self.is_uniform, operands))))
        memo = self._outer_memo if outside else self._memo
        scope = self.outer if outside else self.inner
        assert scope is not None
        whole = (*key, *operands)
        found = memo.get(whole)
        if isinstance(found, Ref):
            return found
        refs = [self.settle(o, scope) if isinstance(o, Const) else o for o in operands]
        body = self.bodies.setdefault(scope, [])
        body.append(make(*refs))
        ref = Ref(scope, len(body) - 1)
        if outside:
            self._uniform.add(ref)
        memo[whole] = ref
        return ref

    def settle(self, operand: Operand, scope: int) -> Ref:
        """The operand as a reference; a constant is emitted into the body ``scope``."""
        if isinstance(operand, Ref):
            return operand
        memo = self._outer_memo if scope == self.outer else self._memo
        key = ("const", scope, repr(operand.value), operand.dtype)
        found = memo.get(key)
        if not isinstance(found, Ref):
            body = self.bodies.setdefault(scope, [])
            body.append(operand)
            found = memo[key] = Ref(scope, len(body) - 1)
            if scope == self.outer:
                self._uniform.add(found)
        return found

    # The walk's operations.

    def remembered(self, key: tuple[Any, ...], make: Callable[[], Operand]) -> Operand:
        """The operand emitted for this key within reach, or a new one."""
        found = self._memo.get(key) or self._outer_memo.get(key)
        if found is None:
            found = make()
            (self._outer_memo if self.is_uniform(found) else self._memo)[key] = found
        return found

    def visit(self, node: Node) -> None:
        """Name the kernel after its operators, and locate it at the last one."""
        self.note(node.op)
        self.loc = node.loc or self.loc

    def note(self, name: str) -> None:
        """Let a name appear in the kernel's name."""
        if name not in ("reshape", "broadcast_to", "full", "stop_gradient", "check_range"):
            self.names[name] = None

    def constant(self, value: bool | int | float, dtype: DType) -> Operand:
        """A constant, placed where it is used."""
        if dtype.is_float:
            return Const(float(value), dtype)
        return Const(bool(value) if dtype.kind == "bool" else int(value), dtype)

    def position(self, d: Dim, dtype: DType) -> Operand:
        """The value of an integer expression, in a dtype."""
        if isinstance(d, int):
            return self.constant(d, dtype)
        value = self._integer(d)
        return value if dtype == i64 else self.compute("cast", (value,), dtype)

    def _integer(self, d: Dim) -> Operand:
        """An integer expression, some of whose symbols may stand for loaded values."""
        if isinstance(d, int):
            return Const(d, i64)
        if not any(s in self._indirect for s in symbols(d)):
            return self.append(lambda: IndexOp(d), (), not any(s in self.varying for s in symbols(d)), ("index", d))
        total: Operand | None = None
        plain: Dim = 0
        for atoms, c in d.terms:
            term = Expr({atoms: c})
            if not any(s in self._indirect for s in symbols(term)):
                plain = add(plain, term)
                continue
            factor: Operand | None = None if c == 1 else Const(c, i64)
            for atom in atoms:
                value = self._atom(atom)
                factor = value if factor is None else self.compute("mul", (factor, value), i64)
            assert factor is not None
            total = factor if total is None else self.compute("add", (total, factor), i64)
        assert total is not None
        return total if plain == 0 else self.compute("add", (total, self._integer(plain)), i64)

    def _atom(self, atom: Symbol | Call) -> Operand:
        if isinstance(atom, Symbol):
            return self._indirect[atom] if atom in self._indirect else self._integer(sym(atom))
        function = {"max": "maximum", "min": "minimum"}.get(atom.function, atom.function)
        return self.compute(function, (self._integer(atom.a), self._integer(atom.b)), i64)

    def compute(self, function: str, args: tuple[Operand, ...], dtype: DType) -> Operand:
        """A pointwise function of operands."""
        return self.append(lambda *refs: Compute(function, refs, dtype), args, True, ("compute", function, dtype))

    def random(self, key: tuple[Operand, Operand], operation: int, element: Dim, dtype: DType) -> Operand:
        """A uniform draw."""
        self.note("random")
        uniform = not isinstance(element, Expr) or not any(s in self.varying for s in symbols(element))
        return self.append(
            lambda a, b: Random((a, b), operation, element, dtype), key, uniform, ("random", operation, element, dtype)
        )

    def indirect(self, value: Operand, key: tuple[Any, ...], limit: Dim) -> Dim:
        """A symbol for a loaded index, clamped so that no memory outside the tensor is touched."""
        if isinstance(value, Const) and isinstance(limit, int):
            return max(0, min(int(value.value), limit - 1))
        if isinstance(value, Const) or self._dtype(value) != i64:
            value = self.compute("cast", (value,), i64) if isinstance(value, Ref) else Const(int(value.value), i64)
        value = self.compute("maximum", (value, Const(0, i64)), i64)
        value = self.compute("minimum", (value, self.position(add(limit, -1), i64)), i64)
        symbol = Symbol(f"_gathered{len(self._indirect)}")
        for known, operand in self._indirect.items():
            if operand == value:
                return sym(known)
        self._indirect[symbol] = value
        return sym(symbol)

    def _dtype(self, ref: Ref) -> DType | None:
        body = self.bodies.get(ref.scope)
        op = None if body is None else body[ref.index]
        if isinstance(op, Load):
            return self.arguments[op.buffer].root.dtype
        return i64 if isinstance(op, IndexOp) else getattr(op, "dtype", None)

    def stored(self, root: Value, shape: tuple[Dim, ...], index: Index, mask: Operand | None) -> Operand:
        """Element of a tensor with storage."""
        return self.load(root, shape, index, mask)

    def load(self, root: Value, shape: tuple[Dim, ...], index: Index, mask: Operand | None) -> Operand:
        """Element of a tensor in memory."""
        if 0 in shape:  # only loops that never run read it; hoisted out of them, it would be read after all
            return self.constant(0, root.dtype)
        shape, index = _squeezed(*fold(shape, index))
        slot = self._slot(root, shape, read=True)
        uniform = not any(s in self.varying for d in index if isinstance(d, Expr) for s in symbols(d))
        entries, refs = self._entries(index)
        other = False if root.dtype.kind == "bool" else 0.0 if root.dtype.is_float else 0

        def make(*operands: Ref | None) -> Op:
            return Load(slot, self._fill(entries, operands[1:]), operands[0], other)

        return self.append(make, (mask, *refs), uniform, ("load", slot, index))

    def store(self, root: Value, index: Index, value: Operand, mode: StoreMode = "set") -> None:
        """Write an element of a tensor; in the loop when anything varies over it, or when it adds."""
        shape, index = _squeezed(*fold(root.shape, index))
        slot = self._slot(root, shape, read=mode == "add", written=True)
        entries, refs = self._entries(index)
        varies = self.inner is not None and (
            any(s in self.varying for d in index if isinstance(d, Expr) for s in symbols(d))
            or not all(map(self.is_uniform, (*refs, value)))
            or mode == "add"
        )
        scope = self.inner if varies or self.outer is None else self.outer
        assert scope is not None
        settled = [self.settle(r, scope) for r in refs]
        ref = self.settle(value, scope)
        self.bodies.setdefault(scope, []).append(
            Store(slot, self._fill(entries, settled), ref, mode)
        )

    def _entries(self, index: Index) -> tuple[list[Dim | None], list[Operand]]:
        """Index entries, None for those that are loaded values, and these values."""
        entries: list[Dim | None] = []
        refs: list[Operand] = []
        for d in index:
            if isinstance(d, Expr) and any(s in self._indirect for s in symbols(d)):
                symbol = symbol_of(d)
                refs.append(self._indirect[symbol] if symbol is not None else self._integer(d))
                entries.append(None)
            else:
                entries.append(d)
        return entries, refs

    @staticmethod
    def _fill(entries: list[Dim | None], refs: Iterable[Any]) -> tuple[Any, ...]:
        rest = iter(refs)
        return tuple(next(rest) if e is None else e for e in entries)

    def _slot(self, root: Value, shape: tuple[Dim, ...], read: bool = False, written: bool = False) -> int:
        key = (id(root), shape)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self.arguments)
            self.arguments.append(Argument(root, shape))
        self.arguments[slot].read |= read
        self.arguments[slot].written |= written
        return slot

    def name(self, default: str) -> str:
        """A kernel name of bounded length, from the operators."""
        text = ""
        for part in self.names:
            if len(text) + len(part) + 1 > LONGEST_NAME:
                break
            text += ("_" if text else "") + part
        return text or default


def _squeezed(shape: tuple[Dim, ...], index: Index) -> tuple[tuple[Dim, ...], Index]:
    """Without the dimensions of size 1."""
    if 1 not in shape:
        return shape, index
    kept = [i for i, d in enumerate(shape) if d != 1]
    return tuple(shape[i] for i in kept), tuple(index[i] for i in kept)
