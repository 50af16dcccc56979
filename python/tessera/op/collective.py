"""Collectives: operators that exchange data between the devices of a mesh, and the constraint of a sharding.

Partitioning puts collectives into one device's program; all devices of the group run the same one at the same point.
Every collective has the attributes ``axes`` (the mesh axes it runs over), ``sizes`` (their sizes), ``member`` (the
device's row-major number among them, an expression over its coordinates), ``cause`` (the operator that needs it) and
``fix`` (what would make it unnecessary). Members are in row-major order; data is joined and combined in that order, so
that every device gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, ShapeError, UnsupportedError
from tessera.ir.dims import Dim, add, ceildiv, dmin, mul, product
from tessera.ir.sharding import COMBINES
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import EVERY, NUMBERS, as_shape, one_axis, require_count, require_dtype, shape_text
from tessera.op.lowering import Collective, Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, no_vjp, register

NAMES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
"""The collective operators."""

_NO_GRADIENT = no_vjp("partitioning puts collectives in after gradients are formed")


def group_size(attrs: Attrs) -> int:
    """The number of devices that take part."""
    return math.prod(attrs["sizes"])


def _check_group(name: str, types: tuple[TensorType, ...], attrs: Attrs) -> None:
    require_count(name, types, 1)
    if len(attrs["axes"]) != len(attrs["sizes"]):
        raise ArgumentError(f"[{name}] {len(attrs['axes'])} axes but {len(attrs['sizes'])} sizes")
    if attrs.get("combine", "sum") not in COMBINES:
        raise ArgumentError(f"[{name}] combine is {attrs['combine']!r}; use {', '.join(COMBINES)}")


def _check_combined(name: str, t: TensorType, attrs: Attrs) -> None:
    extremum = attrs["combine"] in ("max", "min")
    require_dtype(name, (t,), (*NUMBERS, "bool") if extremum else NUMBERS, "such values are not combined")


def _check_others(name: str, t: TensorType, shape: Sequence[Dim], changed: Sequence[int]) -> None:
    if len(shape) != t.ndim or any(a != b for i, (a, b) in enumerate(zip(t.shape, shape)) if i not in changed):
        raise ShapeError(
            f"[{name}] operand 0 has shape {shape_text(t.shape)} and the result {shape_text(shape)}; they may differ "
            f"in dimension {' and '.join(map(str, changed))} alone"
        )


def _all_reduce_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_group("all_reduce", types, attrs)
    _check_combined("all_reduce", types[0], attrs)
    return TensorType(types[0].dtype, types[0].shape)


def _along_infer(name: str, dims: Sequence[str]) -> Callable[..., TensorType]:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        _check_group(name, types, attrs)
        if "combine" in attrs:
            _check_combined(name, types[0], attrs)
        shape = as_shape(name, attrs["shape"])
        _check_others(name, types[0], shape, [one_axis(name, attrs[d], types[0].ndim, d) for d in dims])
        return TensorType(types[0].dtype, shape)

    return infer


def _alone(x: np.ndarray, **attrs: Any) -> np.ndarray:
    """What a collective gives in a group of one."""
    if group_size(attrs) != 1:
        raise UnsupportedError("the reference of a collective is for a group of one device")
    return x


def _samples(**more: Any) -> Callable[[], list[Sample]]:
    def samples() -> list[Sample]:
        group: dict[str, Any] = {"axes": ["dp"], "sizes": [1], "member": 0, "cause": "", "fix": ""}
        found: list[Sample] = []
        for shape in ((3, 4), (1, 5), (0, 2)):
            attrs = {**group, **more}
            if "shape" in more:
                attrs["shape"] = list(shape)
            found.append(Sample((Input(shape, "any"),), attrs, grad=False))
        return found

    return samples


def _register(name: str, infer: Callable[..., TensorType], dtypes: tuple[str, ...], doc: str, **attrs: Any) -> None:
    register(OpDef(
        name, infer, _NO_GRADIENT, _no_factor, Collective("it is an exchange between devices"), _alone,
        _samples(**attrs), dtypes, doc,
    ))


def _no_factor(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """Nothing is split further: a program with collectives is already one device's."""
    names = "".join(f"{chr(97 + i)}!" for i in range(types[0].ndim))
    return f"{names}->{names}"


_register(
    "all_reduce", _all_reduce_infer, NUMBERS,
    "Every device gets the combination (attribute ``combine``) of all operands.", combine="sum",
)
_register(
    "all_gather", _along_infer("all_gather", ["dim"]), EVERY,
    "Every device gets all operands joined along ``dim``; ``shape``: the result's.", dim=0, shape=(),
)
_register(
    "reduce_scatter", _along_infer("reduce_scatter", ["dim"]), NUMBERS,
    "The operands are combined and each device gets its part along ``dim``; ``shape``: the result's.",
    dim=0, combine="sum", shape=(),
)
_register(
    "all_to_all", _along_infer("all_to_all", ["dim", "split_dim"]), EVERY,
    "Each device sends each other one its part of ``split_dim`` and joins what it receives along ``dim``.",
    dim=0, split_dim=1, shape=(),
)


def received_elements(node: Node) -> Dim:
    """How many elements the device that runs receives from the others in a collective."""
    x, y, attrs = node.operands[0], node.results[0], node.attrs
    count = group_size(attrs)
    if node.op == "all_gather":
        return add(y.size, mul(-1, x.size))
    if node.op == "reduce_scatter":
        return mul(count - 1, y.size)
    if node.op == "all_to_all":
        own = [x.shape[i] if i == attrs["dim"] else d for i, d in enumerate(y.shape)]
        return add(y.size, mul(-1, product(own)))
    # Each device combines one chunk of all operands, then gets the other chunks.
    chunk = ceildiv(x.size, count)
    start = dmin(mul(attrs["member"], chunk), x.size)
    own_chunk = add(dmin(add(mul(attrs["member"], chunk), chunk), x.size), mul(-1, start))
    if isinstance(x.size, int) and x.size % count == 0:
        own_chunk = chunk
    return add(mul(count - 2, own_chunk), x.size)


def received_bytes(node: Node) -> Dim:
    """``received_elements`` in bytes; parts of bf16 and f16 sums travel as they are stored."""
    return mul(node.operands[0].dtype.itemsize, received_elements(node))


# --- constrain ------------------------------------------------------------------------------------------------------


def _constrain_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("constrain", types, 1)
    if len(attrs["dims"]) != types[0].ndim:
        raise ArgumentError(f"[constrain] {len(attrs['dims'])} dimensions are laid out of {types[0].ndim}")
    return TensorType(types[0].dtype, types[0].shape)


def _constrain_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    g = cotangents[0]
    return [None if g is None or g.dtype != node.results[0].dtype else build("constrain", g, **node.attrs)]


def _itself(x: Value, **attrs: Any) -> Value:
    return x


register(OpDef(
    "constrain", _constrain_infer, _constrain_vjp, "*->*", Composite(_itself), None,
    lambda: [
        Sample((Input(shape, "any"),), {"mesh": [["dp", 1]], "kind": "cpu", "dims": [["dp"], *[[]] * (len(shape) - 1)]})
        for shape in ((3, 4), (2,), (0, 2))
    ],
    EVERY, "The operand, laid out on the mesh as the attributes say: the mesh axes of each dimension.",
))
