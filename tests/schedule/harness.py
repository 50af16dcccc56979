"""Graphs for scheduling tests, and comparison of plans, interpreted, with the operators' references."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tessera import op
from tessera.ir.dims import Dim
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import DType, f32, i64
from tessera.ir.graph import Graph
from tessera.ir.value import CONSTANT, INPUT, PARAM, Node, TensorType, Value
from tessera.op.reference import evaluate
from tessera.schedule.machine import CPU, Machine
from tessera.schedule.options import Schedule
from tessera.schedule.plan import KernelCall, Plan
from tessera.tile.interpret import run_plan
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.ops.harness import assert_close


def tensor(name: str, *shape: Dim, dtype: DType = f32) -> Value:
    """An input."""
    return Node(INPUT, (), {"name": name}, (TensorType(dtype, shape),)).results[0]


def state(name: str, *shape: Dim, dtype: DType = f32) -> Value:
    """A parameter without storage."""
    return Node(PARAM, (), {"name": name, "trainable": True}, (TensorType(dtype, shape),)).results[0]


def constant(name: str, data: np.ndarray, dtype: DType) -> Value:
    """A dense constant."""
    return Node(CONSTANT, (), {"name": name}, (TensorType(dtype, data.shape),), payload=data).results[0]


def plan_of(graph: Graph, options: Schedule | None = None) -> Plan:
    """The plan of a graph as the user wrote it."""
    return build_plan(to_primitives(graph), options)


def graph_of(*outputs: Value, inputs: list[Value] | None = None, updates: Mapping[Value, Value] | None = None) -> Graph:
    """A graph with outputs y0, y1, …"""
    return Graph({f"y{i}": v for i, v in enumerate(outputs)}, inputs=inputs, updates=updates)


def calls(plan: Plan) -> list[str]:
    """The names of the kernels that run, in order."""
    return [plan.kernels[i.kernel].name for i in plan.instructions if isinstance(i, KernelCall)]


def draw(v: Value, random: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
    """Data for a leaf; integers are small and not negative."""
    shape = tuple(evaluate_dim(d, sizes) for d in v.shape)
    if v.dtype.kind == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if not v.dtype.is_float:
        return random.integers(0, 3, shape).astype(v.dtype.numpy)
    return random.uniform(-2, 2, shape).astype(v.dtype.numpy)


def check(
    graph: Graph, options: Schedule | None = None, sizes: Mapping[str, int] | None = None, tolerance: float = 4.0,
    shuffled: bool = True, machine: Machine = CPU,
) -> Plan:
    """Run the plan of a graph on random data and compare outputs and state; the plan."""
    random = np.random.default_rng(7)
    feeds = {v.node.attrs["name"]: draw(v, random, sizes or {}) for v in graph.inputs}
    before = {v.node.attrs["name"]: draw(v, random, sizes or {}) for v in graph.params()}
    after = dict(before)
    expected = evaluate(graph, feeds, after)
    primitives = to_primitives(graph)
    plan = build_plan(primitives, options, machine)
    constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in primitives.constants()}
    held = {t.name: before[t.name] for t in plan.state}
    for shuffle in (None, random) if shuffled else (None,):
        outputs, found = run_plan(plan, feeds, held, constants, shuffle)
        for name, array in outputs.items():
            assert_close(array, expected[name], tolerance, name)
        for name, array in found.items():
            assert_close(array, after[name], tolerance, f"state {name}")
    return plan


def mlp_step(batch: Dim, widths: tuple[int, ...]) -> Graph:
    """A training step: relu layers, cross entropy, SGD with momentum."""
    x, labels = tensor("x", batch, widths[0]), tensor("labels", batch, dtype=i64)
    params: list[Value] = []
    h = x
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        w, b = state(f"w{i}", fan_in, fan_out), state(f"b{i}", fan_out)
        params += [w, b]
        h = op.matmul(h, w) + b
        if i < len(widths) - 2:
            h = op.relu(h)
    loss = op.cross_entropy(h, labels)
    updates: dict[Value, Value] = {}
    for p, g in zip(params, gradients([loss], params)):
        momentum = state(f"momentum_{p.node.attrs['name']}", *p.shape)
        updates[momentum] = momentum * 0.9 + g
        updates[p] = p - updates[momentum] * 0.1
    return Graph({"loss": loss}, inputs=[x, labels], updates=updates)
