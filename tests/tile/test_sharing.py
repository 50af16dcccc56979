"""Kernels that differ in constants only share code, and give the same results."""

from __future__ import annotations

import numpy as np
import pytest
import tessera
from tessera import graph, op
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import f32, i64
from tessera.op.opdef import build
from tessera.schedule.plan import KernelCall
from tessera.tile import sharing

from tests.schedule.harness import check, graph_of, plan_of, tensor


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_of_a_stack_share_one_kernel(axis: int) -> None:
    plan = check(graph_of(op.stack([tensor(f"x{i}", 3, 5) * 2.0 for i in range(9)], axis=axis)))
    calls = [i for i in plan.instructions if isinstance(i, KernelCall)]
    assert len(calls) == 9 and len(plan.kernels) == 1
    assert len({c.sizes for c in calls}) == 9
    (offset,) = plan.kernels[0].sizes
    assert (offset.min, offset.max % 8) == (0, 0)


def test_parts_of_many_sizes_share_one_kernel() -> None:
    xs = [tensor(f"x{i}", 2, 2 + i) for i in range(60)]
    (kernel,) = check(graph_of(op.concat(xs, axis=1)), shuffled=False).kernels
    assert (2, 61) in {(s.min, s.max) for s in kernel.sizes}


def test_parts_of_few_sizes_keep_their_sizes() -> None:
    xs = [tensor(f"x{i}", 3, 2 + i % 6) for i in range(60)]
    plan = check(graph_of(op.concat(xs, axis=1)), shuffled=False)
    assert len(plan.kernels) == 6 and all(len(k.sizes) == 1 for k in plan.kernels)


def test_few_parts_of_different_sizes_keep_their_constants() -> None:
    plan = check(graph_of(op.concat([tensor(f"x{i}", 3, 4 + i) for i in range(5)], axis=1)))
    assert len(plan.kernels) == 5 and not any(k.sizes for k in plan.kernels)


def test_two_kernels_keep_their_constants() -> None:
    plan = check(graph_of(op.concat([tensor("x", 3, 4), tensor("y", 3, 4)], axis=1)))
    assert len(plan.kernels) == 2 and not any(k.sizes for k in plan.kernels)


def test_kernels_with_many_different_offsets_stay_apart() -> None:
    x = tensor("x", 64, 7)
    columns = [sum((x[9 * i + j: 9 * i + j + 1] * float(j) for j in range(6)), x[i: i + 1]) for i in range(4)]
    plan = check(graph_of(*[op.tanh(c) for c in columns]), shuffled=False)
    assert all(len(k.sizes) <= sharing.MOST_OFFSETS for k in plan.kernels)


def test_symbolic_sizes_stay_arguments() -> None:
    size = sym(Symbol("B", 1, 100))
    plan = check(graph_of(op.stack([tensor(f"x{i}", size, 3) for i in range(6)], axis=0)), sizes={"B": 4})
    assert len(plan.kernels) <= 2
    check(graph_of(op.concat([tensor(f"x{i}", size, 3) for i in range(6)], axis=1)), sizes={"B": 1})


def test_draws_of_different_operations_share_code() -> None:
    key = tensor("key", 2, dtype=i64)
    draws = [build("random_uniform", key, shape=[6, 4], dtype=f32, id=2**31 + i) for i in range(5)]
    xs = [tensor(f"x{i}", 6, 4) for i in range(5)]
    ys = [op.tanh(op.sum(x * (u > 0.5), axis=1)) for x, u in zip(xs, draws)]
    total = ys[0]
    for y in ys[1:]:
        total = total @ op.reshape(y, [6, 1]) + y
    plan = plan_of(graph_of(*ys, total, inputs=[key, *xs]))
    check(graph_of(*ys, total, inputs=[key, *xs]))
    drawing = [k for k in plan.kernels if "random" in k.name]
    assert len(drawing) < 5


def test_compiled_results() -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((4, 1 + i % 9)).astype(np.float32) for i in range(60)]
    xs = [op.tensor(a.shape, name=f"x{i}") for i, a in enumerate(arrays)]
    joined = op.concat(xs, axis=1)
    found = graph.compile({"all": joined, "parts": op.split(op.tanh(joined), [7, 90, 91, 200], axis=1)})(*arrays)
    expected = np.concatenate(arrays, 1)
    np.testing.assert_array_equal(found["all"].numpy(), expected)
    for part, wanted in zip(found["parts"], np.split(np.tanh(expected), [7, 90, 91, 200], 1)):
        np.testing.assert_allclose(part.numpy(), wanted, rtol=1e-6, atol=1e-6)


def test_compiled_draws_are_those_of_the_portable_target() -> None:
    x = op.tensor((33, 5), name="x")
    y = [op.dropout(op.sum(x * float(i), axis=1), 0.5) for i in range(6)]
    given = np.random.default_rng(0).standard_normal((33, 5)).astype(np.float32)
    results = []
    for target in ("cpu", "portable"):
        tessera.manual_seed(5)
        results.append([a.numpy() for a in graph.compile(y, target=target)(given)])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
