"""Products on Hopper, run under a model of the device, against the interpreter of Tile IR."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import op
from tessera.ir.dtype import DType, bf16, f8e4m3, f8e5m2
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.target.triton import dot, hopper
from tessera.target.triton.generate import generate
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import DotKernel, Kernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators

from tests.target.test_hopper import widened
from tests.target.test_hopper_attention import HOPPER, run
from tests.target.test_hopper_updates import OPTIMIZERS, update


def tensor(name: str, *shape: int, dtype: str = "bf16") -> Value:
    return op.tensor(shape, dtype, name=name)


def products(outputs: dict[str, Value]) -> list[DotKernel]:
    """The kernels of products of a graph."""
    plan = build_plan(to_gpu_operators(Graph(outputs)), None, GPU)
    return [k for k in plan.kernels if isinstance(k, DotKernel)]


def draw(kernel: Kernel, rng: np.random.Generator) -> list[np.ndarray]:
    """Data for every buffer; what is only written begins as something else."""
    found = []
    for b in kernel.buffers:
        shape, kind = tuple(map(int, b.shape)), b.dtype.numpy  # type: ignore[arg-type]
        values = np.abs(rng.standard_normal(shape)) if b.dtype.bits == 32 else rng.standard_normal(shape)
        found.append((values if b.dtype.is_float else rng.integers(0, 40, shape)).astype(kind))
    return found


def assert_alike(kernel: DotKernel, late: bool, tolerance: float = 6e-3) -> None:
    """The same by both, relative to the largest result; the kernel is one for Hopper."""
    assert generate(kernel, HOPPER).programs[0].gluon
    expected = draw(kernel, np.random.default_rng(7))
    found = [x.copy() for x in expected]
    run_kernel(kernel, expected, {})
    run(kernel, found, {}, late)
    for b, one, other in zip(kernel.buffers, found, expected, strict=True):
        wide = other.astype(np.float64)
        error = tolerance * np.abs(wide).max()
        np.testing.assert_allclose(one.astype(np.float64), wide, rtol=0, atol=error, err_msg=b.name)


def gelu_gradient() -> dict[str, Value]:
    """What goes back through GELU, with the gradient of the bias before it."""
    h = tensor("h", 256, 320)
    grown, = gradients([op.gelu(h)], [h], [tensor("g", 256, 192) @ tensor("w", 192, 320)])
    return {"slope": grown, "bias": op.sum(op.cast(grown, "f32"), axis=0)}


def heads(*shape: int) -> Value:
    """Three tensors of heads as rows: positions by parts, heads and their elements."""
    count, batch, number, length, size = shape
    x = op.transpose(tensor("s", *shape), (1, 3, 0, 2, 4))
    return op.reshape(x, (batch * length, count * number * size))


def stored_heads() -> Value:
    y = tensor("x", 2, 128, 192) @ tensor("w", 192, 768) + tensor("b", 768)
    return op.transpose(op.reshape(y, (2, 128, 3, 4, 64)), (2, 0, 3, 1, 4))


CASES: dict[str, Callable[[], dict[str, Value]]] = {
    "plain": lambda: {"y": tensor("x", 256, 192) @ tensor("w", 192, 256)},
    "odd sizes": lambda: {"y": tensor("x", 300, 200) @ tensor("w", 200, 168)},
    "f16": lambda: {"y": tensor("x", 256, 192, dtype="f16") @ tensor("w", 192, 256, dtype="f16")},
    "batch": lambda: {"y": tensor("x", 3, 136, 192) @ tensor("w", 3, 192, 200)},
    "bias and GELU": lambda: {"y": op.gelu(tensor("x", 256, 192) @ tensor("w", 192, 256) + tensor("b", 256))},
    "residual": lambda: {"y": tensor("x", 256, 192) @ tensor("w", 192, 256) + tensor("r", 256, 256)},
    "gradient of GELU, and sums": gelu_gradient,
    "many terms": lambda: {"y": op.transpose(tensor("x", 8192, 160), (1, 0)) @ tensor("g", 8192, 192)},
    "heads stored": lambda: {"y": stored_heads()},
    "heads as terms": lambda: {"y": heads(3, 2, 4, 256, 64) @ tensor("w", 768, 192)},
    "heads as rows": lambda: {"y": op.transpose(heads(3, 2, 4, 256, 64), (1, 0)) @ tensor("g", 512, 192)},
    "heads as columns": lambda: {"y": op.transpose(tensor("g", 512, 192), (1, 0)) @ heads(3, 2, 4, 256, 64)},
    "one tensor of heads": lambda: {"y": op.transpose(tensor("g", 512, 192), (1, 0)) @ heads(1, 2, 3, 256, 64)},
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_products(case: str, late: bool) -> None:
    kernels = products(CASES[case]())
    assert kernels
    for kernel in kernels:
        assert_alike(kernel, late)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("a", "b"), [(f8e4m3, f8e4m3), (f8e5m2, f8e4m3), (bf16, bf16)])
def test_products_in_f32_of_narrower_floats(a: DType, b: DType, late: bool) -> None:
    for sizes in ((256, 256, 512), (136, 200, 400)):
        assert_alike(widened(*sizes, a, b), late, 1e-5)


def test_many_terms_are_cut() -> None:
    kernel, = products(CASES["many terms"]())
    assert dot.choose(kernel).parts > 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_beside_products(optimizer: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight's new state by the warps of the epilogue."""
    monkeypatch.setattr(dot, "is_hidden", lambda *_: True)
    monkeypatch.setattr(dot, "_TILES", (hopper.Tile(256),))
    kernel = update(optimizer, 256, 320, 512)
    assert "_finish" in generate(kernel, HOPPER).programs[0].source
    assert_alike(kernel, late)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_size(data: st.DataObject) -> None:
    """Sizes that fill no tile, operands either way, epilogues that read and compute."""
    m, n = (data.draw(st.integers(5, 50)) * 8 for _ in range(2))
    k = data.draw(st.integers(-(-(1 << 22) // (m * n) // 8), 100)) * 8 if m * n * 800 >= 1 << 22 else 0
    if k < 64 or m * n * k < 1 << 22:
        m, n, k = m + 160, n + 160, 200
    a = op.transpose(tensor("a", k, m), (1, 0)) if data.draw(st.booleans()) else tensor("a", m, k)
    b = op.transpose(tensor("b", n, k), (1, 0)) if data.draw(st.booleans()) else tensor("b", k, n)
    y = a @ b
    for _ in range(data.draw(st.integers(0, 3))):
        kind = data.draw(st.sampled_from(["bias", "residual", "relu", "gelu", "scale"]))
        y = {"bias": lambda y: y + tensor("bias", n), "residual": lambda y: y + tensor("rest", m, n), "relu": op.relu,
             "gelu": op.gelu, "scale": lambda y: y * 0.5}[kind](y)
    kernel, = products({"y": y})
    columns = data.draw(st.sampled_from([64, 128, 256]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dot, "_TILES", (hopper.Tile(columns),))
        assert_alike(kernel, data.draw(st.booleans()))
