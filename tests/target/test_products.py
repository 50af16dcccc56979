"""Products on GPU targets in the general kernel: precision of f32, and blocks that suit the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16 as bf16
from tessera import op
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.schedule.options import Schedule
from tessera.target.ptx.architectures import architecture_named
from tessera.target.triton import products
from tessera.target.triton.build import compile_program
from tessera.target.triton.early import may_start_early
from tessera.target.triton.head import Options
from tessera.target.triton.plan import compile_plan
from tessera.target.triton.products import generate
from tessera.tile.ir import DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.pipeline import to_gpu_operators

from tests.target import triton_interpreter


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
        ((16, 8192, 4096), "sm_90a", 64, 6), ((8, 4096, 8192), "sm_80", 32, 5), ((4096, 4096, 4096), "sm_80", 128, 3),
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


@pytest.mark.parametrize("turned", [False, True])
def test_few_rows_have_the_matrix_brought_near(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a program waits, it asks for the first terms of its columns, each line once and nothing outside."""
    monkeypatch.setattr(products, "_LARGE_MATRIX", 0)
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-3, 3, s).astype(bf16) for s in ((3, 1024), (192, 1024) if turned else (1024, 192)))
    a, b = op.tensor(x.shape, "bf16", name="a"), op.tensor(w.shape, "bf16", name="b")
    kernel = only_kernel(Graph({"out": a @ (op.transpose(b, (1, 0)) if turned else b)}))
    program = generate(kernel, Options())
    assert program.source.count("    begin_early(") == 1
    out, columns = np.zeros((3, 192), bf16), 32
    triton_interpreter.asked.clear()
    triton_interpreter.launch(program, [x, w, out], [], (192 // columns, 1, 1))
    np.testing.assert_array_equal(out, (x.astype(np.float32) @ (w.T if turned else w).astype(np.float32)).astype(bf16))
    begin, line = w.ctypes.data, 2 * (256 if turned else columns)
    lines = [(n, 0) for n in range(192)] if turned else [(k, n) for n in range(0, 192, columns) for k in range(256)]
    assert triton_interpreter.asked == [(begin + 2 * (i * w.shape[1] + j), line) for i, j in lines]


def test_kernels_that_wait_by_themselves() -> None:
    """The order is in the text: other kernels may start, requests for the cache, the wait, the first read."""
    program = generate(only_kernel(product_graph(1, 8192, 4096, "bf16")), Options())
    binary = compile_program(program, "cuda", 90, 32)
    text = binary.text.decode()
    order = ["griddepcontrol.launch_dependents", "cp.async.bulk.prefetch.L2", "griddepcontrol.wait", "cp.async.cg"]
    assert binary.early and [text.index(o) for o in order] == sorted(text.index(o) for o in order)
    assert text.count("griddepcontrol.wait") == 1
    wait = "griddepcontrol.wait;"
    body = text[text.index("\n{\n") :]
    moved = text.replace(wait, "").replace(body[-3:], "") + wait + "\n}\n"
    with pytest.raises(ValueError, match="before it waits"):
        may_start_early(moved)


@pytest.mark.parametrize(
    ("m", "n", "k", "options"),
    [
        (1, 8192, 4096, Options("sm_80")), (1, 8192, 4096, Options("gfx942")), (1, 8192, 4096, Options(guarded=True)),
        (1, 256, 4096, Options()), (1, 8200, 4096, Options()), (64, 8192, 4096, Options()),
        (1, 1 << 20, 128, Options()),
    ],
)
def test_where_nothing_is_brought_near(m: int, n: int, k: int, options: Options) -> None:
    assert "begin_early" not in generate(only_kernel(product_graph(m, n, k, "bf16")), options).source
