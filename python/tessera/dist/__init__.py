"""Distributed tensors: names of the sharding interface.

``Mesh``, ``ShardSpec`` and ``tensor`` are importable so that programs can be written against them; this build runs
on one device only and raises UnsupportedError where they are used.
"""

from __future__ import annotations

from typing import Any, NoReturn

from tessera.errors import UnsupportedError


def _unsupported(what: str) -> NoReturn:
    raise UnsupportedError(
        f"{what}: sharding is not part of this build, which runs graphs on one device; use op.tensor"
    )


class Mesh:
    """A named grid of devices. Not part of this build: raises UnsupportedError."""

    def __init__(self, axes: Any = None, devices: Any = None, shape: Any = None) -> None:
        _unsupported("dist.Mesh")


class ShardSpec:
    """Which dimensions of a tensor are split over which mesh axes. Not part of this build: raises UnsupportedError."""

    def __init__(self, partition: Any = None, mesh_axes: Any = None) -> None:
        _unsupported("dist.ShardSpec")


def tensor(shape: Any, dtype: Any = None, *, layout: Any = None, mesh: Any = None, name: str | None = None) -> NoReturn:
    """A sharded symbolic tensor. Not part of this build: raises UnsupportedError."""
    _unsupported("dist.tensor")


__all__ = ["Mesh", "ShardSpec", "tensor"]
