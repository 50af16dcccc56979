"""Attention on GPU targets: what stays whole, its kernels under Triton's interpreter, and for each architecture."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from tessera import op
from tessera.ir.dtype import f32
from tessera.ir.graph import Graph
from tessera.op.opdef import apply
from tessera.schedule.machine import GPU
from tessera.target.hsaco.compile import compile_kernels as compile_hsaco
from tessera.target.ptx.compile import compile_kernels as compile_ptx
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import TensorMapArgument
from tessera.tile.ir import AttentionKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators, to_primitives

from tests.target.triton_interpreter import run_kernel

Shape = tuple[Any, ...]


def attention_graph(
    q: Shape, k: Shape, causal: bool, dtype: str = "bf16", backward: bool = True, mask: Shape | None = None,
    scale: float | None = None,
) -> Graph:
    """Attention and, ``backward``, its gradients for a given gradient of the result."""
    operands = [op.tensor(s, dtype, name=n) for n, s in (("q", q), ("k", k), ("v", k))]
    where = None if mask is None else op.tensor(mask, "bool", name="mask")
    out = op.scaled_dot_product_attention(*operands, where, causal=causal, scale=scale)
    if not backward:
        return Graph({"out": out})
    found = gradients([out], operands, [op.tensor(q, dtype, name="g")])
    return Graph({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))})


def attention_kernels(graph: Graph) -> list[AttentionKernel]:
    """The kernels of attention in the plan of a GPU target."""
    plan = build_plan(to_gpu_operators(graph), None, GPU)
    return [k for k in plan.kernels if isinstance(k, AttentionKernel)]


def expected(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor, causal: bool, scale: float | None = None
) -> list[np.ndarray]:
    """Result, sums and gradients by PyTorch in f64, on [heads, length, size]."""
    group = q.shape[0] // k.shape[0]
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.repeat_interleave(group, 0).transpose(-1, -2) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    out = torch.softmax(scores, -1) @ v.repeat_interleave(group, 0)
    out.backward(g.double())
    found = [out, torch.logsumexp(scores, -1), q.grad, k.grad, v.grad]
    return [x.detach().numpy() for x in found]  # type: ignore[union-attr]


def drawn(q: Shape, k: Shape, dtype: str) -> list[np.ndarray]:
    """Queries, keys, values and a gradient of the result, heads in one dimension."""
    kind = ml_dtypes.bfloat16 if dtype == "bf16" else np.float16
    wide, shared = (math.prod(q[:-2]), *q[-2:]), (math.prod(k[:-2]), *k[-2:])
    rng = np.random.default_rng(3)
    return [rng.standard_normal(s).astype(kind) for s in (wide, shared, shared, wide)]


def expected_of(operands: list[np.ndarray], causal: bool, scale: float | None = None) -> list[np.ndarray]:
    """``expected`` for arrays."""
    return expected(*(torch.tensor(x.astype(np.float64)) for x in operands), causal, scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("q", "k", "causal", "dtype", "arch", "scale"),
    [
        ((1, 2, 70, 16), (1, 1, 70, 16), True, "bf16", "sm_80", None),
        ((40, 32), (70, 32), False, "f16", "sm_80", None),
        ((2, 1, 16), (2, 1, 16), True, "f16", "sm_80", None),
        ((2, 70, 64), (2, 70, 64), True, "f16", "sm_90a", -0.25),
        ((2, 70, 64), (2, 70, 64), True, "bf16", "sm_90a", 0.0),
    ],
)
def test_against_torch(q: Shape, k: Shape, causal: bool, dtype: str, arch: str, scale: float | None) -> None:
    forward, backward = attention_kernels(attention_graph(q, k, causal, dtype, scale=scale))
    operands = queries, keys, values, gradient = drawn(q, k, dtype)
    out, sums, dq, dk, dv = expected_of(operands, causal, scale)
    result, logarithms = np.full_like(queries, 77), np.full(queries.shape[:2], 77, np.float32)
    run_kernel(forward, [queries, keys, values, result, logarithms], {}, Options(arch))
    close = {"rtol": 0, "atol": 0.03 if dtype == "bf16" else 0.004}
    np.testing.assert_allclose(result.astype(np.float64), out, **close)
    np.testing.assert_allclose(logarithms, sums, rtol=0, atol=1e-5)
    found = [np.full_like(x, 77) for x in (queries, keys, values)]
    run_kernel(backward, [queries, keys, values, result, logarithms, gradient, *found], {}, Options(arch))
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
@pytest.mark.parametrize("mask", [None, (2, 1, 1, 300)])
def test_compiles(arch: str, mask: Shape | None) -> None:
    q, k = (((2, 4, 300, 64), (2, 2, 300, 64)) if mask else ((4, 300, 64), (2, 300, 64)))
    kernels = attention_kernels(attention_graph(q, k, True, mask=mask))
    assert len(kernels) == 2
    image = (compile_hsaco if arch.startswith("gfx") else compile_ptx)(kernels, arch)
    assert all(k.shared <= (64 if arch.startswith("gfx") else 227) * 1024 for k in image.kernels)


@pytest.mark.parametrize("size", [64, 128])
def test_what_adds_to_the_gradient_of_queries_on_hopper(size: int) -> None:
    """The copy engine, in lines of 32 numbers behind the kernel's operands; a warp where no map says how many."""
    length = op.dim("L", min=1, max=2048)
    for number, mapped in ((300, True), (length, False)):
        _, backward = attention_kernels(attention_graph((4, number, size), (2, number, size), True))
        *_, program = generate(backward, Options("sm_90a")).programs
        maps = [a for a in program.arguments if isinstance(a, TensorMapArgument) and a.dtype == f32]
        assert [(m.index, m.block) for m in maps] == [(len(backward.buffers), (1, 128, 32))][: len(maps)]
        assert bool(maps) == mapped and f"mapped={mapped}" in program.source
        if maps:
            assert maps[0].shape[0].factor == 2 * 4 * math.ceil(300 / (64 if size == 128 else 128))
        assert all(k.shared <= 227 * 1024 for k in compile_ptx([backward], "sm_90a").kernels)


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


@pytest.mark.parametrize("scale", [math.inf, -math.inf, math.nan, 1e300, -1e-300])
def test_scales_beyond_those_of_kernels_are_decomposed(scale: float) -> None:
    graph = to_gpu_operators(attention_graph((2, 64, 64), (2, 64, 64), True, scale=scale))
    assert not any("attention" in n.op for n in graph.nodes())
    usual = to_gpu_operators(attention_graph((2, 64, 64), (2, 64, 64), True, scale=-8.0))
    assert [n.op for n in usual.nodes() if "attention" in n.op] == ["flash_attention", "flash_attention_gradient"]


MASKS = [
    ((2, 3, 70, 16), (2, 1, 1, 70), "bool"), ((2, 3, 70, 16), (3, 70, 70), "bool"), ((2, 3, 70, 16), (70, 1), "bool"),
    ((2, 3, 20, 16), (2, 3, 20, 20), "bf16"), ((2, 4, 20, 16), (1, 4, 1, 20), "bf16"), ((20, 16), (20, 20), "bool"),
]


@pytest.mark.parametrize(("q", "mask", "kind", "causal"), [(*m, n % 2 == 1) for n, m in enumerate(MASKS)])
def test_masks_against_torch(q: Shape, mask: Shape, kind: str, causal: bool) -> None:
    """Heads of queries in groups of all; a query that may attend to nothing gives zeros and takes no gradient."""
    k = (*q[:-3], 1, *q[-2:]) if len(q) > 2 else q
    operands = [op.tensor(s, "bf16", name=n) for n, s in (("q", q), ("k", k), ("v", k))]
    m = op.tensor(mask, kind, name="mask")
    out, sums = apply("flash_attention", [*operands, m], {"causal": causal, "scale": q[-1] ** -0.5})
    found = apply(
        "flash_attention_gradient", [*operands, out, sums, op.tensor(q, "bf16", name="g"), m],
        {"causal": causal, "scale": q[-1] ** -0.5},
    )
    graph = Graph({"out": out, "sums": sums, **dict(zip(("dq", "dk", "dv"), found, strict=True))})
    forward, backward = attention_kernels(graph)
    rng = np.random.default_rng(5)
    values = rng.random(mask) < 0.6 if kind == "bool" else rng.standard_normal(mask).astype(ml_dtypes.bfloat16)
    if kind == "bool":
        values[..., 0, :] = False
    kinds = ml_dtypes.bfloat16
    drawn = [rng.standard_normal(s).astype(kinds).astype(np.float64) for s in (q, k, k, q)]
    x, y, z, g = map(torch.tensor, drawn)
    for leaf in (x, y, z):
        leaf.requires_grad_()
    scores = x @ y.transpose(-1, -2) * q[-1] ** -0.5
    given = torch.tensor(values if kind == "bool" else values.astype(np.float64))
    scores = scores.masked_fill(~given, -math.inf) if kind == "bool" else scores + given
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    none = torch.isneginf(scores).all(-1, keepdim=True)
    weights = torch.where(none, 0.0, torch.softmax(scores.masked_fill(none, 0.0), -1))
    right = weights @ z
    right.backward(g)
    arrays = [t.detach().numpy().astype(kinds) for t in (x, y, z)]
    result, logarithms = np.full(q, 77, kinds), np.full(q[:-1], 77, np.float32)
    run_kernel(forward, [*arrays, result, logarithms, values], {}, Options("sm_90a"))
    np.testing.assert_allclose(result.astype(np.float64), right.detach().numpy(), rtol=0, atol=0.04)
    expected_sums = torch.logsumexp(scores, -1).detach().numpy()
    np.testing.assert_allclose(logarithms, expected_sums, rtol=0, atol=2e-5)
    gradients_found = [np.full_like(a, 77) for a in arrays]
    given_to = [*arrays, result, logarithms, g.numpy().astype(kinds), *gradients_found, values]
    run_kernel(backward, given_to, {}, Options("sm_90a"))
    for got, leaf in zip(gradients_found, (x, y, z), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(got.astype(np.float64), leaf.grad.numpy(), rtol=0, atol=0.15)


def test_masked_attention_is_one_kernel() -> None:
    q = op.tensor((2, 8, 64), "bf16", name="q")
    for kind, expected_ops in (("bool", 2), ("bf16", 1)):
        mask = op.tensor((8, 8), kind, name="mask")
        out = op.scaled_dot_product_attention(q, q, q, mask)
        graph = Graph({"out": out, "dq": gradients([out], [q], [q])[0]})
        assert sum("flash" in n.op for n in to_gpu_operators(graph).nodes()) == expected_ops
    mask = op.tensor((3, 1, 1, 8, 8), "bool", name="mask")
    q = op.tensor((3, 2, 2, 8, 64), "bf16", name="q")
    out = op.scaled_dot_product_attention(q, q, q, mask)
    assert not any("flash" in n.op for n in to_gpu_operators(Graph({"out": out})).nodes())


def test_other_targets_see_primitives_only() -> None:
    graph = to_primitives(attention_graph((2, 64, 64), (2, 64, 64), True))
    assert not any("attention" in n.op for n in graph.nodes())
