"""Collectives: operators that exchange data between the devices of a mesh, and the constraint of a sharding.

Partitioning puts collectives into one device's program, and users write them into the bodies of ``dist.shard_map``; all
devices of the group run the same one at the same point.
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

from tessera.errors import ArgumentError, GradientError, ShapeError, UnsupportedError
from tessera.ir.dims import Dim, add, ceildiv, dmax, dmin, mul, product
from tessera.ir.sharding import COMBINES, MeshShape, Sharding, effective, split_over
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import EVERY, NUMBERS, as_shape, one_axis, require_count, require_dtype, shape_text
from tessera.op.lowering import Collective, Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, Vjp, build, register

PERMUTE = "collective_permute"
NAMES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", PERMUTE)
"""The collective operators."""


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


def _permute_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_group(PERMUTE, types, attrs)
    count, pairs = group_size(attrs), attrs["pairs"]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(m, int) and 0 <= m < count for m in pair):
            raise ArgumentError(f"[{PERMUTE}] {pair!r} is no pair (source, target) of the members 0 to {count - 1}")
    for side, members in zip(("source", "target"), zip(*pairs)):
        if len(set(members)) < len(members):
            raise ArgumentError(f"[{PERMUTE}] a member is the {side} of several pairs of {list(pairs)!r}")
    return TensorType(types[0].dtype, types[0].shape)


def _permute_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    g = cotangents[0]
    back = [[target, source] for source, target in node.attrs["pairs"]]
    return [None if g is None else build(PERMUTE, g, **{**node.attrs, "pairs": back})]


def _permuted_alone(x: np.ndarray, **attrs: Any) -> np.ndarray:
    return _alone(x, **attrs) if attrs["pairs"] else np.zeros_like(_alone(x, **attrs))


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


# Gradients are over all devices together: what a device gets is the sum of the gradients of what its operand went into.
_GROUP = ("axes", "sizes", "member", "cause", "fix")


def _transposed(name: str, **renamed: str) -> Vjp:
    """The gradient by another exchange, which gives the shape of the operand; ``renamed``: its dimensions by ours."""

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
        g, combine = cotangents[0], node.attrs.get("combine", "sum")
        if combine != "sum":
            raise GradientError(
                f"[{node.op}] with combine={combine!r} has no gradient; gather the parts with all_gather and reduce "
                "them, or keep it from the gradient with op.stop_gradient"
            )
        if g is None:
            return [None]
        attrs = {k: node.attrs[k] for k in _GROUP} | {new: node.attrs[old] for new, old in renamed.items()}
        if name in ("all_reduce", "reduce_scatter"):
            attrs["combine"] = "sum"
        if name != "all_reduce":
            attrs["shape"] = list(node.operands[0].shape)
        return [build(name, g, **attrs)]

    return vjp


def _register(
    name: str, infer: Callable[..., TensorType], vjp: Vjp, dtypes: tuple[str, ...], doc: str,
    reference: Callable[..., np.ndarray] = _alone, **attrs: Any
) -> None:
    register(OpDef(
        name, infer, vjp, _no_factor, Collective("it is an exchange between devices"), reference,
        _samples(**attrs), dtypes, doc,
    ))


def _no_factor(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """Nothing is split further: a program with collectives is already one device's."""
    names = "".join(f"{chr(97 + i)}!" for i in range(types[0].ndim))
    return f"{names}->{names}"


_register(
    "all_reduce", _all_reduce_infer, _transposed("all_reduce"), NUMBERS,
    "Every device gets the combination (attribute ``combine``) of all operands.", combine="sum",
)
_register(
    "all_gather", _along_infer("all_gather", ["dim"]), _transposed("reduce_scatter", dim="dim"), EVERY,
    "Every device gets all operands joined along ``dim``; ``shape``: the result's.", dim=0, shape=(),
)
_register(
    "reduce_scatter", _along_infer("reduce_scatter", ["dim"]), _transposed("all_gather", dim="dim"), NUMBERS,
    "The operands are combined and each device gets its part along ``dim``; ``shape``: the result's.",
    dim=0, combine="sum", shape=(),
)
_register(
    "all_to_all", _along_infer("all_to_all", ["dim", "split_dim"]),
    _transposed("all_to_all", dim="split_dim", split_dim="dim"), EVERY,
    "Each device sends each other one its part of ``split_dim`` and joins what it receives along ``dim``.",
    dim=0, split_dim=1, shape=(),
)


_register(
    PERMUTE, _permute_infer, _permute_vjp, EVERY,
    "Of each pair (source, target) in ``pairs``, numbers of members, the target gets the source's operand; others get "
    "zeros.",
    reference=_permuted_alone, pairs=((0, 0),),
)


def _is_target(attrs: Attrs) -> Dim:
    """1 on devices that get something from another one, 0 on others."""
    targets = sorted(target for source, target in attrs["pairs"] if source != target)
    if len(targets) == group_size(attrs):
        return 1
    found: Dim = 0
    for target in targets:  # 1 from the first of neighbours on, 0 again behind the last
        if target - 1 not in targets:
            found = add(found, _at_least(attrs["member"], target))
        if target + 1 not in targets:
            found = add(found, mul(-1, _at_least(attrs["member"], target + 1)))
    return found


def _at_least(member: Dim, number: int) -> Dim:
    return dmin(dmax(add(member, 1 - number), 0), 1)


def received_elements(node: Node) -> Dim:
    """How many elements the device that runs receives from the others in a collective."""
    x, y, attrs = node.operands[0], node.results[0], node.attrs
    count = group_size(attrs)
    if node.op == "all_gather":
        return add(y.size, mul(-1, x.size))
    if node.op == "reduce_scatter":
        return mul(count - 1, y.size)
    if node.op == PERMUTE:
        return mul(x.size, _is_target(attrs))
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


def _check_laid_out(name: str, types: tuple[TensorType, ...], attrs: Attrs) -> None:
    require_count(name, types, 1)
    if len(attrs["dims"]) != types[0].ndim:
        raise ArgumentError(f"[{name}] {len(attrs['dims'])} dimensions are laid out of {types[0].ndim}")


def _constrain_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_laid_out("constrain", types, attrs)
    return TensorType(types[0].dtype, types[0].shape)


def _constrain_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    """The gradient of a parameter lies as the parameter does: what is gathered forward is scattered backward."""
    g, lies = cotangents[0], node.operands[0].type.sharding
    if g is None or g.dtype != node.results[0].dtype:
        return [None]
    split = lies is not None and any(lies.dims)
    dims = [[] if s is None else list(s.axes) for s in lies.dims] if lies is not None and split else node.attrs["dims"]
    return [build("constrain", g, **{**node.attrs, "dims": dims})]


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


# --- between whole tensors and what one device holds -----------------------------------------------------------------

FULL_TO_SHARD, SHARD_TO_FULL = "full_to_shard", "shard_to_full"
LAID_OUT = frozenset({"constrain", FULL_TO_SHARD, SHARD_TO_FULL})
"""Operators whose attributes say how a tensor lies on a mesh; partitioning reads them whole."""


def stated_sharding(attrs: Attrs, shape: Sequence[Dim]) -> Sharding:
    """The sharding that the attributes ``mesh``, ``dims`` and ``partial`` state for a whole tensor of this shape."""
    mesh = MeshShape(tuple((name, size) for name, size in attrs["mesh"]))
    dims = [split_over(d, axes, mesh) if axes else None for d, axes in zip(shape, attrs["dims"], strict=True)]
    return effective(Sharding(mesh, tuple(dims), tuple((axis, "sum") for axis in attrs.get("partial", ()))))


def manual_axes(attrs: Attrs) -> list[str]:
    """The axes for which the body is written; along others partitioning divides it (attribute ``manual``: not all)."""
    return attrs.get("manual", [name for name, _ in attrs["mesh"]])


def _replicas(attrs: Attrs) -> list[str]:
    """The axes along which the devices hold the same."""
    manual = manual_axes(attrs)
    split = {axis for axes in attrs["dims"] for axis in axes} | set(attrs.get("partial", ()))
    return [name for name, size in attrs["mesh"] if name not in split and size > 1 and name in manual]


def _full_to_shard_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_laid_out(FULL_TO_SHARD, types, attrs)
    return TensorType(types[0].dtype, stated_sharding(attrs, types[0].shape).local_shape(types[0].shape))


def _shard_to_full_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    _check_laid_out(SHARD_TO_FULL, types, attrs)
    shape = as_shape(SHARD_TO_FULL, attrs["shape"])
    expected = stated_sharding(attrs, shape).local_shape(shape)
    if types[0].shape != expected:
        raise ShapeError(
            f"[{SHARD_TO_FULL}] operand 0 has shape {shape_text(types[0].shape)}; of a whole tensor of shape "
            f"{shape_text(shape)} a device holds {shape_text(expected)}"
        )
    return TensorType(types[0].dtype, shape)


def _full_to_shard_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    """Replicas each have a part of the gradient."""
    g = cotangents[0]
    attrs = {**node.attrs, "shape": list(node.operands[0].shape), "partial": _replicas(node.attrs)}
    return [None if g is None else build(SHARD_TO_FULL, g, **attrs)]


def _shard_to_full_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    """Replicas share the gradient evenly; summands have all of it each."""
    g, attrs = cotangents[0], node.attrs
    if g is None:
        return [None]
    part = build(FULL_TO_SHARD, g, **{k: attrs[k] for k in ("mesh", "kind", "dims", "manual") if k in attrs})
    count = math.prod(size for name, size in attrs["mesh"] if name in _replicas(attrs))
    return [part if count == 1 else part / count]


def _alone_on_mesh(x: Value, **attrs: Any) -> Value:
    if any(size != 1 for _, size in attrs["mesh"]):
        raise UnsupportedError("the body of dist.shard_map runs on its mesh only; compile the graph")
    return x


def _register_boundary(name: str, infer: Callable[..., TensorType], vjp: Vjp, doc: str, more: bool) -> None:
    def samples() -> list[Sample]:
        found: list[Sample] = []
        for shape in ((3, 4), (2,), (0, 2)):
            attrs: dict[str, Any] = {"mesh": [["dp", 1]], "kind": "cpu", "dims": [["dp"], *[[]] * (len(shape) - 1)]}
            if more:
                attrs |= {"shape": list(shape), "partial": []}
            found.append(Sample((Input(shape, "any"),), attrs))
        return found

    register(OpDef(name, infer, vjp, _no_factor, Composite(_alone_on_mesh), None, samples, EVERY, doc))


_register_boundary(
    FULL_TO_SHARD, _full_to_shard_infer, _full_to_shard_vjp,
    "What the device that runs holds of a tensor that lies on the mesh as the attributes say.", False,
)
_register_boundary(
    SHARD_TO_FULL, _shard_to_full_infer, _shard_to_full_vjp,
    "The whole tensor (attribute ``shape``) of which each device holds its operand; along the axes in ``partial`` the "
    "operands are summands.", True,
)
