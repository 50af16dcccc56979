"""Predictions for meshes that are not here: against formulas, the collective plan, and each other."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.dist.topology import (
    H100,
    DeviceSpec,
    Tier,
    Topology,
    exchange_seconds,
    fat_tree,
    nvl72,
    rails,
    received_by_tier,
)
from tessera.errors import ArgumentError, UnsupportedError
from tessera.ir.dims import evaluate
from tessera.ir.sharding import MeshShape
from tessera.schedule import cost
from tessera.tile.report import FORWARD_WORK

PLAIN = DeviceSpec("plain", {"f32": 1e12, "bf16": 4e12}, 1e12, 1e9, 0.0, (1.0, 1.0))
FLAT = Topology("flat", PLAIN, (Tier("wire", None, 1e9, 0.0),))


def mlp_step(mesh: Mesh, width: int = 512, hidden: int = 2048):
    """A tensor-parallel MLP's training step."""
    first = dist.tensor((width, hidden), "bf16", layout=ShardSpec(("col",), ("tp",)), mesh=mesh, name="w1")
    second = dist.tensor((hidden, width), "bf16", layout=ShardSpec(("row",), ("tp",)), mesh=mesh, name="w2")
    adam = optim.AdamW(1e-3)

    def step(x, labels):
        x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        loss = op.cross_entropy(op.gelu(x @ first) @ second, labels)
        adam.apply(graph.backward(loss))
        return loss

    return step


def batch(rows: int, width: int = 512):
    return op.tensor((rows, width), "bf16", name="x"), op.tensor((rows,), "i64", name="labels")


@pytest.mark.parametrize("kind, shape", [("cpu", (2, 2)), ("cuda", (2, 2)), ("cuda", (128, 8)), ("cuda", (8192, 8))])
def test_a_tensor_parallel_step_exchanges_what_it_must(kind, shape):
    """The result of the second product over tp; a scalar and the gradients of two weights over dp: no activations.

    Gradients that are small for the links are exchanged together.
    """
    mesh = Mesh(["dp", "tp"], shape=shape, kind=kind)
    step, examples = mlp_step(mesh), batch(4096 * shape[0])
    found = dist.simulate(step, *examples)
    exchanges = [e for e in found.events if e.lane == "exchange"]
    assert "over tp" in exchanges[0].name and "test_simulate.py" in str(exchanges[0].line)
    joined = 1 if kind == "cuda" else 2
    first, *others = graph.collectives(step, *examples)
    assert (first.kind, first.axes) == ("all_reduce", ("tp",))
    assert [(c.kind, c.axes) for c in others] == [("all_reduce", ("dp",))] * (1 + joined)
    elements = 512 * 2048 // shape[1] * (2 // joined)
    chunk = -(-elements // shape[0])
    place = mesh.layout.coordinates(0)
    scalar, *weights = sorted(evaluate(c.bytes, place) for c in others)
    assert sum(e.bytes for e in exchanges) == sum(evaluate(c.bytes, place) for c in (first, *others))
    assert weights == [2 * 2 * (elements - chunk)] * joined and scalar <= 4 * shape[0]


def test_a_transformer_exchanges_twice_a_layer_and_direction():
    """Tensor-parallel blocks (Shoeybi et al., 2019): over tp the results of attention and MLP, and their gradients."""
    width, heads = 128, 8
    mesh = Mesh(["dp", "tp"], shape=(2, 4), kind="cuda")
    embedding = op.parameter((512, width), "bf16", name="embedding", init=op.initializer.normal(0.0, 0.02))

    def columns(outer, name):
        made = op.linear(width, outer, dtype="bf16", name=name)
        weight, bias = made.parameters()
        dist.place(weight, ShardSpec(("col",), ("tp",)), mesh)
        dist.place(bias, ShardSpec((0,), ("tp",)), mesh)
        return made

    def rows(inner, name):
        made = op.linear(inner, width, dtype="bf16", name=name)
        dist.place(made.parameters()[0], ShardSpec(("row",), ("tp",)), mesh)
        return made

    layers = [
        {
            "norms": [op.layer_norm(width, dtype="bf16", name=f"{i}.norm{n}") for n in range(2)],
            "inputs": [columns(width, f"{i}.{what}") for what in ("query", "key", "value")],
            "mix": rows(width, f"{i}.mix"), "up": columns(4 * width, f"{i}.up"), "down": rows(4 * width, f"{i}.down"),
        }
        for i in range(2)
    ]

    def logits(tokens):
        x = op.take(embedding, tokens, axis=0)
        batch, length = tokens.shape
        for layer in layers:
            h = layer["norms"][0](x)
            parts = (op.reshape(linear(h), (batch, length, heads, -1)) for linear in layer["inputs"])
            a = op.scaled_dot_product_attention(*(op.transpose(p, (0, 2, 1, 3)) for p in parts), causal=True)
            x = x + layer["mix"](op.reshape(op.transpose(a, (0, 2, 1, 3)), (batch, length, width)))
            x = x + layer["down"](op.gelu(layer["up"](layer["norms"][1](x))))
        return x @ embedding.T

    adam = optim.AdamW(1e-3)

    def step(tokens, labels):
        tokens, labels = (dist.constrain(t, ShardSpec((0,), ("dp",)), mesh) for t in (tokens, labels))
        loss = op.cross_entropy(op.cast(op.reshape(logits(tokens), (-1, 512)), "f32"), op.reshape(labels, (-1,)))
        adam.apply(graph.backward(loss))
        return loss

    tokens, labels = (op.tensor((64, 64), "i64", name=n) for n in ("tokens", "labels"))
    over_tp = [e for e in dist.simulate(step, tokens, labels).events if "tp" in e.name and e.lane == "exchange"]
    assert [e.name for e in over_tp] == ["all_reduce over tp"] * 8  # two layers, forward and backward
    assert {e.bytes for e in over_tp} == {2 * 3 / 4 * 32 * 64 * 128 * 2}


def test_time_is_what_the_formulas_say():
    """A product whose operands lie where they are needed, then one gather."""
    mesh = Mesh(["tp"], shape=(4,), kind="cuda")
    w = dist.tensor((2048, 1024), "bf16", layout=ShardSpec(("row",), ("tp",)), mesh=mesh, name="w")
    x = op.tensor((1024, 4096), "bf16", name="x")
    y = dist.replicate(w @ x, mesh)
    found = dist.simulate({"y": y}, topology=FLAT)
    product, gather = found.events
    assert product.operations == 2 * 2048 * 1024 * 1024
    moved = 2 * (512 * 1024 + 1024 * 4096 + 512 * 4096)
    assert product.bytes == moved
    assert product.seconds == pytest.approx(max(product.operations / 4e12, moved / 1e12))
    assert gather.bytes == 3 * 2 * 512 * 4096 and gather.seconds == pytest.approx(gather.bytes / 1e9)
    assert gather.start == pytest.approx(product.seconds) and found.time == pytest.approx(found.compute + found.exchange)
    assert found.traffic == {"wire": gather.bytes}
    assert found.memory["state"] == 2 * 512 * 1024 and found.memory["output"] == 2 * 2048 * 4096


def test_simple_operations_add_to_products():
    """An epilogue with arithmetic and the exponentials of attention take time that matrix units do not."""
    mesh = Mesh(["dp"], shape=(2,), kind="cuda")
    x = dist.constrain(op.tensor((4096, 512), "bf16", name="x"), ShardSpec((0,), ("dp",)), mesh)
    w = op.tensor((512, 1024), "bf16", name="w")

    def seconds(y):
        (event,) = dist.simulate({"y": y}, topology=FLAT).events
        return event.seconds

    work = 2 * (cost.function_work("neg") + cost.function_work("exp"))
    f32 = FLAT.device.arithmetic["f32"] * FLAT.device.reached[0]
    counted = 2 / FLAT.device.arithmetic["bf16"] / FLAT.device.reached[0]  # once among all operations, too
    assert seconds(op.exp(-(x @ w))) == pytest.approx(seconds(x @ w) + 2048 * 1024 * (work / f32 + counted))
    q = dist.constrain(op.tensor((8, 2, 256, 64), "bf16", name="q"), ShardSpec((0,), ("dp",)), mesh)
    products, scores = 4 * 4 * 2 * 256 * 256 * 64, 4 * 2 * 256 * 256
    moved = 4 * 2 * 256 * (4 * 64 * 2 + 4)
    expected = max(products / FLAT.device.arithmetic["bf16"] / FLAT.device.reached[0], moved / 1e12)
    found = seconds(op.scaled_dot_product_attention(q, q, q))
    assert found == pytest.approx(expected + scores * FORWARD_WORK / f32, rel=0.02)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (4, 8), (16, 8)])
def test_traffic_is_that_of_the_collective_plan(shape):
    mesh = Mesh(["dp", "tp"], shape=shape)
    step = mlp_step(mesh, 96, 200)
    plan = graph.collectives(step, *batch(24 * shape[0], 96))
    found = dist.simulate(step, *batch(24 * shape[0], 96), topology=rails(domain=4, group=16))
    assert sum(found.traffic.values()) == pytest.approx(plan.bytes_of(0))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(["all_gather", "all_reduce", "all_to_all"]))
@settings(max_examples=60, deadline=None)
def test_tiers_share_the_bytes(spread, kind):
    parts = received_by_tier(kind, 1e6, [float(n) for n in spread])
    assert sum(parts) == pytest.approx(1e6 if math.prod(spread) > 1 else 0.0)
    assert all(p == 0 for p, n in zip(parts, spread) if n == 1)


def test_groups_lie_in_units():
    topology = rails(domain=8, group=256)
    mesh = MeshShape((("dp", 128), ("tp", 8)))
    assert topology.spread(mesh, ["tp"]) == (8.0, 1.0, 1.0)  # neighbours: one NVLink domain
    assert topology.spread(mesh, ["dp"]) == (1.0, 32.0, 4.0)  # one of each domain: 32 on a rail, 4 groups
    assert topology.spread(mesh, ["dp", "tp"]) == (8.0, 32.0, 4.0)
    assert nvl72().spread(MeshShape((("x", 72), ("y", 2))), ["x"]) == (36.0, 2.0)


def test_exchanges_take_bytes_and_messages():
    tiers = (Tier("inner", 4, 1e9, 1e-6), Tier("outer", None, 1e8, 1e-5))
    assert exchange_seconds("all_gather", 3000, (4.0, 1.0), tiers) == pytest.approx(3e-6 + 3 * 1e-6)
    outer = received_by_tier("all_gather", 15000, (4.0, 4.0))
    assert outer == pytest.approx([12000, 3000])
    assert exchange_seconds("all_gather", 15000, (4.0, 4.0), tiers) == pytest.approx(12e-6 + 3e-6 + 30e-6 + 3e-5)
    assert exchange_seconds("all_reduce", 0.0, (1.0, 1024.0), tiers) == pytest.approx(20 * 1e-5)  # trees
    assert exchange_seconds("all_to_all", 15000, (4.0, 4.0), tiers) == pytest.approx(3e-6 + 3e-6 + 12e-5 + 3e-5)


def test_slower_links_and_more_devices_take_longer():
    def time(topology, dp):
        mesh = Mesh(["dp", "tp"], shape=(dp, 8), kind="cuda")
        return dist.simulate(mlp_step(mesh), *batch(1024 * dp), topology=topology).time

    assert time(fat_tree(), 64) < time(fat_tree(oversubscription=4), 64)
    assert time(fat_tree(), 1) < time(fat_tree(), 8) < time(fat_tree(), 512)


def test_overlap_hides_exchanges_but_not_more_than_there_is():
    mesh = Mesh(["dp", "tp"], shape=(16, 8), kind="cuda")
    apart = dist.simulate(mlp_step(mesh), *batch(65536), schedule=graph.Schedule(overlap=False))
    beside = dist.simulate(mlp_step(mesh), *batch(65536))
    assert max(beside.compute, beside.exchange) <= beside.time < apart.time
    assert beside.compute == pytest.approx(apart.compute) and apart.exposed == pytest.approx(apart.exchange)
    for event in beside.events:  # a lane does one thing at a time
        assert event.start >= 0
    lanes = {lane: [e for e in beside.events if e.lane == lane] for lane in ("compute", "exchange")}
    for events in lanes.values():
        assert all(a.start + a.seconds <= b.start + 1e-12 for a, b in zip(events, events[1:]))


def test_sizes_may_be_symbolic():
    mesh = Mesh(["dp"], shape=(8,), kind="cuda")
    rows = op.dim("B", min=8)
    w = dist.tensor((256, 256), layout=ShardSpec((), ()), mesh=mesh, name="w")
    y = dist.constrain(op.tensor((rows, 256), name="x"), ShardSpec((0,), ("dp",)), mesh) @ w
    few, many = (dist.simulate({"y": y}, sizes={"B": b}) for b in (800, 80000))
    assert many.operations == 100 * few.operations and many.sizes == {"B": 80000}
    with pytest.raises(ArgumentError, match="there is no symbolic dimension 'C'; those of the graph are: B"):
        dist.simulate({"y": y}, sizes={"C": 3})


def test_what_is_printed_and_drawn(tmp_path):
    mesh = Mesh(["dp", "tp"], shape=(4, 8), kind="cuda")
    found = dist.simulate(mlp_step(mesh), *batch(4096))
    text = str(found)
    assert text.startswith("mesh dp = 4, tp = 8: 32 H100 SXM, rails\ntime ")
    assert "all_reduce over tp" in text and "test_simulate.py" in text and "over NVLink" in text
    found.save(tmp_path / "run.svg")
    drawn = ElementTree.parse(tmp_path / "run.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}rect")) == len(found.events)
    small = Topology("small", DeviceSpec("small", {"f32": 1e12}, 1e12, 1e3, 0.0), (Tier("wire", None, 1e9, 0.0),))
    tight = dist.simulate(mlp_step(mesh), *batch(4096), topology=small)
    assert not tight.fits and "more than the 1.00 kB that a device has" in str(tight)
    assert found.fits and H100.memory == 80e9


def test_errors():
    mesh = Mesh(["dp"], shape=(8,), kind="cuda")
    y = dist.constrain(op.tensor((16, 4), name="x"), ShardSpec((0,), ("dp",)), mesh) * 2
    with pytest.raises(ArgumentError, match="unknown topology 'ring'; use rails, fat tree, NVL72, one machine or a dist"):
        dist.simulate({"y": y}, topology="ring")
    with pytest.raises(ArgumentError, match="simulate: no tensor of the graph is sharded"):
        dist.simulate({"y": op.tensor((3,), name="x") * 2})
    with pytest.raises(ArgumentError, match="the last tier must join all devices"):
        Topology("t", PLAIN, (Tier("wire", 8, 1e9, 0.0),))
    with pytest.raises(ArgumentError, match=r"units of 12 devices \(b\) do not consist of units of 8 \(a\)"):
        Topology("t", PLAIN, (Tier("a", 8, 1e9, 0.0), Tier("b", 12, 1e9, 0.0), Tier("c", None, 1e9, 0.0)))
    with pytest.raises(ArgumentError, match="wire needs a bandwidth above 0"):
        Topology("t", PLAIN, (Tier("wire", None, 0.0, 0.0),))


def test_a_symbolic_batch_counts_as_one_for_the_whole_mesh():
    """64 devices have thousands of rows together: a weight that lies in parts is gathered, not their results summed."""
    mesh = Mesh(["dp"], shape=(64,), kind="cuda")
    w = dist.tensor((4096, 4096), "bf16", layout=ShardSpec((0,), ("dp",)), mesh=mesh, name="w")
    rows = ShardSpec((0,), ("dp",))

    def exchanges(size):
        x = dist.constrain(op.tensor((size, 4096), "bf16", name="x"), rows, mesh)
        found = dist.simulate({"y": dist.constrain(x @ w, rows, mesh)})
        return [e.name for e in found.events if e.lane == "exchange"]

    assert exchanges(op.dim("B", min=1)) == ["all_gather over dp"]
    assert exchanges(op.dim("C", min=1, max=128)) == exchanges(128) != ["all_gather over dp"]  # the range is known
