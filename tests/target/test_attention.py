"""Attention on GPU targets: what stays whole, its kernels under Triton's interpreter, and for each architecture."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tessera import op
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.target.hsaco.compile import compile_kernels as compile_hsaco
from tessera.target.ptx.compile import compile_kernels as compile_ptx
from tessera.target.triton.head import Options
from tessera.tile.ir import AttentionKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators, to_primitives

from tests.target.triton_interpreter import run_kernel

Shape = tuple[Any, ...]


def attention_graph(q: Shape, k: Shape, causal: bool, dtype: str = "bf16", backward: bool = True) -> Graph:
    """Attention and, ``backward``, its gradients for a given gradient of the result."""
    operands = [op.tensor(s, dtype, name=n) for n, s in (("q", q), ("k", k), ("v", k))]
    out = op.scaled_dot_product_attention(*operands, causal=causal)
    if not backward:
        return Graph({"out": out})
    found = gradients([out], operands, [op.tensor(q, dtype, name="g")])
    return Graph({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))})


def attention_kernels(graph: Graph) -> list[AttentionKernel]:
    """The kernels of attention in the plan of a GPU target."""
    plan = build_plan(to_gpu_operators(graph), None, GPU)
    return [k for k in plan.kernels if isinstance(k, AttentionKernel)]


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, causal: bool) -> list[np.ndarray]:
    """Result, sums and gradients by PyTorch in f64, on [heads, length, size]."""
    group = q.shape[0] // k.shape[0]
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    scores = q @ k.repeat_interleave(group, 0).transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    out = torch.softmax(scores, -1) @ v.repeat_interleave(group, 0)
    out.backward(g.double())
    found = [out, torch.logsumexp(scores, -1), q.grad, k.grad, v.grad]
    return [x.detach().numpy() for x in found]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("q", "k", "causal", "dtype"),
    [
        ((1, 2, 70, 16), (1, 1, 70, 16), True, "bf16"),
        ((40, 32), (70, 32), False, "f16"),
        ((2, 1, 16), (2, 1, 16), True, "f16"),
    ],
)
def test_against_torch(q: Shape, k: Shape, causal: bool, dtype: str) -> None:
    forward, backward = attention_kernels(attention_graph(q, k, causal, dtype))
    kind = ml_dtypes.bfloat16 if dtype == "bf16" else np.float16
    heads, shared = math.prod(q[:-2]), math.prod(k[:-2])
    rng = np.random.default_rng(3)
    shapes = [(heads, *q[-2:]), (shared, *k[-2:]), (shared, *k[-2:]), (heads, *q[-2:])]
    queries, keys, values, gradient = (rng.standard_normal(s).astype(kind) for s in shapes)
    out, sums, dq, dk, dv = expected(
        *(torch.tensor(x.astype(np.float64)) for x in (queries, keys, values, gradient)), causal
    )
    result, logarithms = np.full(shapes[0], 77, kind), np.full(shapes[0][:2], 77, np.float32)
    run_kernel(forward, [queries, keys, values, result, logarithms], {}, Options("sm_80"))
    close = {"rtol": 0, "atol": 0.03 if dtype == "bf16" else 0.004}
    np.testing.assert_allclose(result.astype(np.float64), out, **close)
    np.testing.assert_allclose(logarithms, sums, rtol=0, atol=1e-5)
    found = [np.full_like(x, 77) for x in (queries, keys, values)]
    run_kernel(backward, [queries, keys, values, result, logarithms, gradient, *found], {}, Options("sm_80"))
    for got, right in zip(found, (dq, dk, dv), strict=True):
        np.testing.assert_allclose(got.astype(np.float64), right, rtol=0, atol=4 * close["atol"])


def test_sizes_of_a_run() -> None:
    length = op.dim("L", min=1, max=512)
    forward, _ = attention_kernels(attention_graph((1, length, 16), (1, length, 16), True))
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((1, 77, 16)).astype(ml_dtypes.bfloat16) for _ in range(3))
    out, *_ = expected(*(torch.tensor(x.astype(np.float64)) for x in (q, k, v, q)), True)
    result, sums = np.full_like(q, 7), np.empty((1, 77), np.float32)
    size, = forward.sizes
    run_kernel(forward, [q, k, v, result, sums], {size.name: 77}, Options("sm_80"))
    np.testing.assert_allclose(result.astype(np.float64), out, rtol=0, atol=0.03)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "gfx942"])
def test_compiles(arch: str) -> None:
    kernels = attention_kernels(attention_graph((4, 300, 64), (2, 300, 64), True))
    image = (compile_hsaco if arch.startswith("gfx") else compile_ptx)(kernels, arch)
    assert all(k.shared <= (64 if arch.startswith("gfx") else 227) * 1024 for k in image.kernels)


def test_the_gradient_reads_what_the_forward_pass_wrote() -> None:
    graph = to_gpu_operators(attention_graph((2, 64, 64), (2, 64, 64), True))
    assert [n.op for n in graph.nodes() if "attention" in n.op] == ["flash_attention", "flash_attention_gradient"]
    forward, backward = (n for n in graph.nodes() if "attention" in n.op)
    assert backward.operands[3:5] == forward.results


@pytest.mark.parametrize(
    ("q", "k", "dtype"),
    [((2, 64, 48), (2, 64, 48), "bf16"), ((2, 64, 64), (2, 64, 64), "f32"), ((4, 2, 8, 64), (1, 2, 8, 64), "bf16")],
    ids=["size of a head", "f32", "batches broadcast"],
)
def test_others_are_decomposed(q: Shape, k: Shape, dtype: str) -> None:
    graph = to_gpu_operators(attention_graph(q, k, True, dtype))
    assert not any("attention" in n.op for n in graph.nodes())


def test_masked_attention_is_decomposed() -> None:
    q = op.tensor((2, 8, 64), "bf16", name="q")
    out = op.scaled_dot_product_attention(q, q, q, op.tensor((8, 8), "bool", name="mask"))
    assert not any("attention" in n.op for n in to_gpu_operators(Graph({"out": out})).nodes())


def test_other_targets_see_primitives_only() -> None:
    graph = to_primitives(attention_graph((2, 64, 64), (2, 64, 64), True))
    assert not any("attention" in n.op for n in graph.nodes())
