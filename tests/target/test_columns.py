"""Row kernels that form sums over their rows: what is planned, what it means, the two launches, the instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tessera import op
from tessera.graph import backward
from tessera.ir.dims import Dim, Symbol, evaluate, sym
from tessera.ir.dtype import DType, bf16, f16, f32, i64
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.schedule.plan import KernelCall, Plan
from tessera.target.hsaco import architectures as amd
from tessera.target.ptx import architectures as nvidia
from tessera.target.triton import columns, points
from tessera.target.triton.build import compile_program
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.loops import generate as generate_loop
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import LoopKernel
from tessera.tile.plan import build_plan
from tessera.tile.printer import content_key
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import check, graph_of, tensor
from tests.target import triton_interpreter

EAGER = replace(GPU, partials=1, column_length=128)
"""A machine whose row kernels form all sums that they can."""


def norm_gradients(*shape: Dim, dtype: DType = bf16, kind: str = "layer", residual: bool = True) -> list[Value]:
    """The gradients of a norm, of the tensor before it, and of the bias of a linear layer before that."""
    n = shape[-1]
    x, dy, r = (tensor(name, *shape, dtype=dtype) for name in "xgr")
    w, b = (tensor(name, n, dtype=dtype) for name in "wb")
    y = op.layer_norm(x, w, b) if kind == "layer" else op.rms_norm(x, w)
    dx, *rest = gradients([y], [x, w, b] if kind == "layer" else [x, w], [dy])
    dx = dx + r if residual else dx
    return [dx, *rest, op.sum(dx, axis=list(range(len(shape) - 1)))]


def softmax_gradients(*shape: Dim, dtype: DType = f32) -> list[Value]:
    """Softmax of scores with a bias for each column."""
    x, g, b = tensor("x", *shape, dtype=dtype), tensor("g", *shape, dtype=dtype), tensor("b", shape[-1], dtype=dtype)
    y = op.softmax(x + b)
    return gradients([y], [x, b], [g])


def cross_entropy_gradients(rows: int, classes: int) -> list[Value]:
    """Those of logits and of a bias for each class."""
    x, b, labels = tensor("x", rows, classes), tensor("b", classes), tensor("labels", rows, dtype=i64)
    return gradients([op.cross_entropy(x + b, labels)], [x, b])


def dropped_gradients(*shape: Dim) -> list[Value]:
    """A norm's behind random zeros, and of the bias in front of these."""
    x, g, w, b, c = (tensor(n, *(shape if n in "xg" else shape[-1:])) for n in "xgwbc")
    y = op.layer_norm(op.dropout(x + c, 0.25, key=tensor("key", 2, dtype=i64)), w, b)
    return gradients([y], [x, w, b, c], [g])


def planned(outputs: list[Value], machine: object = GPU) -> Plan:
    return build_plan(to_primitives(Graph({f"y{i}": v for i, v in enumerate(outputs)})), None, machine)  # type: ignore


def with_sums(plan: Plan) -> list[LoopKernel]:
    return [k for k in plan.kernels if isinstance(k, LoopKernel) and columns.has_sums(k)]


def sums_of(plan: Plan) -> int:
    return sum(len(columns.buffers_of_sums(k)) for k in with_sums(plan))


def assert_launches(kernel: LoopKernel, sizes: Mapping[str, int], seed: int = 0) -> None:
    """The launches of a kernel do, in Triton's interpreter, what the kernel means, and twice the same."""
    found: list[list[np.ndarray]] = []
    for _ in range(3):
        random = np.random.default_rng(seed)
        shapes = [tuple(evaluate(d, sizes) for d in b.shape) for b in kernel.buffers]
        arrays = [(random.uniform(0.5, 2, s) * random.choice([-1, 1], s)).astype(b.dtype.numpy)
                  for s, b in zip(shapes, kernel.buffers)]
        for b, a in zip(kernel.buffers, arrays):
            if b.role == "out":
                a.fill(77)
        found.append(arrays)
    triton_interpreter.run_kernel(kernel, found[0], sizes)
    triton_interpreter.run_kernel(kernel, found[1], sizes)
    run_kernel(kernel, found[2], sizes)
    for b, one, two, right in zip(kernel.buffers, *found):
        assert one.tobytes() == two.tobytes()
        narrow = {"bfloat16": 2e-2, "float16": 3e-3}.get(right.dtype.name, 2e-5)
        wide = right.astype(np.float64)
        most = narrow * max(1.0, float(np.abs(wide).max())) if wide.size else 0
        np.testing.assert_allclose(one.astype(np.float64), wide, rtol=narrow, atol=most, err_msg=b.name)


CASES: list[tuple[str, list[Value], int]] = [
    ("layer norm, bf16", norm_gradients(600, 96), 3),
    ("layer norm, f32, no residual", norm_gradients(257, 33, dtype=f32, residual=False), 3),
    ("layer norm, f16, wide", norm_gradients(150, 1500, dtype=f16), 3),
    ("layer norm, a power of two", norm_gradients(512, 128, dtype=f32), 3),
    ("layer norm, batches", norm_gradients(5, 129, 40, dtype=f32), 3),
    ("layer norm, a batch of 1", norm_gradients(1, 200, 64), 3),
    ("rms norm", norm_gradients(301, 77, kind="rms"), 2),
    ("rms norm, heads", norm_gradients(3, 131, 2, 64, dtype=f32, kind="rms"), 2),
    ("softmax", softmax_gradients(300, 50), 1),
    ("cross entropy", cross_entropy_gradients(130, 100), 1),
    ("dropout", dropped_gradients(200, 72), 3),
    ("softmax, heads", softmax_gradients(2, 3, 140, 36, dtype=bf16), 1),
]


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that each has many rows; what labels pick is treated as in long rows."""
    monkeypatch.setattr(columns, "MULTIPROCESSORS", 2)
    monkeypatch.setattr(points, "SHORTEST", 2)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(("outputs", "count"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_sums_beside_rows(outputs: list[Value], count: int) -> None:
    """Planned, with the values of the operators; the launches do what the kernel means."""
    plan = check(graph_of(*outputs), machine=EAGER, tolerance=800, shuffled=False)
    assert sums_of(plan) == count
    kernel, = with_sums(plan)
    assert_launches(kernel, {})


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("batch", [0, 1, 2, 9])
def test_any_number_of_rows(batch: int) -> None:
    """Rows that are known when the kernel runs: none, fewer than programs, some for each."""
    rows = Symbol("rows", 0)
    outputs = norm_gradients(sym(rows), 130, 72, dtype=f32)
    plan = check(graph_of(*outputs), machine=EAGER, sizes={"rows": batch}, tolerance=800, shuffled=False)
    kernel, = with_sums(plan)
    assert sums_of(plan) == 3
    assert_launches(kernel, {s.name: batch for s in kernel.sizes})


@pytest.mark.usefixtures("few_programs")
def test_uneven_programs() -> None:
    """Many rows for each program; the last one has fewer, or none."""
    for rows, width in ((129, 1100), (131, 60), (300, 256)):
        kernel, = with_sums(planned(norm_gradients(rows, width, dtype=f32), EAGER))
        assert_launches(kernel, {}, rows)


def test_each_point_by_itself() -> None:
    """A sum does not depend on the order of the grid, but for rounding."""
    check(graph_of(*norm_gradients(140, 40, dtype=f32)), machine=EAGER, tolerance=800)


def test_only_where_it_pays() -> None:
    """Few rows, rows that do not fit in registers, and sums of something else stay as they are."""
    assert sums_of(planned(norm_gradients(16384, 768))) == 3
    for shape in ((1024, 768), (16384, 8192), (16384, 16)):
        assert sums_of(planned(norm_gradients(*shape))) == 0
    x, y = tensor("x", 16384, 768), tensor("y", 16384, 768)
    assert sums_of(planned([op.softmax(x), op.sum(y, axis=0)])) == 0
    assert sums_of(planned([op.softmax(x), op.sum(op.reshape(x, (768, 16384)), axis=0)])) == 0
    assert sums_of(planned([op.softmax(x), op.sum(x, axis=0)])) == 1
    assert sums_of(planned([op.softmax(x), op.max(x, axis=0)])) == 0


def test_what_needs_the_sum_waits() -> None:
    """A kernel with values that need the sum does not form it; what needs it, seen as rows, is another kernel."""
    x = tensor("x", 600, 96)
    plan = check(graph_of(op.softmax(x) + op.sum(x, axis=0)), machine=EAGER, tolerance=400, shuffled=False)
    assert sums_of(plan) == 0
    square = tensor("x", 200, 200)
    doubled = op.sum(square, axis=0) * 2.0
    plan = check(graph_of(op.softmax(square), doubled), machine=EAGER, shuffled=False, tolerance=400)
    assert sums_of(plan) == 1


def test_sums_without_a_row_kernel_are_cut() -> None:
    """A sum that could join no kernel is planned as if there were none."""
    x, y = tensor("x", 16384, 768), tensor("y", 16384, 768)
    alone = planned([op.sum(y, axis=0)])
    both = planned([op.softmax(x), op.sum(y, axis=0)])
    assert {content_key(k) for k in alone.kernels} < {content_key(k) for k in both.kernels}


def test_gpt2_step_has_no_kernels_of_norm_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of what a norm's gradient reads or writes are formed by its row kernel alone."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "gpt2"))
    from model import GPT2, Config  # type: ignore[import-not-found]

    model = GPT2(Config(layers=2, width=768, heads=12, length=1024, dtype="bf16"))
    tokens, labels = tensor("tokens", 16, 1024, dtype=i64), tensor("labels", 16, 1024, dtype=i64)
    loss = model.loss(tokens, labels)
    plan = planned([loss, *backward(loss).values()])
    left = [k for k in plan.kernels if isinstance(k, LoopKernel) and not columns.has_sums(k)]
    assert not [k.name for k in left if k.name.endswith("sub_mul_sum")]
    called = [plan.kernels[i.kernel] for i in plan.instructions if isinstance(i, KernelCall)]
    assert [len(columns.buffers_of_sums(k)) for k in called if k in with_sums(plan)] == [3, 3, 3, 3, 2]


def test_instructions() -> None:
    """Rows are copied ahead, nothing waits but for sums along a row, and registers leave room for four programs."""
    kernel, = with_sums(planned(norm_gradients(16384, 768)))
    rows, totals = generate(kernel, Options()).programs
    assert rows.source.count("debug_barrier") == 0
    binary = compile_program(rows, "cuda", 90, 32)
    assert b"cp.async" in binary.text and binary.registers is not None and binary.registers <= 128
    assert binary.scratch == 0
    assert binary.registers is not None and totals.source.count("tl.load") == 3
    with pytest.raises(AssertionError, match="owns rows"):
        generate_loop(kernel, Options())


@pytest.mark.parametrize("name", ["sm_80", "sm_90a", "sm_100a", "gfx90a", "gfx942"])
def test_every_architecture(name: str) -> None:
    """Both launches are compiled, with sizes that are known and with others."""
    arch = {**nvidia.ARCHITECTURES, **amd.ARCHITECTURES}[name]
    rows = sym(Symbol("rows", 0))
    for outputs in (norm_gradients(600, 768), norm_gradients(rows, 130, 72, dtype=f32)):
        kernel, = with_sums(planned(outputs, EAGER))
        for program in generate(kernel, Options(name)).programs:
            assert compile_program(program, arch.backend, arch.number, arch.warp).scratch == 0


@pytest.mark.parametrize("dtype", [f32, bf16])
def test_the_label_is_stored_after_all_else(dtype: DType) -> None:
    """Other threads store the rest of the row to the same place: a barrier stands between, beside sums too."""
    x, labels = tensor("x", 16384, 4096, dtype=dtype), tensor("labels", 16384, dtype=i64)
    dx, = gradients([op.cross_entropy(x, labels)], [x])
    beside = op.sum(x, axis=[0]) if dtype == f32 else op.mean(op.softmax(op.cast(x, "f32")), axis=0)
    outputs = {"dx": dx, "loss": op.cross_entropy(x, labels), "beside": beside}
    kernels = build_plan(to_primitives(Graph(outputs)), None, GPU).kernels
    kernel, = (k for k in kernels if isinstance(k, LoopKernel) and columns.has_sums(k))
    assert points.at_points(kernel) != kernel
    source = generate(kernel, Options()).programs[0].source
    lines = [line.strip() for line in source[source.rindex("@triton.jit"):].splitlines()]
    stored = [line.partition(" ")[0] if line.startswith("tl.store(b") else line for line in lines]
    at = next(i for i, line in enumerate(stored) if line.startswith("tl.store(b") and stored.count(line) == 2)
    last = stored.index(stored[at], at + 1)
    assert "mask=" in lines[last] and "tl.debug_barrier()" in lines[at:last]
