"""Concrete tensors in shards on a mesh: what programs leave there, and what each process reads for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.dist.layout import ShardSpec
from tessera.dist.mesh import Mesh
from tessera.dist.placement import shard_ranges, slices, whole
from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.interop.array import as_array, to_numpy
from tessera.ir.dtype import DTYPES
from tessera.ir.sharding import Sharding


class ShardedArray:
    """A concrete tensor in shards: ``shards[rank]`` is what device ``rank`` holds; None where that is another process.

    ``np.asarray`` gives the whole (on a mesh of processes all of them ask for it together); as an input of a program on
    the same mesh it is not put together in between where the program wants it in the same layout.
    """

    def __init__(
        self, mesh: Mesh, sharding: Sharding, shape: tuple[int, ...], shards: Sequence[Any],
        settle: Callable[[Callable[[int], Any]], None] | None = None,
    ) -> None:
        self.mesh, self.sharding, self.shape = mesh, sharding, shape
        self.shards = list(shards)
        self._settle = settle  # calls what waits for each device

    @property
    def dtype(self) -> Any:
        """The element type, as NumPy has it."""
        return np.dtype(DTYPES[as_array(self.local).dtype].numpy)

    @property
    def local(self) -> Any:
        """The shard of this process's device, the first of them where there are several."""
        return self.shards[self.mesh.local_ranks[0]]

    def numpy(self) -> np.ndarray:
        """The whole tensor, as a new array. Raises what failed in the run that made it."""
        if self._settle is not None:
            self._settle(lambda rank: self.shards[rank].wait())
        return whole(self.mesh, self.sharding, self.shape, self.dtype, lambda rank: to_numpy(self.shards[rank]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"ShardedArray({list(self.shape)}, {self.sharding.text(self.shape)}, {self.mesh!r})"


def from_shards(
    part: Callable[[tuple[slice, ...]], Any], shape: Sequence[int], *, layout: ShardSpec, mesh: Mesh
) -> ShardedArray:
    """A concrete tensor of ``shape`` of which this process makes its own part only: an input of programs on the mesh.

    ``part(index)`` gives the elements ``whole[index]`` (``index``: a slice per dimension) for each device that is here:
    of a batch, say, the rows that this process reads. Devices that hold the same part must be given the same. Lay the
    input out alike in the program (``dist.constrain``): then nothing is exchanged.

    Raises ShapeError or DTypeError for a part of another shape, or of different dtypes, and what ``dist.tensor`` raises
    for the layout.
    """
    if not isinstance(layout, ShardSpec) or not isinstance(mesh, Mesh):
        raise ArgumentError("dist.from_shards: give the layout as a dist.ShardSpec and the mesh as a dist.Mesh")
    size = tuple(int(d) for d in shape)
    sharding = layout.sharding(size, mesh)
    shards: list[Any] = [None] * mesh.size
    made: dict[Any, Any] = {}  # devices that hold the same part share it
    for rank in mesh.local_ranks:
        ranges = shard_ranges(sharding, size, rank)
        if ranges not in made:
            array = as_array(part(slices(ranges)))
            expected = tuple(b - a for a, b in ranges)
            if tuple(array.shape) != expected:
                raise ShapeError(
                    f"dist.from_shards: the part {slices(ranges)} has shape {tuple(array.shape)}, expected {expected}"
                )
            made[ranges] = array
        shards[rank] = made[ranges]
    dtypes = list(dict.fromkeys(a.dtype for a in made.values()))
    if len(dtypes) > 1:
        raise DTypeError(f"dist.from_shards: the parts are {' and '.join(dtypes)}; give all the same dtype")
    if not dtypes:
        raise ArgumentError(f"dist.from_shards: {mesh!r} has no device in this process")
    return ShardedArray(mesh, sharding, size, shards)
