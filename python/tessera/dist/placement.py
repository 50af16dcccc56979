"""Placements: the shards of a parameter on the devices of a mesh."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tessera.dist.mesh import Mesh
from tessera.dist.world import world
from tessera.errors import DeviceError
from tessera.ir.dims import evaluate
from tessera.ir.sharding import Sharding, Split, concrete_range
from tessera.op.parameter import Parameter, aligned_empty, count_move


def shard_ranges(sharding: Sharding, shape: tuple[int, ...], rank: int) -> tuple[tuple[int, int], ...]:
    """[start, stop) per dimension of what device ``rank`` holds of a tensor of this (concrete) shape."""
    place = sharding.mesh.coordinates(rank)
    found: list[tuple[int, int]] = []
    for size, split in zip(shape, sharding.dims, strict=True):
        if split is None:
            found.append((0, size))
            continue
        number = 0
        for axis in split.axes:
            number = number * sharding.mesh.size(axis) + place[f"mesh_{axis}"]
        assert isinstance(split.block, int)
        found.append(concrete_range(size, split.block, number))
    return tuple(found)


def with_sizes(sharding: Sharding, sizes: Mapping[str, int]) -> Sharding:
    """The sharding with the blocks that the sizes of symbolic dimensions give."""
    dims = tuple(None if s is None else Split(s.axes, evaluate(s.block, sizes)) for s in sharding.dims)
    return Sharding(sharding.mesh, dims, sharding.partial)


def slices(ranges: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    """The index of a shard in the whole array."""
    return tuple(slice(a, b) for a, b in ranges)


def _used(block: np.ndarray, ranges: tuple[tuple[int, int], ...]) -> np.ndarray:
    return block[(..., *(slice(0, b - a) for a, b in ranges))]  # a view even of a scalar


def whole(
    mesh: Mesh, sharding: Sharding, shape: tuple[int, ...], dtype: Any, shard: Callable[[int], np.ndarray]
) -> np.ndarray:
    """A tensor from its shards, as a new array. ``shard(rank)`` gives those of this process; on a mesh of processes all of
    them call this, and those that hold what others hold as well send nothing.
    """
    out = np.empty(shape, dtype)
    ranges = [shard_ranges(sharding, shape, rank) for rank in range(mesh.size)]
    owners = {part: rank for rank, part in reversed(list(enumerate(ranges)))}
    if not mesh.spans_processes or len(owners) == 1:
        for rank in mesh.local_ranks:
            out[slices(ranges[rank])] = shard(rank)
        return out
    data = b"".join(
        np.ascontiguousarray(shard(rank)).tobytes() for rank in mesh.local_ranks if owners[ranges[rank]] == rank
    )
    for rank, part in enumerate(world().all_gather(data, mesh.devices)):
        if owners[ranges[rank]] == rank:
            index = slices(ranges[rank])
            out[index] = np.frombuffer(part, out.dtype).reshape(out[index].shape)
    return out


class Placement:
    """Where a parameter lies: its mesh, its sharding, and one array per device, made when first used.

    Every device's part is initialised from the global indices of its elements; the whole is never in memory unless it
    is asked for.
    """

    def __init__(self, mesh: Mesh, sharding: Sharding) -> None:
        self.mesh, self.sharding = mesh, sharding
        self._shards: list[np.ndarray | None] = [None] * mesh.size
        self._arrays: dict[int, Any] = {}
        self._on_devices: dict[int, Any] = {}
        self._lock = threading.RLock()

    def again(self) -> Placement:
        """The same place, for another tensor of the same shape."""
        return Placement(self.mesh, self.sharding)

    @property
    def is_used(self) -> bool:
        """Whether a shard exists already."""
        return any(s is not None for s in self._shards)

    def move_to(self, rank: int, array: Any) -> None:
        """From now on the shard of a device lives in ``array``, which lies on a GPU and holds it."""
        self._on_devices[rank] = array
        count_move()

    def on_device(self, rank: int) -> Any:
        """The array on a GPU where the shard of a device lives; None: in host memory."""
        return self._on_devices.get(rank)

    def _bring_back(self, rank: int, *, copy: bool) -> None:
        """A shard that lives on a GPU comes back for good; it goes there again with the next run."""
        array = self._on_devices.pop(rank, None)
        if array is not None:
            if copy:
                found = self._shards[rank]
                assert found is not None
                found[...] = array.numpy()
            count_move()

    def storage(self, parameter: Parameter, rank: int) -> np.ndarray:
        """The live memory of device ``rank``, as long as a full block; initialised at the first call.

        A shard that lives on a GPU comes back to the host for good.
        """
        self._bring_back(rank, copy=True)
        if rank not in self.mesh.local_ranks:
            raise DeviceError(f"parameter {parameter.name!r}: the shard of device {rank} lies in another process")
        found = self._shards[rank]
        if found is None:
            with self._lock:
                found = self._shards[rank]
                if found is None:
                    found = self._blank(parameter)
                    ranges = shard_ranges(self.sharding, parameter.shape, rank)
                    self._initialize(parameter, _used(found, ranges), ranges)
                    self._shards[rank] = found
        return found

    def _blank(self, parameter: Parameter) -> np.ndarray:
        shape = tuple(int(d) for d in self.sharding.padded_shape(parameter.shape))  # type: ignore[arg-type]
        found = aligned_empty(shape, parameter.dtype)
        found[...] = np.zeros((), parameter.dtype.numpy)
        return found

    def shard(self, parameter: Parameter, rank: int) -> np.ndarray:
        """The part of the parameter that device ``rank`` holds, as a view of its live memory."""
        return _used(self.storage(parameter, rank), shard_ranges(self.sharding, parameter.shape, rank))

    def overwritten(self, parameter: Parameter, rank: int) -> np.ndarray:
        """The part that device ``rank`` holds, for a caller who writes all of it: no initial value is drawn for it."""
        self._bring_back(rank, copy=False)
        if self._shards[rank] is None:
            self._shards[rank] = self._blank(parameter)
        return self.shard(parameter, rank)

    def array(self, parameter: Parameter, rank: int, make: Any) -> Any:
        """The runtime's array over a shard, made by ``make`` once."""
        if rank not in self._arrays:
            self._arrays[rank] = make(self.storage(parameter, rank))
        return self._arrays[rank]

    @staticmethod
    def _initialize(parameter: Parameter, out: np.ndarray, ranges: tuple[tuple[int, int], ...]) -> None:
        initial = parameter.initializer
        if isinstance(initial, np.ndarray):
            out[...] = initial[slices(ranges)]
        elif not out.flags.c_contiguous:
            part = np.empty(out.shape, out.dtype)
            initial.fill_part(part, parameter.shape, [a for a, _ in ranges], parameter.initial_seed, parameter.name)
            out[...] = part
        else:
            initial.fill_part(out, parameter.shape, [a for a, _ in ranges], parameter.initial_seed, parameter.name)

    def gather(self, parameter: Parameter) -> np.ndarray:
        """The whole value, as a new array; on a mesh of processes all of them call this."""

        def part(rank: int) -> np.ndarray:
            there = self._on_devices.get(rank)
            if there is None:
                return self.shard(parameter, rank)
            return _used(there.numpy(), shard_ranges(self.sharding, parameter.shape, rank))

        return whole(self.mesh, self.sharding, parameter.shape, parameter.dtype.numpy, part)

    def scatter(self, parameter: Parameter, value: np.ndarray) -> None:
        """Write a whole value into all shards of this process."""
        for rank in self.mesh.local_ranks:
            ranges = shard_ranges(self.sharding, parameter.shape, rank)
            self.overwritten(parameter, rank)[...] = value[slices(ranges)]

    def reset(self, parameter: Parameter) -> None:
        """Back to the initial value."""
        for rank in self.mesh.local_ranks:
            self._initialize(
                parameter, self.shard(parameter, rank), shard_ranges(self.sharding, parameter.shape, rank)
            )
