"""Random graphs with random layouts of their leaves and of values inside, against one device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.dist.blocks import in_blocks
from tessera.dist.cost import MACHINES
from tessera.dist.partition import Partitioned, partition
from tessera.dist.report import collective_plan
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.sharding import MeshShape, Sharding, Split, split_over
from tessera.ir.value import INPUT, LEAVES, PARAM, Node, TensorType, Value
from tessera.op.opdef import build
from tessera.op.reference import evaluate
from tessera.transform.pipeline import to_primitives

from tests.dist import lockstep
from tests.schedule.random_graphs import random_graph

MESHES = (
    MeshShape((("dp", 2),)), MeshShape((("dp", 2), ("tp", 2))), MeshShape((("dp", 3), ("tp", 1))),
    MeshShape((("a", 2), ("b", 3), ("c", 2))),
)


def layout(random: np.random.Generator, value: Value, mesh: MeshShape) -> list[list[str]]:
    """Axes per dimension, any."""
    axes = list(mesh.names)
    random.shuffle(axes)
    found: list[list[str]] = [[] for _ in value.shape]
    for axis in axes:
        place = int(random.integers(0, value.ndim + 1))
        if place < value.ndim:
            found[place].append(axis)
    return found


def laid_out(graph: Graph, random: np.random.Generator, mesh: MeshShape) -> Graph:
    """The graph with layouts of most inputs and parameters, and constraints on some values."""

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        value = node.results[0]
        if node.op in (INPUT, PARAM) and random.random() < 0.8:
            dims: list[Split | None] = [
                split_over(d, axes, mesh) if axes else None
                for d, axes in zip(value.shape, layout(random, value, mesh), strict=True)
            ]
            t = TensorType(value.dtype, value.shape, Sharding(mesh, tuple(dims)))
            return Node(node.op, (), node.attrs, (t,), node.loc, node.payload).results
        results = keep(node, operands)
        if node.op not in LEAVES and random.random() < 0.1:
            axes = [[name, size] for name, size in mesh.axes]
            return (build("constrain", results[0], mesh=axes, dims=layout(random, value, mesh), kind="cpu"),)
        return results

    return rebuild(graph, visit)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(3, 24), st.booleans(), st.integers(1, 7), st.sampled_from(MESHES)
)
def test_random_graphs(seed: int, operators: int, symbolic: bool, size: int, mesh: MeshShape) -> None:
    check(seed, operators, symbolic, size, mesh)


@pytest.mark.parametrize("seed", range(24))
def test_fixed_graphs(seed: int) -> None:
    check(seed, 8 + seed, seed % 2 == 0, 1 + seed % 6, MESHES[seed % len(MESHES)])


@pytest.mark.parametrize("seed", range(100, 116))
def test_sums_in_blocks(seed: int) -> None:
    """With deterministic="mesh" the values are right, and no device holds a part of a floating-point number."""
    part = check(seed, seed % 20, seed % 2 == 0, 8, MESHES[seed % len(MESHES)], exact=True)
    sums = [n for n in part.graph.nodes() if n.op in ("all_reduce", "reduce_scatter") and n.results[0].dtype.is_float]
    assert not sums


def test_a_value_is_wanted_complete_and_in_parts() -> None:
    """Once it is there complete, a reader that takes parts still gets them from the parts."""
    check(2773342692, 26, True, 8, MESHES[1])


def check(seed: int, operators: int, symbolic: bool, size: int, mesh: MeshShape, exact: bool = False) -> Partitioned:
    """Outputs and new state are those of one device; the bytes that are received are those that were predicted."""
    graph, made = random_graph(seed, operators, symbolic, size)
    primitives = to_primitives(graph)
    after = dict(made.state)
    feeds = {v.node.attrs["name"]: made.feeds[v.node.attrs["name"]] for v in primitives.inputs}
    expected = evaluate(primitives, feeds, after)
    placed = laid_out(primitives, np.random.default_rng(seed), mesh)
    part = partition(in_blocks(placed) if exact else placed, mesh, MACHINES["cpu"], exact)
    whole = {("input", k): v for k, v in feeds.items()} | {("param", k): v for k, v in made.state.items()}
    symbols = {"B": size} if symbolic else {}
    found, traffic = lockstep.run(part, whole, symbols)
    for name, array in found.items():
        want = expected[name] if name in expected else after[name]
        np.testing.assert_allclose(array, want, rtol=1e-9, atol=1e-9, err_msg=name)
    assert traffic == collective_plan(part.graph, mesh, "").total(symbols)
    return part
