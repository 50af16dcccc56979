"""Rewrites of operators that move elements without computing: views, pads and concatenations."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.errors import ShapeError
from tessera.ir.dims import Dim, add, mul
from tessera.ir.value import Node, Value
from tessera.transform.rewrite import Builder, Rule, common_shape, is_number, number, reshaped


def of_full(node: Node, build: Builder) -> Value | None:
    """A view of a constant tensor is that constant in another shape."""
    inner = node.operands[0].node
    if inner.op != "full":
        return None
    return build("full", shape=list(node.types[0].shape), value=inner.attrs["value"], dtype=node.types[0].dtype)


def identity(node: Node, build: Builder) -> Value | None:
    """A reshape or broadcast to the shape that the operand has."""
    x = node.operands[0]
    return x if x.shape == node.types[0].shape else None


def _reshape(node: Node, build: Builder) -> Value | None:
    inner = node.operands[0].node
    shape = node.types[0].shape
    if inner.op == "reshape":
        return reshaped(build, inner.operands[0], shape)
    if inner.op in ("sum", "prod", "max", "min"):  # one that only puts back or drops the reduced dimensions
        axes = inner.attrs["axes"]
        source = inner.operands[0].shape
        keepdims = not inner.attrs["keepdims"]
        other = [1 if i in axes else d for i, d in enumerate(source) if keepdims or i not in axes]
        if list(shape) == other and build.used_once(node.operands[0]):
            return build(inner.op, inner.operands[0], axes=list(axes), keepdims=keepdims)
    return None


def _broadcast_to(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    shape = node.types[0].shape
    extra = len(shape) - x.ndim
    if shape[extra:] == x.shape and all(d == 1 for d in shape[:extra]):
        return build("reshape", x, shape=list(shape))
    inner = x.node
    if inner.op == "broadcast_to":
        return build("broadcast_to", inner.operands[0], shape=list(shape))
    if inner.op == "reshape":  # leading dimensions of size 1 are implied
        y = inner.operands[0]
        added = x.ndim - y.ndim
        if added > 0 and x.shape[added:] == y.shape and all(d == 1 for d in x.shape[:added]):
            return build("broadcast_to", y, shape=list(shape))
    return None


def _transpose(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    perm = list(node.attrs["perm"])
    if perm == list(range(x.ndim)):
        return x
    if x.node.op == "transpose":
        inner = list(x.node.attrs["perm"])
        return build("transpose", x.node.operands[0], perm=[inner[p] for p in perm])
    if x.node.op == "matmul" and perm == [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2] and build.used_once(x):
        a, b = (_swapped(v, build) for v in x.node.operands)
        return build("matmul", b, a)
    moved = [p for p in perm if x.shape[p] != 1]
    if moved == sorted(moved):  # only dimensions of size 1 change places
        return build("reshape", x, shape=list(node.types[0].shape))
    return None


def _swapped(value: Value, build: Builder) -> Value:
    n = value.ndim
    return build("transpose", value, perm=[*range(n - 2), n - 1, n - 2])


def _flip(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    axes = {a for a in node.attrs["axes"] if x.shape[a] != 1}
    if not axes:
        return x
    if x.node.op == "flip":
        return build("flip", x.node.operands[0], axes=sorted(axes ^ set(x.node.attrs["axes"])))
    return None


def _whole(shape: Sequence[Dim], start: Sequence[Dim], stop: Sequence[Dim], step: Sequence[Dim]) -> bool:
    return all(b == 0 and e == n and s == 1 for n, b, e, s in zip(shape, start, stop, step))


def _slice(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    start, stop, step = (list(node.attrs[k]) for k in ("start", "stop", "step"))
    if _whole(x.shape, start, stop, step):
        return x
    combine = {"slice": _slice_of_slice, "pad": _slice_of_pad, "concat": _slice_of_concat}.get(x.node.op)
    if combine is None:
        return None
    try:
        return combine(node, x.node, build)
    except ShapeError:  # the combined bounds hold, but not provably for every symbolic size
        return None


def _slice_of_slice(node: Node, inner: Node, build: Builder) -> Value | None:
    """The one slice: start and step are composed; the stop follows from the number of elements."""
    start: list[Dim] = []
    stop: list[Dim] = []
    step: list[Dim] = []
    for i, size in enumerate(node.types[0].shape):
        first_start, first_stop, first_step = (inner.attrs[k][i] for k in ("start", "stop", "step"))
        second_start, second_stop, second_step = (node.attrs[k][i] for k in ("start", "stop", "step"))
        if first_step == 1:
            begin, end, stride = add(first_start, second_start), add(first_start, second_stop), second_step
        elif second_start == 0 and second_stop == inner.types[0].shape[i] and second_step == 1:
            begin, end, stride = first_start, first_stop, first_step
        else:
            if not isinstance(size, int):  # the size may be 0, for which the stop below would lie before the start
                return None
            begin, stride = add(first_start, mul(second_start, first_step)), mul(first_step, second_step)
            end = add(begin, add(mul(add(size, -1), stride), 1))
            if size == 0:
                begin = end = first_start
        start.append(begin)
        stop.append(end)
        step.append(stride)
    return build("slice", inner.operands[0], start=start, stop=stop, step=step)


def _slice_of_pad(node: Node, pad: Node, build: Builder) -> Value | None:
    """A slice that takes just what was padded, or a part of it."""
    x = pad.operands[0]
    starts = [add(b, mul(-1, low)) for b, low in zip(node.attrs["start"], pad.attrs["low"])]
    stops = [add(e, mul(-1, low)) for e, low in zip(node.attrs["stop"], pad.attrs["low"])]
    if list(stops) == list(x.shape) and all(b == 0 for b in starts):
        return build("slice", x, start=starts, stop=stops, step=list(node.attrs["step"]))
    if not all(_inside(b, e, n) for b, e, n in zip(starts, stops, x.shape)):
        return None
    return build("slice", x, start=starts, stop=stops, step=list(node.attrs["step"]))


def _inside(start: Dim, stop: Dim, size: Dim) -> bool:
    """Whether [start, stop) surely lies in [0, size)."""
    return isinstance(start, int) and isinstance(stop, int) and isinstance(size, int) and start >= 0 and stop <= size


def _slice_of_concat(node: Node, concat: Node, build: Builder) -> Value | None:
    """A slice of one of the operands."""
    axis: int = concat.attrs["axis"]
    start: Dim = node.attrs["start"][axis]
    stop: Dim = node.attrs["stop"][axis]
    offset: Dim = 0
    for x in concat.operands:
        size: Dim = x.shape[axis]
        begin, end = add(start, mul(-1, offset)), add(stop, mul(-1, offset))
        if (begin == 0 and end == size) or _inside(begin, end, size):
            starts, stops = list(node.attrs["start"]), list(node.attrs["stop"])
            starts[axis], stops[axis] = begin, end
            return build("slice", x, start=starts, stop=stops, step=list(node.attrs["step"]))
        offset = add(offset, size)
    return None


def _pad(node: Node, build: Builder) -> Value | None:
    x = node.operands[0]
    low, high = list(node.attrs["low"]), list(node.attrs["high"])
    if all(d == 0 for d in (*low, *high)):
        return x
    value = node.attrs["value"]
    if is_number(x, value) and type(number(x)) is type(value):
        return build("full", shape=list(node.types[0].shape), value=value, dtype=x.dtype)
    inner = x.node
    if inner.op == "pad" and repr(inner.attrs["value"]) == repr(value):
        return build(
            "pad", inner.operands[0], value=value,
            low=[add(a, b) for a, b in zip(inner.attrs["low"], low)],
            high=[add(a, b) for a, b in zip(inner.attrs["high"], high)],
        )
    return None


def _concat(node: Node, build: Builder) -> Value | None:
    axis = node.attrs["axis"]
    operands: list[Value] = []
    for v in node.operands:
        nested = v.node.op == "concat" and v.node.attrs["axis"] == axis
        operands += v.node.operands if nested else [v]
    filled = [v for v in operands if v.shape[axis] != 0] or operands[:1]
    if len(filled) == 1:
        return filled[0]
    first = filled[0].node
    if first.op == "full" and all(_same_full(v.node, first) for v in filled):
        return build("full", shape=list(node.types[0].shape), value=first.attrs["value"], dtype=node.types[0].dtype)
    return build("concat", *filled, axis=axis) if len(filled) != len(node.operands) else None


def _same_full(a: Node, b: Node) -> bool:
    return a.op == "full" and repr(a.attrs["value"]) == repr(b.attrs["value"])


def _matmul(node: Node, build: Builder) -> Value | None:
    """Batch dimensions broadcast anyway."""
    a, b = node.operands
    new_a, new_b = _batch_stripped(a), _batch_stripped(b)
    for x, y in ((new_a, new_b), (new_a, b), (a, new_b)):
        if (x is not a or y is not b) and _batch(x, y) == node.types[0].shape[:-2]:
            return build("matmul", x, y)
    return None


def _batch_stripped(value: Value) -> Value:
    inner = value.node.operands[0] if value.node.op == "broadcast_to" else None
    return inner if inner is not None and inner.ndim >= 2 and inner.shape[-2:] == value.shape[-2:] else value


def _batch(a: Value, b: Value) -> tuple[Dim, ...]:
    return common_shape([a.shape[:-2], b.shape[:-2]])


RULES: dict[str, tuple[Rule, ...]] = {
    "reshape": (identity, of_full, _reshape),
    "broadcast_to": (identity, of_full, _broadcast_to),
    "transpose": (of_full, _transpose),
    "flip": (of_full, _flip),
    "slice": (of_full, _slice),
    "pad": (_pad,),
    "concat": (_concat,),
    "matmul": (_matmul,),
}
"""Rules by operator."""
