"""Shardings: how a tensor's dimensions are split over the axes of a mesh, as part of its type.

A dimension of size n that is split in blocks of b over axes with k devices in all: device i (row-major over the axes)
holds [min(i*b, n), min((i + 1)*b, n)). So the last devices may hold less, or nothing, and every size is an expression
over the coordinates of the device, the symbols ``mesh_<axis>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tessera.errors import ArgumentError, NameMissingError
from tessera.ir.dims import Dim, Expr, Symbol, add, ceildiv, dmin, floordiv, mul, sym

COORDINATE = "mesh_"
"""What the symbol of a device's coordinate on an axis begins with."""
COMBINES = ("sum", "prod", "max", "min")
"""How the parts of a partial value are put together."""


@dataclass(frozen=True, slots=True)
class MeshShape:
    """The axes of a mesh by name and size, the first one varying slowest over the devices."""

    axes: tuple[tuple[str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the axes."""
        return tuple(name for name, _ in self.axes)

    def size(self, axis: str) -> int:
        """Devices along an axis; NameMissingError when there is no such axis."""
        for name, size in self.axes:
            if name == axis:
                return size
        raise NameMissingError(f"the mesh has no axis {axis!r}; its axes are {', '.join(self.names) or 'none'}")

    def count(self, axes: Sequence[str]) -> int:
        """Devices along several axes together."""
        return math.prod(self.size(a) for a in axes)

    def coordinate(self, axis: str) -> Dim:
        """The coordinate of the device that runs, as a symbol; 0 on an axis of one device."""
        size = self.size(axis)
        return 0 if size == 1 else sym(Symbol(COORDINATE + axis, 0, size - 1))

    def index(self, axes: Sequence[str]) -> Dim:
        """The row-major number of the device that runs among those along ``axes``."""
        out: Dim = 0
        for axis in axes:
            out = add(mul(out, self.size(axis)), self.coordinate(axis))
        return out

    def coordinates(self, rank: int) -> dict[str, int]:
        """The coordinates of device number ``rank``, by the names of their symbols."""
        found: dict[str, int] = {}
        for name, size in reversed(self.axes):
            found[COORDINATE + name] = rank % size
            rank //= size
        return found

    def __str__(self) -> str:
        return ", ".join(f"{name} = {size}" for name, size in self.axes)


@dataclass(frozen=True, slots=True)
class Split:
    """One dimension split over ``axes`` (the first one varying slowest) in blocks of ``block`` elements."""

    axes: tuple[str, ...]
    block: Dim


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a tensor lies on a mesh: per dimension its split or None for whole; and over which axes it is partial.

    ``partial`` are (axis, combine) pairs: each device along the axis holds a part, and the tensor is what ``combine``
    (sum, prod, max, min) of them gives. On all other axes the devices hold replicas.
    """

    mesh: MeshShape
    dims: tuple[Split | None, ...]
    partial: tuple[tuple[str, str], ...] = ()

    @property
    def used(self) -> frozenset[str]:
        """The axes over which a dimension is split."""
        return frozenset(a for split in self.dims if split is not None for a in split.axes)

    @property
    def partial_axes(self) -> frozenset[str]:
        """The axes over which the value is partial."""
        return frozenset(a for a, _ in self.partial)

    @property
    def is_replicated(self) -> bool:
        """Whether every device holds the whole tensor."""
        return not self.partial and not any(self.dims)

    def complete(self) -> Sharding:
        """The same dimensions, nothing partial."""
        return replace(self, partial=()) if self.partial else self

    def local_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """The sizes that the device that runs holds."""
        return tuple(d if s is None else local_size(d, s, self.mesh) for d, s in zip(shape, self.dims, strict=True))

    def padded_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """The sizes of a full block: what every device can hold its part in."""
        return tuple(d if s is None else s.block for d, s in zip(shape, self.dims, strict=True))

    def text(self, shape: Sequence[Dim]) -> str:
        """``split [dp, -] partial [tp sum]``: axes of one dimension joined by ``*``, then the block if not as usual."""
        parts = [_split_text(d, s, self.mesh) for d, s in zip(shape, self.dims, strict=True)]
        partial = f" partial [{', '.join(f'{a} {c}' for a, c in self.partial)}]" if self.partial else ""
        return f"split [{', '.join(parts)}]{partial}"


def _split_text(size: Dim, split: Split | None, mesh: MeshShape) -> str:
    if split is None:
        return "-"
    axes = "*".join(split.axes)
    return axes if split.block == usual_block(size, mesh.count(split.axes)) else f"{axes}/{split.block}"


def whole(mesh: MeshShape, rank: int) -> Sharding:
    """Every device holds the whole tensor."""
    return Sharding(mesh, (None,) * rank)


def usual_block(size: Dim, count: int) -> Dim:
    """The block in which a dimension is split over ``count`` devices unless said otherwise: ceil(size / count)."""
    return ceildiv(size, count)


def split_over(size: Dim, axes: Sequence[str], mesh: MeshShape) -> Split:
    """The usual split of a dimension over axes."""
    return Split(tuple(axes), usual_block(size, mesh.count(axes)))


@lru_cache(maxsize=4096)
def is_even(size: Dim, split: Split, mesh: MeshShape) -> bool:
    """Whether every device holds a full block; for a symbolic size always no, as bounds then need the minimum."""
    return isinstance(size, int) and mul(split.block, mesh.count(split.axes)) == size


@lru_cache(maxsize=4096)
def local_size(size: Dim, split: Split, mesh: MeshShape) -> Dim:
    """How many elements of a dimension the device that runs holds."""
    if is_even(size, split, mesh):
        return split.block
    return add(_bound(size, split.block, mesh.index(split.axes), 1), mul(-1, local_start(size, split, mesh)))


@lru_cache(maxsize=4096)
def local_start(size: Dim, split: Split, mesh: MeshShape) -> Dim:
    """The global index of the first element that the device that runs holds."""
    if is_even(size, split, mesh):
        return mul(mesh.index(split.axes), split.block)
    return _bound(size, split.block, mesh.index(split.axes), 0)


@lru_cache(maxsize=4096)
def _bound(size: Dim, block: Dim, index: Dim, more: int) -> Dim:
    """min((index + more) * block, size), with what divides both in front, so that equal sizes have equal forms."""
    unit = math.gcd(_content(size), _content(block)) or 1
    size, block = floordiv(size, unit), floordiv(block, unit)
    return mul(unit, dmin(add(mul(index, block), mul(more, block)), size))


def _content(d: Dim) -> int:
    """The greatest integer that divides every coefficient."""
    if isinstance(d, Expr):
        return math.gcd(*(c for _, c in d.terms))
    return abs(d)


def concrete_range(size: int, block: int, number: int) -> tuple[int, int]:
    """[start, stop) of device ``number`` along a dimension."""
    return min(number * block, size), min((number + 1) * block, size)


def effective(sharding: Sharding) -> Sharding:
    """The same without axes of one device, which split nothing."""
    mesh = sharding.mesh
    dims: list[Split | None] = []
    for split in sharding.dims:
        axes = () if split is None else tuple(a for a in split.axes if mesh.size(a) > 1)
        dims.append(Split(axes, split.block) if split is not None and axes else None)
    return Sharding(mesh, tuple(dims), tuple(p for p in sharding.partial if mesh.size(p[0]) > 1))


def check_sharding(sharding: Sharding, rank: int) -> None:
    """Raise ArgumentError or NameMissingError for an axis that is unknown or used twice, or for a wrong rank."""
    if len(sharding.dims) != rank:
        raise ArgumentError(f"the sharding has {len(sharding.dims)} dimensions, the tensor {rank}")
    seen: set[str] = set()
    used = [a for s in sharding.dims if s is not None for a in s.axes]
    for axis in [*used, *(a for a, _ in sharding.partial)]:
        sharding.mesh.size(axis)
        if axis in seen:
            raise ArgumentError(f"the mesh axis {axis!r} is used twice in one sharding")
        seen.add(axis)
    for _, combine in sharding.partial:
        if combine not in COMBINES:
            raise ArgumentError(f"a partial value is combined by {', '.join(COMBINES)}, not {combine!r}")
