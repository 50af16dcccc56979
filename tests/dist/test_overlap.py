"""Exchanges beside kernels: what stands between a start and its wait leaves the memory of the exchange alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tessera import dist, graph, op, optim
from tessera._core import Program
from tessera.artifact import layout, writer
from tessera.dist import Mesh, ShardSpec
from tessera.dist.cost import MACHINES
from tessera.dist.partition import partition
from tessera.errors import ArgumentError, FormatError, UnsupportedError
from tessera.ir.dims import evaluate
from tessera.schedule.machine import CPU, GPU
from tessera.schedule.options import Schedule
from tessera.schedule.plan import CollectiveCall, Copy, Instruction, KernelCall, Plan, RangeCheck, Wait
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

from tests.dist.test_random_graphs import MESHES, laid_out
from tests.schedule.random_graphs import random_graph

BESIDE, APART = Schedule(overlap=True), Schedule(overlap=False)


def accesses(plan: Plan, i: Instruction) -> tuple[list[int], list[int]]:
    """The buffers that an instruction reads and writes."""
    if isinstance(i, Wait):
        return [], []
    if isinstance(i, KernelCall):
        roles = [b.role for b in plan.kernels[i.kernel].buffers]
        return ([b for b, r in zip(i.buffers, roles, strict=True) if r != "out"],
                [b for b, r in zip(i.buffers, roles, strict=True) if r != "in"])
    if isinstance(i, RangeCheck):
        return [i.buffer], []
    if isinstance(i, Copy):
        return [i.source], [i.target]
    if isinstance(i, CollectiveCall):
        return [i.operand.buffer], [i.result.buffer]
    return [o.buffer for o in i.operands], [o.buffer for o in i.results]


def check_memory(plan: Plan, sizes: dict[str, int]) -> int:
    """Every start has one wait, and nothing between them writes its operand or touches its result, by address.

    The number of instructions, other than exchanges, between starts and their waits.
    """

    def place(buffer: int) -> tuple[str, int, int]:
        b = plan.buffers[buffer]
        if b.kind != "arena":
            return f"{buffer}", 0, 1
        assert b.offset is not None
        first = evaluate(b.offset, sizes)
        return "arena", first, first + evaluate(b.bytes, sizes)

    def meet(a: int, b: int) -> bool:
        (kind, first, last), (other, start, stop) = place(a), place(b)
        return kind == other and first < stop and start < last

    under_way: dict[int, CollectiveCall] = {}
    beside = 0
    for i in plan.instructions:
        if isinstance(i, Wait):
            del under_way[i.start]
            continue
        read, written = accesses(plan, i)
        for e in under_way.values():
            assert not any(meet(b, e.result.buffer) or meet(b, e.operand.buffer) for b in written)
            assert isinstance(i, CollectiveCall) or not any(meet(b, e.result.buffer) for b in read)
            beside += not isinstance(i, CollectiveCall)
        if isinstance(i, CollectiveCall) and i.start is not None:
            assert i.start not in under_way
            under_way[i.start] = i
    assert not under_way
    return beside


def exchanges(plan: Plan) -> list[CollectiveCall]:
    return [i for i in plan.instructions if isinstance(i, CollectiveCall)]


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
def test_random_programs(machine) -> None:
    beside = 0
    for seed in range(40):
        made, data = random_graph(seed, 8 + seed % 17, seed % 2 == 0, 1 + seed % 6)
        mesh = MESHES[seed % len(MESHES)]
        part = partition(laid_out(to_primitives(made), np.random.default_rng(seed), mesh), mesh, MACHINES["cpu"])
        local = to_primitives(part.graph)
        plan = build_plan(local, BESIDE, machine)
        apart = build_plan(local, APART, machine)
        assert not any(isinstance(i, Wait) for i in apart.instructions)
        assert sorted((e.op, e.axes, e.attrs) for e in exchanges(plan)) == sorted(
            (e.op, e.axes, e.attrs) for e in exchanges(apart)
        )
        for rank in range(mesh.count(mesh.names)):
            beside += check_memory(plan, {**mesh.coordinates(rank), **{d.name: 6 for d in plan.dims if d.name == "B"}})
        assert build_plan(local, BESIDE, machine).hash() == plan.hash()
    assert beside > 50


def sharded_step(mesh: Mesh, width: int = 64, layers: int = 4) -> tuple[Any, list[Any]]:
    """Layers whose weights are split over dp, as is the batch: gathered before use, their gradients scattered."""
    weights = [
        dist.tensor((width, width), layout=ShardSpec((0,), ("dp",)), mesh=mesh, name=f"w{i}") for i in range(layers)
    ]
    adam = optim.AdamW(1e-2)

    def step(x):
        x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        for w in weights:
            x = op.tanh(x @ dist.constrain(w, ShardSpec((), ()), mesh))
        loss = op.mean(x * x)
        adam.apply(graph.backward(loss))
        return loss

    return step, weights


def test_gathers_go_ahead_and_reductions_behind() -> None:
    """Each layer's gather but the first runs beside a product, and so does each reduction but the last."""
    mesh = Mesh(["dp"], shape=(4,), kind="cuda")
    step, _ = sharded_step(mesh, 4096)
    found = dist.simulate(step, op.tensor((32768, 4096), name="x"))
    apart = dist.simulate(step, op.tensor((32768, 4096), name="x"), schedule=APART)
    assert [e.name for e in found.events if e.lane == "exchange"] != [] and found.compute == pytest.approx(apart.compute)
    assert apart.exposed == pytest.approx(apart.exchange)
    assert found.exposed < 0.5 * apart.exposed
    largest = 4096 * 4096 * 4
    assert found.memory["working"] <= apart.memory["working"] * 1.15 + 2.5 * largest


def test_memory_is_bounded() -> None:
    mesh = Mesh(["dp"], shape=(4,), kind="cuda")
    step, _ = sharded_step(mesh, 1024, 12)
    x = op.tensor((512, 1024), name="x")  # weights are larger than activations: all gathered at once would be most
    bounds = (0, 1 << 20, 12 << 20, 1 << 40)
    least = dist.simulate(step, x, schedule=APART).memory["working"]
    memory = [dist.simulate(step, x, schedule=Schedule(overlap=much)).memory["working"] for much in bounds]
    assert all(found <= least + much for found, much in zip(memory, bounds, strict=True))
    assert memory[3] > least + (12 << 20)


def test_a_budget_is_kept_by_waiting_at_once() -> None:
    mesh = Mesh(["dp"], shape=(4,), kind="cuda")
    step, _ = sharded_step(mesh, 1024, 12)
    x = op.tensor((512, 1024), name="x")
    least = int(dist.simulate(step, x, schedule=APART).memory["working"])
    found = dist.simulate(step, x, schedule=Schedule(overlap=True, memory_budget=least))
    assert found.memory["working"] <= least
    with pytest.raises(UnsupportedError, match="memory_budget = 1000 bytes"):
        dist.simulate(step, x, schedule=Schedule(memory_budget=1000))


def test_runs_are_the_same_bits() -> None:
    mesh = Mesh(["dp"], range(4))
    x = np.random.default_rng(0).standard_normal((18, 64)).astype(np.float32)
    results = []
    for schedule in (APART, BESIDE):
        step, weights = sharded_step(mesh)
        compiled = graph.compile(step, op.tensor((18, 64), name="x"), schedule=schedule)
        losses = [np.asarray(compiled(x)) for _ in range(3)]
        results.append([*losses, *(w.node.payload.value for w in weights)])
        assert compiled.traffic() == [compiled.collectives.bytes_of(r) for r in range(4)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def plans_of(compiled: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, text in compiled._built.metadata.items():
        if name.startswith(layout.PLAN):
            yield name, json.loads(text)


def test_a_reader_refuses_what_does_not_fit_together() -> None:
    mesh = Mesh(["dp"], range(2))
    step, _ = sharded_step(mesh)
    compiled = graph.compile(step, op.tensor((18, 64), name="x"), schedule=BESIDE)
    (name, plan), = plans_of(compiled)
    assert plan["version"] == 2
    instructions = plan["instructions"]
    start = next(n for n, i in enumerate(instructions) if "start" in i)
    number, result = instructions[start]["start"], instructions[start]["results"][0]["buffer"]
    wait = next(n for n, i in enumerate(instructions) if i.get("wait") == number)
    reader = next(n for n, i in enumerate(instructions) if n > wait and result in i.get("buffers", ()))

    def refused(message: str, changed: list[Any], **more: Any) -> None:
        text = json.dumps({**plan, "instructions": changed, **more})
        data = writer.to_bytes({**compiled._built.metadata, name: text}, compiled._built.kernel_sections())
        with pytest.raises(FormatError, match=message):
            Program.load_bytes(data)

    without = instructions[:wait] + instructions[wait + 1 :]
    refused(f"instruction {reader - 1}: reads buffer {result} before the exchange that fills it is waited", without)
    refused(f"waits for exchange {number}, which was waited for before",
            [*instructions[: wait + 1], *instructions[wait:]])
    refused(f"instruction 0: waits for exchange {number}, which has not been started", [instructions[wait], *without])
    refused("starts exchange .*, whose number is taken", [*instructions, instructions[start]])
    refused("exchange 77 is never waited for", [*instructions, {**instructions[start], "start": 77}])
    refused("'start' is -1", [{**instructions[start], "start": -1}])
    refused("'wait' is not an integer", [{"wait": "x"}])
    into = {"zero": instructions[start]["operands"][0]["buffer"], "bytes": 0}
    if plan["buffers"][into["zero"]]["kind"] == "arena":
        refused("writes buffer", [*instructions[: start + 1], into, *instructions[start + 1 :]])
    refused("writes buffer", [*instructions[: start + 1], {"zero": result, "bytes": 0}, *instructions[start + 1 :]])


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="overlap = -1: use True, False, the bytes of memory that it may cost, or None"):
        Schedule(overlap=-1)
