"""What partitioning knows about single operators beyond their factor strings: factors, and nodes on local parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tessera.dist import attention
from tessera.dist.factors import Factors, Slot, factors_of
from tessera.dist.strategy import Strategy, is_zero
from tessera.errors import InternalError, ShapeError
from tessera.ir.dims import Dim, add
from tessera.ir.dtype import DType
from tessera.ir.sharding import Sharding, is_even, local_start
from tessera.ir.value import Node, Value
from tessera.op import where
from tessera.op.opdef import apply, build

CREATIONS = frozenset({"full", "iota", "random_uniform"})
"""Operators whose result any device can make in part, for any split."""
_AXIS = "axis"  # the factor of the dimension that indices point into
_GATHERS = frozenset({"take", "take_along_axis"})
_SCATTERS = frozenset({"index_add", "scatter_add"})


def node_factors(node: Node) -> Factors:
    """The factors of a node; for operators with an index also that of the dimension it points into."""
    if node.op in (attention.FORWARD, attention.GRADIENT):
        return attention.factors(node)
    found = factors_of(node)
    if node.op in _GATHERS and node.operands[0].dtype.bits >= 8 and not node.operands[0].dtype.name.startswith("f8"):
        return _gathering(node, found)
    return _scattering(node, found) if node.op in _SCATTERS else found


def _with_axis(slots: Sequence[Slot | None], axis: int, size: Dim) -> tuple[Slot | None, ...]:
    return tuple((_AXIS, 1) if i == axis and size != 1 else s for i, s in enumerate(slots))


def _gathering(node: Node, found: Factors) -> Factors:
    x, axis = node.operands[0], node.attrs["axis"]
    operands = (_with_axis(found.operands[0], axis, x.shape[axis]), *found.operands[1:])
    combine = "max" if x.dtype.kind == "bool" else "sum"
    return replace(found, operands=operands, contracted=frozenset({_AXIS}), combine=combine)


def _scattering(node: Node, found: Factors) -> Factors:
    x, axis = node.operands[0], node.attrs["axis"]
    first = _with_axis(found.operands[0], axis, x.shape[axis])
    result = _with_axis(found.results[0], axis, x.shape[axis])
    index, updates = list(found.operands[1]), list(found.operands[2])
    contracted: set[str] = set()
    if is_zero(x):
        # Each device adds its part of the updates; anything else than zeros would be added by each of them.
        places = {i: axis + i for i in range(len(index))} if node.op == "index_add" else {axis: axis}
        for i, j in places.items():
            if node.operands[1].shape[i] != 1:
                index[i] = updates[j] = (f"part{i}", 1)
                contracted.add(f"part{i}")
    return Factors((first, tuple(index), tuple(updates)), (result,), frozenset(contracted), "sum")


Maker = Callable[[Node, tuple[Value, ...], Strategy], "Value | tuple[Value, ...]"]


def local_node(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> tuple[Value, ...]:
    """The node on the operands that the device that runs holds."""
    maker = _MAKERS.get(node.op)
    made = apply(node.op, operands, node.attrs) if maker is None else maker(node, operands, strategy)
    results = (made,) if isinstance(made, Value) else made
    for value, t, sharding in zip(results, node.types, strategy.results, strict=True):
        expected = sharding.local_shape(t.shape)
        if value.shape != expected or value.dtype != t.dtype:
            # A custom operator may depend on sizes in ways that its factor string does not say.
            kind = ShapeError if "::" in node.op else InternalError
            raise kind(f"[{node.op}] on one device gives {value.type}, expected {t.dtype}{list(expected)}")
    return results


def create(node: Node, operands: tuple[Value, ...], sharding: Sharding) -> Value:
    """The part of a created tensor that the device that runs holds; numbers depend on the global index."""
    shape, local = node.types[0].shape, sharding.local_shape(node.types[0].shape)
    alike = node.op == "full" or (node.op == "iota" and sharding.dims[node.attrs["axis"]] is None)
    if alike or local == shape:
        return build(node.op, *operands, **{**node.attrs, "shape": list(local)})
    made = build(node.op, *operands, **node.attrs)
    start = [0 if s is None else local_start(d, s, sharding.mesh) for d, s in zip(shape, sharding.dims, strict=True)]
    stop = [add(a, d) for a, d in zip(start, local, strict=True)]
    return build("slice", made, start=start, stop=stop, step=[1] * len(shape))


def _shaped(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> Value:
    """reshape and broadcast_to: the attribute is the local result's shape."""
    shape = list(strategy.results[0].local_shape(node.types[0].shape))
    return build(node.op, operands[0], **{**node.attrs, "shape": shape})


def _slice(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> Value:
    stop = [
        d if split is not None else e
        for d, e, split in zip(operands[0].shape, node.attrs["stop"], strategy.operands[0].dims, strict=True)
    ]
    return build("slice", operands[0], **{**node.attrs, "stop": stop})


def _extremum(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> Value:
    """One more element, which loses against all: a device may hold nothing of a reduced dimension."""
    x, sharding = operands[0], strategy.operands[0]
    shape = node.operands[0].shape
    high: list[Dim] = [0] * x.ndim
    for axis in node.attrs["axes"]:
        split = sharding.dims[axis]
        if split is not None and not is_even(shape[axis], split, sharding.mesh):
            high[axis] = 1
    if any(d != 0 for d in high):
        x = build("pad", x, low=[0] * x.ndim, high=high, value=_loser(node.op, x.dtype))
    return build(node.op, x, **node.attrs)


def _loser(op: str, dtype: DType) -> Any:
    if dtype.kind == "bool":
        return op == "min"
    if dtype.is_float:
        return math.inf if op == "min" else -math.inf
    bits = dtype.bits
    low, high = (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return high if op == "min" else low


def _indexed(node: Node, operands: tuple[Value, ...], strategy: Strategy) -> Value:
    """Operators with an index, where the dimension that it points into is split.

    The part gets one element more, at its end, to which all indices into other devices' parts point: zeros are read
    from it, and what is added to it is dropped.
    """
    if _AXIS not in dict(strategy.assignment):
        return build(node.op, *operands, **node.attrs)
    axis, sharding = node.attrs["axis"], strategy.operands[0]
    split = sharding.dims[axis]
    assert split is not None
    x, index = operands[0], operands[1]
    size = x.shape[axis]
    at = index - _size(local_start(node.operands[0].shape[axis], split, sharding.mesh), index)
    count = _size(size, index)
    inside = build("logical_and", build("ge", at, _size(0, index)), build("lt", at, count))
    at = where(inside, at, count)
    high = [1 if i == axis else 0 for i in range(x.ndim)]
    zero = False if x.dtype.kind == "bool" else 0.0 if x.dtype.is_float else 0
    longer = build("pad", x, low=[0] * x.ndim, high=high, value=zero)
    out = build(node.op, longer, at, *operands[2:], **node.attrs)
    if node.op in _GATHERS:
        return out
    return build("slice", out, start=[0] * x.ndim, stop=list(x.shape), step=[1] * x.ndim)


def _size(d: Dim, like: Value) -> Value:
    """A size as a scalar of an index's dtype."""
    return build("full", shape=[], value=d, dtype=like.dtype)


_MAKERS: dict[str, Maker] = {
    "reshape": _shaped, "broadcast_to": _shaped, "slice": _slice, "max": _extremum, "min": _extremum,
    attention.FORWARD: attention.local, attention.GRADIENT: attention.local,
    "take": _indexed, "take_along_axis": _indexed, "index_add": _indexed, "scatter_add": _indexed,
}
