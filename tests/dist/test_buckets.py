"""Small all-reduces are exchanged together: the same bits, the bytes that the plan says, fewer messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.dist.buckets import join_reductions
from tessera.dist.cost import MACHINES
from tessera.dist.partition import partition
from tessera.dist.report import collective_plan
from tessera.graph import on_mesh
from tessera.ir.dims import evaluate
from tessera.ir.verify import verify
from tessera.transform.pipeline import to_primitives

from tests.dist import lockstep
from tests.dist.test_random_graphs import MESHES, laid_out
from tests.schedule.random_graphs import random_graph


def layers(count: int, width: int = 16, dtype: str = "f32"):
    """A network with a bias in each layer, replicated, for a batch that is split: two gradients a layer."""
    modules = [op.linear(width, width, dtype=dtype, name=f"layer{i}") for i in range(count)]

    def step(mesh: Mesh):
        adam = optim.AdamW(1e-2)

        def run(x):
            x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
            for m in modules:
                x = op.tanh(m(x))
            loss = op.mean(x * x)
            adam.apply(graph.backward(loss))
            return loss

        return run

    return step, [p for m in modules for p in m.parameters()]


def test_a_step_has_few_exchanges_and_the_same_bits(monkeypatch) -> None:
    x = np.random.default_rng(0).standard_normal((18, 16)).astype(np.float32)
    mesh = Mesh(["dp"], range(4))
    found = []
    for joined in (True, False):
        if not joined:
            monkeypatch.setattr(on_mesh, "join_reductions", lambda graph, machine: graph)
        step, weights = layers(12)
        compiled = graph.compile(step(mesh), op.tensor((18, 16), name="x"))
        losses = [np.asarray(compiled(x)) for _ in range(3)]
        assert compiled.traffic() == [compiled.collectives.bytes_of(rank) for rank in range(4)]
        found.append((compiled.collectives, [*losses, *(w.value for w in weights)]))
    (few, values), (many, expected) = found
    assert (len(few), len(many)) == (1, 25)  # 24 gradients and the loss
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    # Chunks are rounded up once instead of 25 times, and lie elsewhere.
    assert all(abs(many.bytes_of(r) - few.bytes_of(r)) < 25 * 4 * 8 for r in range(4))
    info, = few
    assert info.kind == "all_reduce" and info.axes == ("dp",) and "times)" in info.cause and info.fix.count("lay out") >= 1
    assert "test_buckets.py" in str(info.line)


def test_buckets_end_where_messages_are_no_longer_what_costs() -> None:
    """4 MiB a gradient: on NVLink some 25 MB go together; on a CPU's links they are exchanged one by one."""
    counts = {}
    for kind in ("cuda", "cpu"):
        step, _ = layers(12, 1024)
        mesh = Mesh(["dp"], shape=(8,), kind=kind)
        plan = graph.collectives(step(mesh), op.tensor((4096, 1024), name="x"))
        counts[kind] = [evaluate(c.bytes, {"mesh_dp": 0}) for c in plan]
    assert 2 <= len(counts["cuda"]) <= 4 and max(counts["cuda"]) <= 2 * 25e6
    assert 13 <= len(counts["cpu"]) <= 14


def test_what_follows_from_another_is_not_joined_with_it() -> None:
    """Two layers in a row need their sums one after the other; their gradients over dp wait for neither."""
    mesh = Mesh(["dp", "tp"], shape=(2, 2))
    weights = [dist.tensor((8, 8), layout=ShardSpec(("row",), ("tp",)), mesh=mesh, name=n) for n in "wv"]
    adam = optim.AdamW(1e-2)

    def step(x):
        x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        for w in weights:
            x = op.tanh(dist.constrain(x, ShardSpec((0, 1), ("dp", "tp")), mesh) @ w)
        loss = op.mean(x)
        adam.apply(graph.backward(loss))
        return loss

    plan = graph.collectives(step, op.tensor((4, 8), name="x"))
    assert [c.axes for c in plan if c.kind in ("all_reduce", "reduce_scatter")].count(("tp",)) == 2
    assert [c.axes for c in plan if c.kind == "all_reduce"].count(("dp",)) == 1


@pytest.mark.parametrize("seed", range(30))
def test_random_programs(seed: int) -> None:
    """As tests/dist/test_random_graphs.py, with all-reduces joined whatever their size."""
    made, data = random_graph(seed, 6 + seed % 20, False, 1 + seed % 5)
    mesh = MESHES[seed % len(MESHES)]
    placed = laid_out(to_primitives(made), np.random.default_rng(seed), mesh)
    part = partition(placed, mesh, MACHINES["cpu"])
    joined = join_reductions(part.graph, MACHINES["cuda"])
    verify(joined)
    whole = {("input", v.node.attrs["name"]): data.feeds[v.node.attrs["name"]] for v in placed.inputs}
    whole |= {("param", k): v for k, v in data.state.items()}
    expected, _ = lockstep.run(part, whole)
    found, traffic = lockstep.run(replace(part, graph=joined), whole)
    assert traffic == collective_plan(joined, mesh, "").total()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
