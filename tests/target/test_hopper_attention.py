"""Attention on Hopper and its gradient, run under a model of the device, against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import evaluate
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options

from tests.target.hopper_model import Device
from tests.target.test_attention import Shape, attention_graph, attention_kernels, drawn, expected_of
from tests.target.triton_interpreter import launch

HOPPER = Options("sm_90a")


def run(kernel, arrays, sizes, late):
    """The launches of a kernel: those in Triton by its interpreter, those in Gluon on the model."""
    generated = generate(kernel, HOPPER)
    values = [sizes[s.name] for s in kernel.sizes]
    workspace = np.full(evaluate(generated.workspace, sizes) // 4, np.nan, np.float32)
    for program in generated.programs:
        grid = [evaluate(d, sizes) for d in program.grid]
        if program.gluon:
            Device(late).run(program, [*arrays, workspace], values, grid[0])
        else:
            launch(program, [*arrays, workspace], values, grid)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("q", "k", "causal", "dtype"),
    [
        ((1, 2, 256, 64), (1, 2, 256, 64), True, "bf16"), ((2, 256, 128), (2, 256, 128), True, "bf16"),
        ((2, 384, 64), (2, 384, 64), False, "f16"), ((2, 256, 128), (2, 256, 128), False, "f16"),
        ((1, 4, 300, 64), (1, 2, 300, 64), True, "bf16"), ((1, 4, 200, 128), (1, 2, 200, 128), True, "bf16"),
        ((100, 64), (333, 64), False, "bf16"), ((333, 128), (130, 128), False, "bf16"),
        ((100, 64), (333, 64), True, "bf16"), ((333, 64), (150, 64), True, "bf16"),
        ((100, 128), (333, 128), True, "bf16"), ((333, 128), (150, 128), True, "bf16"),
        ((1, 64), (129, 64), True, "bf16"), ((1, 128), (400, 128), False, "bf16"),
        ((40, 160, 64), (40, 160, 64), True, "bf16"),
    ],
)
def test_against_torch(q: Shape, k: Shape, causal: bool, dtype: str, late: bool) -> None:
    forward, backward = attention_kernels(attention_graph(q, k, causal, dtype))
    operands = queries, keys, values, gradient = drawn(q, k, dtype)
    out, sums, dq, dk, dv = expected_of(operands, causal)
    result, logarithms = np.full_like(queries, 77), np.full(queries.shape[:2], 77, np.float32)
    run(forward, [queries, keys, values, result, logarithms], {}, late)
    np.testing.assert_allclose(result.astype(np.float64), out, rtol=0, atol=0.03)
    np.testing.assert_allclose(logarithms, sums, rtol=0, atol=1e-5)
    found = [np.full_like(x, 77) for x in (queries, keys, values)]
    run(backward, [queries, keys, values, result, logarithms, gradient, *found], {}, late)
    for got, right in zip(found, (dq, dk, dv), strict=True):
        np.testing.assert_allclose(got.astype(np.float64), right, rtol=0, atol=0.12)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("size", "rows"), [(64, 200), (128, 130)])
def test_a_length_of_a_run(size: int, rows: int, late: bool) -> None:
    """Blocks of a length that no tensor map has: the warps add by themselves."""
    length = op.dim("L", min=1, max=512)
    forward, backward = attention_kernels(attention_graph((2, length, size), (2, length, size), True, "bf16"))
    rng = np.random.default_rng(4)
    q, k, v, g = (rng.standard_normal((2, rows, size)).astype(ml_dtypes.bfloat16) for _ in range(4))
    out, sums, *right = expected_of([q, k, v, g], True)
    result, logarithms = np.full_like(q, 7), np.empty((2, rows), np.float32)
    sizes = {s.name: rows for s in forward.sizes}
    run(forward, [q, k, v, result, logarithms], sizes, late)
    np.testing.assert_allclose(result.astype(np.float64), out, rtol=0, atol=0.03)
    found = [np.full_like(x, 77) for x in (q, k, v)]
    run(backward, [q, k, v, result, logarithms, g, *found], {s.name: rows for s in backward.sizes}, late)
    for got, one in zip(found, right, strict=True):
        np.testing.assert_allclose(got.astype(np.float64), one, rtol=0, atol=0.12)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("mbarrier.wait(filled.index(side), i // 2 % 2)", "pass"),  # before the part that is added is there
        ("mbarrier.wait(changed, side)", "pass"),  # before the other group's half is there
        ("mbarrier.wait(q_free.index(step), turn)", "pass"),  # over queries that are still multiplied
        ("outstanding: tl.constexpr = rows // 32 - 1", "outstanding = 4"),
        ("mbarrier.wait(finished, 0)", "pass"),
    ],
)
def test_the_model_sees_what_is_not_waited_for(line: str, other: str) -> None:
    shape = (1, 2, 512, 64)
    _, backward = attention_kernels(attention_graph(shape, shape, True, "bf16"))
    generated = generate(backward, HOPPER)
    prepare, gradient = generated.programs
    assert gradient.source.count(line) == 1
    broken = replace(gradient, source=gradient.source.replace(line, other))
    rng = np.random.default_rng(5)
    q, k, v, g = (rng.standard_normal((2, 512, 64)).astype(ml_dtypes.bfloat16) for _ in range(4))
    out, sums, *right = expected_of([q, k, v, g], True)
    workspace = np.full(evaluate(generated.workspace, {}) // 4, np.nan, np.float32)
    found = [np.full_like(x, 77) for x in (q, k, v)]
    arrays = [q, k, v, out.astype(ml_dtypes.bfloat16), sums.astype(np.float32), g, *found, workspace]
    launch(prepare, arrays, [], [evaluate(d, {}) for d in prepare.grid])
    with pytest.raises((AssertionError, RuntimeError, TimeoutError, TypeError, AttributeError)):
        Device(late=True).run(broken, arrays, [], evaluate(broken.grid[0], {}))
        for got, one in zip(found, right, strict=True):
            np.testing.assert_allclose(got.astype(np.float64), one, rtol=0, atol=0.12)
