"""``graph.load``: a ``.tsr`` file back as a graph with its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tessera.artifact import layout, reader
from tessera.artifact.reader import Artifact
from tessera.dist.mesh import Mesh
from tessera.dist.placement import Placement
from tessera.errors import FormatError
from tessera.graph import tree
from tessera.graph.compile import compile_graph
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options
from tessera.graph.signature import NamedSignature
from tessera.graph.substitute import substitute
from tessera.ir.dtype import as_dtype
from tessera.ir.graph import Graph, rebuild
from tessera.ir.parser import parse_graph
from tessera.ir.provenance import location
from tessera.ir.value import CONSTANT, PARAM, Node, Value
from tessera.op import as_tensor
from tessera.op.custom_ops import check_requirements
from tessera.op.parameter import Parameter, aligned_empty


class Loaded:
    """A graph from a file: callable, differentiable through ``outputs``, and compiled or saved again.

    ``graph``: the Graph; ``inputs`` and ``outputs``: its tensors by name; ``parameters``: weights and other state
    by name; ``metadata``: the user's own entries.
    """

    def __init__(self, where: str, graph: Graph, metadata: Mapping[str, str], program: Any) -> None:
        self.where = where
        self.graph = graph
        self.metadata = dict(metadata)
        self.inputs: dict[str, Value] = {v.node.attrs["name"]: v for v in graph.inputs}
        self.outputs: dict[str, Value] = dict(graph.outputs)
        self.parameters: dict[str, Parameter] = {v.node.attrs["name"]: v.node.payload for v in graph.params()}
        self._program = program
        self._compiled: Compiled | None = None
        self._choices: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run: inputs by position, by name or as one dict; one array for one output, else a dict of them.

        Runs the file's own code where it holds some that this machine can run; state is updated in place. With
        symbolic tensors the result is symbolic: the graph on those inputs.
        """
        signature = self._signature()
        if any(isinstance(x, Value) for _, x in tree.leaves([args, kwargs])):
            given = dict(zip(self.inputs.values(), signature.bind(args, kwargs), strict=True))
            mapping = {leaf: as_tensor(x, leaf) for leaf, x in given.items()}
            return signature.result(substitute(list(self.outputs.values()), mapping, redraw=True))
        if self._program is not None:
            return signature.result(self._program(signature.bind(args, kwargs)))
        if self._compiled is None:
            self._compiled = self._compile(Options(), (), {})
        return self._compiled(*args, **kwargs)

    def _signature(self) -> NamedSignature:
        outputs = self.outputs
        structure: Any = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return NamedSignature(os.path.basename(self.where), list(self.inputs), structure)

    def _compile(self, options: Options, examples: tuple[Any, ...], named: Mapping[str, Any]) -> Compiled:
        """What ``graph.compile(loaded)`` does. What was measured for the file need not be measured again."""
        if options.schedule.tuning_seconds and self._choices:
            from tessera.graph.tuning import learn

            for choices in self._choices:
                learn(choices)
        return compile_graph(self.graph, self._signature(), options)

    def compile(self, **options: Any) -> Compiled:
        """Compile the graph again; arguments as for ``graph.compile``."""
        from tessera.graph.compile import compile

        return compile(self, **options)

    def save(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Compile (arguments as for ``graph.compile``) and save with the present weights and the user's metadata."""
        self.compile(**options).save(path, self.metadata)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {v.type}" for name, v in self.inputs.items())
        outputs = ", ".join(f"{name}: {v.type}" for name, v in self.outputs.items())
        return f"<graph from {self.where}: ({inputs}) -> ({outputs})>"


def load(path: str | os.PathLike[str], *, verify: bool = True, allow_native_code: bool = True) -> Loaded:
    """The graph of a ``.tsr`` file with its weights.

    ``verify`` compares all hashes first. With ``allow_native_code=False`` the file's kernels are never loaded; the
    graph is compiled again on this machine when it is called. Raises FileAccessError, FormatError, VersionError,
    NameMissingError (the graph needs an operator that this build does not have).
    """
    artifact = reader.load(path, verify=verify)
    text = artifact.metadata.get(layout.GRAPH)
    if text is None:
        raise FormatError(f"{artifact.where}: the file holds no graph (entry {layout.GRAPH!r})")
    if (needed := artifact.metadata.get(layout.CUSTOM_OPS)) is not None:
        check_requirements(artifact.where, needed)
    graph = _with_data(parse_graph(text), artifact)
    loaded = Loaded(artifact.where, graph, artifact.user_metadata(), None)
    loaded._choices = [text for name, text in artifact.metadata.items() if name.startswith(layout.CHOICES)]
    compiled = any(name.startswith(layout.PLAN) for name in artifact.metadata)
    if layout.MESH in artifact.metadata:
        return loaded  # its plan is one device's: the graph is compiled again for the mesh
    if layout.PORTABLE in artifact.metadata or (compiled and allow_native_code):
        loaded._program = _runner(path, loaded.parameters, allow_native_code)
    return loaded


def _runner(path: str | os.PathLike[str], parameters: Mapping[str, Parameter], allow_native_code: bool) -> Any:
    """A function that runs the file's own program; None when this machine cannot run it."""
    from tessera._core import Program, default_runtime
    from tessera.errors import DeviceError
    from tessera.interop.array import as_array
    from tessera.interop.parameters import bind_parameters
    from tessera.op.parameter import moves

    try:
        program = Program.load_file(os.fspath(path), verify=False, allow_native_code=allow_native_code)
    except DeviceError:
        return None
    runtime = default_runtime()
    bound = -1

    def run(given: Sequence[Any]) -> Any:
        nonlocal bound
        if bound != moves():  # at first, and when a program on another device has taken parameters with it
            bind_parameters(program, parameters)
            bound = moves()
        return program.run(runtime, [as_array(x) for x in given], None)

    return run


def _with_data(graph: Graph, artifact: Artifact) -> Graph:
    """The parsed graph with a Parameter behind each parameter leaf and the data behind each constant."""

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op == PARAM:
            return (_parameter(node, artifact).leaf(),)
        if node.op == CONSTANT:
            name = node.attrs["name"]
            data = _checked(node, artifact, layout.CONSTANT + name)
            return Node(CONSTANT, (), node.attrs, node.types, node.loc, np.array(data)).results
        if all(a is b for a, b in zip(operands, node.operands, strict=True)):
            return node.results
        return Node(node.op, operands, node.attrs, node.types, node.loc).results

    return rebuild(graph, visit)


def _parameter(node: Node, artifact: Artifact) -> Parameter:
    name = node.attrs["name"]
    data = _checked(node, artifact, name)
    storage = aligned_empty(data.shape, as_dtype(data.dtype))
    storage[...] = data
    sharding = node.types[0].sharding
    with location(node.loc):
        if sharding is None:
            return Parameter.from_array(name, storage, trainable=node.attrs["trainable"])
        mesh = Mesh(sharding.mesh.names, shape=[size for _, size in sharding.mesh.axes])
        made = Parameter(name, data.shape, as_dtype(data.dtype), trainable=node.attrs["trainable"])
        made.place(Placement(mesh, sharding))
        made.value = data
        return made


def _checked(node: Node, artifact: Artifact, name: str) -> np.ndarray:
    """The tensor of the file, which must have the type that the graph declares."""
    if name not in artifact.entries:
        raise FormatError(f"{artifact.where}: the graph needs the tensor {name!r}, which the file does not hold")
    entry, declared = artifact.entries[name], node.types[0]
    if entry.dtype != declared.dtype or entry.shape != declared.shape:
        raise FormatError(
            f"{artifact.where}: tensor {name!r} is {entry.dtype}{list(entry.shape)}, the graph declares {declared}"
        )
    return artifact.tensor(name)
