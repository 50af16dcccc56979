"""Scheduling options: validation, recomputation under a memory budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tessera import graph, op
from tessera.errors import ArgumentError, UnsupportedError
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.options import Schedule
from tessera.tile.report import report

from tests.schedule.harness import check, graph_of, plan_of, tensor


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tiles": (8, 8)}, ArgumentError, r"\[Schedule\] tiles = \(8, 8\): give a tuple of three integers"),
        ({"tiles": [8, 8, 8]}, ArgumentError, r"\[Schedule\] tiles = \[8, 8, 8\]: give a tuple"),
        ({"tiles": (8, 0, 8)}, ArgumentError, r"\[Schedule\] tiles = \(8, 0, 8\): .* each at least 1"),
        ({"tiles": (8, True, 8)}, ArgumentError, r"\[Schedule\] tiles"),
        ({"tiles": (4096, 2048, 8)}, ArgumentError, r"\[Schedule\] tiles .* m\*n and n\*k at most 4194304; or None"),
        ({"tiles": (1, 2048, 4096)}, ArgumentError, r"\[Schedule\] tiles"),
        ({"memory_budget": -1}, ArgumentError, r"\[Schedule\] memory_budget = -1: give a number of bytes"),
        ({"memory_budget": "1 GB"}, ArgumentError, r"\[Schedule\] memory_budget = '1 GB'"),
        ({"float32": "tf16"}, ArgumentError, r"\[Schedule\] float32 = 'tf16': use 'ieee' or 'tf32'"),
        ({"recompute": "some"}, ArgumentError, r"\[Schedule\] recompute = 'some': use 'auto', 'none' or 'all'"),
        ({"threads": -2}, ArgumentError, r"\[Schedule\] threads = -2"),
        ({"deterministic": 1}, ArgumentError, r"\[Schedule\] deterministic = 1: use True, False or 'mesh'"),
        ({"level": "avx2"}, ArgumentError, r"\[Schedule\] level = 'avx2': use one of x86-64-v2"),
    ],
)
def test_options_are_validated(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Schedule(**options)


def shared_chain() -> Graph:
    """An expensive value that two products, far apart, need."""
    x, w = tensor("x", 64, 64), tensor("w", 64, 64)
    shared: list[Value] = [op.tanh(x * float(i + 1)) for i in range(4)]
    total = w
    for s in shared:
        total = op.softmax(op.matmul(total, w)) + s
    for s in reversed(shared):
        total = op.softmax(op.matmul(total, w)) * s
    return graph_of(total, inputs=[x, w])


def test_recompute_saves_memory() -> None:
    chain = shared_chain()
    kept = check(chain, Schedule(recompute="none"), shuffled=False, tolerance=40)
    least = check(chain, Schedule(recompute="all"), shuffled=False, tolerance=40)
    assert isinstance(kept.arena, int) and isinstance(least.arena, int) and least.arena < kept.arena


def test_memory_budget_is_met_by_recomputation() -> None:
    chain = shared_chain()
    plain, least = plan_of(chain), plan_of(chain, Schedule(recompute="all"))
    assert isinstance(plain.arena, int) and isinstance(least.arena, int) and least.arena < plain.arena
    plan = check(chain, Schedule(memory_budget=least.arena), shuffled=False, tolerance=40)
    assert isinstance(plan.arena, int) and plan.arena <= least.arena


def test_memory_budget_that_cannot_be_met() -> None:
    with pytest.raises(UnsupportedError, match=r"budget = 100 bytes: the least working memory found is \d+ bytes"):
        plan_of(shared_chain(), Schedule(memory_budget=100))


def test_products_are_never_computed_twice() -> None:
    x = tensor("x", 8, 8)
    y = op.matmul(x, x)
    plan = check(graph_of(op.softmax(y) + y, op.cumsum(y, axis=0)), Schedule(recompute="all"))
    assert sum("matmul" in k.name for k in plan.kernels) == 1


def test_tiles_steer_products() -> None:
    x, w = op.tensor((96, 128), name="x"), op.tensor((128, 160), name="w")
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(v.shape).astype(np.float32) for v in (x, w)]
    y = op.relu(x @ w) + op.sum(x, axis=1, keepdims=True)
    plain = graph.compile(y)
    tiled = Schedule(tiles=(24, 64, 32))
    found = graph.compile(y, schedule=tiled)
    expected = np.maximum(arrays[0] @ arrays[1], 0) + arrays[0].sum(1, keepdims=True)
    np.testing.assert_allclose(found(*arrays).numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found(*arrays).numpy(), plain(*arrays).numpy(), rtol=1e-5, atol=1e-4)
    assert "products in blocks of 24 x 64, 32 terms at a time" in graph.schedule(y, schedule=tiled)
    assert "products in blocks" not in plain.schedule()
    assert "products in blocks" not in report(plan_of(graph_of(op.tanh(tensor("x", 3))), Schedule(tiles=(8, 8, 8))))


def test_permission_for_results_that_depend_on_threads_changes_nothing() -> None:
    x = op.tensor((300, 70), name="x")
    array = np.random.default_rng(0).standard_normal((300, 70)).astype(np.float32)
    a = graph.compile(op.sum(op.tanh(x)), schedule=Schedule(deterministic=False))(array)
    b = graph.compile(op.sum(op.tanh(x)))(array)
    np.testing.assert_array_equal(a.numpy(), b.numpy())
