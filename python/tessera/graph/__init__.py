"""Graphs for users: training steps, gradients, compiling, saving and loading.

Importing this package gives tensors their ``graph``, ``eval()``, ``numpy()`` and ``Y(x)``.
"""

from tessera.graph.backward import Gradients, backward
from tessera.graph.checkpoint import Checkpoint
from tessera.graph.collectives import collectives
from tessera.graph.compile import compile
from tessera.graph.compiled import Compiled
from tessera.graph.evaluate import attach_to_value
from tessera.graph.load import Loaded, load
from tessera.graph.pipeline import TargetWarning
from tessera.graph.sharded import ShardedCompiled
from tessera.graph.sharded_array import ShardedArray
from tessera.graph.show import schedule
from tessera.graph.state import update
from tessera.graph.training_step import TrainingStep, training_step
from tessera.ir.graph import Graph
from tessera.schedule.options import Schedule

attach_to_value()

__all__ = [
    "Checkpoint",
    "Compiled",
    "Gradients",
    "Graph",
    "Loaded",
    "Schedule",
    "ShardedArray",
    "ShardedCompiled",
    "TargetWarning",
    "TrainingStep",
    "backward",
    "collectives",
    "compile",
    "load",
    "schedule",
    "training_step",
    "update",
]
