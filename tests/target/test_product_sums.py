"""Products that form sums over rows of what they store: what is planned, what it means, on Hopper and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import Dim, evaluate
from tessera.ir.dtype import DType, bf16, f16
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.schedule.plan import Plan
from tessera.target.triton import candidates, dot, product_sums
from tessera.target.triton.build import compile_program
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.hopper import Tile
from tessera.target.triton.launch import Generated
from tessera.target.triton.library_product import library_product
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import DotKernel, Store
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

from tests.schedule.harness import calls, check, graph_of, tensor
from tests.target import triton_interpreter
from tests.target.test_hopper_updates import run_updates, stack_bytes

EAGER = replace(GPU, partials=1, column_length=128)
"""A machine whose kernels form all sums that they can."""


def hidden_gradients(m: Dim, n: int, k: int, dtype: DType = bf16) -> list[Value]:
    """Of GELU's argument, of the bias that was added to it, and of the weight before that."""
    x, w, b = tensor("x", m, 16, dtype=dtype), tensor("w", 16, n, dtype=dtype), tensor("b", n, dtype=dtype)
    v, g = tensor("v", n, k, dtype=dtype), tensor("g", m, k, dtype=dtype)
    h = op.matmul(x, w) + b
    return gradients([op.matmul(op.gelu(h), v)], [h, b, w], [g])


def relu_and_sum(m: Dim, n: int, k: int, dtype: DType = bf16) -> list[Value]:
    x, w, b = tensor("x", m, k, dtype=dtype), tensor("w", k, n, dtype=dtype), tensor("b", n, dtype=dtype)
    y = op.relu(op.matmul(x, w) + b)
    return [y, op.sum(op.cast(y, "f32"), axis=0)]


def planned(outputs: list[Value], machine: Any = EAGER) -> Plan:
    return build_plan(to_primitives(graph_of(*outputs)), None, machine)


def with_sums(plan: Plan) -> list[DotKernel]:
    return [k for k in plan.kernels if isinstance(k, DotKernel) and product_sums.of(k)]


def the_kernel(outputs: list[Value]) -> DotKernel:
    kernel, = with_sums(planned(outputs))
    return kernel


@pytest.mark.parametrize("dtype", [bf16, f16])
def test_the_gradient_of_a_bias_is_formed_beside_that_of_its_sum(dtype: DType) -> None:
    plan = check(graph_of(*hidden_gradients(300, 64, 40, dtype)), machine=EAGER, tolerance=400)
    assert len(with_sums(plan)) == 1 and not any("sum" in name and "matmul" not in name for name in calls(plan))
    symbolic = graph_of(*relu_and_sum(op.dim("m", min=1, max=600), 32, 24, dtype))
    check(symbolic, sizes={"m": 257}, machine=EAGER, tolerance=100)


def test_other_sums_keep_their_steps() -> None:
    """Nobody else reads what is summed; it is f32; rows are too short; too few bytes are saved."""
    x, w = tensor("x", 300, 24, dtype=bf16), tensor("w", 24, 64, dtype=bf16)
    y = op.matmul(x, w)
    assert not with_sums(planned([op.sum(op.cast(y, "f32"), axis=0)]))
    assert not with_sums(planned([y, op.sum(op.cast(y, "f32") * 2.0, axis=0)]))
    for narrow in ("f16", "i32"):
        assert not with_sums(planned([y, op.sum(op.cast(op.cast(y, narrow), "f32"), axis=0)]))
    wide = op.matmul(op.cast(x, "f32"), op.cast(w, "f32"))
    assert not with_sums(planned([wide, op.sum(wide, axis=0)]))
    assert not with_sums(planned(relu_and_sum(300, 24, 24)))
    assert not with_sums(planned(relu_and_sum(300, 64, 24), GPU))
    assert len(with_sums(planned(relu_and_sum(16384, 64, 24), GPU))) == 1


def test_readers_in_the_product_do_not_have_it_store_what_is_summed() -> None:
    """Then a sum of its own would have nothing to read."""
    y = op.matmul(tensor("x", 300, 24, dtype=bf16), tensor("w", 24, 64, dtype=bf16))
    total, u, v = op.sum(op.cast(y, "f32"), axis=0), tensor("u", 300, 64, dtype=bf16), tensor("v", 64, 40, dtype=bf16)
    for inside in (y * u, op.gelu(op.cast(y, "f32")), op.matmul(op.relu(y), v)):
        assert not with_sums(check(graph_of(total, inside), machine=EAGER, tolerance=800))
    outside, = with_sums(planned([total, op.matmul(y, v)]))
    assert_same_launches(outside, {}, Options("sm_80"))


def test_row_kernels_form_sums_before_products_do() -> None:
    x, w, g = tensor("x", 300, 24, dtype=bf16), tensor("w", 24, 64, dtype=bf16), tensor("g", 64, dtype=bf16)
    y = op.matmul(x, w)
    outputs = [y, op.rms_norm(y, g), op.sum(op.cast(y, "f32"), axis=0)]
    assert not with_sums(planned(outputs))


def given(kernel: DotKernel, sizes: Mapping[str, int]) -> list[np.ndarray]:
    """Small integers, of which products are exact."""
    random = np.random.default_rng(3)
    shapes = [tuple(evaluate(d, sizes) for d in b.shape) for b in kernel.buffers]
    return [np.zeros(s, b.dtype.numpy) if b.role == "out" else random.integers(-3, 4, s).astype(b.dtype.numpy)
            for s, b in zip(shapes, kernel.buffers)]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_launches_of_their_own(architecture: str) -> None:
    """Where no warps can form them: sizes that do not suit, or another device."""
    for m in (300, op.dim("m", min=1, max=600)):
        kernel = the_kernel(relu_and_sum(m, 40, 24))
        sizes = {s.name: 257 for s in kernel.sizes}
        options = Options(architecture)
        assert len(generate(kernel, options).programs) == 3
        arrays, expected = given(kernel, sizes), given(kernel, sizes)
        triton_interpreter.run_kernel(kernel, arrays, sizes, options)
        run_kernel(kernel, expected, sizes)
        for found, right in zip(arrays, expected):
            np.testing.assert_allclose(found.astype(np.float64), right.astype(np.float64), rtol=1e-5, atol=1e-4)


def test_stores_after_the_sum() -> None:
    """What the epilogue computes behind the value that is summed is stored all the same."""
    u, v = tensor("u", 300, 96, dtype=bf16), tensor("v", 300, 40, dtype=bf16)
    y = op.matmul(v, tensor("w", 40, 96, dtype=bf16))
    outputs = [y, op.sum(op.cast(y, "f32"), axis=0), y * u]
    plan = check(graph_of(*outputs), machine=EAGER, tolerance=800)
    kernel, = with_sums(plan)
    assert [o.mode for o in kernel.epilogue if isinstance(o, Store)] == ["set", "set", "sum"]
    assert [o.mode for o in product_sums.without(kernel).epilogue if isinstance(o, Store)] == ["set", "set"]
    for architecture in ("sm_80", "sm_90a", "gfx942"):
        assert_same_launches(kernel, {}, Options(architecture))


@pytest.mark.parametrize("rows", [0, 1, 5, 300])
def test_any_number_of_rows(rows: int) -> None:
    """Rows that are known when the kernel runs; twice the same bits."""
    kernel = the_kernel(relu_and_sum(op.dim("m", min=0), 80, 24))
    assert_same_launches(kernel, {s.name: rows for s in kernel.sizes}, Options("sm_80"))


def test_batches() -> None:
    y = op.matmul(tensor("x", 2, 140, 32, dtype=f16), tensor("w", 2, 32, 64, dtype=f16))
    outputs = [y, op.sum(op.cast(y, "f32"), axis=[0, 1])]
    kernel, = with_sums(check(graph_of(*outputs), machine=EAGER, tolerance=800))
    assert_same_launches(kernel, {}, Options("sm_90a"))


def assert_same_launches(kernel: DotKernel, sizes: Mapping[str, int], options: Options) -> None:
    """The launches do, in Triton's interpreter, what the kernel means, and twice the same."""
    one, two, right = (given(kernel, sizes) for _ in range(3))
    triton_interpreter.run_kernel(kernel, one, sizes, options)
    triton_interpreter.run_kernel(kernel, two, sizes, options)
    run_kernel(kernel, right, sizes)
    for a, b, expected in zip(one, two, right):
        assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(a.astype(np.float64), expected.astype(np.float64), rtol=2e-3, atol=1e-2)


def on_hopper(kernel: DotKernel, columns: int) -> Generated:
    found = dot.generate(kernel, Options("sm_90a"), dot.Form(Tile(columns)))
    assert found is not None and len(found.programs) == 2
    return found


@pytest.mark.parametrize(("m", "n", "columns"), [(1160, 328, 256), (512, 256, 256), (1000, 72, 128)])
def test_sums_of_pieces(m: int, n: int, columns: int) -> None:
    """The warps that run the epilogue leave them, and the second launch adds them; twice the same bits."""
    kernel = the_kernel(relu_and_sum(m, n, 64))
    generated = on_hopper(kernel, columns)
    results: list[list[np.ndarray]] = []
    for _ in range(2):
        arrays = [a.reshape(-1) for a in given(kernel, {})]
        x, w = (a.reshape(s).astype(np.float32) for a, s in zip(arrays, ((m, 64), (64, n))))
        workspace = np.full(evaluate(generated.workspace, {}) // 4, np.nan, np.float32)
        first, second = generated.programs
        run_updates(first, [*arrays, workspace], (x @ w).astype(ml_dtypes.bfloat16), columns)
        assert not np.isnan(workspace).any()
        triton_interpreter.launch(second, [*arrays, workspace], [], [evaluate(d, {}) for d in second.grid])
        results.append(arrays)
    expected = [a.reshape(-1) for a in given(kernel, {})]
    run_kernel(kernel, expected, {})
    for one, two, right in zip(*results, expected):
        assert one.tobytes() == two.tobytes()
        np.testing.assert_allclose(one.astype(np.float64), right.astype(np.float64), rtol=1e-5, atol=1e-2)


def test_hopper_forms_them_in_the_epilogue(tmp_path: Path) -> None:
    kernel = the_kernel(hidden_gradients(16384, 3072, 768))
    first, second = generate(kernel, Options("sm_90a", guarded=True)).programs
    assert "_finish" in first.source and first.source.count("tl.sum(") == 1 and second.name == "column_sums"
    binary = compile_program(first, "cuda", 90, 32)
    assert binary.shared <= 227 * 1024 and stack_bytes(binary.code, tmp_path / "kernel.cubin") == 0
    symbolic = the_kernel(hidden_gradients(op.dim("m", min=1, max=1 << 20), 768, 768))
    for program in on_hopper(symbolic, 256).programs:
        compile_program(program, "cuda", 90, 32)


def test_a_library_does_not_form_them() -> None:
    kernel = the_kernel(relu_and_sum(16384, 768, 768))
    assert library_product(product_sums.without(kernel)) is not None and library_product(kernel) is None
    found = candidates.candidates(kernel, Options("sm_90a"), ("cublaslt",))
    assert len(found) > 1 and all(c.library is None for c in found)
    for candidate in found:
        for program in candidate.generate(Options("sm_90a")).programs:
            assert program.source
