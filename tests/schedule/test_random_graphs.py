"""Plans of random graphs, interpreted, against the operators' references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.ir.graph import Graph
from tessera.op.reference import evaluate
from tessera.schedule.options import Schedule
from tessera.schedule.plan import Plan
from tessera.tile.interpret import run_plan
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_primitives

from tests.schedule.random_graphs import random_graph

OPTIONS = (Schedule(), Schedule(fusion=False), Schedule(recompute="all"), Schedule(recompute="none"))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def compare(
    graph: Graph, plan: Plan, feeds: dict[str, np.ndarray], state: dict[str, np.ndarray], shuffled: bool
) -> None:
    after = dict(state)
    expected = evaluate(graph, feeds, after)
    constants = {v.node.attrs["name"]: np.asarray(v.node.payload) for v in graph.constants()}
    held = {t.name: state[t.name] for t in plan.state}
    shuffle = np.random.default_rng(1) if shuffled else None
    outputs, found = run_plan(plan, feeds, held, constants, shuffle)
    assert_same(outputs, expected)
    assert_same(found, after)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 28), st.booleans(), st.integers(1, 5), st.sampled_from(OPTIONS))
def test_random_graphs(seed: int, operators: int, symbolic: bool, size: int, options: Schedule) -> None:
    graph, made = random_graph(seed, operators, symbolic, size)
    primitives = to_primitives(graph)
    feeds = {v.node.attrs["name"]: made.feeds[v.node.attrs["name"]] for v in graph.inputs}
    plan = build_plan(primitives, options)
    compare(primitives, plan, feeds, made.state, shuffled=False)


@pytest.mark.parametrize("seed", range(40))
def test_grid_points_are_independent(seed: int) -> None:
    """Points of the grid in random order: in-place updates and reused memory must not show."""
    graph, made = random_graph(seed, 18, seed % 2 == 0, 2 + seed % 3)
    primitives = to_primitives(graph)
    feeds = {v.node.attrs["name"]: made.feeds[v.node.attrs["name"]] for v in graph.inputs}
    compare(primitives, build_plan(primitives), feeds, made.state, shuffled=True)
