"""The value of a tensor element as a scalar expression of other elements: how every operator is inlined.

``Expression`` walks from an element of a value back to the tensors that have storage, substituting index maps on
the way. Scheduling walks to learn what a kernel reads; Tile IR construction walks to emit ops. ``R`` is what the
walk computes with: nothing, or a Tile IR reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from tessera.errors import InternalError
from tessera.ir.dims import Dim, Expr, add, mul
from tessera.ir.dtype import DType, bool_, i64
from tessera.ir.value import Node, Value
from tessera.op import lowering as low
from tessera.op.opdef import get
from tessera.schedule.index import Axes, Index, broadcast, ravel
from tessera.schedule.placement import Placement

R = TypeVar("R")


class Expression(Generic[R]):
    """Walks over the elements of values; subclasses say what a load, a constant or a function gives."""

    def __init__(self, placement: Placement, axes: Axes) -> None:
        self.placement = placement
        self.axes = axes

    # What a subclass provides.

    def stored(self, root: Value, shape: tuple[Dim, ...], index: Index, mask: R | None) -> R:
        """Element of a tensor with storage, seen in ``shape``."""
        raise NotImplementedError

    def constant(self, value: bool | int | float, dtype: DType) -> R:
        """A scalar constant."""
        raise NotImplementedError

    def position(self, d: Dim, dtype: DType) -> R:
        """The value of an integer expression."""
        raise NotImplementedError

    def compute(self, function: str, args: tuple[R, ...], dtype: DType) -> R:
        """A pointwise function."""
        raise NotImplementedError

    def random(self, key: tuple[R, R], operation: int, element: Dim, dtype: DType) -> R:
        """A uniform draw."""
        raise NotImplementedError

    def indirect(self, value: R, key: tuple[Any, ...], limit: Dim) -> Dim:
        """A symbol that stands for an integer value, clamped to [0, limit)."""
        raise NotImplementedError

    def visit(self, node: Node) -> None:
        """Called for every node that is inlined, after its operands."""

    def checked(self, node: Node) -> None:
        """Called when a value is read that this check_range node passes on."""

    def remembered(self, key: tuple[Any, ...], make: Callable[[], R]) -> R:
        """The result of an earlier walk with this key, or a new one."""
        raise NotImplementedError

    # The walk.

    def value(self, v: Value, index: Index, mask: R | None = None) -> R:
        """Element ``index`` of a value; not read (and arbitrary) where ``mask`` is false."""
        root = self.placement.root(v)
        if root is None:
            return self.inline(v, index, mask)
        if v is not root:
            for node in self.placement.checks(v):
                self.checked(node)
        return self.stored(root, v.shape, index, mask)

    def inline(self, v: Value, index: Index, mask: R | None = None) -> R:
        """Element ``index`` of a value, from its operands."""
        return self.remembered((id(v), index, mask), lambda: self._expand(v, index, mask))

    def _expand(self, v: Value, index: Index, mask: R | None) -> R:
        node = v.node
        rule = get(node.op).lower
        handler = _HANDLERS.get(type(rule))
        if handler is None:
            raise InternalError(f"{node.op} cannot be part of a kernel expression")
        result = handler(self, node, rule, v, index, mask)
        self.visit(node)
        return result

    def _pointwise(self, node: Node, rule: low.Pointwise, v: Value, index: Index, mask: R | None) -> R:
        shape = v.shape
        args = tuple(self.value(o, broadcast(o.shape, shape, index), mask) for o in node.operands)
        if rule.compute == "cast" and node.operands[0].dtype == v.dtype:
            return args[0]
        return self.compute(rule.compute, args, v.dtype)

    def _view(self, node: Node, rule: low.View, v: Value, index: Index, mask: R | None) -> R:
        x = node.operands[0]
        if node.op == "reshape":
            return self.value(x, self.axes.reshape(index, v.shape, x.shape), mask)
        if node.op == "broadcast_to":
            return self.value(x, broadcast(x.shape, v.shape, index), mask)
        mapped = tuple(0 if n == 1 else d for d, n in zip(rule.index_map(index, x.type, v.type, node.attrs), x.shape))
        return self.value(x, mapped, mask)

    def _pad(self, node: Node, rule: low.Pad, v: Value, index: Index, mask: R | None) -> R:
        x = node.operands[0]
        inside: R | None = None
        mapped: list[Dim] = []
        for d, lower, upper, n in zip(index, node.attrs["low"], node.attrs["high"], x.shape):
            if lower == 0 and upper == 0:
                mapped.append(d)
                continue
            mapped.append(0 if n == 1 else add(d, mul(lower, -1)))
            if lower != 0:
                inside = self._both(inside, self._compare("ge", d, lower))
            if upper != 0:
                inside = self._both(inside, self._compare("lt", d, add(lower, n)))
        if inside is None:
            return self.value(x, tuple(mapped), mask)
        element = self.value(x, tuple(mapped), self._both(mask, inside))
        return self.compute("where", (inside, element, self.constant(node.attrs["value"], v.dtype)), v.dtype)

    def _compare(self, function: str, a: Dim, b: Dim) -> R:
        return self.compute(function, (self.position(a, i64), self.position(b, i64)), bool_)

    def _both(self, a: R | None, b: R | None) -> R | None:
        if a is None or b is None:
            return b if a is None else a
        return self.compute("logical_and", (a, b), bool_)

    def _concat(self, node: Node, rule: low.Concat, v: Value, index: Index, mask: R | None) -> R:
        axis = node.attrs["axis"]
        at = index[axis]
        pieces: list[tuple[R | None, R]] = []
        start: Dim = 0
        parts = [o for o in node.operands if o.shape[axis] != 0] or [node.operands[0]]
        for number, operand in enumerate(parts):
            end = add(start, operand.shape[axis])
            before = None if number == len(parts) - 1 else self._compare("lt", at, end)
            after = None if number == 0 else self._compare("ge", at, start)
            inner = 0 if operand.shape[axis] == 1 else add(at, mul(start, -1))
            here = self._both(mask, self._both(after, before))
            pieces.append((before, self.value(operand, (*index[:axis], inner, *index[axis + 1:]), here)))
            start = end
        result = pieces[-1][1]
        for before, element in reversed(pieces[:-1]):
            result = self.compute("where", (cast(R, before), element, result), v.dtype)
        return result

    def _iota(self, node: Node, rule: low.Iota, v: Value, index: Index, mask: R | None) -> R:
        return self.position(index[node.attrs["axis"]], v.dtype)

    def _fill(self, node: Node, rule: low.Fill, v: Value, index: Index, mask: R | None) -> R:
        value = node.attrs["value"]
        return self.position(value, v.dtype) if isinstance(value, Expr) else self.constant(value, v.dtype)

    def _random(self, node: Node, rule: low.Random, v: Value, index: Index, mask: R | None) -> R:
        key = node.operands[0]
        words = (self.value(key, (0,), None), self.value(key, (1,), None))
        return self.random(words, node.attrs["id"], ravel(index, v.shape), v.dtype)

    def gathered(self, indices: Value, index: Index, limit: Dim, mask: R | None) -> Dim:
        """The symbol of an element of an index tensor, clamped to [0, limit)."""
        value = self.value(indices, index, mask)
        return 0 if limit == 1 else self.indirect(value, (id(indices), index, mask), limit)

    def _take(self, node: Node, rule: low.Take, v: Value, index: Index, mask: R | None) -> R:
        x, indices = node.operands
        axis, rank = node.attrs["axis"], indices.ndim
        at = self.gathered(indices, index[axis : axis + rank], x.shape[axis], mask)
        return self.value(x, (*index[:axis], at, *index[axis + rank:]), mask)

    def _take_along_axis(self, node: Node, rule: low.TakeAlongAxis, v: Value, index: Index, mask: R | None) -> R:
        x, indices = node.operands
        axis = node.attrs["axis"]
        at = self.gathered(indices, index, x.shape[axis], mask)
        return self.value(x, (*index[:axis], at, *index[axis + 1:]), mask)

    def _single_update(self, node: Node, rule: Any, v: Value, index: Index, mask: R | None) -> R:
        """index_add or scatter_add of one element per row: a comparison instead of a scatter."""
        base, indices, updates = node.operands
        axis = node.attrs["axis"]
        row = index[:axis] + index[axis + 1:]
        if isinstance(rule, low.IndexAdd):
            zeros = (0,) * indices.ndim
            where, source = zeros, (*row[:axis], *zeros, *row[axis:])
        else:
            where = source = (*row[:axis], 0, *row[axis:])
        at = self.value(indices, where, mask)
        if indices.dtype != i64:
            at = self.compute("cast", (at,), i64)
        hit = self.compute("eq", (self.position(index[axis], i64), at), bool_)
        update = self.value(updates, source, mask)
        if base.node.op == "full" and base.node.attrs["value"] == 0:
            return self.compute("where", (hit, update, self.constant(0, v.dtype)), v.dtype)
        old = self.value(base, index, mask)
        return self.compute("where", (hit, self.compute("add", (old, update), v.dtype), old), v.dtype)

    def _trivial_reduction(self, node: Node, rule: low.Reduction, v: Value, index: Index, mask: R | None) -> R:
        """A reduction over axes of size 1."""
        x = node.operands[0]
        if rule.combine in ("argmax", "argmin"):
            return self.constant(0, v.dtype)
        element = self.value(x, self.before_reduction(node, index), mask)
        return element if x.dtype == v.dtype else self.compute("cast", (element,), v.dtype)

    def _trivial_scan(self, node: Node, rule: low.Scan, v: Value, index: Index, mask: R | None) -> R:
        """A scan along an axis of size 1."""
        element = self.value(node.operands[0], index, mask)
        return element if node.operands[0].dtype == v.dtype else self.compute("cast", (element,), v.dtype)

    @staticmethod
    def before_reduction(node: Node, index: Index) -> Index:
        """The operand index of a result index, with 0 along the reduced axes."""
        if node.attrs["keepdims"]:
            return index
        reduced = set(reduced_axes(node))
        rest = iter(index)
        return tuple(0 if i in reduced else next(rest) for i in range(node.operands[0].ndim))

    def _outer_product(self, node: Node, rule: low.Dot, v: Value, index: Index, mask: R | None) -> R:
        """A matrix product over one element."""
        a, b = node.operands
        batch = v.shape[:-2]
        left = (*broadcast(a.shape[:-2], batch, index[:-2]), index[-2], 0)
        right = (*broadcast(b.shape[:-2], batch, index[:-2]), 0, index[-1])
        return self.compute("mul", (self.value(a, left, mask), self.value(b, right, mask)), v.dtype)


_HANDLERS: dict[type, Callable[..., Any]] = {
    low.Pointwise: Expression._pointwise,
    low.View: Expression._view,
    low.Pad: Expression._pad,
    low.Concat: Expression._concat,
    low.Iota: Expression._iota,
    low.Fill: Expression._fill,
    low.Random: Expression._random,
    low.Take: Expression._take,
    low.TakeAlongAxis: Expression._take_along_axis,
    low.IndexAdd: Expression._single_update,
    low.ScatterAdd: Expression._single_update,
    low.Reduction: Expression._trivial_reduction,
    low.Scan: Expression._trivial_scan,
    low.Dot: Expression._outer_product,
}


def reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction or a scan runs over."""
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    return [node.attrs["axis"]]


def is_single_update(node: Node) -> bool:
    """Whether an index_add or scatter_add writes at most one element per row."""
    indices = node.operands[1]
    if isinstance(get(node.op).lower, low.IndexAdd):
        return all(d == 1 for d in indices.shape)
    return indices.shape[node.attrs["axis"]] == 1
