"""Tessera: a compiler and a runtime for tensor programs.

``from tessera import op, graph, dist, optim`` for modelling; ``tessera.Array`` and ``tessera.array`` for concrete
data; ``tessera.manual_seed`` for reproducible random numbers; ``tessera.load`` for artefacts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tessera import dist, errors, graph, op, optim
    from tessera.graph.load import load
    from tessera.interop.array import Array, array, from_dlpack
    from tessera.interop.trace import Trace
    from tessera.op.custom_ops import load_library
    from tessera.op.random import manual_seed

_MODULES = frozenset({"dist", "errors", "graph", "op", "optim"})
_NAMES = {
    "Array": "tessera.interop.array",
    "Trace": "tessera.interop.trace",
    "array": "tessera.interop.array",
    "from_dlpack": "tessera.interop.array",
    "load": "tessera.graph.load",
    "load_library": "tessera.op.custom_ops",
    "manual_seed": "tessera.op.random",
}

__all__ = [
    "Array",
    "Trace",
    "__version__",
    "array",
    "dist",
    "errors",
    "from_dlpack",
    "graph",
    "load",
    "load_library",
    "manual_seed",
    "op",
    "optim",
]


def __getattr__(name: str) -> Any:
    """Load a part when it is first used, so that ``import tessera`` stays fast."""
    if name in _MODULES:
        if name == "op":
            importlib.import_module("tessera.graph")  # gives tensors Y(x), .graph and .numpy()
        return importlib.import_module(f"tessera.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tessera' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
