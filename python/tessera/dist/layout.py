"""ShardSpec: what users say about how a tensor lies on a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.errors import ArgumentError, NameMissingError
from tessera.ir.dims import Dim
from tessera.ir.sharding import Sharding, split_over
from tessera.dist.mesh import Mesh

Entry = str | int | None


class ShardSpec:
    """Which dimensions of a tensor are split, and over which mesh axes.

    ``ShardSpec(partition=("row", "col"), mesh_axes=("dp", "tp"))``: each entry of ``partition`` names a dimension that
    the axis at the same place of ``mesh_axes`` splits: ``"row"`` (the second-last dimension), ``"col"`` (the last) or an
    index; None, with None as its axis, says nothing. An entry of ``mesh_axes`` may be a tuple: the dimension is split
    over all of these axes, the first one outermost; so it is when a dimension is named twice. Dimensions that are not
    named are whole, and over axes that are not named the tensor is replicated. Sizes need not be divisible.
    """

    def __init__(self, partition: Sequence[Entry] = (), mesh_axes: Sequence[Any] = ()) -> None:
        self.partition: tuple[Entry, ...] = _tuple("partition", partition)
        self.mesh_axes: tuple[Any, ...] = _tuple("mesh_axes", mesh_axes)
        if len(self.partition) != len(self.mesh_axes):
            raise ArgumentError(
                f"ShardSpec: partition {self.partition} has {len(self.partition)} entries and mesh_axes "
                f"{self.mesh_axes} {len(self.mesh_axes)}; give one axis (or a tuple of axes) for each"
            )
        seen: set[str] = set()
        for entry, axes in zip(self.partition, self.mesh_axes, strict=True):
            if (entry is None) != (axes is None):
                raise ArgumentError(f"ShardSpec: the dimension {entry!r} goes with the axis {axes!r}; give both or neither")
            if entry is not None and entry not in ("row", "col") and (isinstance(entry, (bool, str, float))):
                raise ArgumentError(f'ShardSpec: {entry!r} is not a dimension; use "row", "col", an index or None')
            for axis in _names(axes):
                if axis in seen:
                    raise ArgumentError(f"ShardSpec: the mesh axis {axis!r} is used twice; an axis splits one dimension")
                seen.add(axis)

    def sharding(self, shape: Sequence[Dim], mesh: Mesh) -> Sharding:
        """The sharding of a tensor of this shape.

        Raises NameMissingError for an axis that the mesh does not have and ArgumentError for a dimension that the
        tensor does not have.
        """
        axes: list[list[str]] = [[] for _ in shape]
        for entry, names in zip(self.partition, self.mesh_axes, strict=True):
            if entry is not None:
                axes[_position(entry, len(shape))] += _names(names)
        for name in (n for found in axes for n in found):
            if name not in mesh.axes:
                raise NameMissingError(
                    f"ShardSpec: {mesh!r} has no axis {name!r}; its axes are {', '.join(mesh.axes)}"
                )
        layout = mesh.layout
        dims = [split_over(d, found, layout) if found else None for d, found in zip(shape, axes, strict=True)]
        return Sharding(layout, tuple(dims))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardSpec) and (self.partition, self.mesh_axes) == (other.partition, other.mesh_axes)

    def __hash__(self) -> int:
        return hash((self.partition, self.mesh_axes))

    def __repr__(self) -> str:
        return f"ShardSpec(partition={self.partition!r}, mesh_axes={self.mesh_axes!r})"


def _tuple(what: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, (str, int)) or given is None:
        raise ArgumentError(f"ShardSpec: {what} must be a tuple, got {given!r}")
    return tuple(given)


def _names(axes: Any) -> tuple[str, ...]:
    if axes is None:
        return ()
    names: tuple[Any, ...] = (None,)
    if isinstance(axes, (str, tuple, list)):
        names = (axes,) if isinstance(axes, str) else tuple(axes)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentError(f"ShardSpec: {axes!r} is not a mesh axis, nor a tuple of mesh axes")
    return names


def _position(entry: str | int, rank: int) -> int:
    if isinstance(entry, str):
        place = rank - 1 if entry == "col" else rank - 2
        if place < 0:
            raise ArgumentError(
                f'ShardSpec: a tensor with {rank} dimension{"s" if rank != 1 else ""} has no {entry!r}; give an index'
            )
        return place
    if not -rank <= entry < rank:
        raise ArgumentError(f"ShardSpec: there is no dimension {entry} in a tensor with {rank} dimensions")
    return entry % rank


def spec_of(sharding: Sharding) -> ShardSpec:
    """The ShardSpec that says what a sharding's dimensions are (not what is partial)."""
    named: list[tuple[Entry, Any]] = []
    rank = len(sharding.dims)
    for i, split in enumerate(sharding.dims):
        if split is not None:
            entry: Entry = {rank - 2: "row", rank - 1: "col"}.get(i, i) if rank == 2 else i
            named.append((entry, split.axes[0] if len(split.axes) == 1 else split.axes))
    return ShardSpec(tuple(e for e, _ in named), tuple(a for _, a in named))


def attributes_of(sharding: Sharding) -> dict[str, Any]:
    """The sharding as attributes of ``constrain``."""
    return {
        "mesh": [[name, size] for name, size in sharding.mesh.axes],
        "dims": [[] if s is None else list(s.axes) for s in sharding.dims],
    }
