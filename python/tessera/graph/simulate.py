"""``dist.simulate``: time, memory and traffic of a program on a mesh that is not here, from its plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.dist.topology import TOPOLOGIES, Topology, exchange_seconds, received_by_tier
from tessera.errors import ArgumentError
from tessera.graph.compile import compile_with
from tessera.graph.on_mesh import with_gpu_exchanges
from tessera.graph.pipeline import Options
from tessera.graph.sharded import ShardedCompiled
from tessera.graph.simulation import Event, Simulation
from tessera.ir.dims import Dim, evaluate, mul, product, substitute, sym
from tessera.ir.sharding import COORDINATE, MeshShape
from tessera.op.collective import PERMUTE
from tessera.schedule.cost import typical
from tessera.schedule.machine import CPU, GPU
from tessera.schedule.options import Schedule
from tessera.schedule.plan import CollectiveCall, Copy, Instruction, KernelCall, Plan, RangeCheck, Wait
from tessera.tile.ir import AttentionKernel, DotKernel
from tessera.tile.plan import build_plan
from tessera.tile.report import kernel_bytes, kernel_flops, kernel_work
from tessera.transform.pipeline import to_primitives


def simulate(
    subject: Any,
    *examples: Any,
    topology: Topology | str = "rails",
    sizes: Mapping[str, int] | None = None,
    schedule: Schedule | None = None,
    **named_examples: Any,
) -> Simulation:
    """Predict one run of a tensor, a graph, a step or a function (with example arguments, as for ``graph.compile``).

    The graph's mesh may have any number of devices; none is needed. ``topology``: a ``dist.Topology`` or the name of
    one ("rails", "fat tree", "NVL72": NVIDIA GPUs; "one machine": CPU cores). ``sizes``: of symbolic dimensions by
    name; those that are not given count as 1024, or the nearest legal size. ``schedule``: how the program is scheduled;
    with ``Schedule(overlap=False)`` it waits for each exchange.

    The program is scheduled as for a run, and exchanges run beside kernels as its plan says. A kernel takes as long as
    its arithmetic or its memory traffic, and what simple operations add to products on matrix units; an exchange as
    long as its bytes and messages take on each class of link. What is said is about device 0, which has the largest
    shards. Predictions for two H100 were 2 to 6 % short for large products and steps made of them, and 16 % for a step
    of small ones; for GPT-2 with 124M parameters 1 % (kernels of a cool device) to 5 % (long runs).

    Raises ArgumentError for an unknown topology or size, and for a graph in which nothing is sharded.
    """
    machines = _topology(topology)
    compiled = compile_with(subject, Options(("portable",), planned_only=True), examples, named_examples)
    if not isinstance(compiled, ShardedCompiled):
        raise ArgumentError("simulate: no tensor of the graph is sharded, so that it runs on one device")
    part = compiled.partitioned
    is_gpu = machines.device.is_gpu
    program = with_gpu_exchanges(part.graph) if is_gpu else to_primitives(part.graph)
    plan = build_plan(program, schedule, GPU if is_gpu else CPU)
    names = [d.name for d in plan.dims if not d.name.startswith(COORDINATE)]
    for name in sizes or ():
        if name not in names:
            have = ", ".join(names) or "none"
            raise ArgumentError(f"simulate: there is no symbolic dimension {name!r}; those of the graph are: {have}")
    return _Run(plan, part.mesh, machines, dict(sizes or {})).simulation()


def _topology(topology: Topology | str) -> Topology:
    if isinstance(topology, Topology):
        return topology
    if topology not in TOPOLOGIES:
        known = ", ".join(TOPOLOGIES)
        raise ArgumentError(f"simulate: unknown topology {topology!r}; use {known} or a dist.Topology")
    return TOPOLOGIES[topology]()


class _Run:
    def __init__(self, plan: Plan, mesh: MeshShape, topology: Topology, sizes: dict[str, int]) -> None:
        self.plan, self.mesh, self.topology = plan, mesh, topology
        self.given = {
            d.name: sizes.get(d.name, typical(sym(d))) for d in plan.dims if not d.name.startswith(COORDINATE)
        }
        self.sizes = {**mesh.coordinates(0), **self.given}
        self.free = {"compute": 0.0, "exchange": 0.0}
        self.ends: dict[int, float] = {}  # of the exchanges that were started
        self.events: list[Event] = []

    def number(self, d: Dim) -> float:
        return float(evaluate(d, self.sizes))

    def simulation(self) -> Simulation:
        for instruction in self.plan.instructions:
            self.add(instruction)
        kinds = {"state": 0.0, "constant": 0.0, "input": 0.0, "output": 0.0}
        for buffer in self.plan.buffers:
            if buffer.kind in kinds:
                kinds[buffer.kind] += self.number(buffer.bytes)
        memory = {**kinds, "working": self.number(self.plan.arena)}
        return Simulation(self.mesh, self.topology, self.given, tuple(self.events), memory)

    def add(self, i: Instruction) -> None:
        if isinstance(i, KernelCall):
            kernel = self.plan.kernels[i.kernel]
            values = self.plan.kernel_sizes(i)
            operations = self.number(substitute(kernel_flops(kernel), values))
            read, written = (self.number(substitute(d, values)) for d in kernel_bytes(kernel))
            fast = isinstance(kernel, (DotKernel, AttentionKernel))
            dtype = kernel.buffers[0].dtype.name if fast else "f32"
            seconds = self.topology.device.seconds(operations, read + written, dtype)
            if self.topology.device.is_gpu:
                seconds += self.topology.device.beside(self.number(substitute(kernel_work(kernel), values)))
            self.put("compute", kernel.name, seconds, i, operations=operations, bytes=read + written)
        elif isinstance(i, Wait):
            self.free["compute"] = max(self.free["compute"], self.ends[i.start])
        elif isinstance(i, CollectiveCall):
            received = self.number(i.bytes)
            spread = self.topology.spread(self.mesh, i.axes)
            # In a permutation device 0 may get nothing; then it waits for those that do.
            slowest = self.number(mul(product(i.operand.shape), i.operand.dtype.itemsize))
            took = slowest if i.op == PERMUTE else received
            seconds = exchange_seconds(i.op, took, spread, self.topology.tiers)
            by_tier = received_by_tier(i.op, received, spread)
            end = self.put(
                "exchange", f"{i.op} over {' and '.join(i.axes)}", seconds, i, bytes=received, tiers=tuple(by_tier)
            )
            if i.start is None:
                self.free["compute"] = end
            else:
                self.ends[i.start] = end
        elif isinstance(i, Copy):
            moved = 2 * self.number(i.bytes)
            seconds = self.topology.device.seconds(0, moved, "f32")
            self.put("compute", "copy", seconds, i, bytes=moved)
        elif isinstance(i, RangeCheck):
            read = self.number(mul(i.count, i.dtype.itemsize))
            seconds = self.topology.device.seconds(0, read, "f32")
            self.put("compute", f"check {i.what}", seconds, i, bytes=read)
        else:
            tensors = (*i.operands, *i.results)
            moved = sum(self.number(mul(product(t.shape), t.dtype.itemsize)) for t in tensors)
            seconds = self.topology.device.seconds(0, moved, "f32")
            self.put("compute", i.op, seconds, i, bytes=moved)

    def put(self, lane: str, name: str, seconds: float, i: Instruction, **amounts: Any) -> float:
        """Add an instruction of a stream; it begins when what stands before it in the plan has been reached."""
        start = max(self.free["compute"], self.free[lane])
        self.free[lane] = start + seconds
        self.events.append(Event(lane, name, start, seconds, i.loc, **amounts))
        return start + seconds
