"""Attention as one operator on meshes of GPUs: one kernel per device, and the values of one device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tessera import dist, op
from tessera.dist import Mesh, ShardSpec
from tessera.dist.cost import MACHINES
from tessera.dist.partition import partition
from tessera.dist.report import collective_plan
from tessera.graph.on_mesh import partition_for
from tessera.ir.graph import Graph
from tessera.ir.sharding import MeshShape
from tessera.ir.value import Value
from tessera.op.collective import LAID_OUT
from tessera.op.opdef import build
from tessera.op.reference import evaluate
from tessera.schedule.machine import GPU
from tessera.schedule.plan import Plan
from tessera.tile.ir import AttentionKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators, to_primitives

from tests.dist import lockstep

MESH = MeshShape((("dp", 2), ("tp", 2)))
BATCH, LENGTH, SIZE = 4, 8, 16

LAYOUTS: dict[str, list[list[str]]] = {
    "batch": [["dp"], [], [], []], "heads": [[], ["tp"], [], []], "both": [["dp"], ["tp"], [], []],
    "queries": [[], [], ["tp"], []], "all": [["dp"], [], ["tp"], []], "heads over both": [[], ["dp", "tp"], [], []],
    "length over both": [[], [], ["dp", "tp"], []],
}


def laid_out(x: Value, dims: list[list[str]]) -> Value:
    return build("constrain", x, mesh=[list(a) for a in MESH.axes], kind="cuda", dims=dims)


def attention_graph(heads: int, shared: int, causal: bool, mask: tuple[int, ...] | None, dims: list[list[str]]) -> Graph:
    """Attention whose queries, keys and values lie so, and its gradients."""
    q = op.tensor((BATCH, heads, LENGTH, SIZE), "bf16", name="q")
    k, v = (op.tensor((BATCH, shared, LENGTH, SIZE), "bf16", name=n) for n in "kv")
    few = [[] if i == 1 and shared % 2 else d for i, d in enumerate(dims)]
    operands = [laid_out(q, dims), laid_out(k, few), laid_out(v, few)]
    m = None if mask is None else op.tensor(mask, "bool", name="mask")
    out = op.scaled_dot_product_attention(*operands, m, causal=causal)
    loss = op.sum(op.cast(out, "f32") * op.tensor(out.shape, "f32", name="weights"))
    found = gradients([loss], [q, k, v])
    return Graph({"out": out, **{f"d{n}": g for n, g in zip("qkv", found, strict=True)}})


def feeds_of(g: Graph) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for value in g.inputs:
        shape: Any = value.shape
        name = value.node.attrs["name"]
        if name == "mask":
            feeds[name] = random.integers(0, 2, shape).astype(bool) | np.eye(*shape[-2:], dtype=bool)
        else:
            feeds[name] = random.standard_normal(shape).astype(np.float32).astype(value.dtype.numpy)
    return feeds


def attention_kernels(plan: Plan) -> list[AttentionKernel]:
    return [k for k in plan.kernels if isinstance(k, AttentionKernel)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("causal", [False, True], ids=["all keys", "causal"])
@pytest.mark.parametrize("heads, shared, mask", [
    (4, 4, None), (8, 4, None), (4, 1, None), (4, 4, (BATCH, 1, 1, LENGTH)), (4, 2, (LENGTH, LENGTH)),
], ids=["equal heads", "grouped heads", "one head of keys", "mask of keys", "grouped heads and a mask"])
def test_values_and_kernels(heads: int, shared: int, mask: tuple[int, ...] | None, causal: bool, layout: str) -> None:
    made = attention_graph(heads, shared, causal, mask, LAYOUTS[layout])
    operators = to_gpu_operators(made, LAID_OUT)
    part = partition(operators, MESH, MACHINES["cuda"])
    local = to_gpu_operators(part.graph)
    names = [n.op for n in local.nodes()]
    assert names.count("flash_attention") == 1 and names.count("flash_attention_gradient") == 1
    feeds = feeds_of(made)
    expected = evaluate(to_primitives(made), feeds, {})
    found, traffic = lockstep.run(part, {("input", k): v for k, v in feeds.items()})
    assert traffic == collective_plan(part.graph, MESH, "").total()
    for name, array in found.items():
        want = expected[name].astype(np.float32)
        np.testing.assert_allclose(array.astype(np.float32), want, rtol=0.03, atol=0.03 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("layout", ["both", "queries"])
def test_it_is_one_kernel_a_device(layout: str) -> None:
    made = attention_graph(4, 4, True, None, LAYOUTS[layout])
    part = partition(to_gpu_operators(made, LAID_OUT), MESH, MACHINES["cuda"])
    plan = build_plan(to_gpu_operators(part.graph), None, GPU)
    kernels = attention_kernels(plan)
    assert sorted(k.backward for k in kernels) == [False, True]
    q, = {k.buffers[0].shape for k in kernels}
    assert q == ((2 * 2, LENGTH, SIZE) if layout == "both" else (BATCH * 4, LENGTH // 2, SIZE))


def test_heads_and_batch_exchange_nothing() -> None:
    for layout in ("batch", "heads", "both"):
        part = partition(
            to_gpu_operators(attention_graph(4, 4, True, None, LAYOUTS[layout]), LAID_OUT), MESH, MACHINES["cuda"]
        )
        assert not collective_plan(part.graph, MESH, "")


def test_split_queries_gather_keys_and_scatter_their_gradients() -> None:
    part = partition(
        to_gpu_operators(attention_graph(4, 4, True, None, LAYOUTS["queries"]), LAID_OUT), MESH, MACHINES["cuda"]
    )
    kinds = sorted((c.kind, c.axes) for c in collective_plan(part.graph, MESH, ""))
    assert kinds == [("all_gather", ("tp",))] * 2 + [("reduce_scatter", ("tp",))] * 2


def test_uneven_parts_are_right() -> None:
    """Three queries on four devices: one has none, and a kernel needs some."""
    q, k, v = (op.tensor((2, 3, 16), "bf16", name=n) for n in "qkv")
    out = op.scaled_dot_product_attention(laid_out(q, [[], ["dp", "tp"], []]), k, v, causal=True)
    made = Graph({"out": out})
    part = partition(to_gpu_operators(made, LAID_OUT), MESH, MACHINES["cuda"])
    feeds = feeds_of(made)
    found, _ = lockstep.run(part, {("input", n): x for n, x in feeds.items()})
    expected = evaluate(to_primitives(made), feeds, {})
    np.testing.assert_allclose(found["out"].astype(np.float32), expected["out"].astype(np.float32), rtol=0.02, atol=0.02)
    assert not attention_kernels(build_plan(to_gpu_operators(part.graph), None, GPU))


def test_meshes_of_cpus_run_primitives() -> None:
    mesh = Mesh(["dp"], range(2))
    q, k, v = (op.tensor((2, 4, 8, 16), "bf16", name=n) for n in "qkv")
    q = dist.constrain(q, ShardSpec((0,), ("dp",)), mesh)
    made = Graph({"out": op.scaled_dot_product_attention(q, k, v)})
    assert not any("attention" in n.op for n in partition_for(made, mesh).graph.nodes())
    wide = Mesh(["dp"], shape=(2,), kind="cuda")
    simulated = dist.simulate({
        "out": op.scaled_dot_product_attention(dist.constrain(k, ShardSpec((0,), ("dp",)), wide), k, v)
    })
    assert any("attention" in e.name for e in simulated.events)
    on_cores = dist.simulate({
        "out": op.scaled_dot_product_attention(dist.constrain(k, ShardSpec((0,), ("dp",)), wide), k, v)
    }, topology="one machine")
    assert not any("attention" in e.name for e in on_cores.events)
