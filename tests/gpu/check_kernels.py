"""Products and attention of sizes that have kernels of their own, through the runtime, against NumPy and PyTorch."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from tessera import graph, op
from tessera._core import gpu_levels
from tessera.transform.autodiff import gradients

pytestmark = pytest.mark.skipif(not gpu_levels("ptx"), reason="needs an NVIDIA device")


def drawn(*shape: int) -> np.ndarray:
    """Numbers that bf16 holds exactly."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return torch.tensor(values).bfloat16().float().numpy()


def bf16(values: np.ndarray) -> np.ndarray:
    """As bf16."""
    return values.astype(ml_dtypes.bfloat16)


def assert_near(found: object, right: np.ndarray, tolerance: float = 6e-3) -> None:
    """Near in the Frobenius norm."""
    difference = np.asarray(found, dtype=np.float64) - right
    assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(right)


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(512, 1024, 1024), (200, 328, 1000), (16, 4096, 2048), (1, 4096, 2048), (256, 256, 16384), (1000, 48, 4096)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_products(m: int, n: int, k: int, turned: bool) -> None:
    a = op.tensor((m, k), "bf16", name="a")
    b = op.tensor((n, k) if turned else (k, n), "bf16", name="b")
    bias = op.tensor((n,), "f32", name="bias")
    y = op.matmul(a, op.transpose(b, [1, 0]) if turned else b)
    program = graph.compile({"y": op.relu(op.cast(y, "f32") + bias)}, target="ptx")
    x, w, c = drawn(m, k), drawn(*b.shape), drawn(n)
    right = np.maximum(x.astype(np.float64) @ (w.T if turned else w) + c, 0)
    assert_near(program(a=bf16(x), b=bf16(w), bias=c)["y"], right)


@pytest.mark.parametrize(("m", "n", "k"), [(512, 1024, 1024), (200, 336, 1040), (1, 64, 256), (130, 100, 72)])
@pytest.mark.parametrize("kinds", [("f8e4m3", "f8e4m3"), ("f8e5m2", "f8e4m3")])
def test_scaled_products(m: int, n: int, k: int, kinds: tuple[str, str]) -> None:
    a, b = op.tensor((m, k), kinds[0], name="a"), op.tensor((n, k), kinds[1], name="b")
    rows, one = op.tensor((m, 1), name="rows"), op.tensor((), name="one")
    program = graph.compile({"y": op.scaled_matmul(a, op.transpose(b, [1, 0]), rows, one)}, target="ptx")
    x, w = (drawn(*t.shape).astype(t.dtype.numpy) for t in (a, b))
    scales = np.linspace(0.5, 2, m, dtype=np.float32).reshape(m, 1)
    right = x.astype(np.float64) @ w.T.astype(np.float64) * scales * 3
    assert_near(program(a=x, b=w, rows=scales, one=np.float32(3))["y"], right)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_products_of_widened_operands(dtype: str) -> None:
    a, b = op.tensor((256, 512), dtype, name="a"), op.tensor((512, 384), dtype, name="b")
    program = graph.compile({"y": op.matmul(op.cast(a, "f32"), op.cast(b, "f32"))}, target="ptx")
    x, w = (drawn(*t.shape).astype(t.dtype.numpy) for t in (a, b))
    assert_near(program(a=x, b=w)["y"], x.astype(np.float64) @ w.astype(np.float64), 1e-5)


def test_batches_of_any_size() -> None:
    rows = op.dim("B", min=1, max=4096)
    x, w = op.tensor((rows, 512), "bf16", name="x"), op.tensor((512, 768), "bf16", name="w")
    program = graph.compile({"y": op.gelu(op.matmul(x, w))}, target="ptx")
    values = drawn(512, 768)
    for size in (1, 77, 1000, 77):
        given = drawn(size, 512)
        right = torch.nn.functional.gelu(torch.tensor(given).double() @ torch.tensor(values).double()).numpy()
        assert_near(program(x=bf16(given), w=bf16(values))["y"], right)


@pytest.mark.parametrize("mask", [(2, 1, 1, 300), (300, 300), (2, 4, 300, 1)])
def test_masked_attention(mask: tuple[int, ...]) -> None:
    """As PyTorch; a query that may attend to nothing gives zeros and takes no gradient."""
    shape = (2, 4, 300, 64)
    operands = [op.tensor(shape, "bf16", name=n) for n in "qkv"]
    out = op.scaled_dot_product_attention(*operands, op.tensor(mask, "bool", name="mask"))
    found = gradients([out], operands, [op.tensor(shape, "bf16", name="g")])
    program = graph.compile({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))}, target="ptx")
    given = {n: drawn(*shape[:-1], 64 + i)[..., :64] for i, n in enumerate("qkvg")}
    where = np.random.default_rng(3).random(mask) < 0.7
    if mask[-2] > 5:
        where[..., 5, :] = False
    results = program(mask=where, **{n: bf16(v) for n, v in given.items()})
    leaves = [torch.tensor(given[n]).double().requires_grad_() for n in "qkv"]
    scores = (leaves[0] @ leaves[1].transpose(-1, -2) / 8).masked_fill(~torch.tensor(where), -math.inf)
    none = torch.isneginf(scores).all(-1, keepdim=True)
    right = torch.where(none, 0.0, torch.softmax(scores.masked_fill(none, 0.0), -1)) @ leaves[2]
    right.backward(torch.tensor(given["g"]).double())
    assert_near(results["out"], right.detach().numpy())
    for name, leaf in zip(("dq", "dk", "dv"), leaves):
        assert leaf.grad is not None
        assert_near(results[name], leaf.grad.numpy(), 1e-2)


@pytest.mark.parametrize(
    ("q", "k", "causal"),
    [
        ((2, 4, 300, 64), (2, 2, 300, 64), True), ((1, 2, 200, 128), (1, 2, 515, 128), False),
        ((3, 130, 32), (3, 130, 32), True),
    ],
)
def test_attention(q: tuple[int, ...], k: tuple[int, ...], causal: bool) -> None:
    operands = [op.tensor(s, "bf16", name=n) for n, s in (("q", q), ("k", k), ("v", k))]
    out = op.scaled_dot_product_attention(*operands, causal=causal)
    found = gradients([out], operands, [op.tensor(q, "bf16", name="g")])
    program = graph.compile({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))}, target="ptx")
    given = {n: drawn(*s) for n, s in (("q", q), ("k", k), ("v", k), ("g", q))}
    results = [program(**{n: bf16(v) for n, v in given.items()}) for _ in range(2)]
    leaves = [torch.tensor(given[n]).double().requires_grad_() for n in "qkv"]
    group = q[-3] // k[-3]
    wide = [x.repeat_interleave(group, -3) for x in leaves[1:]]
    scores = leaves[0] @ wide[0].transpose(-1, -2) / math.sqrt(q[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    right = torch.softmax(scores, -1) @ wide[1]
    right.backward(torch.tensor(given["g"]).double())
    for name, expected in zip(("out", "dq", "dk", "dv"), (right.detach(), *(x.grad for x in leaves)), strict=True):
        assert_near(results[0][name], expected.numpy(), 1e-2)
        assert np.array_equal(np.asarray(results[0][name]), np.asarray(results[1][name]))
