"""Distributed tensors: meshes, layouts, sharded parameters, and the collective plan.

A graph in which a tensor is sharded is partitioned into one device's program with explicit collectives; calling it,
training with it and compiling it work as for any other graph.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tessera.dist.layout import ShardSpec
from tessera.dist.mesh import Mesh
from tessera.dist.pipeline import pipeline
from tessera.dist.report import CollectiveInfo, CollectivePlan
from tessera.dist.shard_map import (
    all_gather,
    all_reduce,
    all_to_all,
    axis_index,
    axis_size,
    collective_permute,
    reduce_scatter,
    shard_map,
)
from tessera.dist.tensor import constrain, place, replicate, reshard, tensor
from tessera.dist.topology import TOPOLOGIES, DeviceSpec, Tier, Topology
from tessera.dist.world import World, init, world

if TYPE_CHECKING:
    from tessera.graph.sharded_array import from_shards
    from tessera.graph.simulate import simulate

_ABOVE = {"from_shards": "tessera.graph.sharded_array", "simulate": "tessera.graph.simulate"}
"""What belongs here for users but stands on compiling, by the module that has it."""

__all__ = [
    "CollectiveInfo",
    "CollectivePlan",
    "DeviceSpec",
    "Mesh",
    "ShardSpec",
    "TOPOLOGIES",
    "Tier",
    "Topology",
    "World",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "axis_index",
    "axis_size",
    "collective_permute",
    "constrain",
    "from_shards",
    "init",
    "pipeline",
    "place",
    "reduce_scatter",
    "replicate",
    "reshard",
    "shard_map",
    "simulate",
    "tensor",
    "world",
]


def __getattr__(name: str) -> Any:
    if name in _ABOVE:
        return getattr(importlib.import_module(_ABOVE[name]), name)
    raise AttributeError(f"module 'tessera.dist' has no attribute {name!r}")
