"""Row kernels that form sums over their rows, on the device: values against PyTorch in f64, and twice the same bits."""

from __future__ import annotations

import pytest
import torch
from tessera import graph, op
from tessera.ir.dims import Dim
from tessera.ir.value import Value
from tessera.transform.autodiff import gradients

KINDS = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
SHAPES = [(16384, 768), (16387, 768), (8191, 1000), (5000, 4096), (70000, 64), (33, 257, 96), (9000, 1537)]


def built(kind: str, shape: tuple[Dim, ...], dtype: str) -> tuple[dict[str, Value], dict[str, Value]]:
    """Inputs, and the gradients of a norm or a softmax of ``x``, of its parameters, of a bias in front of it."""
    wide = {name: op.tensor(shape, dtype, name=name) for name in "xgr"}
    narrow = {name: op.tensor(shape[-1:], dtype, name=name) for name in "wb"}
    x, g, r, w, b = (*wide.values(), *narrow.values())
    if kind == "softmax":
        scores = op.cast(x, "f32") * op.cast(w, "f32") + op.cast(b, "f32")
        y = op.cast(op.softmax(scores), dtype)
    else:
        y = op.layer_norm(x, w, b) if kind == "layer" else op.rms_norm(x, w)
    wrt = {"x": x, "w": w} if kind == "rms" else {"x": x, "w": w, "b": b}
    found = dict(zip(wrt, gradients([y], list(wrt.values()), [g])))
    found["x"] = found["x"] + r
    found["bias"] = op.sum(op.cast(found["x"], "f32"), axis=list(range(len(shape) - 1)))
    return {**wide, **narrow}, found


def given(shape: tuple[int, ...], dtype: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(shape[0])
    shapes = {**{name: shape for name in "xgr"}, **{name: shape[-1:] for name in "wb"}}
    return {n: torch.randn(s, device="cuda").to(KINDS[dtype]) for n, s in shapes.items()}


def right(kind: str, values: dict[str, torch.Tensor], rounded: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same in f64; the bias's gradient is that of the rounded gradient of ``x``."""
    v = {n: t.double().requires_grad_() for n, t in values.items()}
    n = v["x"].shape[-1]
    if kind == "layer":
        y = torch.nn.functional.layer_norm(v["x"], (n,), v["w"], v["b"])
    else:
        y = torch.nn.functional.rms_norm(v["x"], (n,), v["w"], 1e-6) if kind == "rms" else (
            torch.softmax(v["x"] * v["w"] + v["b"], -1))
    y.backward(v["g"])
    found = {name: v[name].grad for name in ("xw" if kind == "rms" else "xwb")}
    found["x"] = found["x"] + v["r"]
    return {**found, "bias": rounded.double().reshape(-1, n).sum(0)}  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", ["layer", "rms", "softmax"])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape: tuple[int, ...], dtype: str, kind: str) -> None:
    program = graph.compile(built(kind, shape, dtype)[1], target="ptx")
    assert_right(program, kind, given(shape, dtype), dtype)


@pytest.mark.parametrize("rows", [1, 3, 40, 257, 2048])
def test_any_number_of_rows(rows: int) -> None:
    program = graph.compile(built("layer", (op.dim("rows"), 64, 200), "bf16")[1], target="ptx")
    assert_right(program, "layer", given((rows, 64, 200), "bf16"), "bf16")


def assert_right(program: graph.Compiled, kind: str, values: dict[str, torch.Tensor], dtype: str) -> None:
    used = {n: v for n, v in values.items() if kind == "softmax" or n != "b"}
    first, again = ({k: torch.from_dlpack(v) for k, v in program(**used).items()} for _ in range(2))
    assert all(torch.equal(first[k].view(torch.uint8), again[k].view(torch.uint8)) for k in first)
    near = {"bf16": 2**-6, "f16": 2**-9, "f32": 2e-5}[dtype]
    for name, wide in right(kind, values, first["x"]).items():
        found = first[name].double()
        most = near if name == "x" else 2e-5 if found.dtype == torch.float32 else near
        scale = float(wide.abs().max())
        torch.testing.assert_close(found, wide, rtol=near, atol=max(most, 1e-5) * max(scale, 1e-3) * 0.1, msg=name)
