"""``graph.compile``: a tensor, a function, a step or a loaded graph becomes a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera.dist.tensor import mesh_of
from tessera.errors import ArgumentError
from tessera.graph import tree
from tessera.graph.compiled import Compiled
from tessera.graph.on_mesh import build_in_blocks, compile_on_mesh, for_devices
from tessera.graph.pipeline import GPU_TARGETS, Options, build, gpu_architectures
from tessera.graph.prepare import constants_of, parameters_of, prepare
from tessera.graph.signature import NamedSignature, Signature, TreeSignature
from tessera.graph.trace import trace
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.options import Schedule

TARGETS = ("cpu", "portable", *GPU_TARGETS)
"""The targets that graphs are compiled for."""


def compile(
    subject: Any,
    *examples: Any,
    target: str | Sequence[str] | None = None,
    schedule: Schedule | None = None,
    level: str | Sequence[str] | None = None,
    arch: str | Sequence[str] | None = None,
    max_collective_bytes: int | None = None,
    **named_examples: Any,
) -> Compiled:
    """Compile to a program that can be called and saved.

    ``subject``: a symbolic tensor, a dict, list or tuple of them, a ``Graph``, a loaded graph, or a function (also
    a ``@graph.training_step``), which is traced with ``examples``: arrays, or ``op.tensor`` values whose shapes may
    hold ``op.dim`` symbols, nested as the function takes them.
    ``target``: ``"cpu"`` (native code; the default), ``"portable"`` (graph only, executed operator by operator),
    ``"ptx"`` (NVIDIA GPUs), ``"hsaco"`` (AMD GPUs) or several. On a machine for which there is no CPU code generator
    the default is ``"portable"``, with a warning.
    ``level``: CPU code levels such as ``"x86-64-v3"``; default: that of this CPU. ``schedule``: ``graph.Schedule``.
    ``arch``: GPU architectures such as ``"sm_90a"`` and ``"gfx942"``; default: those of the GPUs that are present,
    else ``sm_80`` and ``sm_90a`` for ptx, ``gfx90a`` and ``gfx942`` for hsaco. Code for ``sm_80``, ``sm_86`` and
    ``sm_89`` comes with its PTX and runs on later NVIDIA GPUs too; other code runs on its own architecture only.
    ``max_collective_bytes``: UnsupportedError, with the list of all exchanges, when a device of the graph's mesh would
    receive more than that in one run.

    GPU code is compiled ahead of time: it needs the package triton, and neither a GPU nor a driver. Raises
    ArgumentError for an unknown target or architecture, UnsupportedError for an operator that has no GPU kernel or
    when triton is missing, CompileError.
    """
    targets = resolve_targets(target)
    options = Options(
        targets, schedule or Schedule(), (level,) if isinstance(level, str) else tuple(level or ()),
        resolve_architectures(arch, targets),
        max_collective_bytes,
    )
    return compile_with(subject, options, examples, named_examples)


def compile_with(
    subject: Any, options: Options, examples: tuple[Any, ...], named_examples: Mapping[str, Any]
) -> Compiled:
    """``compile`` for options."""
    compiler = getattr(subject, "_compile", None)
    if compiler is not None:
        return compiler(options, examples, named_examples)
    if callable(subject) and not isinstance(subject, Value):
        return compile_function(subject, options, examples, named_examples)
    if examples or named_examples:
        raise ArgumentError("compile: examples are for functions; a tensor's inputs are those it was built from")
    return compile_values(subject, options)


def resolve_targets(target: str | Sequence[str] | None) -> tuple[str, ...]:
    """The targets to build, each once; none stands for the default. Raises ArgumentError for an unknown one."""
    if target is None:
        return ()
    found = tuple(dict.fromkeys((target,) if isinstance(target, str) else tuple(target)))
    for one in found:
        if one not in TARGETS:
            raise ArgumentError(f"compile: unknown target {one!r}; use {', '.join(TARGETS)}")
    if not found:
        raise ArgumentError("compile: no target is given")
    return found


def resolve_architectures(arch: str | Sequence[str] | None, targets: Sequence[str]) -> tuple[str, ...]:
    """The GPU architectures to compile for, by their full names. Raises ArgumentError for one that no target has."""
    found: dict[str, None] = {}
    for name in (arch,) if isinstance(arch, str) else tuple(arch or ()):
        known = {n for t in GPU_TARGETS if t in targets for n in gpu_architectures(t)}
        full = name if name in known else f"{name}a"
        if full not in known:
            of = f"use {', '.join(sorted(known))}" if known else 'arch is for the targets "ptx" and "hsaco"'
            raise ArgumentError(f"compile: arch {name!r} is unknown; {of}")
        found[full] = None
    return tuple(found)


def compile_function(
    function: Callable[..., Any], options: Options, examples: tuple[Any, ...], named: Mapping[str, Any]
) -> Compiled:
    """Trace the function with the examples and compile it."""
    traced = trace(function, examples, dict(named))
    return compile_graph(traced.graph, TreeSignature(traced), options)


def compile_values(subject: Any, options: Options) -> Compiled:
    """Compile symbolic tensors (nested at will) or a graph."""
    if isinstance(subject, Graph):
        graph, structure = subject, dict(subject.outputs)
    else:
        found = [(path, leaf) for path, leaf in tree.leaves(subject) if not isinstance(leaf, tree.Identity)]
        for path, leaf in found:
            if not isinstance(leaf, Value):
                where = f" at {'.'.join(map(str, path))}" if path else ""
                raise ArgumentError(
                    f"compile: expected symbolic tensors, a function or a graph, got {type(leaf).__name__}{where}"
                )
        names = tree.names([path for path, _ in found], "output")
        graph, structure = Graph(dict(zip(names, (v for _, v in found), strict=True))), subject
    signature = NamedSignature(graph.name, [v.node.attrs["name"] for v in graph.inputs], structure)
    return compile_graph(graph, signature, options)


def compile_graph(graph: Graph, signature: Signature, options: Options) -> Compiled:
    """Prepare, build (from the cache where the same graph was built before) and wrap."""
    ready = prepare(graph)
    mesh = mesh_of(ready)
    if mesh is not None:
        if not options.planned_only:
            options = for_devices(mesh, options)
        return compile_on_mesh(ready, mesh, signature, options)
    built = build_in_blocks(ready, options) if options.schedule.same_on_meshes else build(ready, options)
    return Compiled(built, signature, parameters_of(ready), constants_of(ready))
