"""What is decided otherwise for GPUs: bytes against work, heads of attention, sums of whole tensors."""

from __future__ import annotations

import pytest
from tessera import op
from tessera.ir.dtype import bf16, f32
from tessera.ir.value import Value
from tessera.schedule.machine import CPU, GPU, Machine
from tessera.schedule.options import Schedule
from tessera.schedule.plan import Plan
from tessera.tile.ir import DotKernel, LoopKernel, Store
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import calls, check, graph_of, tensor


def planned(*outputs: Value, machine: Machine = GPU, options: Schedule | None = None) -> Plan:
    return build_plan(to_primitives(graph_of(*outputs)), options, machine)


def stored(plan: Plan) -> list[int]:
    """Bytes of what kernels leave for others."""
    return sorted(b.bytes for b in plan.buffers if b.kind == "arena" and isinstance(b.bytes, int))


def test_wide_values_are_computed_again_from_narrow_ones() -> None:
    x, g = (tensor(n, 32, 64, dtype=bf16) for n in "xg")
    weight, bias = tensor("w", 64), tensor("b", 64)
    y = op.cast(op.layer_norm(op.cast(x, "f32"), weight, bias), "bf16")
    outputs = [y, *gradients([y], [x, weight], [g])]
    assert max(stored(planned(*outputs, machine=CPU))) == 4 * 32 * 64
    assert max(stored(planned(*outputs))) <= 4 * 32  # the sums of rows
    check(graph_of(*outputs), machine=GPU, tolerance=40)


def test_nothing_is_computed_again_where_that_is_asked_for() -> None:
    x, g = tensor("x", 256, 64, dtype=bf16), tensor("g", 256, 64, dtype=bf16)
    h = x + 1.0
    y = op.gelu(h)
    outputs = [h, y, *gradients([y], [x], [g])]
    assert not stored(planned(*outputs))
    assert stored(planned(*outputs, options=Schedule(recompute="none", fusion=False)))


def test_gelu_in_an_epilogue_leaves_16_bits_for_its_gradient() -> None:
    x, w, v = (tensor(n, 8, 8, dtype=bf16) for n in "xwv")
    g = tensor("g", 8, 8, dtype=bf16)
    z = op.matmul(op.gelu(op.matmul(x, w)), v)
    plan = check(graph_of(z, *gradients([z], [x, w, v], [g])), machine=GPU, tolerance=200)
    assert max(stored(plan)) == 2 * 8 * 8
    ends = [k.epilogue for k in plan.kernels if isinstance(k, DotKernel)]
    assert max(sum(isinstance(o, Store) for o in end) for end in ends) == 2


@pytest.mark.parametrize("head", [64, 32])
def test_products_store_heads(head: int) -> None:
    x, w, b = tensor("x", 2, 8, 16), tensor("w", 16, 3 * head), tensor("b", 3 * head)
    y = op.transpose(op.reshape(op.matmul(x, w) + b, (2, 8, 3, head)), (0, 2, 1, 3))
    assert len(check(graph_of(y), machine=GPU).kernels) == 1
    assert len(check(graph_of(y)).kernels) == 2


def test_heads_too_narrow_to_be_stored_alone_are_transposed() -> None:
    x, w = tensor("x", 2, 8, 16), tensor("w", 16, 24)
    y = op.transpose(op.reshape(op.matmul(x, w), (2, 8, 3, 8)), (0, 2, 1, 3))
    assert len(check(graph_of(y), machine=GPU).kernels) == 2


def test_products_read_heads() -> None:
    """As rows, as terms, and in a sum over rows."""
    x = tensor("x", 1, 2, 256, 64)
    w, g = tensor("w", 128, 2), tensor("g", 256, 2)
    rows = op.reshape(op.transpose(x, (0, 2, 1, 3)), (256, 128))
    outputs = (op.matmul(rows, w), op.matmul(op.transpose(rows, (1, 0)), g), op.sum(rows, axis=0))
    plan = check(graph_of(*outputs), machine=GPU, tolerance=400)
    assert "transpose" not in calls(plan) and "transpose" in calls(planned(*outputs, machine=CPU))


@pytest.mark.parametrize("shape", [(1, 2, 256, 48), (2, 2, 20, 64)])
def test_heads_that_blocks_would_cross_are_transposed_first(shape: tuple[int, ...]) -> None:
    x = tensor("x", *shape)
    width = shape[1] * shape[3]
    rows = op.reshape(op.transpose(x, (0, 2, 1, 3)), (shape[0] * shape[2], width))
    plan = check(graph_of(op.matmul(rows, tensor("w", width, 2))), machine=GPU, tolerance=400)
    assert "transpose" in calls(plan)


def test_the_sum_of_a_matrix_is_spread_over_the_machine() -> None:
    x = tensor("x", 768, 768, dtype=bf16)
    plan = planned(op.sum(op.cast(x, "f32") * op.cast(x, "f32")))
    first, second = plan.kernels
    assert isinstance(first, LoopKernel) and [a.extent for a in first.grid] == [128]
    assert isinstance(second, LoopKernel) and second.buffers[0].dtype == f32
