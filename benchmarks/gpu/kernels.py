"""Generated kernels of products and attention as a file that ``measure.py`` runs: no GPU is needed here.

``python -m benchmarks.gpu.kernels FILE`` writes programs, arguments and grids as JSON. On a machine with a GPU, PyTorch
and Triton, ``python measure.py FILE`` checks them against PyTorch and times them beside cuBLAS and cuDNN.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tessera import op
from tessera.ir.dims import Dim, evaluate
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Argument, BufferArgument, MapSize, SizeArgument, TensorMapArgument
from tessera.tile.ir import AttentionKernel, DotKernel, Kernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators


def argument(a: Argument, values: list[int]) -> dict[str, Any]:
    """An argument as the file lists it."""
    def number(n: MapSize) -> int:
        return n.factor * (1 if n.index is None else values[n.index])

    if isinstance(a, BufferArgument):
        return {"buffer": a.index, "dtype": a.dtype.name}
    if isinstance(a, SizeArgument):
        return {"value": values[a.index]}
    assert isinstance(a, TensorMapArgument)
    return {
        "map": a.index, "shape": [number(n) for n in a.shape], "strides": [number(n) for n in a.strides],
        "block": list(a.block), "dtype": a.dtype.name,
    }


def described(kernel: Kernel, arch: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Everything needed to run a kernel at given sizes."""
    generated = generate(kernel, Options(arch))
    values = [sizes[s.name] for s in kernel.sizes]

    def at(d: Dim) -> int:
        return evaluate(d, sizes)

    return {
        "arch": arch, "workspace": at(generated.workspace),
        "buffers": [{"dtype": b.dtype.name, "shape": list(map(at, b.shape)), "role": b.role} for b in kernel.buffers],
        "programs": [
            {
                "name": p.name, "source": p.source, "arguments": [argument(a, values) for a in p.arguments],
                "grid": list(map(at, p.grid)), "warps": p.warps, "stages": p.stages,
            }
            for p in generated.programs
        ],
    }


def product(
    label: str, m: int, n: int, k: int, *, a_turned: bool = False, b_turned: bool = False, epilogue: str = "none",
    arch: str = "sm_90a",
) -> dict[str, Any]:
    """A product of bf16, perhaps with GELU of a sum with a bias, or with a residual."""
    a = op.tensor((k, m) if a_turned else (m, k), "bf16", name="a")
    b = op.tensor((n, k) if b_turned else (k, n), "bf16", name="b")
    out = op.matmul(op.transpose(a, [1, 0]) if a_turned else a, op.transpose(b, [1, 0]) if b_turned else b)
    if epilogue == "gelu":
        out = op.gelu(out + op.tensor((n,), "bf16", name="bias"))
    if epilogue == "residual":
        out = out + op.tensor((m, n), "bf16", name="residual")
    kernel, = build_plan(to_gpu_operators(Graph({"out": out})), None, GPU).kernels
    assert isinstance(kernel, DotKernel)
    return {
        "kind": "product", "label": label, "a_turned": a_turned, "b_turned": b_turned, "epilogue": epilogue,
        "sizes": [m, n, k], **described(kernel, arch, {}),
    }


def attention(
    label: str, batch: int, heads: int, shared: int, length: int, size: int, *, causal: bool, arch: str = "sm_90a"
) -> list[dict[str, Any]]:
    """Attention in bf16, and its gradient."""
    shapes = [(batch, h, length, size) for h in (heads, shared, shared)]
    operands = [op.tensor(s, "bf16", name=n) for s, n in zip(shapes, "qkv", strict=True)]
    out = op.scaled_dot_product_attention(*operands, causal=causal)
    found = gradients([out], operands, [op.tensor(shapes[0], "bf16", name="gradient")])
    graph = Graph({"out": out, **dict(zip(("dq", "dk", "dv"), found, strict=True))})
    kernels = [k for k in build_plan(to_gpu_operators(graph), None, GPU).kernels if isinstance(k, AttentionKernel)]
    return [
        {
            "kind": "gradient" if k.backward else "attention", "label": label, "batch": batch, "causal": causal,
            "scale": k.scale, **described(k, arch, {}),
        }
        for k in kernels
    ]


def cases() -> list[dict[str, Any]]:
    """The rows of the tables in benchmarks/results."""
    return [
        product("8192 x 8192 x 8192", 8192, 8192, 8192),
        product("the same, b transposed", 8192, 8192, 8192, b_turned=True),
        product("the same, a transposed", 8192, 8192, 8192, a_turned=True),
        product("MLP, first layer, GELU", 8192, 8192, 4096, epilogue="gelu"),
        product("MLP, second layer, residual", 8192, 4096, 8192, epilogue="residual"),
        product("MLP, gradient of weights", 4096, 8192, 8192, a_turned=True),
        product("MLP, batch 256, first", 256, 8192, 4096), product("MLP, batch 256, second", 256, 4096, 8192),
        product("MLP, batch 16, first", 16, 8192, 4096), product("MLP, batch 16, second", 16, 4096, 8192),
        product("GPT-2, gradient of weights", 768, 3072, 16384, a_turned=True),
        product("GPT-2, up, GELU", 16384, 3072, 768, epilogue="gelu"),
        product("GPT-2, down, residual", 16384, 768, 3072, epilogue="residual"),
        product("GPT-2, logits", 16384, 50304, 768, b_turned=True),
        product("4096 x 4096 x 4096 for sm_80", 4096, 4096, 4096, arch="sm_80"),
        *attention("4 x 16 x 4096 x 128, causal", 4, 16, 16, 4096, 128, causal=True),
        *attention("2 x 16 x 2048 x 128", 2, 16, 16, 2048, 128, causal=False),
        *attention("4 x 32 (8 shared) x 2048 x 128, causal", 4, 32, 8, 2048, 128, causal=True),
        *attention("16 x 12 x 1024 x 64, causal", 16, 12, 12, 1024, 64, causal=True),
        *attention("4 x 16 x 1024 x 128, causal, for sm_80", 4, 16, 16, 1024, 128, causal=True, arch="sm_80"),
    ]


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(cases(), file)
