"""Grouping and ordering keep the results of the plain algorithms that they speed up."""

from __future__ import annotations

import pytest
from tessera.ir.graph import Graph, topological
from tessera.schedule import cost
from tessera.schedule.fusion import Group, fuse
from tessera.schedule.index import Axes
from tessera.schedule.materialise import place
from tessera.schedule.options import Schedule
from tessera.schedule.order import Order
from tessera.schedule.pieces import CHECK, cut
from tessera.schedule.prepare import prepare
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import mlp_step, tensor
from tests.schedule.random_graphs import random_graph


def groups_of(graph: Graph) -> list[Group]:
    graph = to_primitives(graph)
    graph = prepare(graph, graph.nodes())
    nodes, axes, options = graph.nodes(), Axes(), Schedule()
    return fuse(cut(graph, nodes, place(graph, nodes, options, cost.CHEAP), axes), axes, options)


def graph(seed: int) -> Graph:
    return random_graph(seed, 60, False, 3)[0] if seed else mlp_step(8, (7, 6, 5, 4))


@pytest.mark.parametrize("seed", range(16))
def test_groups_have_topological_ranks(seed: int) -> None:
    groups = groups_of(graph(seed))
    assert len({g.rank for g in groups}) == len(groups)
    assert all(g.rank < after.rank for g in groups for after in g.successors)


def greedy(order: Order, sizes: dict[int, int]) -> list[Group]:
    """The next step is always the one of least urgency, growth and position: every ready step looked at each time."""
    before: dict[Group, set[Group]] = {g: set() for g in order.groups}
    for group in order.groups:
        for later in order.after[group]:
            before[later].add(group)
    needed: set[Group] = set()
    stack = [g for g in order.groups if g.kind == CHECK]
    while stack:
        needed |= (more := before[stack.pop()] - needed)
        stack += more
    out: list[Group] = []
    while len(out) < len(order.groups):

        def key(group: Group) -> tuple[int, int, int]:
            growth = sum(sizes.get(root, 0) for root in group.roots)
            for root in group.reads:
                if all(g in out or g is group for g in order.readers[root]):
                    growth -= sizes.get(root, 0)
            return (0 if group.kind == CHECK else 1 if group in needed else 2), growth, group.position

        out.append(min((g for g in order.groups if g not in out and before[g] <= set(out)), key=key))
    return out


@pytest.mark.parametrize("seed", range(16))
def test_order_is_greedy(seed: int) -> None:
    groups = groups_of(graph(seed))
    roots = sorted({r for g in groups for r in g.roots})
    sizes = {root: 64 * (i * 7 % 5) for i, root in enumerate(roots) if i % 4}
    assert Order(groups).sequence(sizes) == greedy(Order(groups), sizes)


def test_sorted_nodes_follow_changed_outputs() -> None:
    x = tensor("x", 3)
    y, z = x * 2.0, x + 1.0
    graph = Graph({"y": y})
    graph.nodes().clear()
    assert graph.nodes() == topological([x.node, y.node])
    graph.outputs["y"] = z
    assert graph.nodes() == topological([x.node, z.node])
