"""Which operators share a kernel."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import bf16, bool_, f16, f32, f64, i32, i64
from tessera.ir.graph import Graph
from tessera.op.opdef import build
from tessera.schedule.options import Schedule
from tessera.schedule.plan import Copy, KernelCall, RangeCheck
from tessera.tile.ir import DotKernel, Load, LoopKernel, Store
from tessera.transform.autodiff import gradients

from tests.schedule.harness import calls, check, graph_of, mlp_step, plan_of, state, tensor

B = sym(Symbol("B", 0, None))


def test_pointwise_chain_is_one_flat_kernel() -> None:
    x, y = tensor("x", 3, 4, 5), tensor("y", 3, 4, 5)
    plan = check(graph_of(op.tanh(x * 2.0 + y) - op.exp(y)))
    (kernel,) = plan.kernels
    assert isinstance(kernel, LoopKernel) and [a.extent for a in kernel.grid] == [60]
    assert len(kernel.stages) == 1 and plan.arena == 0


def test_broadcast_keeps_two_axes() -> None:
    x, bias = tensor("x", 3, 4, 5), tensor("bias", 5)
    (kernel,) = check(graph_of(op.relu(x + bias))).kernels
    assert [a.extent for a in kernel.grid] == [12, 5]


def test_views_and_casts_are_index_maps() -> None:
    x = tensor("x", 4, 6)
    y = op.cast(op.flip(op.transpose(x, [1, 0])[1:4], [0]), "f64") * 2.0
    plan = check(graph_of(y))
    assert len(plan.kernels) == 1 and plan.arena == 0


def test_reshape_of_a_stored_tensor_is_an_alias() -> None:
    x = tensor("x", 4, 6)
    s = op.cumsum(x, axis=1)
    y = op.reshape(s, [2, 12])
    plan = check(graph_of(y))
    assert calls(plan) == ["cumsum"] and len(plan.instructions) == 1


def test_reshape_between_pointwise_operators_is_fused() -> None:
    x, y = tensor("x", 6, 4), tensor("y", 2, 3, 4)
    plan = check(graph_of(op.tanh(op.reshape(op.exp(x), [2, 3, 4]) + y)))
    assert len(plan.kernels) == 1


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(4, 10), (2, 3, 7), (5,), (3, 1)])
def test_softmax_is_one_kernel(function: str, shape: tuple[int, ...]) -> None:
    x = tensor("x", *shape)
    plan = check(graph_of(getattr(op, function)(x)))
    assert len(plan.instructions) == 1


def test_softmax_computes_each_exponential_once() -> None:
    (kernel,) = check(graph_of(op.softmax(tensor("x", 4, 10)))).kernels
    exponentials = [o for s in kernel.stages for o in s.ops if getattr(o, "function", None) == "exp"]
    assert len(exponentials) == 1


def test_softmax_in_bf16_keeps_full_precision_between_loops() -> None:
    (kernel,) = check(graph_of(op.softmax(tensor("x", 4, 10, dtype=bf16)))).kernels
    stores = [o for s in kernel.stages for o in s.ops if isinstance(o, Store)]
    assert len(stores) == 1


def test_layer_norm_is_one_kernel() -> None:
    x, g, b = tensor("x", 2, 3, 8), tensor("g", 8), tensor("b", 8)
    plan = check(graph_of(op.layer_norm(x, g, b)))
    assert len(plan.instructions) == 1


def test_layer_norm_gradient_is_one_row_kernel_and_one_column_kernel() -> None:
    x, g, b, seed = tensor("x", 5, 8), tensor("g", 8), tensor("b", 8), tensor("seed", 5, 8)
    y = op.layer_norm(x, g, b)
    plan = check(graph_of(*gradients([y], [x, g, b], [seed])), tolerance=20)
    assert len(calls(plan)) <= 3


def test_rows_of_a_loss_share_a_kernel_with_their_gradient() -> None:
    logits, labels = tensor("logits", 6, 10), tensor("labels", 6, dtype=i64)
    loss = op.cross_entropy(logits, labels)
    plan = check(graph_of(loss, *gradients([loss], [logits])))
    rows = [k for k in plan.kernels if "exp" in k.name]
    assert len(rows) == 1 and len(calls(plan)) == 3
    assert isinstance(plan.instructions[0], RangeCheck)


def test_linear_layer_is_one_product_with_epilogue() -> None:
    x, w, b, r = tensor("x", 2, 3, 8), tensor("w", 8, 4), tensor("b", 4), tensor("r", 2, 3, 4)
    plan = check(graph_of(op.gelu(op.linear(x, w, b)) + r))
    (kernel,) = plan.kernels
    assert isinstance(kernel, DotKernel) and kernel.batch == () and kernel.m.extent == 6


def test_products_read_transposed_operands_in_place() -> None:
    x, y = tensor("x", 5, 3), tensor("y", 5, 4)
    plan = check(graph_of(op.matmul(op.transpose(x, [1, 0]), y)))
    (kernel,) = plan.kernels
    assert isinstance(kernel, DotKernel) and plan.arena == 0
    assert len(kernel.a) == 1 and isinstance(kernel.a[0], Load)


def test_products_cast_their_operands_while_loading() -> None:
    x, w = tensor("x", 5, 3, dtype=bf16), tensor("w", 3, 4)
    plan = check(graph_of(op.matmul(x, op.cast(w, "bf16"))))
    assert len(plan.instructions) == 1 and plan.arena == 0


def test_expensive_prologues_are_computed_once() -> None:
    x, w = tensor("x", 5, 3), tensor("w", 3, 4)
    assert len(check(graph_of(op.matmul(op.exp(x), w))).kernels) == 2


def test_batch_without_a_batched_right_operand_joins_the_rows() -> None:
    x, w = tensor("x", 2, 5, 3), tensor("w", 3, 4)
    (kernel,) = check(graph_of(build("matmul", x, w))).kernels
    assert isinstance(kernel, DotKernel) and kernel.batch == () and kernel.m.extent == 10


@pytest.mark.parametrize("narrow", [bf16, f16])
def test_what_is_read_as_a_wider_float_is_stored_as_it_is(narrow: object) -> None:
    x, w = tensor("x", 6, 5, dtype=narrow), tensor("w", 5, 8, dtype=narrow)  # type: ignore[arg-type]
    logits = op.cast(op.matmul(x, w), "f32")
    plan = check(graph_of(op.softmax(logits), op.sum(logits, axis=0)))
    (stored,) = [b for b in plan.buffers if b.label == "matmul"]
    assert stored.bytes == 2 * 6 * 8


def test_transposed_result_is_stored_as_it_is_computed() -> None:
    q, k = tensor("q", 2, 3, 5, 4), tensor("k", 2, 3, 4, 6)
    y = op.reshape(op.transpose(op.matmul(q, k), [0, 2, 1, 3]), [2, 5, 18])
    plan = check(graph_of(y))
    assert len(plan.kernels) == 1


def test_matrix_vector_product_is_a_row_reduction() -> None:
    a, v = tensor("a", 6, 5), tensor("v", 5)
    (kernel,) = check(graph_of(op.relu(op.matmul(a, v)))).kernels
    assert isinstance(kernel, LoopKernel)


@pytest.mark.parametrize("dtype", [i32, i64, f16, bf16, f64])
def test_matrix_vector_product_in_every_width(dtype: object) -> None:
    a, v = tensor("a", 6, 5, dtype=dtype), tensor("v", 5, dtype=dtype)  # type: ignore[arg-type]
    check(graph_of(op.matmul(a, v), op.matmul(v, op.transpose(a, [1, 0]))))


def test_mlp_forward_is_one_kernel_per_layer() -> None:
    x = tensor("x", 4, 8)
    h = x
    for i in range(3):
        h = op.relu(op.linear(h, state(f"w{i}", 8, 8), state(f"b{i}", 8)))
    plan = check(graph_of(h))
    assert len(plan.instructions) == 3 and len(plan.kernels) == 1


def test_training_step_has_few_kernels_and_updates_in_place() -> None:
    plan = check(mlp_step(5, (7, 6, 6, 4)))
    assert len(calls(plan)) == 14
    assert not any(isinstance(i, Copy) for i in plan.instructions)
    products = [plan.kernels[i.kernel] for i in plan.instructions if isinstance(i, KernelCall)]
    assert sum(isinstance(k, DotKernel) for k in products) == 8
    assert all(t.mutated for t in plan.state)


def test_symbolic_training_step_has_the_same_kernels() -> None:
    plan = check(mlp_step(B, (7, 6, 6, 4)), sizes={"B": 5})
    assert len(calls(plan)) == 14


def test_equal_layers_share_kernels() -> None:
    few, many = (plan_of(mlp_step(4, (6,) * n)) for n in (6, 12))
    assert len(many.kernels) == len(few.kernels) and len(many.instructions) > len(few.instructions)


def test_concat_writes_each_operand_into_its_place() -> None:
    x, y = tensor("x", 3, 4), tensor("y", 2, 4)
    plan = check(graph_of(op.concat([op.exp(x), y * 2.0, x], axis=0)))
    assert calls(plan) == ["exp_concat", "mul_concat"] and plan.arena == 0


def test_gathers_are_loads() -> None:
    table, ids = tensor("table", 7, 4), tensor("ids", 5, dtype=i64)
    plan = check(graph_of(op.relu(op.embedding(ids, table) if _ids_first() else op.embedding(table, ids))))
    assert len(calls(plan)) == 1


def _ids_first() -> bool:
    import inspect

    return next(iter(inspect.signature(op.embedding).parameters)) == "ids"


def test_index_add_copies_its_base_in_the_same_kernel() -> None:
    x, ids, u = tensor("x", 4, 3), tensor("ids", 5, dtype=i64), tensor("u", 5, 3)
    plan = check(graph_of(build("index_add", x, ids, u, axis=0)))
    assert len(calls(plan)) == 1


def test_index_add_into_state_touches_only_the_rows() -> None:
    p, ids, u = state("p", 4, 3), tensor("ids", 5, dtype=i64), tensor("u", 5, 3)
    plan = check(graph_of(u * 1.0, inputs=[ids, u], updates={p: build("index_add", p, ids, u, axis=0)}))
    (kernel,) = [k for k in plan.kernels if "index_add" in k.name]
    assert isinstance(kernel, LoopKernel) and len(kernel.stages) == 1


def test_scatter_of_one_element_per_row_is_a_comparison() -> None:
    x, i, u = tensor("x", 4, 3), tensor("i", 4, 1, dtype=i64), tensor("u", 4, 1)
    (kernel,) = check(graph_of(build("scatter_add", x, i, u, axis=1))).kernels
    assert not any(isinstance(o, Store) and o.mode == "add" for s in kernel.stages for o in s.ops)


def test_large_reductions_take_two_steps() -> None:
    x = tensor("x", 300, 500)
    plan = check(graph_of(op.sum(x * x), op.max(x)), shuffled=False)
    assert len(calls(plan)) == 2
    assert plan.kernels[0].grid[0].extent == 60


@pytest.mark.parametrize("shape", [(257, 131), (70001,), (3, 40001)])
@pytest.mark.parametrize("dtype", [f32, bf16, i32])
def test_large_reductions_of_awkward_sizes(shape: tuple[int, ...], dtype: object) -> None:
    x = tensor("x", *shape, dtype=dtype)  # type: ignore[arg-type]
    check(graph_of(op.sum(x), op.min(x)), shuffled=False, tolerance=20)


def test_large_bool_reductions() -> None:
    x = tensor("x", 70000, dtype=bool_)
    check(graph_of(op.sum(x), op.any(x), op.all(x)), shuffled=False)


def test_large_symbolic_reductions() -> None:
    x = tensor("x", B, 100)
    for size in (1, 7, 900):
        check(graph_of(op.sum(x), inputs=[x]), sizes={"B": size}, shuffled=False, tolerance=20)


def test_a_map_with_output_does_not_lose_its_parallelism_to_a_large_reduction() -> None:
    x = tensor("x", 10000, 10)
    y = op.exp(x)
    plan = check(graph_of(y, op.sum(y, axis=0)), shuffled=False, tolerance=40)
    assert any(k.grid and k.grid[0].extent == 100000 for k in plan.kernels)


def test_without_fusion_every_operator_has_its_kernel() -> None:
    x = tensor("x", 4, 5)
    g = graph_of(op.tanh(x + 1.0) * op.transpose(op.transpose(x, [1, 0]), [1, 0]))
    assert len(calls(check(g, Schedule(fusion=False)))) == 3
    assert len(calls(check(g))) == 1


def test_kernel_names_come_from_operators_and_are_bounded() -> None:
    x = tensor("x", 4, 4)
    y = x
    for f in (op.sin, op.cos, op.tanh, op.exp, op.sqrt, op.log, op.floor, op.ceil, op.abs, op.neg, op.sigmoid, op.erf):
        y = f(y)
    plan = check(graph_of(op.matmul(x, x) + 1.0, y), shuffled=False)
    assert plan.kernels[0].name == "matmul_add" or plan.kernels[1].name == "matmul_add"
    assert all(len(k.name) <= 48 and k.name.isidentifier() for k in plan.kernels)


def test_kernels_name_the_users_line() -> None:
    plan = check(graph_of(op.exp(tensor("x", 3))))
    assert plan.kernels[0].loc is not None and plan.kernels[0].loc.file == __file__


def test_scan_takes_its_neighbours() -> None:
    x = tensor("x", 4, 6)
    assert len(calls(check(graph_of(op.tanh(op.cumsum(x * 2.0, axis=1)) + x)))) == 1


def test_random_numbers_are_drawn_inside_their_consumers() -> None:
    key, x = tensor("key", 2, dtype=i64), tensor("x", 3, 4)
    u = build("random_uniform", key, shape=[3, 4], dtype=f32, id=3)
    plan = check(graph_of(op.where(u < 0.5, x, 0.0), inputs=[key, x]))
    assert len(calls(plan)) == 1


def test_a_mask_is_drawn_once_for_forward_and_backward() -> None:
    key, x, w = tensor("key", 2, dtype=i64), tensor("x", 6, 4), tensor("w", 4, 4)
    mask = build("random_uniform", key, shape=[6, 4], dtype=f32, id=3) < 0.5
    loss = op.sum(op.matmul(op.where(mask, x, 0.0), w))
    plan = check(graph_of(loss, *gradients([loss], [x]), inputs=[key, x, w]))
    drawn = [k for k in plan.kernels if isinstance(k, LoopKernel) and "random" in k.name]
    assert len(drawn) == 1


def test_a_graph_without_operators() -> None:
    x = tensor("x", 3)
    plan = check(Graph({"a": x, "b": x}, inputs=[x]))
    assert [type(i) for i in plan.instructions] == [Copy, Copy]


def test_many_operands_are_cut_into_several_kernels() -> None:
    xs = [tensor(f"x{i}", 5) for i in range(80)]
    total = xs[0]
    for x in xs[1:]:
        total = total + op.tanh(x)
    plan = check(graph_of(total), shuffled=False)
    assert len(calls(plan)) > 1 and all(len(k.buffers) <= 40 for k in plan.kernels)


def test_long_chains_do_not_exhaust_the_stack() -> None:
    x = tensor("x", 5, dtype=f64)
    y = x
    for i in range(3000):
        y = y * 0.999 + float(i % 7)
    check(graph_of(y), shuffled=False, tolerance=1e4)


def test_scheduling_is_deterministic() -> None:
    first, second = check(mlp_step(B, (7, 6, 4)), sizes={"B": 3}), check(mlp_step(B, (7, 6, 4)), sizes={"B": 3})
    assert first.hash() == second.hash()
    assert np.array_equal(calls(first), calls(second))


def test_pad_of_a_batched_product_covers_its_own_extents() -> None:
    x = tensor("x", 8, 4, 2)
    product = op.matmul(op.swapaxes(x, 1, 2), x)
    check(graph_of(op.pad(product, [(0, 2), (0, 1), (0, 2)], value=0.5), product[:4, :, :1]))


def test_empty_tensors_are_never_read() -> None:
    x = op.tanh(tensor("x", 0))
    w = op.reshape(op.broadcast_to(op.reshape(x, [1, 0]), [2, 0]), [0])
    plan = check(graph_of(op.sum(w) + op.sum(w * w)))
    stages = [s for k in plan.kernels if isinstance(k, LoopKernel) for s in k.stages]
    assert not [o for s in stages for o in s.ops if isinstance(o, Load)]
