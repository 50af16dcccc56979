"""Parameters in the runtime: one array over the memory that Python sees, or on the GPU that runs the program."""

from __future__ import annotations

from collections.abc import Mapping

from tessera._core import Array, Program
from tessera.op.parameter import Parameter


def shared_array(parameter: Parameter) -> Array:
    """The runtime's array over the parameter's own storage; the same object every time."""
    if parameter.array is None or parameter.array.device != "cpu":
        storage = parameter.storage()
        parameter.array = Array.from_numpy(storage)
    return parameter.array


def bind_parameters(program: Program, parameters: Mapping[str, Parameter]) -> None:
    """Let the program's state live where its runs are: in the parameters' memory, or on the GPU, where they then live.

    A program lacks what its results do not depend on.
    """
    for name, _, _ in program.state():
        parameter = parameters[name]
        if program.device == "cpu":
            program.bind_state(name, shared_array(parameter))
        elif parameter.device == program.device:
            program.bind_state(name, parameter.array)
        else:
            program.bind_state(name, shared_array(parameter))
            parameter.move_to(program.state_array(name))
