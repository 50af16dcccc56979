"""Products on GPU targets in the general kernel: precision of f32, and blocks that suit the sizes."""

from __future__ import annotations

import pytest
from tessera import op
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.schedule.options import Schedule
from tessera.target.ptx.architectures import architecture_named
from tessera.target.triton.head import Options
from tessera.target.triton.plan import compile_plan
from tessera.target.triton.products import generate
from tessera.tile.ir import DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_gpu_operators


def product_graph(m: int, n: int, k: int, dtype: str) -> Graph:
    """A matrix product."""
    return Graph({"out": op.matmul(op.tensor((m, k), dtype, name="a"), op.tensor((k, n), dtype, name="b"))})


def only_kernel(graph: Graph) -> DotKernel:
    """The product of a graph that is nothing else."""
    kernel, = build_plan(to_gpu_operators(graph), None, GPU).kernels
    assert isinstance(kernel, DotKernel)
    return kernel


@pytest.mark.parametrize(("float32", "units"), [("ieee", False), ("tf32", True)])
def test_precision_of_f32(float32: str, units: bool) -> None:
    plan = build_plan(to_gpu_operators(product_graph(64, 64, 64, "f32")), Schedule(float32=float32), GPU)
    compiled = compile_plan(plan, architecture_named("sm_80"))
    text = next(compiled.code[m.offset :][: m.bytes] for m in compiled.image.modules if m.format == "ptx")
    assert (b".tf32" in text) == units


@pytest.mark.parametrize(
    ("sizes", "arch", "columns", "stages"),
    [
        ((16, 8192, 4096), "sm_90a", 64, 8), ((8, 4096, 8192), "sm_80", 32, 6), ((4096, 4096, 4096), "sm_80", 128, 3),
        ((100, 100, 100), "sm_80", 64, 2), ((4096, 4096, 4096), "gfx942", 64, 2),
    ],
)
def test_blocks(sizes: tuple[int, int, int], arch: str, columns: int, stages: int) -> None:
    program = generate(only_kernel(product_graph(*sizes, "bf16")), Options(arch))
    assert program.stages == stages and f"tl.arange(0, {columns})[None, :]" in program.source


def test_masters_are_rounded_once() -> None:
    """A product of 16-bit floats does not read f32 and round it on the way: the copy engine cannot."""
    x, w = op.tensor((512, 512), "bf16", name="x"), op.tensor((512, 512), "f32", name="w")
    plan = build_plan(to_gpu_operators(Graph({"out": op.matmul(x, op.cast(w, "bf16"))})), None, GPU)
    dot, = (k for k in plan.kernels if isinstance(k, DotKernel))
    assert {b.dtype.name for b in dot.buffers} == {"bf16"} and len(plan.kernels) == 2
