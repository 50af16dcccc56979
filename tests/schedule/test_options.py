"""Scheduling options: validation, recomputation under a memory budget."""

from __future__ import annotations

from typing import Any

import pytest
from tessera import op
from tessera.errors import ArgumentError, UnsupportedError
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.options import Schedule

from tests.schedule.harness import check, graph_of, plan_of, tensor


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tiles": (8, 8, 8)}, UnsupportedError, r"\[Schedule\] tiles = \(8, 8, 8\) is not supported"),
        ({"memory_budget": -1}, ArgumentError, r"\[Schedule\] memory_budget = -1: give a number of bytes"),
        ({"memory_budget": "1 GB"}, ArgumentError, r"\[Schedule\] memory_budget = '1 GB'"),
        ({"recompute": "some"}, ArgumentError, r"\[Schedule\] recompute = 'some': use 'auto', 'none' or 'all'"),
        ({"threads": -2}, ArgumentError, r"\[Schedule\] threads = -2"),
        ({"deterministic": False}, UnsupportedError, "every kernel is deterministic"),
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
    graph = shared_chain()
    kept = check(graph, Schedule(recompute="none"), shuffled=False, tolerance=40)
    least = check(graph, Schedule(recompute="all"), shuffled=False, tolerance=40)
    assert isinstance(kept.arena, int) and isinstance(least.arena, int) and least.arena < kept.arena


def test_memory_budget_is_met_by_recomputation() -> None:
    graph = shared_chain()
    plain, least = plan_of(graph), plan_of(graph, Schedule(recompute="all"))
    assert isinstance(plain.arena, int) and isinstance(least.arena, int) and least.arena < plain.arena
    plan = check(graph, Schedule(memory_budget=least.arena), shuffled=False, tolerance=40)
    assert isinstance(plan.arena, int) and plan.arena <= least.arena


def test_memory_budget_that_cannot_be_met() -> None:
    with pytest.raises(UnsupportedError, match=r"budget = 100 bytes: the least working memory found is \d+ bytes"):
        plan_of(shared_chain(), Schedule(memory_budget=100))


def test_products_are_never_computed_twice() -> None:
    x = tensor("x", 8, 8)
    y = op.matmul(x, x)
    graph = graph_of(op.softmax(y) + y, op.cumsum(y, axis=0))
    plan = check(graph, Schedule(recompute="all"))
    assert sum("matmul" in k.name for k in plan.kernels) == 1
