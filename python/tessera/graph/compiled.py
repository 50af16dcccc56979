"""A compiled graph: callable from Python, saved for C++."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera._core import Array, Program, default_runtime
from tessera.artifact import layout, writer
from tessera.errors import ArgumentError, NameMissingError, UnsupportedError
from tessera.graph.pipeline import Built, TensorInfo
from tessera.graph.signature import Signature
from tessera.interop.array import as_array, converted
from tessera.interop.parameters import bind_parameters
from tessera.interop.trace import Trace
from tessera.ir.dtype import DTYPES
from tessera.op.parameter import Parameter, moves


class Compiled:
    """A program with its state: call it with arrays, look at it, save it.

    ``inputs``, ``outputs`` and ``state`` list name, dtype and shape of each tensor. State is shared with the
    ``Parameter`` objects of the graph: what a run updates, ``Parameter.value`` shows at once.
    """

    def __init__(
        self,
        built: Built,
        signature: Signature,
        parameters: Mapping[str, Parameter],
        constants: Mapping[str, np.ndarray],
    ) -> None:
        self._built = built
        self._signature = signature
        self._parameters = dict(parameters)
        self._constants = dict(constants)
        self._program: Program | None = None
        self._run: Any = None
        self._moves = -1
        self._runtime: Any = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on concrete arrays, given as when it was compiled; the result has the structure of what was compiled.

        Inputs are NumPy arrays, ``tessera.Array``, PyTorch or JAX arrays (not copied when contiguous). Raises
        ShapeError, DTypeError, NameMissingError or IndexRangeError before anything runs or is overwritten.
        """
        signature = self._signature
        return self.call(args if not kwargs and signature.positional(args) else signature.bind(args, kwargs))

    def call(self, arrays: Sequence[Any]) -> Any:
        """Run on the inputs in order; the result as for a call."""
        run = self._run if self._moves == moves() else self.program().run
        ready = [x if type(x) is Array else self._array(i, x) for i, x in enumerate(arrays)]
        return self._signature.result(run(self._runtime, ready, None))

    def run(
        self,
        inputs: Sequence[Any] | Mapping[str, Any],
        outputs: Sequence[Any] | Mapping[str, Any] | None = None,
        trace: Trace | None = None,
    ) -> list[Array]:
        """Run on inputs by position or name, writing into the caller's ``outputs`` (contiguous, writable) if given.

        ``outputs`` may leave some out (None, or not named); those are allocated. ``trace``, a ``tessera.Trace``, keeps
        what the run did, kernel by kernel. Returns all outputs in order.
        """
        program = self.program()
        names = [info.name for info in self.inputs]
        given = _by_name("input", inputs, names) if isinstance(inputs, Mapping) else list(inputs)
        wanted: list[Any] | None = None
        if outputs is not None:
            names = [info.name for info in self.outputs]
            found = _by_name("output", outputs, names, partial=True) if isinstance(outputs, Mapping) else list(outputs)
            wanted = [None if o is None else _memory(o) for o in found]
        ready = [self._array(i, x) for i, x in enumerate(given)]
        if trace is None:
            return program.run(self._runtime, ready, wanted)
        if not isinstance(trace, Trace):
            raise ArgumentError(f"run: trace is a {type(trace).__name__}, expected a tessera.Trace")
        return program.run(self._runtime, ready, wanted, trace=trace._native)

    def _array(self, position: int, value: Any) -> Array:
        """A concrete array; Python numbers and lists take the dtype that the program declares."""
        if isinstance(value, (bool, int, float, list, tuple)) and position < len(self._built.inputs):
            info = self._built.inputs[position]
            return as_array(converted(value, DTYPES[info.dtype], f"input {info.name!r}"))
        return as_array(value)

    def program(self) -> Program:
        """The loaded program of the runtime, its state bound to the parameters; made at the first use."""
        with self._lock:
            if self._program is None:
                program = Program.load_bytes(writer.to_bytes(self._built.metadata, self._built.kernel_sections()))
                bind_parameters(program, self._parameters)
                for name, _, _ in program.constants():
                    data = self._constants[name]
                    program.set_constant(name, as_array(np.ascontiguousarray(data).reshape(data.shape)))
                self._runtime = default_runtime()
                self._run = program.run
                self._program = program
                self._moves = moves()
            elif self._moves != moves():  # a program on another device may have taken parameters with it
                bind_parameters(self._program, self._parameters)
                self._moves = moves()
            return self._program

    @property
    def inputs(self) -> list[TensorInfo]:
        """Name, dtype and shape of each input, in order."""
        return list(self._built.inputs)

    @property
    def outputs(self) -> list[TensorInfo]:
        """Name, dtype and shape of each output, in order."""
        return list(self._built.outputs)

    @property
    def state(self) -> list[TensorInfo]:
        """Name, dtype and shape of each parameter and other state."""
        return list(self._built.state)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters and other state by name."""
        return dict(self._parameters)

    @property
    def text(self) -> str:
        """The graph in its text form."""
        return self._built.metadata[layout.GRAPH]

    @property
    def target(self) -> str:
        """The target that this machine runs, with its level."""
        program = self.program()
        return f"{program.target} {program.level}".rstrip()

    def schedule(self) -> str:
        """Kernels, buffers and peak memory of each target, as text."""
        return self._built.schedule_text()

    def peak_memory(self, sizes: Mapping[str, int] | None = None) -> int:
        """Bytes of temporary memory that one run needs, for the given sizes of the symbolic dimensions.

        Inputs, outputs and state are not counted. Raises NameMissingError or ShapeError for a missing or illegal size.
        """
        needs = self.program().requirements(dict(sizes or {}))
        return int(needs["arena"]) + int(needs["scratch"])

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write the artefact with the present values of parameters and state.

        The file is put in place atomically. ``metadata``: the user's own entries (text by name). Raises
        FileAccessError when the file cannot be written; an older file is then unchanged.
        """
        entries = dict(self._built.metadata)
        for key, text in (metadata or {}).items():
            if not isinstance(text, str):
                raise ArgumentError(f"save: metadata {key!r} must be text, not {type(text).__name__}")
            entries[layout.USER + key] = text
        sections = [writer.section(name, np.asarray(parameter)) for name, parameter in self._parameters.items()]
        sections += [writer.section(layout.CONSTANT + name, data) for name, data in self._constants.items()]
        writer.save(path, entries, sections + self._built.kernel_sections())

    def __reduce__(self) -> Any:
        raise UnsupportedError("a compiled graph is not copied or pickled: save it with .save(path) and load it")

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and state as a safetensors file, atomically; C++ programs read it with ``load_state``."""
        self.program().save_state(os.fspath(path))

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Read what ``save_state``, in Python or C++, wrote; nothing changes unless the whole file fits."""
        self.program().load_state(os.fspath(path))

    def __repr__(self) -> str:
        def listed(infos: Sequence[TensorInfo]) -> str:
            return ", ".join(map(str, infos)) or "none"

        targets = ", ".join(self._built.targets)
        return f"Compiled(inputs: {listed(self.inputs)}; outputs: {listed(self.outputs)}; targets: {targets})"


def _memory(output: Any) -> Array:
    """The caller's memory as an array; ArgumentError for what could only be copied."""
    if not isinstance(output, (Array, np.ndarray)) and not hasattr(output, "__dlpack__"):
        raise ArgumentError(f"an output must be an array that can be written, not {type(output).__name__}")
    return as_array(output)


def _by_name(kind: str, given: Mapping[str, Any], names: list[str], *, partial: bool = False) -> list[Any]:
    for name in given:
        if name not in names:
            raise NameMissingError(f"there is no {kind} {name!r}; the {kind}s are {', '.join(names) or 'none'}")
    missing = [name for name in names if name not in given]
    if missing and not partial:
        raise NameMissingError(f"{kind} {missing[0]!r} is missing; the {kind}s are {', '.join(names)}")
    return [given.get(name) for name in names]
