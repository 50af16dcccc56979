"""Evaluation of Tile IR bodies: one point, or one vector of points along one axis, at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.errors import CompileError
from tessera.ir.dims import Dim, Symbol
from tessera.ir.dtype import DType, i64
from tessera.target.cpu import philox
from tessera.target.cpu.access import FlatLoad, FlatOp, FlatStore, Place, emit_dim, linear
from tessera.target.cpu.compute import evaluate
from tessera.target.cpu.convert import cast, from_memory, is_narrow, memory_type, register_type, to_memory
from tessera.target.cpu.emit import Builder, Val
from tessera.target.cpu.levels import Level
from tessera.tile.ir import Buffer, Compute, Const, Index, Random, Reduce, Ref, Scan

PREFETCH_BYTES = 4096
"""How far ahead of a load streamed data is asked for: hardware prefetchers stop at pages and start too late."""


@dataclass
class Point:
    """Where a body is evaluated: values of axes (for the ``vector`` axis that of lane 0), lanes, active lanes.

    ``values``: results so far by (scope, index), each with its dtype.
    """

    axes: dict[Symbol, Val]
    vector: Symbol | None = None
    n: int = 1
    mask: Val | None = None
    values: dict[tuple[int, int], tuple[Val, DType]] = field(default_factory=dict)

    def inner(self, axes: Mapping[Symbol, Val], vector: Symbol | None = None, n: int | None = None,
              mask: Val | None = None) -> Point:
        """A point inside this one: more axes, the results so far visible."""
        if vector is None:
            vector, n, mask = self.vector, self.n, self.mask
        return Point({**self.axes, **axes}, vector, n or 1, mask, dict(self.values))


class Body:
    """Writes ops of one kernel into a builder."""

    def __init__(self, b: Builder, level: Level, buffers: Sequence[Buffer], pointers: Sequence[Val],
                 sizes: Mapping[Symbol, Val]) -> None:
        self.b, self.level, self.buffers, self.pointers, self.sizes = b, level, buffers, pointers, sizes
        self.nontemporal: frozenset[int] = frozenset()  # buffers whose stores bypass the caches
        self.staged: dict[int, Val] = {}  # where loads (by identity) find their vector in memory, already transposed
        self.prefetched: frozenset[int] = frozenset()  # buffers that are streamed from memory

    # index expressions

    def scalar(self, point: Point, d: Dim) -> Val:
        """The value of an expression at lane 0."""
        return emit_dim(self.b, d, {**self.sizes, **point.axes})

    def index(self, point: Point, d: Dim) -> Val:
        """The value of an expression: a scalar if it is the same in all lanes."""
        b = self.b
        if point.vector is None or point.n == 1:
            return self.scalar(point, d)
        form = linear(d, [point.vector])
        step = form.along(point.vector)
        if step == 0:
            return self.scalar(point, d)
        if step is not None:
            base = self.scalar(point, d)
            lanes = b.iota("i64", point.n)
            scale = emit_dim(b, step, {**self.sizes, **point.axes})
            offsets = lanes if step == 1 else b.binary("mul", b.broadcast(scale, point.n), lanes)
            return b.broadcast(base, point.n) + offsets
        base = b.broadcast(point.axes[point.vector], point.n) + b.iota("i64", point.n)
        return emit_dim(b, d, {**self.sizes, **point.axes, point.vector: base})

    def value(self, point: Point, ref: Ref) -> Val:
        """The register value of an op."""
        return point.values[ref.scope, ref.index][0]

    def dtype(self, point: Point, ref: Ref) -> DType:
        """The dtype of an op's value."""
        return point.values[ref.scope, ref.index][1]

    # memory

    def row_pointer(self, point: Point, place: Place) -> Val:
        """The address of a location that does not vary with values."""
        return self._address(point, place)[0]

    def _address(self, point: Point, place: Place) -> tuple[Val, str]:
        """The pointer and how lanes use it: ``uniform``, ``contiguous`` or ``gather`` (a vector of pointers)."""
        b = self.b
        t = memory_type(self.buffers[place.buffer].dtype)
        base = self.pointers[place.buffer]
        varying: Val | None = None
        offset: Val | None = None
        for ref, stride in place.indirect:
            value = self.value(point, ref)
            dtype = self.dtype(point, ref)
            value = cast(b, self.level, value, dtype, i64)
            factor = self.index(point, stride)
            term = b.binary("mul", b.broadcast(value, factor.n), factor)
            if term.n > 1:
                varying = term if varying is None else varying + term
            else:
                offset = term if offset is None else offset + term
        step = 0 if point.n == 1 else linear(place.offset, [point.vector] if point.vector else []).along(point.vector)
        if varying is None and step in (0, 1):
            total = self.scalar(point, place.offset)
            if offset is not None:
                total = total + offset
            return b.pointer(base, total, t), "uniform" if step == 0 else "contiguous"
        total = self.index(point, place.offset)
        if offset is not None:
            total = b.broadcast(total, max(total.n, offset.n)) + offset
        if varying is not None:
            total = varying + total
        return b.pointer(base, b.broadcast(total, point.n), t), "gather"

    def _lane_mask(self, point: Point, mask: Val | None) -> Val | None:
        """Active lanes: the point's, and those for which the op's own mask holds."""
        if mask is None:
            return point.mask
        mask = self.b.broadcast(mask, point.n)
        return mask if point.mask is None else mask & point.mask

    def load(self, point: Point, op: FlatLoad) -> Val:
        """The value of a load."""
        b = self.b
        dtype = self.buffers[op.place.buffer].dtype
        t, size = memory_type(dtype), dtype.itemsize
        if id(op) in self.staged:
            return from_memory(b, self.level, dtype, b.load(self.staged[id(op)], t, point.n, size))
        p, kind = self._address(point, op.place)
        mask = None if op.mask is None else self.value(point, op.mask)
        other = self._other(dtype, op.other, 1)
        if kind == "uniform" and (mask is None or mask.n == 1):
            if mask is None:
                raw = b.load(p, t, 1, size)
            else:
                raw = b.branch(mask, lambda: [b.load(p, t, 1, size)], lambda: [other])[0]
            return from_memory(b, self.level, dtype, raw)
        lanes = self._lane_mask(point, mask)
        if kind == "contiguous":
            if op.place.buffer in self.prefetched and lanes is None:
                b.prefetch(b.pointer(p, PREFETCH_BYTES, "i8"))
            if lanes is None:
                raw = b.load(p, t, point.n, size)
            else:
                raw = b.masked_load(p, t, point.n, size, lanes, other)
        else:
            lanes = lanes if lanes is not None else b.const(True, "i1", point.n)
            raw = b.gather(b.broadcast(p, point.n), t, size, b.broadcast(lanes, point.n), other)
        return from_memory(b, self.level, dtype, raw)

    def _other(self, dtype: DType, value: bool | int | float, n: int) -> Val:
        if value == 0:
            return self.b.const(0, memory_type(dtype), n)
        constant = self.b.const(value, register_type(dtype), n)
        return to_memory(self.b, self.level, dtype, constant)

    def store(self, point: Point, op: FlatStore) -> None:
        """Write the value of a store."""
        b = self.b
        dtype = self.buffers[op.place.buffer].dtype
        t, size = memory_type(dtype), dtype.itemsize
        value = self.value(point, op.value)
        mask = None if op.mask is None else self.value(point, op.mask)
        p, kind = self._address(point, op.place)
        if kind == "uniform":
            if point.n > 1 and (value.n > 1 or (mask is not None and mask.n > 1)):
                if op.mode == "add":
                    raise CompileError("lanes add to one element; the loop must not be vectorised")
                value, mask = self._last_lane(point, value, mask)
            self._store_scalar(p, t, size, dtype, value, op.mode, mask)
            return
        value = b.broadcast(value, point.n)
        lanes = self._lane_mask(point, mask)
        if op.mode == "add":
            value = self._add_to_memory(p, kind, t, size, dtype, value, lanes, point.n)
        raw = to_memory(b, self.level, dtype, value)
        if kind == "gather":
            lanes = lanes if lanes is not None else b.const(True, "i1", point.n)
            b.scatter(p, raw, size, b.broadcast(lanes, point.n))
        elif lanes is not None:
            b.masked_store(p, raw, size, lanes)
        elif op.place.buffer in self.nontemporal:
            b.store(p, raw, size * point.n, nontemporal=True)
        else:
            b.store(p, raw, size)

    def _last_lane(self, point: Point, value: Val, mask: Val | None) -> tuple[Val, Val | None]:
        """What remains when lanes write one element in turn: the value of the last active lane, if there is one."""
        b = self.b
        lanes = self._lane_mask(point, mask)
        value = b.broadcast(value, point.n)
        if lanes is None:
            return b.lane(value, point.n - 1), None
        bits = b.pure(f"i{point.n}", 1, f"bitcast {lanes} to i{point.n}", lanes)
        last = 63 - b.leading_zeros(b.convert("zext", bits, "i64"))
        some = last.ge(0)
        return b.lane(value, b.select(some, last, 0)), some

    def _store_scalar(self, p: Val, t: str, size: int, dtype: DType, value: Val, mode: str, mask: Val | None) -> None:
        b = self.b

        def write() -> list[Val]:
            x = value
            if mode == "add":
                old = from_memory(b, self.level, dtype, b.load(p, t, 1, size))
                x = self._sum(dtype, old, x)
            b.store(p, to_memory(b, self.level, dtype, x), size)
            return []

        if mask is None:
            write()
        else:
            b.branch(mask, write)

    def _add_to_memory(self, p: Val, kind: str, t: str, size: int, dtype: DType, value: Val, lanes: Val | None,
                       n: int) -> Val:
        b = self.b
        zero = b.const(0, t)
        if kind == "gather":
            old = b.gather(p, t, size, lanes if lanes is not None else b.const(True, "i1", n), zero)
        elif lanes is not None:
            old = b.masked_load(p, t, n, size, lanes, zero)
        else:
            old = b.load(p, t, n, size)
        return self._sum(dtype, from_memory(b, self.level, dtype, old), value)

    def _sum(self, dtype: DType, x: Val, y: Val) -> Val:
        return evaluate(self.b, self.level, "add", [x, y], [dtype, dtype], dtype)

    # ops

    def run(self, point: Point, scope: int, ops: Sequence[FlatOp],
            combine: Callable[[int, Reduce | Scan, Val, DType], Val | None] | None = None) -> None:
        """Evaluate a body at ``point``; results go to ``point.values``.

        ``combine(index, op, value, dtype)`` takes the values of Reduce and Scan ops; what it returns (if anything)
        is the op's value inside this body.
        """
        for i, op in enumerate(ops):
            result = self._one(point, i, op, combine)
            if result is not None:
                point.values[scope, i] = result

    def _one(self, point: Point, i: int, op: FlatOp,
             combine: Callable[[int, Reduce | Scan, Val, DType], Val | None] | None) -> tuple[Val, DType] | None:
        b = self.b
        if isinstance(op, Const):
            return b.const(op.value, register_type(op.dtype)), op.dtype
        if isinstance(op, Index):
            return self.index(point, op.expr), i64
        if isinstance(op, FlatLoad):
            return self.load(point, op), self.buffers[op.place.buffer].dtype
        if isinstance(op, FlatStore):
            self.store(point, op)
            return None
        if isinstance(op, Compute):
            args = [self.value(point, a) for a in op.args]
            sources = [self.dtype(point, a) for a in op.args]
            return evaluate(b, self.level, op.function, args, sources, op.dtype), op.dtype
        if isinstance(op, Random):
            seed, counter = (self.value(point, k) for k in op.key)
            operation, element = self.index(point, op.operation), self.index(point, op.element)
            return philox.uniform(b, seed, counter, operation, element, op.dtype), op.dtype
        assert combine is not None
        value = combine(i, op, self.value(point, op.value), self.dtype(point, op.value))
        return None if value is None else (value, op.dtype)


def rounded_constant(value: float, dtype: DType) -> float:
    """A constant as the narrow float dtype holds it."""
    if not is_narrow(dtype):
        return value
    import numpy as np

    with np.errstate(over="ignore"):
        return float(np.asarray(value).astype(dtype.numpy))


def prepare(ops: Iterable[FlatOp]) -> list[FlatOp]:
    """Ops with constants rounded to their dtype."""
    return [
        Const(rounded_constant(float(o.value), o.dtype), o.dtype) if isinstance(o, Const) and is_narrow(o.dtype) else o
        for o in ops
    ]
