"""Compile a graph in which tensors are sharded: partition it, then build one device's program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tessera.artifact import layout
from tessera.dist.blocks import in_blocks
from tessera.dist.buckets import join_reductions
from tessera.dist.chunks import in_chunks
from tessera.dist.copies import reductions_by_copies
from tessera.dist.cost import MACHINES
from tessera.dist.leading import along_the_first_dimension
from tessera.dist.mesh import Mesh
from tessera.dist.partition import Partitioned, partition
from tessera.dist.report import CollectivePlan, collective_plan
from tessera.errors import UnsupportedError
from tessera.graph.pipeline import GPU_TARGETS, Built, Options, build
from tessera.graph.prepare import constants_of, parameters_of
from tessera.graph.sharded import ShardedCompiled
from tessera.graph.signature import Signature
from tessera.ir.dims import Dim
from tessera.ir.graph import Graph
from tessera.ir.printer import print_graph
from tessera.ir.sharding import Sharding
from tessera.op.collective import FULL_TO_SHARD, LAID_OUT
from tessera.schedule.options import Schedule
from tessera.transform.pipeline import run_passes, to_gpu_operators, to_primitives


def partition_for(graph: Graph, mesh: Mesh, schedule: Schedule | None = None) -> Partitioned:
    """One device's program of a prepared graph, simplified."""
    exact = schedule is not None and schedule.same_on_meshes
    operators = to_primitives if mesh.kind == "cpu" else to_gpu_operators
    primitives = with_sums_in_blocks(graph) if exact else operators(graph, LAID_OUT)
    found = partition(primitives, mesh.layout, MACHINES[mesh.kind], exact)
    # Algebra may round in another way, and what it finds in one device's program depends on the mesh.
    simplified = run_passes(found.graph, ["cse", "dce"]) if exact else operators(found.graph)
    if mesh.kind != "cpu" and not exact:  # the cores of a CPU do products and exchanges alike
        simplified = in_chunks(simplified, MACHINES[mesh.kind])
    return replace(found, graph=join_reductions(simplified, MACHINES[mesh.kind]))


def with_gpu_exchanges(graph: Graph) -> Graph:
    """One device's program with its exchanges as GPUs do them best; what is exchanged is the same."""
    return along_the_first_dimension(reductions_by_copies(graph))


def build_in_blocks(graph: Graph, options: Options) -> Built:
    """Build a prepared graph for one device so that it gives what it gives on every mesh."""
    built = build(with_sums_in_blocks(graph), options)
    return replace(built, metadata={**built.metadata, layout.GRAPH: print_graph(graph)})


def with_sums_in_blocks(graph: Graph) -> Graph:
    """Primitives whose floating-point sums are formed in the same way on every mesh."""
    for node in graph.nodes():
        if node.op == FULL_TO_SHARD:
            at = "" if node.loc is None else f"\n  at {node.loc}"
            raise UnsupportedError(
                "[Schedule] deterministic = 'mesh': the body of dist.shard_map is written for the devices of one mesh; "
                f"say what it does with layouts (dist.constrain), or use deterministic=True{at}"
            )
    return to_primitives(in_blocks(to_primitives(graph, LAID_OUT)), LAID_OUT)


def compile_on_mesh(graph: Graph, mesh: Mesh, signature: Signature, options: Options) -> ShardedCompiled:
    """Compile a prepared graph for every device of a mesh; they run the same program."""
    part = partition_for(graph, mesh, options.schedule)
    plan = collective_plan(part.graph, part.mesh, MACHINES[mesh.kind].link.name)
    _check_budget(plan, options.max_collective_bytes)
    if options.planned_only:  # nobody calls it
        built = Built({}, {}, (), {}, (), (), ())
        return ShardedCompiled(built, signature, parameters_of(graph), {}, part, mesh, plan)
    built = build(part.graph if mesh.kind == "cpu" else with_gpu_exchanges(part.graph), options)
    # What the file says about whole tensors; the build itself is of one device's part.
    about = json.dumps(description(part, mesh, plan))
    metadata = {**built.metadata, layout.GRAPH: print_graph(graph), layout.MESH: about}
    return ShardedCompiled(
        replace(built, metadata=metadata), signature, parameters_of(graph), constants_of(part.graph), part, mesh, plan
    )


_TARGETS = {"cuda": "ptx", "hip": "hsaco"}
"""The target of each kind of GPU in a mesh."""


def for_devices(mesh: Mesh, options: Options) -> Options:
    """The options with the target of the mesh's devices; UnsupportedError for another target."""
    target = _TARGETS.get(mesh.kind)
    if target is None:
        wrong = next((t for t in options.targets if t in GPU_TARGETS), None)
        fix = next((k for k, t in _TARGETS.items() if t == wrong), "cuda")
    else:
        wrong = next((t for t in options.targets if t != target), None)
        fix = "cpu"
    if wrong is not None:
        raise UnsupportedError(
            f"compile: target {wrong!r}: the graph is on {mesh!r}; leave the target out, or make a mesh of other "
            f"devices: Mesh({list(mesh.axes)!r}, {mesh.size}, kind={fix!r})"
        )
    return options if target is None else replace(options, targets=(target,))


def _check_budget(plan: CollectivePlan, budget: int | None) -> None:
    if budget is None:
        return
    most = plan.most_bytes()
    if most is None or most > budget:
        much = "without bound: give the symbolic sizes a maximum" if most is None else f"{most}"
        raise UnsupportedError(
            f"compile: max_collective_bytes is {budget}, but a device receives {much} bytes in one run\n{plan}"
        )


def description(part: Partitioned, mesh: Mesh, plan: CollectivePlan) -> dict[str, Any]:
    """The mesh, how tensors lie on it and what is exchanged, as the artefact says it."""

    def lie(kind: str, shardings: Any) -> dict[str, str]:
        return {
            name: f"{part.global_types[kind, name].dtype}"
            f"[{', '.join(map(str, part.global_types[kind, name].shape))}] "
            f"{sharding.text(part.global_types[kind, name].shape)}"
            for name, sharding in shardings.items()
        }

    return {
        "axes": [[name, size] for name, size in mesh.layout.axes],
        "kind": mesh.kind,
        "inputs": lie("input", part.inputs),
        "outputs": lie("output", part.outputs),
        "state": lie("param", part.state),
        "places": {f"{label} {name}": _place(part.global_types[kind, name].shape, sharding)
                   for label, kind, shardings in (("input", "input", part.inputs), ("output", "output", part.outputs),
                                                  ("state", "param", part.state))
                   for name, sharding in shardings.items()},
        "collectives": [
            {
                "kind": c.kind, "axes": list(c.axes), "bytes": c.bytes if isinstance(c.bytes, int) else str(c.bytes),
                "tensor": c.tensor, "link": c.link, "cause": c.cause, "line": None if c.line is None else str(c.line),
                "fix": c.fix,
            }
            for c in plan
        ],
    }


def _place(shape: Sequence[Dim], sharding: Sharding) -> dict[str, Any]:
    """How a whole tensor is split, for readers of the artefact that do not know Graph IR."""

    def size(d: Dim) -> int | str:
        return d if isinstance(d, int) else str(d)

    return {
        "shape": [size(d) for d in shape],
        "dims": [None if s is None else {"axes": list(s.axes), "block": size(s.block)} for s in sharding.dims],
    }
