"""Meshes: devices in a grid with named axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tessera import config
from tessera.dist.world import world
from tessera.errors import ArgumentError, DeviceError
from tessera.ir.sharding import MeshShape

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEVICE = re.compile(r"([a-z]+):([0-9]+)")
KINDS = ("cpu", "cuda", "hip")
"""Kinds of devices that a mesh may name."""


class Mesh:
    """Devices arranged along named axes: ``Mesh(axes=["dp", "tp"], devices=range(8))``.

    ``axes``: names. ``devices``: how many, numbers, or names such as ``"cpu:3"``; numbers are devices of ``kind``
    (``"cpu"``, ``"cuda"``, ``"hip"``). CPU devices are virtual (threads of this process, each with memory of its own),
    GPUs are those of this process, unless ``dist.init`` has connected several processes: then each number is the rank of
    a process, whose GPU is the one of its local rank. ``shape``: devices per axis; sizes left
    out (None for all, or None or -1 for some) are inferred, as nearly equal as possible and later axes larger.

    Raises ArgumentError for axes or a shape that make no sense, for repeated or mixed devices, and DeviceError when
    there are fewer devices than the shape needs.
    """

    def __init__(
        self, axes: Sequence[str], devices: Any = None, shape: Sequence[int | None] | None = None, kind: str = "cpu"
    ) -> None:
        names = _axis_names(axes)
        if devices is None:
            sizes = list(shape or ())
            if len(sizes) != len(names) or not all(isinstance(s, int) and s > 0 for s in sizes):
                raise ArgumentError("Mesh: without devices, shape must give the size of every axis")
            devices = range(math.prod(int(s) for s in sizes if s is not None))
        self.kind, self.devices = _devices(devices, kind)
        sizes = _sizes(names, len(self.devices), shape)
        self.shape: tuple[int, ...] = tuple(sizes)
        self.axes: tuple[str, ...] = names

    @property
    def layout(self) -> MeshShape:
        """The axes with their sizes, as types hold them."""
        return MeshShape(tuple(zip(self.axes, self.shape, strict=True)))

    @property
    def size(self) -> int:
        """The number of devices."""
        return len(self.devices)

    @property
    def local_ranks(self) -> tuple[int, ...]:
        """The positions of the devices that this process holds; all of them unless ``dist.init`` has found processes."""
        here = world()
        if here.size == 1:
            return tuple(range(self.size))
        return tuple(rank for rank, device in enumerate(self.devices) if device == here.rank)

    @property
    def spans_processes(self) -> bool:
        """Whether each device is a process of its own."""
        return world().size > 1

    def gpu_index(self, rank: int) -> int:
        """The number, on its host, of the GPU that is the device at position ``rank``, which is of this process."""
        if not self.spans_processes:
            return self.devices[rank]
        local = config.local_rank()
        return self.devices[rank] if local is None else local

    def submesh(self, **coordinates: int) -> Mesh:
        """The devices at given coordinates, as a mesh of the other axes: ``mesh.submesh(dp=0)``.

        Raises NameMissingError for an unknown axis and ArgumentError for a coordinate out of range, or when no axis is
        left.
        """
        for axis, value in coordinates.items():
            size = self.layout.size(axis)
            if not 0 <= value < size:
                raise ArgumentError(f"submesh: {axis} = {value} is not a coordinate; the axis {axis!r} has size {size}")
        rest = [a for a in self.axes if a not in coordinates]
        if not rest:
            raise ArgumentError("submesh: every axis is given; leave at least one")
        found: list[int] = []
        for rank in range(self.size):
            place = self.coordinates(rank)
            if all(place[a] == c for a, c in coordinates.items()):
                found.append(self.devices[rank])
        shape = [self.shape[self.axes.index(a)] for a in rest]
        return Mesh(rest, found, shape, self.kind)

    def coordinates(self, rank: int) -> Mapping[str, int]:
        """The coordinate on each axis of the device at position ``rank`` (row-major)."""
        found: dict[str, int] = {}
        for name, size in reversed(list(zip(self.axes, self.shape, strict=True))):
            found[name] = rank % size
            rank //= size
        return {name: found[name] for name in self.axes}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.kind, self.axes, self.shape, self.devices

    def __repr__(self) -> str:
        sizes = ", ".join(f"{a}={s}" for a, s in zip(self.axes, self.shape, strict=True))
        return f"Mesh({sizes}; {self.size} {self.kind} device{'s' if self.size != 1 else ''})"


def _axis_names(axes: Any) -> tuple[str, ...]:
    if isinstance(axes, str) or not isinstance(axes, Iterable):
        raise ArgumentError(f'Mesh: axes must be a list of names, such as ["dp", "tp"], not {axes!r}')
    names = tuple(axes)
    for name in names:
        if not isinstance(name, str) or not _AXIS.fullmatch(name):
            raise ArgumentError(f"Mesh: {name!r} is not a name for an axis; use letters, digits and _")
        if names.count(name) > 1:
            raise ArgumentError(f"Mesh: the axis {name!r} is given twice; each axis needs a name of its own")
    if not names:
        raise ArgumentError("Mesh: a mesh needs at least one axis")
    return names


def _devices(devices: Any, kind: str) -> tuple[str, tuple[int, ...]]:
    """The kind and the numbers of the devices."""
    if kind not in KINDS:
        raise ArgumentError(f"Mesh: kind is {kind!r}; use {', '.join(KINDS)}")
    if isinstance(devices, int) and not isinstance(devices, bool):
        devices = range(devices)
    if isinstance(devices, str) or not isinstance(devices, Iterable):
        raise ArgumentError(f"Mesh: devices must be a number or a list of devices, not {devices!r}")
    numbers: list[int] = []
    kinds: dict[str, None] = {}
    for device in devices:
        match = _DEVICE.fullmatch(device) if isinstance(device, str) else None
        if match is not None and match.group(1) in KINDS:
            kinds[match.group(1)] = None
            numbers.append(int(match.group(2)))
        elif isinstance(device, bool) or not hasattr(device, "__index__") or int(device) < 0:
            raise ArgumentError(f'Mesh: {device!r} is not a device; use a number or a name such as "cpu:0"')
        else:
            kinds[kind] = None
            numbers.append(int(device))
    if len(kinds) > 1:
        raise ArgumentError(f"Mesh: the devices are of several kinds ({', '.join(kinds)}); a mesh has devices of one kind")
    if len(set(numbers)) != len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise ArgumentError(f"Mesh: device {twice} is given twice")
    if not numbers:
        raise DeviceError("Mesh: there is no device")
    return next(iter(kinds), kind), tuple(numbers)


def _sizes(names: Sequence[str], count: int, shape: Sequence[int | None] | None) -> list[int]:
    """The size of each axis, those that are not given inferred."""
    given = [None] * len(names) if shape is None else [None if s == -1 else s for s in shape]
    if len(given) != len(names):
        raise ArgumentError(f"Mesh: shape {tuple(given)} has {len(given)} sizes for {len(names)} axes")
    for name, size in zip(names, given, strict=True):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ArgumentError(f"Mesh: the axis {name!r} has size {size!r}; a size is an integer of at least 1")
    known = math.prod(s for s in given if s is not None)
    free = [i for i, s in enumerate(given) if s is None]
    if known > count:
        raise DeviceError(f"Mesh: the shape {tuple(given)} needs at least {known} devices, but {count} are given")
    if count % known or (not free and known != count):
        raise ArgumentError(
            f"Mesh: {count} devices do not fill a mesh of shape {tuple(given)}; give {known} devices or another shape"
        )
    sizes = list(given)
    for i, size in zip(free, _most_square(count // known, len(free)), strict=True):
        sizes[i] = size
    return [int(s) for s in sizes if s is not None]


def _most_square(count: int, axes: int) -> list[int]:
    """``count`` as a product of ``axes`` factors in ascending order, the smallest ratio of largest to smallest first."""
    best: list[int] = [1] * (axes - 1) + [count] if axes else []

    def search(rest: int, left: int, low: int, found: list[int]) -> None:
        nonlocal best
        if left == 1:
            factors = [*found, rest]
            if factors[-1] * best[0] < best[-1] * factors[0]:
                best = factors
            return
        for f in range(low, int(rest ** (1 / left)) + 2):
            if rest % f == 0 and f ** left <= rest:
                search(rest // f, left - 1, f, [*found, f])

    if axes > 1:
        search(count, axes, 1, [])
    return best


def one_mesh(meshes: Iterable[Mesh]) -> Mesh | None:
    """The mesh that all are; ArgumentError when they differ, None when there is none."""
    found = list(dict.fromkeys(meshes))
    if len(found) > 1:
        raise ArgumentError(
            f"tensors of one graph lie on different meshes, {found[0]!r} and {found[1]!r}; use one mesh for all"
        )
    return found[0] if found else None



