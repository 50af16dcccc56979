"""Sharded tensors for users: parameters made shard by shard, and layouts inside graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tessera.dist.layout import ShardSpec, attributes_of
from tessera.dist.mesh import Mesh, one_mesh
from tessera.dist.placement import Placement
from tessera.errors import ArgumentError, UnsupportedError
from tessera.ir.dtype import f32
from tessera.ir.graph import Graph
from tessera.ir.value import PARAM, Value
from tessera.op import as_tensor
from tessera.op.collective import LAID_OUT
from tessera.op.initializer import InitializerLike
from tessera.op.opdef import build
from tessera.op.parameter import Parameter, unique_name


def tensor(
    shape: Sequence[int],
    dtype: Any = f32,
    *,
    layout: ShardSpec,
    mesh: Mesh,
    name: str | None = None,
    init: InitializerLike = 0.0,
    trainable: bool = True,
) -> Value:
    """A parameter that lies in shards on a mesh, as a tensor; no device holds more than its part.

    ``shape``, ``dtype``, ``name``, ``init`` and ``trainable`` as for ``op.parameter``; the initial values are those
    that the same parameter would have on one device. ``layout``: which dimensions are split over which mesh axes. The
    ``Parameter`` itself (``.value``: the whole value) is ``op.parameter_of(tensor)``.

    Raises ArgumentError or NameMissingError for a layout that does not fit shape and mesh.
    """
    made = Parameter(name or unique_name("parameter"), shape, dtype, trainable=trainable, init=init)
    return place(made, layout, mesh)


def place(parameter: Parameter | Value, layout: ShardSpec, mesh: Mesh) -> Value:
    """Let an existing parameter (of a module, say) lie in shards on a mesh; gives its tensor.

    It must not have been used yet: UnsupportedError when it has storage already, ArgumentError for a tensor that is no
    parameter, and what ``tensor`` raises for the layout.
    """
    _check(layout, mesh)
    payload = parameter.node.payload if isinstance(parameter, Value) else parameter
    if not isinstance(payload, Parameter):
        raise ArgumentError(f"dist.place: {parameter!r} is not a parameter; inside a graph use dist.constrain")
    payload.place(Placement(mesh, layout.sharding(payload.shape, mesh)))
    return payload.leaf()


def constrain(x: Any, layout: ShardSpec, mesh: Mesh) -> Value:
    """The same values, laid out as stated at this point of the graph; so is the gradient.

    The gradient of a parameter lies as the parameter itself: where its shards are gathered here, their gradients are
    reduced and scattered (fully sharded training: Rajbhandari et al., 2020).

    For an input it says how the program takes it: each device gets its part of the array that the caller gives.
    """
    _check(layout, mesh)
    value = as_tensor(x)
    return build("constrain", value, **attributes_of(layout.sharding(value.shape, mesh)), kind=mesh.kind)


def reshard(x: Any, layout: ShardSpec, mesh: Mesh) -> Value:
    """The same values in another layout: what ``constrain`` gives."""
    return constrain(x, layout, mesh)


def replicate(x: Any, mesh: Mesh) -> Value:
    """The same values, whole on every device."""
    return constrain(x, ShardSpec(), mesh)


def _check(layout: Any, mesh: Any) -> None:
    if not isinstance(layout, ShardSpec):
        raise ArgumentError(f"dist: the layout must be a dist.ShardSpec, not {type(layout).__name__}")
    if not isinstance(mesh, Mesh):
        raise ArgumentError(f"dist: the mesh must be a dist.Mesh, not {type(mesh).__name__}")


def mesh_of(graph: Graph) -> Mesh | None:
    """The mesh on which a graph runs; None for a graph in which nothing is sharded.

    Raises ArgumentError when its tensors lie on different meshes.
    """
    mesh = one_mesh(_meshes(graph))
    if mesh is None:
        return None
    for node in graph.nodes():
        if node.op in LAID_OUT:
            shape = tuple((name, size) for name, size in node.attrs["mesh"])
            if shape != mesh.layout.axes or node.attrs["kind"] != mesh.kind:
                at = "" if node.loc is None else f"\n  at {node.loc}"
                raise ArgumentError(
                    f"a tensor is laid out on a mesh ({', '.join(f'{n}={s}' for n, s in shape)}), others on {mesh!r}; "
                    f"use one mesh for all{at}"
                )
    return mesh


def _meshes(graph: Graph) -> Iterable[Mesh]:
    placed = [
        n.payload.placement.mesh for n in graph.nodes()
        if n.op == PARAM and isinstance(n.payload, Parameter) and isinstance(n.payload.placement, Placement)
    ]
    if placed:
        return placed
    for node in graph.nodes():
        if node.op in LAID_OUT:
            axes = node.attrs["mesh"]
            return [Mesh([a for a, _ in axes], shape=[s for _, s in axes], kind=node.attrs["kind"])]
        for t in node.types:
            if t.sharding is not None:
                return [Mesh(t.sharding.mesh.names, shape=[s for _, s in t.sharding.mesh.axes])]
    return []
