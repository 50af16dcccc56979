"""Plans: where values live, state, outputs, checks, sizes, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from tessera import op
from tessera.errors import IndexRangeError, ShapeError
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Symbol, sym
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import bf16, bool_, f16, f64, i8, i32, i64, u8
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.op.opdef import build
from tessera.schedule.options import Schedule
from tessera.schedule.plan import Copy, Instruction, KernelCall, Plan, RangeCheck
from tessera.tile.interpret import run_plan
from tessera.transform.autodiff import gradients

from tests.schedule.harness import calls, check, constant, graph_of, mlp_step, plan_of, state, tensor

B = sym(Symbol("B", 0, None))
BATCH = sym(Symbol("batch", 1, 4096, 8))


def copies(plan: Plan) -> list[tuple[str, str]]:
    """Source and target labels of copies."""
    found = [i for i in plan.instructions if isinstance(i, Copy)]
    return [(plan.buffers[i.source].label, plan.buffers[i.target].label) for i in found]


def written_by(plan: Plan, i: Instruction) -> set[int]:
    """The buffers that an instruction writes."""
    if isinstance(i, Copy):
        return {i.target}
    if isinstance(i, KernelCall):
        return {b for b, k in zip(i.buffers, plan.kernels[i.kernel].buffers) if k.role != "in"}
    return set()


# Outputs.


def test_outputs_that_are_inputs_constants_or_state_are_copies() -> None:
    x, p = tensor("x", 3), state("p", 2)
    c = constant("c", np.arange(4.0, dtype=np.float32), x.dtype)
    plan = check(Graph({"a": x, "b": p, "c": c}, inputs=[x]))
    assert len(copies(plan)) == 3


def test_one_value_as_two_outputs() -> None:
    x = tensor("x", 3)
    y = op.exp(x)
    plan = check(graph_of(y, y))
    assert calls(plan) == ["exp"] and copies(plan) == [("y0", "y1")]


def test_output_that_is_used_inside_is_read_from_its_buffer() -> None:
    x = tensor("x", 4, 4)
    y = op.matmul(x, x)
    plan = check(graph_of(y, op.matmul(y, x)))
    assert plan.arena == 0 and not copies(plan)


def test_output_that_is_a_view() -> None:
    x = tensor("x", 3, 4)
    s = op.softmax(x)
    plan = check(graph_of(op.transpose(s, [1, 0]), op.reshape(s, [12]), op.broadcast_to(x, [2, 3, 4]), x[1]))
    assert len(plan.outputs) == 4


def test_unused_inputs_are_kept() -> None:
    x, unused = tensor("x", 3), tensor("unused", 2, 2, dtype=i32)
    plan = check(Graph({"y": op.exp(x)}, inputs=[unused, x]))
    assert [t.name for t in plan.inputs] == ["unused", "x"]


# State.


def test_update_in_place() -> None:
    p, g = state("p", 5), tensor("g", 5)
    plan = check(Graph({}, inputs=[g], updates={p: p - g * 0.1}))
    (kernel,) = plan.kernels
    assert [b.role for b in kernel.buffers] == ["inout", "in"] and not copies(plan)


def test_update_that_reads_elsewhere_is_copied_at_the_end() -> None:
    p = state("p", 4, 4)
    plan = check(Graph({}, updates={p: op.matmul(p, p)}))
    assert isinstance(plan.instructions[-1], Copy) and plan.buffers[plan.instructions[-1].target].label == "p"


def test_update_by_a_flipped_value_is_not_in_place() -> None:
    p = state("p", 7)
    check(Graph({}, updates={p: op.flip(p, [0]) * 2.0}))


def test_swap_of_two_parameters() -> None:
    a, b = state("a", 3), state("b", 3)
    plan = check(Graph({}, updates={a: b, b: a}))
    assert len(copies(plan)) == 4


def test_rotation_with_arithmetic() -> None:
    a, b, c = (state(n, 4) for n in "abc")
    check(Graph({}, updates={a: b * 2.0, b: c + a, c: a}))


def test_one_parameter_takes_the_old_value_of_another() -> None:
    a, b = state("a", 3), state("b", 3)
    check(Graph({}, updates={a: a + 1.0, b: a}))


def test_parameter_set_to_an_input_and_to_an_output() -> None:
    a, b, x = state("a", 3), state("b", 3), tensor("x", 3)
    y = op.exp(x)
    check(Graph({"y": y}, inputs=[x], updates={a: x, b: y}))


def test_two_parameters_set_to_one_value() -> None:
    a, b, x = state("a", 3), state("b", 3), tensor("x", 3)
    y = op.exp(x)
    check(Graph({}, inputs=[x], updates={a: y, b: y}))


def test_update_by_itself_is_nothing() -> None:
    a, x = state("a", 3), tensor("x", 3)
    plan = check(Graph({"y": op.exp(x)}, inputs=[x], updates={a: a}))
    assert len(plan.instructions) == 1 and not plan.state[0].mutated


def test_old_value_of_an_updated_parameter_as_output() -> None:
    p = state("p", 3)
    plan = check(Graph({"old": p, "doubled": p * 2.0}, updates={p: p + 1.0}))
    assert plan.state[0].mutated


def test_old_value_is_read_before_it_is_overwritten() -> None:
    p, x = state("p", 4, 4), tensor("x", 3, 4)
    new = p - op.matmul(op.transpose(x, [1, 0]), x)
    y = op.matmul(op.tanh(op.matmul(x, p)), op.transpose(p, [1, 0]))
    plan = check(Graph({"y": y}, inputs=[x], updates={p: new}))
    buffer = plan.state[0].buffer
    users = [i for i in plan.instructions if isinstance(i, KernelCall) and buffer in i.buffers]
    assert [buffer in written_by(plan, i) for i in users] == [False, False, True]
    assert not copies(plan)


def test_update_that_needs_a_later_reader_of_the_old_value_is_copied() -> None:
    p, x = state("p", 3), tensor("x", 3)
    new = op.cumsum(p * x, axis=0)
    check(Graph({"y": op.softmax(new) * op.flip(p, [0])}, inputs=[x], updates={p: new}))


def test_mixed_precision_master_weights() -> None:
    x, w = tensor("x", 4, 6, dtype=bf16), state("w", 6, 3)
    loss = op.sum(op.cast(op.matmul(x, op.cast(w, "bf16")), "f32"))
    (g,) = gradients([loss], [w])
    plan = check(Graph({"loss": loss}, inputs=[x], updates={w: w - g * 0.1}), tolerance=1e4)
    assert not copies(plan)


# Checks.


def test_checks_come_first_and_before_any_state_is_written() -> None:
    plan = plan_of(mlp_step(B, (7, 6, 4)))
    assert isinstance(plan.instructions[0], RangeCheck)
    assert plan.instructions[0].low == 0 and plan.instructions[0].high == 3 and plan.instructions[0].ignore == -100


def test_a_failed_check_leaves_state_untouched() -> None:
    x, i = tensor("x", 3), tensor("i", 3, dtype=i64)
    p = state("p", 3)
    late = op.cast(op.floor(op.cumsum(x, axis=0)), "i64") + i
    checked = build("check_range", late, low=0, high=2, ignore=None, what="late label")
    graph = Graph({"y": op.take(x, checked, axis=0)}, inputs=[x, i], updates={p: p + x})
    plan = plan_of(graph)
    before = np.ones(3, np.float32)
    held = {"p": before.copy()}
    with pytest.raises(IndexRangeError, match="late label"):
        run_plan(plan, {"x": np.zeros(3, np.float32), "i": np.array([0, 1, 5])}, held)
    positions = [n for n, k in enumerate(plan.instructions) if isinstance(k, RangeCheck)]
    written = [n for n, k in enumerate(plan.instructions) if plan.state[0].buffer in written_by(plan, k)]
    assert positions and written and max(positions) < min(written)


def test_unproven_indices_are_checked() -> None:
    x, i = tensor("x", 5, 2), tensor("i", 4, dtype=i64)
    plan = check(Graph({"y": build("take", x, i, axis=0)}, inputs=[x, i]))
    assert [type(k) for k in plan.instructions] == [RangeCheck, KernelCall]
    with pytest.raises(IndexRangeError, match="take: index: 5 is outside"):
        run_plan(plan, {"x": np.zeros((5, 2), np.float32), "i": np.array([0, 5, 1, 1])})


@pytest.mark.parametrize("case", ["checked", "iota", "argmax", "ignored", "clipped"])
def test_proven_indices_are_not_checked_again(case: str) -> None:
    x, i = tensor("x", 5, 2), tensor("i", 4, dtype=i64)
    checked = build("check_range", i, low=0, high=4, ignore=-1 if case == "ignored" else None, what="label")
    index = {
        "checked": op.reshape(checked, [2, 2]), "iota": op.flip(build("iota", shape=[5], axis=0, dtype=i64), [0]),
        "argmax": op.argmax(x, axis=0), "ignored": op.where(checked != -1, checked, op.full([], 0, "i64")),
        "clipped": op.clip(i * 3, 0, 4),
    }[case]
    plan = plan_of(Graph({"y": build("take", x, index, axis=0)}, inputs=[x, i]))
    assert sum(isinstance(k, RangeCheck) for k in plan.instructions) == (case in ("checked", "ignored"))


@pytest.mark.parametrize("index", [
    lambda i: op.clip(i, 0, 5), lambda i: op.clip(i, -1, 4), lambda i: op.minimum(i, 4), lambda i: op.maximum(i, 0),
    lambda i: op.minimum(op.maximum(i, 0), i), lambda i: op.maximum(op.minimum(i, 4), i),
])
def test_indices_with_one_end_open_are_checked(index: Callable[[Value], Value]) -> None:
    x, i = tensor("x", 5, 2), tensor("i", 4, dtype=i64)
    plan = plan_of(Graph({"y": build("take", x, index(i), axis=0)}, inputs=[x, i]))
    assert sum(isinstance(k, RangeCheck) for k in plan.instructions) == 1


def test_indices_out_of_range_never_touch_other_memory() -> None:
    """With the check taken out, loads and stores still stay inside."""
    x, i, u = tensor("x", 3, 2), tensor("i", 4, dtype=i64), tensor("u", 4, 2)
    graph = Graph({"a": build("take", x, i, axis=0), "b": build("index_add", x, i, u, axis=0)}, inputs=[x, i, u])
    plan = plan_of(graph)
    plan.instructions = [k for k in plan.instructions if not isinstance(k, RangeCheck)]
    feeds = {"x": np.ones((3, 2), np.float32), "i": np.array([-7, 3, 99, 1]), "u": np.ones((4, 2), np.float32)}
    outputs, _ = run_plan(plan, feeds)
    assert outputs["a"].shape == (4, 2) and outputs["b"].sum() == 14


def test_extrema_of_symbolic_axes_are_checked_before_the_run() -> None:
    x = tensor("x", B, 3)
    plan = plan_of(graph_of(op.max(x, axis=0), op.argmin(x, axis=0)))
    assert {c.expr for c in plan.checks} == {B} and all(c.min == 1 for c in plan.checks)
    with pytest.raises(ShapeError, match="is empty; an extremum needs at least one element"):
        run_plan(plan, {"x": np.zeros((0, 3), np.float32)})


# Shapes and dtypes.


@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 1, 1), (0, 3), (3, 0), (2, 0, 4)])
def test_edge_shapes(shape: tuple[int, ...]) -> None:
    x, y = tensor("x", *shape), tensor("y", *shape)
    outputs = [op.tanh(x) + y, op.sum(x), op.reshape(x * y, [x.size]), op.cast(x, "i32"), x > y]
    if shape:
        outputs += [op.softmax(x) if shape[-1] else x, op.sum(x, axis=-1, keepdims=True), op.cumsum(x, axis=0)]
        outputs += [op.concat([x, y], axis=0), op.flip(x, [0]), op.pad(x, [[1, 2]] * len(shape))]
    if len(shape) >= 2:
        outputs += [op.matmul(x, op.transpose(y, [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]))]
    check(graph_of(*outputs, inputs=[x, y]))


@pytest.mark.parametrize("dtype", [f64, bf16, f16, i64, i32, i8, u8])
def test_every_dtype(dtype: object) -> None:
    x, y = (tensor(n, 3, 4, dtype=dtype) for n in "xy")  # type: ignore[arg-type]
    outputs = [x + y * x, op.sum(x), op.max(x, axis=0), op.argmax(x, axis=1), op.cast(x, "f32"), op.where(x > y, x, y)]
    check(graph_of(*outputs, op.matmul(x, op.transpose(y, [1, 0])), op.cumsum(x, axis=1)), tolerance=8)


def test_bool() -> None:
    x, y = tensor("x", 3, 4, dtype=bool_), tensor("y", 3, 4, dtype=bool_)
    joined = op.concat([x, y], axis=1)
    check(graph_of(op.logical_and(x, op.logical_not(y)), op.any(x, axis=0), op.all(y), op.sum(x), joined))


@pytest.mark.parametrize("size", [0, 1, 2, 5, 33])
def test_one_plan_for_all_sizes(size: int) -> None:
    x, w = tensor("x", B, 4), state("w", 4, 3)
    h = op.relu(op.matmul(x, w))
    pooled = op.sum(op.softmax(h), axis=0)
    flat = op.reshape(op.concat([x, x * 2.0], axis=0), [B * 8])
    pair = op.reshape(flat, [2, B * 4])
    check(graph_of(h, pooled, flat, pair, op.transpose(h, [1, 0]), op.pad(h, [[1, 0], [0, 2]])), sizes={"B": size})


def test_two_symbols_and_a_divisor() -> None:
    t = sym(Symbol("T", 1, 64))
    x = tensor("x", BATCH, t, 8)
    q = op.transpose(op.reshape(x, [BATCH, t, 2, 4]), [0, 2, 1, 3])
    scores = op.softmax(op.matmul(q, op.transpose(q, [0, 1, 3, 2])))
    y = op.reshape(op.transpose(op.matmul(scores, q), [0, 2, 1, 3]), [BATCH, t, 8])
    check(graph_of(op.layer_norm(y + x, None, None), op.mean(y)), sizes={"batch": 8, "T": 5})


# JSON.


@dataclass
class Compiled:
    """What a target would say about a kernel."""

    entry: int
    grid: object
    grain: object
    scratch: object


def compiled_for(plan: Plan) -> list[Compiled]:
    """Stand-in results of a target, over the kernels' own sizes."""
    return [Compiled(64 * i, sym(k.sizes[0]) if k.sizes else 12, 4, 256) for i, k in enumerate(plan.kernels)]


def test_json_follows_the_contract() -> None:
    graph = mlp_step(B, (7, 6, 4))
    plan = plan_of(graph)
    data = json.loads(plan.to_json(compiled_for(plan), "cpu", "x86-64-v3"))  # type: ignore[arg-type]
    assert set(data) == {
        "version", "target", "level", "dims", "inputs", "outputs", "state", "constants", "buffers", "arena", "kernels",
        "instructions", "peak", "checks",
    }
    assert data["dims"] == [{"name": "B", "min": 0, "max": None, "multiple_of": 1}]
    assert data["inputs"][0] == {"name": "x", "dtype": "f32", "shape": ["B", 7], "buffer": 0}
    assert all(s["mutated"] and s["trainable"] for s in data["state"])
    kinds = {b["kind"] for b in data["buffers"]}
    assert kinds == {"input", "output", "state", "arena"}
    assert all(("offset" in b) == (b["kind"] == "arena") for b in data["buffers"])
    names = {"B": Symbol("B", 0, None)}
    for b in data["buffers"]:
        for text in (b["bytes"], b.get("offset", 0)):
            assert isinstance(text, int) or parse_dim(text, names) is not None
    first = next(i for i in data["instructions"] if "kernel" in i)
    assert set(first) == {"kernel", "buffers", "sizes", "grid", "grain", "scratch", "loc"}
    assert first["sizes"] == ["B"] and first["grid"] == "B"
    checks = [i for i in data["instructions"] if "check_range" in i]
    assert checks[0]["count"] == "B" and checks[0]["what"] == "label"


def test_threads_bound_the_split_of_a_kernel() -> None:
    graph = graph_of(op.exp(tensor("x", 100)))
    plan = plan_of(graph, Schedule(threads=3))
    (call,) = json.loads(plan.to_json(compiled_for(plan), "cpu", "x86-64-v3"))["instructions"]  # type: ignore[arg-type]
    assert call["grid"] == 12 and call["grain"] == 4
    plan = plan_of(graph, Schedule(threads=1))
    (call,) = json.loads(plan.to_json(compiled_for(plan), "cpu", "x86-64-v3"))["instructions"]  # type: ignore[arg-type]
    assert call["grain"] == 12


def test_sizes_of_symbolic_memory_hold_for_all_legal_sizes() -> None:
    plan = plan_of(mlp_step(B, (7, 6, 6, 4)))
    for size in (0, 1, 3, 16, 1000):
        arena = [b for b in plan.buffers if b.kind == "arena"]
        total = evaluate_dim(plan.arena, {"B": size})
        for b in arena:
            assert b.offset is not None
            start = evaluate_dim(b.offset, {"B": size})
            assert start % 64 == 0 and start + evaluate_dim(b.bytes, {"B": size}) <= total
