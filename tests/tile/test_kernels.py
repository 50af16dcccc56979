"""Tile IR kernels: text, canonical form, collapsing of axes, arguments that share memory."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Symbol, mul, sym
from tessera.ir.dtype import DType, f32, f64, i32, i64
from tessera.schedule.plan import KernelCall
from tessera.tile.aliasing import may_replace, share
from tessera.tile.canonical import canonicalise
from tessera.tile.collapse import collapse
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import Axis, Buffer, Compute, Const, DotKernel, Index, Load, LoopKernel, Reduce, Ref, Stage, Store
from tessera.tile.printer import content_key, print_kernel
from tessera.tile.report import kernel_bytes, kernel_flops, report

from tests.schedule.harness import check, graph_of, mlp_step, plan_of, tensor

ROW, J, K = Symbol("i", 0), Symbol("j", 0), Symbol("k", 0)
N = Symbol("N", 1, 100)


def buffer(role: str, *shape: object, dtype: DType = f32, strides: tuple[int, ...] | None = None) -> Buffer:
    """A row-major buffer."""
    from tessera.schedule.index import strides as row_major

    return Buffer("b", dtype, shape, strides or row_major(shape), role)  # type: ignore[arg-type]


def pointwise(
    load: tuple[object, ...], store: tuple[object, ...], a: Buffer, b: Buffer, *extents: object
) -> LoopKernel:
    """out[store] = -in[load] over a grid i, j, …"""
    ops = (Load(0, load), Compute("neg", (Ref(0, 0),), a.dtype), Store(1, store, Ref(0, 1)))  # type: ignore[arg-type]
    grid = tuple(Axis(s, e) for s, e in zip((ROW, J, K), extents))  # type: ignore[arg-type]
    return LoopKernel("k", (), (a, b), grid, (Stage((), ops),))


def test_text() -> None:
    x, w = tensor("x", 4, 8), tensor("w", 8, 3)
    text = print_kernel(plan_of(graph_of(op.relu(op.matmul(x, w)))).kernels[0])
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith('dot kernel "matmul_maximum" sizes() at ')
    assert lines[1:4] == [
        "buffer 0 in f32[4, 8] strides [8, 1]", "buffer 1 in f32[8, 3] strides [3, 1]",
        "buffer 2 out f32[4, 3] strides [3, 1]",
    ]
    assert "batch () m (m < 4) n (n < 3) k (k < 8)" in lines and "%0.0 = load 0[m, k]" in lines
    assert "%2.2 = store 2[m, n] = %2.1" in lines


def test_text_shows_masks_indirect_loads_reductions_and_draws() -> None:
    from tessera.op.opdef import build

    x, i, key = tensor("x", 5, 3), tensor("i", 4, dtype=i64), tensor("key", 2, dtype=i64)
    u = build("random_uniform", key, shape=[4], dtype=f32, id=9)
    y = op.sum(op.pad(op.take(x, i, axis=0), [[0, 0], [1, 0]]), axis=1) + u
    text = "\n".join(print_kernel(k) for k in plan_of(graph_of(y, inputs=[x, i, key])).kernels)
    for part in ("where %", "else 0.0", "reduce sum(", "random(%", "minimum(", "index j0"):
        assert part in text, part


def test_content_ignores_name_and_origin_only() -> None:
    x = tensor("x", 6)
    (a,), (b,) = (plan_of(graph_of(op.exp(x))).kernels for _ in range(2))
    (c,) = plan_of(graph_of(op.exp(tensor("z", 6, dtype=f64)))).kernels
    assert a.loc != b.loc or a.loc == b.loc
    assert content_key(a) == content_key(b) != content_key(c)


def test_canonical_names() -> None:
    a = buffer("in", sym(N), 4)
    kernel = pointwise((sym(ROW), sym(J)), (sym(ROW), sym(J)), a, buffer("out", sym(N), 4), sym(N), 4)
    canonical, sizes = canonicalise(kernel)
    assert sizes == (N,) and [s.name for s in canonical.sizes] == ["s0"]
    assert (canonical.sizes[0].min, canonical.sizes[0].max) == (1, 100)
    assert [a.symbol.name for a in canonical.grid] == ["i0", "i1"]


def test_contiguous_axes_collapse() -> None:
    index = (sym(ROW), sym(J), sym(K))
    kernel = collapse(pointwise(index, index, buffer("in", 2, 3, 4), buffer("out", 2, 3, 4), 2, 3, 4))
    assert [a.extent for a in kernel.grid] == [24] and kernel.buffers[0].shape == (24,)


def test_symbolic_axes_collapse() -> None:
    index = (sym(ROW), sym(J))
    kernel = collapse(pointwise(index, index, buffer("in", sym(N), 4), buffer("out", sym(N), 4), sym(N), 4))
    assert [a.extent for a in kernel.grid] == [mul(sym(N), 4)]


@pytest.mark.parametrize(
    ("load", "shape"),
    [((sym(J), sym(ROW)), (4, 3)), ((sym(J),), (4,)), ((sym(ROW),), (3,)), ((sym(ROW), sym(J)), (3, 5))],
)
def test_other_accesses_keep_their_axes(load: tuple[object, ...], shape: tuple[int, ...]) -> None:
    kernel = pointwise(load, (sym(ROW), sym(J)), buffer("in", *shape), buffer("out", 3, 4), 3, 4)
    assert len(collapse(kernel).grid) == 2


def test_index_values_keep_their_axes_unless_linear() -> None:
    out = buffer("out", 3, 4, dtype=i64)

    def kernel(expr: object) -> LoopKernel:
        ops = (Index(expr), Store(0, (sym(ROW), sym(J)), Ref(0, 0)))  # type: ignore[arg-type]
        return LoopKernel("k", (), (out,), (Axis(ROW, 3), Axis(J, 4)), (Stage((), ops),))

    assert len(collapse(kernel(sym(J))).grid) == 2
    assert len(collapse(kernel(sym(ROW) * 4 + sym(J))).grid) == 1
    assert len(collapse(kernel(sym(ROW) * 5 + sym(J))).grid) == 2


def test_reduced_axes_collapse() -> None:
    (kernel,) = check(graph_of(op.sum(tensor("x", 3, 4, 5), axis=[1, 2]))).kernels
    assert [a.extent for a in kernel.stages[0].axes] == [20]
    (kernel,) = check(graph_of(op.sum(tensor("x", 3, 4, 5), axis=[0, 2]))).kernels
    assert [a.extent for a in kernel.stages[0].axes] == [3, 5]


@pytest.mark.parametrize("seed", range(8))
def test_collapsing_does_not_change_results(seed: int) -> None:
    random = np.random.default_rng(seed)
    order = [int(p) for p in random.permutation(3)]
    extents = (2, 3, 4)
    axes = (sym(ROW), sym(J), sym(K))
    load = tuple(axes[p] for p in order)
    kernel = pointwise(load, axes, buffer("in", *(extents[p] for p in order)), buffer("out", *extents), *extents)
    data = random.normal(size=24).astype(np.float32)
    first, second = np.zeros(24, np.float32), np.zeros(24, np.float32)
    run_kernel(kernel, [data.copy(), first], {})
    run_kernel(collapse(kernel), [data.copy(), second], {})
    np.testing.assert_array_equal(first, second)


def test_same_element_may_be_overwritten() -> None:
    index = (sym(ROW),)
    assert may_replace(pointwise(index, index, buffer("in", 4), buffer("out", 4), 4), 0, 1)


@pytest.mark.parametrize("load", [(3 - sym(ROW),), (0,), (sym(ROW) + 1,)])
def test_other_elements_may_not_be_overwritten(load: tuple[object, ...]) -> None:
    assert not may_replace(pointwise(load, (sym(ROW),), buffer("in", 4), buffer("out", 4), 4), 0, 1)


def test_buffers_of_other_widths_may_not_be_overwritten() -> None:
    index = (sym(ROW),)
    assert not may_replace(pointwise(index, index, buffer("in", 4, dtype=f64), buffer("out", 4), 4), 0, 1)
    assert may_replace(pointwise(index, index, buffer("in", 4, dtype=i32), buffer("out", 4), 4), 0, 1)


def row_kernel(final: tuple[object, ...]) -> LoopKernel:
    """y[i, j] = x[i, j] + sum over the row, with x read again at ``final``."""
    stages = (
        Stage((Axis(J, 4),), (Load(0, (sym(ROW), sym(J))), Reduce("sum", Ref(0, 0), f32))),
        Stage(
            (Axis(J, 4),),
            (
                Load(0, final), Compute("add", (Ref(1, 0), Ref(0, 1)), f32),  # type: ignore[arg-type]
                Store(1, (sym(ROW), sym(J)), Ref(1, 1)),
            ),
        ),
    )
    return LoopKernel("k", (), (buffer("in", 3, 4), buffer("out", 3, 4)), (Axis(ROW, 3),), stages)


def test_rows_may_be_overwritten_by_their_last_loop() -> None:
    assert may_replace(row_kernel((sym(ROW), sym(J))), 0, 1)
    assert not may_replace(row_kernel((sym(ROW), 0)), 0, 1)


def test_operands_of_a_product_may_not_be_overwritten() -> None:
    x = tensor("x", 4, 4)
    (kernel,) = plan_of(graph_of(op.matmul(x, x) + x)).kernels
    assert isinstance(kernel, DotKernel)
    assert not may_replace(kernel, 0, len(kernel.buffers) - 1)


def test_sharing_makes_one_argument_of_two() -> None:
    index = (sym(ROW),)
    kernel, kept = share(pointwise(index, index, buffer("in", 4), buffer("out", 4), 4), [[0, 1]])
    assert kept == [0] and [b.role for b in kernel.buffers] == ["inout"]
    data = np.arange(4.0, dtype=np.float32)
    run_kernel(kernel, [data], {})
    np.testing.assert_array_equal(data, [-0.0, -1.0, -2.0, -3.0])


def test_sharing_of_other_dtypes_is_declared() -> None:
    index = (sym(ROW),)
    kernel, kept = share(pointwise(index, index, buffer("in", 4, dtype=i32), buffer("out", 4), 4), [[0, 1]])
    assert kept == [0, 1] and [b.may_alias for b in kernel.buffers] == [(1,), (0,)]


def test_constants_are_kept_apart_by_sign_and_type() -> None:
    (kernel,) = check(graph_of(tensor("x", 3) * 0.0 + tensor("y", 3) * -0.0)).kernels
    values = [repr(o.value) for o in kernel.stages[0].ops if isinstance(o, Const)]
    assert values == ["0.0", "-0.0"]


def test_flops_and_bytes() -> None:
    x, w = tensor("x", 4, 8), tensor("w", 8, 3)
    (kernel,) = plan_of(graph_of(op.relu(op.matmul(x, w)))).kernels
    assert kernel_flops(kernel) == 2 * 4 * 8 * 3 + 12
    assert kernel_bytes(kernel) == (4 * (32 + 24), 4 * 12)


def test_report() -> None:
    plan = plan_of(mlp_step(sym(Symbol("B", 1, None)), (784, 512, 10)))
    text = report(plan)
    assert f"{len(plan.instructions)} instructions: " in text and "amounts at B = 1024" in text
    for part in ("check label", "matmul_add_maximum", "dot", "B x 512", "momentum_w0", "peak working memory:", "*B"):
        assert part in text, part
    assert "amounts at B = 256" in report(plan, {"B": 256})
    calls = [i for i in plan.instructions if isinstance(i, KernelCall)]
    assert text.count("harness.py:") >= len(calls)


def test_report_of_constant_sizes_and_copies() -> None:
    x = tensor("x", 3)
    text = report(plan_of(graph_of(x, op.exp(x))))
    assert "copy x to y0" in text and "amounts at" not in text and "peak working memory: 0 B" in text
