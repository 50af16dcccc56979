"""Products as calls of a library: which products, what of the epilogue; that call and rest compute the product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tessera import op
from tessera.ir.dims import evaluate
from tessera.ir.graph import Graph
from tessera.schedule.machine import GPU
from tessera.target.triton.library_product import LibraryProduct, Matrix, library_product
from tessera.tile.interpret import run_kernel
from tessera.tile.ir import DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators


def products(outputs: dict[str, Any]) -> list[DotKernel]:
    plan = build_plan(to_gpu_operators(Graph(outputs)), None, GPU)
    return [k for k in plan.kernels if isinstance(k, DotKernel)]


def view(m: Matrix, memory: list[np.ndarray], shape: tuple[int, int, int], sizes: dict[str, int]) -> np.ndarray:
    """The matrix in memory, writable."""
    batch, rows, columns = shape
    words = np.dtype(f"u{memory[m.buffer].itemsize}")  # as_strided does not know the narrow floats
    flat = memory[m.buffer].reshape(-1).view(words)
    step, batch_step, offset = (evaluate(d, sizes) for d in (m.step, m.batch_step, m.offset))
    steps = (batch_step, 1, step) if m.transposed else (batch_step, step, 1)
    bytes_of = tuple(s * flat.itemsize for s in steps)
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, bytes_of).view(m.dtype.numpy)


def run_call(call: LibraryProduct, kernel: DotKernel, memory: list[np.ndarray], sizes: dict[str, int]) -> None:
    """What the library and the kernel behind it do."""
    rows, columns, terms, batch = (evaluate(d, sizes) for d in (call.rows, call.columns, call.terms, call.batch))
    wide = np.float64
    if call.workspace != 0:
        memory = [*memory, np.zeros(evaluate(call.workspace, sizes), np.uint8).view(call.d.dtype.numpy)]
    a = view(call.a, memory, (batch, rows, terms), sizes).astype(wide)
    b = view(call.b, memory, (batch, terms, columns), sizes).astype(wide)
    total = call.alpha * (a @ b)
    for scale in call.scales:
        total = total * memory[scale].reshape(-1)[0]
    if call.c is not None:
        total = total + call.beta * view(call.c, memory, (batch, rows, columns), sizes).astype(wide)
    if call.bias is not None:
        total = total + memory[call.bias[0]].reshape(-1)[:columns].astype(wide)
    if call.activation == "relu":
        total = np.maximum(total, 0)
    if call.activation == "gelu_tanh":
        total = 0.5 * total * (1 + np.tanh(np.sqrt(2 / np.pi) * (total + 0.044715 * total**3)))
    view(call.d, memory, (batch, rows, columns), sizes)[...] = total.astype(call.d.dtype.numpy)
    if call.rest is not None:
        run_kernel(call.rest, memory[: len(call.rest.buffers)], sizes)


def check(kernel: DotKernel, sizes: dict[str, int] | None = None, guarded: bool = False) -> LibraryProduct:
    """The call of a kernel, which computes what the kernel does."""
    call = library_product(kernel, guarded)
    assert call is not None
    sizes = sizes or {}
    random = np.random.default_rng(5)
    memory = [
        random.standard_normal(tuple(evaluate(d, sizes) for d in b.shape)).astype(b.dtype.numpy)
        for b in kernel.buffers
    ]
    right = [x.copy() for x in memory]
    run_kernel(kernel, right, sizes)
    run_call(call, kernel, memory, sizes)
    for found, expected in zip(memory, right):
        np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=3e-2, atol=3e-2)
    return call


def tensor(name: str, *shape: Any, dtype: str = "bf16") -> Any:
    return op.tensor(shape, dtype, name=name)


X, W, BIAS = tensor("x", 24, 16), tensor("w", 16, 40), tensor("bias", 40)
Y = op.matmul(X, W)
FUSED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "alone": (lambda: Y, {}),
    "bias": (lambda: Y + BIAS, {"bias": True}),
    "bias in f32": (lambda: op.cast(Y, "f32") + tensor("f", 40, dtype="f32"), {"bias": True}),
    "relu": (lambda: op.relu(Y), {"activation": "relu"}),
    "bias and relu": (lambda: op.relu(Y + BIAS), {"bias": True, "activation": "relu"}),
    "GELU in its tanh form": (lambda: op.gelu(Y + BIAS, approximate="tanh"), {"bias": True, "activation": "gelu_tanh"}),
    "residual": (lambda: Y + tensor("r", 24, 40), {"beta": 1.0}),
    "residual and bias": (lambda: Y + BIAS + tensor("r", 24, 40), {"beta": 1.0, "bias": True}),
    "scaled": (lambda: Y * 0.5 - tensor("r", 24, 40), {"alpha": 0.5, "beta": -1.0}),
}
APART: dict[str, Callable[[], Any]] = {
    "exact GELU": lambda: op.gelu(Y + BIAS),
    "bias along rows": lambda: Y + tensor("column", 24, 1),
    "two tensors": lambda: Y * tensor("g", 24, 40) + tensor("r", 24, 40),
    "sigmoid": lambda: op.sigmoid(Y),
    "clipped": lambda: op.minimum(op.relu(Y), 1.0),
}


@pytest.mark.parametrize("name", FUSED)
def test_epilogues_that_the_library_does(name: str) -> None:
    make, expected = FUSED[name]
    kernel, = products({"y": make()})
    call = check(kernel)
    found = {"bias": call.bias is not None, "activation": call.activation, "alpha": call.alpha, "beta": call.beta}
    assert found == {"bias": False, "activation": "", "alpha": 1.0, "beta": 0.0, **expected}
    assert call.rest is None and call.workspace == 0


@pytest.mark.parametrize("name", APART)
def test_epilogues_that_a_kernel_does(name: str) -> None:
    kernel, = products({"y": APART[name]()})
    assert check(kernel).rest is not None


def test_what_is_stored_anyway_is_what_the_rest_reads() -> None:
    kernel, = products({"h": Y + BIAS, "y": op.gelu(Y + BIAS)})
    call = check(kernel)
    assert call.workspace == 0 and call.bias is not None and call.rest is not None
    assert kernel.buffers[call.d.buffer].role == "out"


@pytest.mark.parametrize("name", [*FUSED, *APART])
def test_guarded_products_write_nothing_that_is_kept(name: str) -> None:
    kernel, = products({"y": (FUSED[name][0] if name in FUSED else APART[name])()})
    call = check(kernel, guarded=True)
    assert call.d.buffer == len(kernel.buffers) and call.rest is not None


def test_layouts() -> None:
    turned = op.matmul(op.transpose(tensor("a", 16, 24), [1, 0]), op.transpose(tensor("b", 40, 16), [1, 0]))
    call = check(*products({"y": turned}))
    assert call.a.transposed and call.b.transposed
    call = check(*products({"y": op.transpose(Y, [1, 0])}))  # the transposed product of the transposed operands
    assert (call.rows, call.columns) == (40, 24) and call.a.transposed and call.b.transposed
    call = check(*products({"y": op.matmul(tensor("x3", 3, 8, 16), W) + BIAS}))  # one product with more rows
    assert (call.rows, call.batch) == (24, 1)
    scores = op.matmul(tensor("q", 2, 3, 8, 16), op.transpose(tensor("k", 2, 3, 8, 16), [0, 1, 3, 2]))
    call = check(*products({"y": scores}))
    assert call.batch == 6 and call.b.transposed
    heads = op.transpose(op.reshape(tensor("h", 2, 8, 3, 16), (2, 8, 3, 16)), [0, 2, 1, 3])
    assert library_product(products({"y": op.matmul(heads, tensor("k", 2, 3, 16, 8))})[0]) is None  # no single step


def test_symbolic_sizes() -> None:
    rows = op.dim("B", min=1, max=512)
    kernel, = products({"y": op.gelu(op.matmul(tensor("x", rows, 16), W) + BIAS)})
    call = check(kernel, {"s0": 7})
    assert str(call.workspace) == "80*s0"


def test_gradients() -> None:
    found = gradients([op.sum(op.cast(op.relu(Y + BIAS), "f32"))], [X, W])
    kernels = products({"dx": found[0], "dw": found[1]})
    assert len(kernels) >= 2
    for kernel in kernels:
        check(kernel)


@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_dtypes(dtype: str) -> None:
    call = check(*products({"y": op.matmul(tensor("x", 8, 16, dtype=dtype), tensor("w", 16, 8, dtype=dtype))}))
    assert call.d.dtype.name == dtype


def test_products_of_8_bits_with_scales() -> None:
    a, b = tensor("a", 32, 64, dtype="f8e4m3"), op.transpose(tensor("b", 48, 64, dtype="f8e5m2"), [1, 0])
    one, two = tensor("one", dtype="f32"), tensor("two", dtype="f32")
    kernel, = products({"y": op.scaled_matmul(a, b, one, two)})
    call = library_product(kernel)
    assert call is not None and call.rest is None and len(call.scales) == 2
    assert (call.a.dtype.name, call.b.dtype.name, call.b.transposed, call.d.dtype.name) == (
        "f8e4m3", "f8e5m2", True, "bf16")
    check(kernel)
    rows, = products({"y": op.scaled_matmul(a, b, tensor("rows", 32, 1, dtype="f32"), two)})
    assert check(rows).rest is not None  # a scale for each row is a kernel's work
    wide, = products({"y": op.matmul(op.cast(X, "f32"), op.cast(W, "f32"))})
    call = check(wide)
    assert (call.a.dtype.name, call.d.dtype.name) == ("bf16", "f32")


def test_products_that_the_library_cannot_do() -> None:
    integers = op.matmul(tensor("x", 24, 16, dtype="i32"), tensor("w", 16, 40, dtype="i32"))
    shifted = op.matmul(tensor("long", 24, 32)[:, 1:17], W)  # the first element is not aligned
    for y in (integers, shifted):
        for kernel in products({"y": y}):
            assert library_product(kernel) is None


def test_memory_that_the_call_overwrites_is_not_read_behind_it() -> None:
    kernel, = products({"h": Y, "y": op.sigmoid(Y) * tensor("r", 24, 40)})
    plain = check(kernel)
    assert plain.workspace == 0
    other = next(i for i, b in enumerate(kernel.buffers) if b.role == "in" and b.shape == (24, 40))
    buffers = tuple(replace(b, may_alias=(other,)) if i == plain.d.buffer else b for i, b in enumerate(kernel.buffers))
    aliased = library_product(replace(kernel, buffers=buffers))
    assert aliased is not None and aliased.workspace != 0
