"""``graph.compile``: a tensor, a function, a step or a loaded graph becomes a program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tessera.errors import ArgumentError
from tessera.graph import tree
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options, TargetWarning, build
from tessera.graph.prepare import constants_of, parameters_of, prepare
from tessera.graph.signature import NamedSignature, Signature, TreeSignature
from tessera.graph.trace import trace
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.options import Schedule

TARGETS = ("cpu", "portable")
"""The targets that this build compiles for."""
GPU_TARGETS = {"ptx": "NVIDIA", "hsaco": "AMD"}
"""Targets that are named by the design and have no code generator in this build."""


def compile(
    subject: Any,
    *examples: Any,
    target: str | Sequence[str] | None = None,
    schedule: Schedule | None = None,
    level: str | Sequence[str] | None = None,
    **named_examples: Any,
) -> Compiled:
    """Compile to a program that can be called and saved.

    ``subject``: a symbolic tensor, a dict, list or tuple of them, a ``Graph``, a loaded graph, or a function (also
    a ``@graph.training_step``), which is traced with ``examples``: arrays, or ``op.tensor`` values whose shapes may
    hold ``op.dim`` symbols, nested as the function takes them.
    ``target``: ``"cpu"`` (native code; the default), ``"portable"`` (graph only, executed operator by operator) or
    several. On a machine for which there is no CPU code generator the default is ``"portable"``, with a warning.
    ``level``: CPU code levels such as ``"x86-64-v3"``; default: that of this CPU. ``schedule``: ``graph.Schedule``.

    ``"ptx"`` and ``"hsaco"`` have no code generator in this build: a ``TargetWarning`` says so, and the artefact
    holds the targets cpu and portable in their place.
    """
    options = Options(
        resolve_targets(target), schedule or Schedule(), (level,) if isinstance(level, str) else tuple(level or ())
    )
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
    found: dict[str, None] = {}
    for one in (target,) if isinstance(target, str) else tuple(target):
        if one in GPU_TARGETS:
            warnings.warn(
                f"this build has no {GPU_TARGETS[one]} code generator: for target {one!r} the artefact holds no GPU "
                "code, but the targets 'cpu' and 'portable'; the runtime runs the best that the machine can",
                TargetWarning,
                stacklevel=3,
            )
            found.update(dict.fromkeys(TARGETS))
        elif one in TARGETS:
            found[one] = None
        else:
            raise ArgumentError(f"compile: unknown target {one!r}; use {', '.join((*TARGETS, *GPU_TARGETS))}")
    if not found:
        raise ArgumentError("compile: no target is given")
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
    return Compiled(build(ready, options), signature, parameters_of(ready), constants_of(ready))
