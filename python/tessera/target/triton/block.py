"""Bodies of Tile IR on a block of points: each op becomes a line, each value a scalar or a tensor over the block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.ir.dims import Dim, Expr, Symbol, add, bounds, mul, product, symbols
from tessera.ir.dtype import DType, i32, i64
from tessera.target.triton.compute import evaluate
from tessera.target.triton.convert import constant, from_memory, to_memory
from tessera.target.triton.expression import AxisValue, Expressions
from tessera.target.triton.text import Writer
from tessera.tile.ir import Buffer, Compute, Const, Index, Load, Op, Random, Ref, Store, same_memory

_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Variable:
    """A value: the text of a variable, its dtype, the block dimensions over which it varies."""

    text: str
    dtype: DType
    dims: frozenset[int] = frozenset()


class Block:
    """Emits bodies for one block of points.

    ``pointers``: the parameter of each buffer; ``axes``: what stands for each symbol; ``shape``: text of the size of
    the block in each of its dimensions. Loads are masked by the axes that their index uses, stores by all that the
    point is ``inside``: the axes of the grid and of the loops around it.
    """

    def __init__(
        self, writer: Writer, buffers: Sequence[Buffer], pointers: Sequence[str], axes: Mapping[Symbol, AxisValue],
        shape: Sequence[str] = (),
    ) -> None:
        self.writer, self.buffers, self.pointers, self.shape = writer, buffers, pointers, tuple(shape)
        self.axes: dict[Symbol, AxisValue] = dict(axes)
        self.expressions = Expressions(writer, self.axes)
        self.inside: list[Symbol] = list(axes)
        self.values: dict[Ref, Variable] = {}
        self.memo: dict[Any, Variable] = {}
        self._narrow: dict[str, str] = {}

    def run(self, scope: int, ops: Sequence[Op]) -> Variable | None:
        """Emit a body; the value of its last op, if it has one."""
        for i, op in enumerate(ops):
            ref = Ref(scope, i)
            if isinstance(op, Store):
                self.store(op)
            else:
                self.values[ref] = self.simple(op)
        return self.values.get(Ref(scope, len(ops) - 1))

    def simple(self, op: Op) -> Variable:
        """Emit an op that has a value and is no reduction or scan, or find the same one emitted before."""
        if isinstance(op, Const):
            return self._once(("const", repr(op.value), op.dtype), "c", constant(op.value, op.dtype), op.dtype)
        if isinstance(op, Index):
            return self._index(op)
        if isinstance(op, Load):
            return self._load(op)
        if isinstance(op, Compute):
            return self._compute(op)
        assert isinstance(op, Random)
        return self._random(op)

    def _once(
        self, key: Any, name: str, text: str, dtype: DType, dims: frozenset[int] = frozenset()
    ) -> Variable:
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = Variable(self.writer.assign(name, text), dtype, dims)
        return found

    def broadcast(self, value: Variable) -> str:
        """The value as a tensor over the whole block."""
        return value.text if len(value.dims) == len(self.shape) else self.spread(value.text)

    def spread(self, text: str) -> str:
        """A scalar or a tensor over some dimensions of the block as a tensor over the whole of it."""
        return f"tl.broadcast_to({text}, {self.shape_text()})" if self.shape else text

    def shape_text(self) -> str:
        """The shape of the block as a tuple."""
        return f"({', '.join(self.shape)}{',' if len(self.shape) == 1 else ''})"

    def _index(self, op: Index) -> Variable:
        d = op.expr
        if isinstance(d, int):
            return self._once(("const", repr(d), i64), "c", constant(d, i64), i64)
        text = self.expressions.text(d)
        found = self._once(("index", text), "index", f"({text}).to(tl.int64)", i64, self.expressions.dims(d))
        if self.expressions.is_small(d):
            self._narrow[found.text] = text
        return found

    def _compute(self, op: Compute) -> Variable:
        args = [self.values[a] for a in op.args]
        key = ("compute", op.function, op.dtype, args[-1].dtype, *(a.text for a in args))
        found = self.memo.get(key)
        if found is None:
            dims = frozenset().union(*(a.dims for a in args))
            if op.function == "cast" and args[0].dtype == op.dtype:
                return args[0]
            if op.function == "cast" and op.dtype == i32 and args[0].text in self._narrow:
                return self._once(key, "cast_", self._narrow[args[0].text], i32, dims)  # the compiler does not see it
            text = evaluate(self.writer, op.function, [a.text for a in args], args[-1].dtype, op.dtype)
            found = self.memo[key] = Variable(self.writer.assign(op.function + "_", text), op.dtype, dims)
        return found

    def _random(self, op: Random) -> Variable:
        seed, counter = (self.values[r] for r in op.key)
        element, operation = self._long(op.element), self._long(op.operation)
        text = self.writer.call(
            "uniform64" if op.dtype.bits == 64 else "uniform", element, operation, seed.text, counter.text
        )
        dims = self.expressions.dims(op.element)
        return self._once(("random", text), "random", text, op.dtype, dims | seed.dims | counter.dims)

    def _long(self, d: Dim) -> str:
        """An expression as an i64."""
        return constant(d, i64) if isinstance(d, int) else f"({self.expressions.text(d)}).to(tl.int64)"

    # Memory.

    def address(self, buffer: int, index: Sequence[Dim | Ref]) -> tuple[str, frozenset[int]]:
        """The text of a pointer to an element, and what it varies over."""
        b = self.buffers[buffer]
        offset: Dim = 0
        gathered: list[str] = []
        dims: frozenset[int] = frozenset()
        for entry, stride in zip(index, b.strides, strict=True):
            if isinstance(entry, Ref):
                value = self.values[entry]
                gathered.append(self._gathered(b, value, stride))
                dims |= value.dims
            else:
                offset = add(offset, mul(entry, stride))
        dims |= self.expressions.dims(offset)
        return self.expressions.pointer(self.pointers[buffer], offset, gathered), dims

    def _gathered(self, buffer: Buffer, value: Variable, stride: Dim) -> str:
        high = bounds(product(buffer.shape))[1]
        small = high is not None and high <= _LARGEST
        text = f"{value.text}.to(tl.int32)" if small and value.dtype == i64 else value.text
        if not small and value.dtype != i64:
            text = f"{value.text}.to(tl.int64)"
        if stride == 1:
            return text
        return f"{text} * {self.expressions.text(stride) if isinstance(stride, int) else f'({self._long(stride)})'}"

    def masks(self, dims: frozenset[int], symbols: Iterable[Symbol]) -> list[str]:
        """What must be true for a point to be inside these axes, of those that vary over ``dims`` only."""
        inside = [self.axes[s] for s in symbols if s in self.axes]
        return list(dict.fromkeys(a.mask for a in inside if a.mask is not None and a.dims <= dims))

    def _load(self, op: Load) -> Variable:
        address, dims = self.address(op.buffer, op.index)
        used = [s for d in op.index if isinstance(d, Expr) for s in symbols(d)]
        masks = self.masks(dims, used)
        own = None
        if op.mask is not None:
            own = self.values[op.mask]
            masks.append(own.text)
        if own is not None and not own.dims <= dims:
            address, dims = self.spread(address), frozenset(range(len(self.shape)))
        key = ("load", op.buffer, address, own.text if own else None, repr(op.other))
        found = self.memo.get(key)
        if found is not None:
            return found
        b = self.buffers[op.buffer]
        more = ""
        if masks:
            other = self._other(b.dtype, op.other) if op.mask is not None else "0"
            more = f", mask={all_of(masks)}, other={other}"
        raw = f"tl.load({address}{more})"
        name = b.name.replace("b", "x", 1) if b.name[:1] == "b" else b.name
        value = Variable(self.writer.assign(name, from_memory(self.writer, b.dtype, raw)), b.dtype, dims)
        self.memo[key] = value
        return value

    def _other(self, dtype: DType, other: bool | int | float) -> str:
        if dtype.is_float and dtype.bits == 8:
            import numpy as np

            return str(int(np.asarray(other, dtype.numpy).view(np.uint8)))
        if dtype.is_float:
            text = repr(float(other))
            return f'float("{text}")' if text in ("inf", "-inf", "nan") else text
        return str(int(other))

    def store(self, op: Store) -> None:
        """Write a value; later loads of the same place in this block find it without memory."""
        address, dims = self.address(op.buffer, op.index)
        value = self.values[op.value]
        own = frozenset() if op.mask is None else self.values[op.mask].dims
        if not (value.dims | own) <= dims:  # along an axis of one element
            address, dims = self.spread(address), frozenset(range(len(self.shape)))
        masks = self.masks(dims, self.inside)
        if op.mask is not None:
            masks.append(self.values[op.mask].text)
        b = self.buffers[op.buffer]
        text = to_memory(self.writer, b.dtype, value.text)
        if op.mode == "add":
            self._add(address, op, masks)
        else:
            self.writer.line(f"tl.store({address}, {text}{f', mask={all_of(masks)}' if masks else ''})")
        self.forget(op.buffer)
        if op.mode == "set" and op.mask is None:
            self.memo["load", op.buffer, address, None, _default(b.dtype)] = Variable(
                value.text, b.dtype, value.dims | dims
            )

    def _add(self, address: str, op: Store, masks: list[str]) -> None:
        b = self.buffers[op.buffer]
        value = self.values[op.value]
        mask = f", mask={all_of(masks)}" if masks else ""
        old = from_memory(self.writer, b.dtype, f"tl.load({address}{mask})")
        new = evaluate(self.writer, "add", [f"({old})", value.text], b.dtype, b.dtype)
        summed = self.writer.assign("sum", new)
        self.writer.line("tl.debug_barrier()")
        self.writer.line(f"tl.store({address}, {to_memory(self.writer, b.dtype, summed)}{mask})")
        self.writer.line("tl.debug_barrier()")

    def leave(self, memo: Mapping[Any, Variable]) -> None:
        """After a loop: of what was known before it (``memo``), all that was not overwritten; nothing from inside."""
        self.memo = {k: v for k, v in memo.items() if k in self.memo}

    def same(self, buffer: int) -> set[int]:
        """The buffers that may be the same memory."""
        return same_memory(self.buffers, buffer)

    def forget(self, buffer: int, *memos: dict[Any, Variable]) -> None:
        """What was read from a buffer, or from one that may be the same memory, must be read again.

        ``memos``: of what is known elsewhere; none: of this block.
        """
        same = self.same(buffer)
        for memo in memos or (self.memo,):
            for key in [k for k in memo if k[0] == "load" and k[1] in same]:
                del memo[key]


def _default(dtype: DType) -> str:
    return repr(False if dtype.kind == "bool" else 0.0 if dtype.is_float else 0)


def all_of(masks: Sequence[str]) -> str:
    """The text of what is true where all masks are."""
    return " & ".join(f"({m})" for m in masks) if len(masks) > 1 else masks[0]
