"""Parameters in the runtime: one array over the memory that Python sees."""

from __future__ import annotations

from tessera._core import Array
from tessera.op.parameter import Parameter


def shared_array(parameter: Parameter) -> Array:
    """The runtime's array over the parameter's own storage; the same object every time."""
    if parameter.array is None:
        parameter.array = Array.from_numpy(parameter.storage())
    return parameter.array
