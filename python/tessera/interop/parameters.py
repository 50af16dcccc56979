"""Parameters in the runtime: one array over the memory that Python sees."""

from __future__ import annotations

from collections.abc import Mapping

from tessera._core import Array, Program
from tessera.op.parameter import Parameter


def shared_array(parameter: Parameter) -> Array:
    """The runtime's array over the parameter's own storage; the same object every time."""
    if parameter.array is None:
        parameter.array = Array.from_numpy(parameter.storage())
    return parameter.array


def bind_parameters(program: Program, parameters: Mapping[str, Parameter]) -> None:
    """Let the program's state live in the parameters' memory. A program lacks what its results do not depend on."""
    for name, _, _ in program.state():
        program.bind_state(name, shared_array(parameters[name]))
