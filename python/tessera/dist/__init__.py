"""Distributed tensors: meshes, layouts, sharded parameters, and the collective plan.

A graph in which a tensor is sharded is partitioned into one device's program with explicit collectives; calling it,
training with it and compiling it work as for any other graph.
"""

from tessera.dist.layout import ShardSpec
from tessera.dist.mesh import Mesh
from tessera.dist.report import CollectiveInfo, CollectivePlan
from tessera.dist.tensor import constrain, place, replicate, reshard, tensor

__all__ = [
    "CollectiveInfo",
    "CollectivePlan",
    "Mesh",
    "ShardSpec",
    "constrain",
    "place",
    "replicate",
    "reshard",
    "tensor",
]
