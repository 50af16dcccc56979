"""Kernels in one launch: which calls of a plan, and what the launch computes."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Symbol, sym
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import CPU, GPU
from tessera.schedule.plan import KernelCall, Plan
from tessera.target.ptx.architectures import architecture_named
from tessera.target.triton import grouped
from tessera.target.triton.head import Options
from tessera.target.triton.plan import compile_plan
from tessera.tile import interpret
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import state, tensor
from tests.target import triton_interpreter


def training(*shapes: tuple[int, ...]) -> Graph:
    """Parameters updated by gradients that are given, with momentum, after they are scaled to a norm of 1."""
    updates: dict[Value, Value] = {}
    gradients = [tensor(f"g{i}", *shape) for i, shape in enumerate(shapes)]
    total = [op.sum(g * g) for g in gradients]
    while len(total) > 1:
        total = [total[0] + total[1], *total[2:]]
    scale = op.minimum(1.0 / op.sqrt(total[0]), 1.0)
    for i, g in enumerate(gradients):
        p, m = state(f"p{i}", *shapes[i]), state(f"m{i}", *shapes[i])
        updates[m] = m * 0.9 + g * scale
        updates[p] = p - updates[m] * 0.1
    return Graph({}, inputs=gradients, updates=updates)


def planned(graph: Graph) -> Plan:
    return build_plan(to_primitives(graph), None, GPU)


def calls(plan: Plan, run: grouped.Run) -> list[KernelCall]:
    found = [plan.instructions[at] for at in run.instructions]
    assert all(isinstance(c, KernelCall) for c in found)
    return found  # type: ignore[return-value]


SHAPES = ((300,), (17, 5), (40, 64), (300,), (8,), (1000,))


def test_updates_of_all_parameters_are_few_launches() -> None:
    plan = planned(training(*[(600, 700 + 8 * (i % 3)) for i in range(12)]))
    runs = grouped.runs(plan)
    last = calls(plan, runs[-1])
    assert len(runs) <= 4 and {c.kernel for c in last}
    assert sum(len(run.instructions) for run in runs) >= len(plan.instructions) - 4


def test_a_launch_does_what_its_calls_do() -> None:
    plan = planned(training(*SHAPES))
    runs = grouped.runs(plan)
    assert runs
    random = np.random.default_rng(0)
    for run in runs:
        before = {n: random.uniform(-1, 1, int(plan.buffers[n].bytes) // 4).astype(np.float32) for n in run.buffers}
        right = {n: a.copy() for n, a in before.items()}
        for call in calls(plan, run):
            sizes = {s: int(d) for s, d in plan.kernel_sizes(call).items()}  # type: ignore[arg-type]
            interpret.run_kernel(
                plan.kernels[call.kernel], [right[n] for n in call.buffers], {s.name: d for s, d in sizes.items()})
        found = [a.copy() for a in before.values()]
        for program in grouped.generate(plan, run, [Options()] * len(plan.kernels)).programs:
            triton_interpreter.launch(program, found, [], list(program.grid), {})
        for array, number in zip(found, run.buffers):
            assert np.allclose(array, right[number], rtol=1e-5, atol=1e-6), plan.buffers[number].label


def test_no_call_touches_what_another_of_its_launch_writes() -> None:
    plan = planned(training(*SHAPES))
    for run in grouped.runs(plan):
        written: set[int] = set()
        for call in calls(plan, run):
            roles = [b.role for b in plan.kernels[call.kernel].buffers]
            assert not written & set(call.buffers)
            written |= {n for n, role in zip(call.buffers, roles) if role != "in"}


@pytest.mark.parametrize("shape", [(2048, 4096), (sym(Symbol("B", 0, None)), 64)])
def test_large_calls_and_calls_of_unknown_size_are_launched_alone(shape: tuple[object, ...]) -> None:
    x, y = tensor("x", *shape), tensor("y", *shape)  # type: ignore[arg-type]
    assert grouped.runs(planned(Graph({"a": op.exp(x), "b": op.tanh(y)}))) == []


def test_the_plan_has_one_launch_for_a_run() -> None:
    plan = planned(training(*SHAPES))
    compiled = compile_plan(plan, architecture_named("sm_90a"))
    names = [k.name for k in compiled.image.kernels]
    assert any(name.endswith("_group") for name in names) and len(names) < len(plan.instructions)
    alone = {plan.kernels[i.kernel].name for i in plan.instructions if isinstance(i, KernelCall)}
    assert not alone <= set(names)


def test_the_cpu_keeps_its_order() -> None:
    graph = to_primitives(training(*SHAPES))
    assert not CPU.together and build_plan(graph, None, CPU).instructions
