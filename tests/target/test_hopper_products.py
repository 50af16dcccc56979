"""Products for Hopper: warps of their own for epilogues, heads read and stored in place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from tessera import op
from tessera.ir.dtype import f32
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.schedule.machine import GPU
from tessera.target.triton import dot
from tessera.target.triton.apart import rounded_first
from tessera.target.triton.build import compile_program
from tessera.target.triton.head import Options
from tessera.target.triton.hopper import Tile
from tessera.target.triton.launch import BufferArgument, Generated, Program, TensorMapArgument
from tessera.target.triton.library import module_text
from tessera.target.triton.narrow_functions import of_narrow
from tessera.target.triton.operand import mapped, multiplied
from tessera.tile.ir import Compute, DotKernel
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_gpu_operators

from tests.target import triton_interpreter

SM_90A = Options("sm_90a")


def product_of(**outputs: Value) -> DotKernel:
    """The first product of a plan."""
    return next(k for k in build_plan(to_gpu_operators(Graph(outputs)), None, GPU).kernels if isinstance(k, DotKernel))


def tensors(**shapes: tuple[int, ...]) -> list[Value]:
    """Inputs of bf16."""
    return [op.tensor(shape, "bf16", name=name) for name, shape in shapes.items()]


def generated(kernel: DotKernel, form: dot.Form | None = None) -> Generated:
    """The launches, of which there are some."""
    found = dot.generate(kernel, SM_90A, form)
    assert found is not None
    return found


def gelu_kernel() -> DotKernel:
    x, w, b = tensors(x=(1024, 768), w=(768, 512), b=(512,))
    return product_of(y=op.gelu(op.matmul(x, w) + b))


def gelu_gradient_kernel() -> DotKernel:
    g, v, h = tensors(g=(1024, 768), v=(512, 768), h=(1024, 512))
    return product_of(d=gradients([op.matmul(op.gelu(h), v)], [h], [g])[0])


def bias_kernel() -> DotKernel:
    x, w, b = tensors(x=(3, 1024, 768), w=(3, 768, 512), b=(3, 1, 512))
    return product_of(y=op.matmul(x, w) + b)


def residual_kernel() -> DotKernel:
    x, w, b, r = tensors(x=(1000, 768), w=(768, 512), b=(512,), r=(1000, 512))
    return product_of(y=op.matmul(x, w) + b + r)


@pytest.mark.parametrize("make", [gelu_kernel, gelu_gradient_kernel, bias_kernel, residual_kernel])
def test_arithmetic_after_rounding_has_warps_of_its_own(make: object) -> None:
    """And what else the epilogue reads is on its way before the product is there, pairs of it as numbers."""
    kernel = make()  # type: ignore[operator]
    assert rounded_first(kernel) is not None
    program, = generated(kernel, dot.Form(Tile(256))).programs
    assert f"{program.name}_finish, (" in program.source and f"{program.name}_fetch(" in program.source
    assert program.source.count("unpacked_pairs(fetched") == (2 if make is residual_kernel else 1)
    binary = compile_program(program, "cuda", 90, 32)
    assert binary.threads == 384 and b".local" not in binary.text and binary.shared <= 227 * 1024


def test_short_epilogues_stay_with_the_product() -> None:
    x, w = tensors(x=(1024, 768), w=(768, 512))
    kernel = product_of(y=op.relu(op.matmul(x, w)))
    assert rounded_first(kernel) is None and "_finish" not in generated(kernel).programs[0].source


def test_epilogues_that_read_the_product_in_f32_stay_with_it() -> None:
    x, w = tensors(x=(1024, 768), w=(768, 512))
    wide = op.matmul(op.cast(x, "f32"), op.cast(w, "f32"))
    assert rounded_first(product_of(y=op.gelu(wide))) is None


def test_heads_are_read_in_place() -> None:
    x, w, g = tensors(x=(4, 12, 1024, 64), w=(768, 768), g=(4096, 768))
    rows = op.reshape(op.transpose(x, (0, 2, 1, 3)), (4096, 768))
    as_rows = product_of(y=op.matmul(rows, w))
    left = mapped(as_rows, as_rows.a, as_rows.m)
    assert left is not None and left.terms_inside and left.argument(128, 64).block == (1, 1, 128, 64)
    as_terms = product_of(y=op.matmul(op.transpose(g, (1, 0)), rows))
    right = mapped(as_terms, as_terms.b, as_terms.n)
    assert right is not None and not right.terms_inside and right.argument(256, 64).block == (1, 4, 64, 64)
    program = generated(as_terms, dot.Form(Tile(256))).programs[0]
    assert [d.coordinate("at") for d in right.dimensions] == [
        "(at) // 1024", "(at) // 64", "(at) % 1024", "(at) % 64",
    ]
    assert sum(isinstance(a, TensorMapArgument) and len(a.block) == 4 for a in program.arguments) == 1
    assert compile_program(program, "cuda", 90, 32).shared <= 227 * 1024


def test_blocks_of_8_bit_floats_do_not_reach_over_heads() -> None:
    """They have 128 terms: heads of 64 are left to another kernel."""
    x, w = op.tensor((8, 16, 256, 64), "f8e4m3", name="x"), op.tensor((256, 1024), "f8e4m3", name="w")
    rows = op.reshape(op.transpose(x, (0, 2, 1, 3)), (2048, 1024))
    kernel = product_of(y=op.matmul(op.cast(rows, "f32"), op.cast(op.transpose(w), "f32")))
    assert kernel.buffers[0].dtype.bits == 8 and mapped(kernel, multiplied(kernel, kernel.a)[0], kernel.m) is None
    assert dot.generate(kernel, SM_90A) is None


def test_terms_beside_each_other_are_neighbours_in_memory() -> None:
    """Where contiguous elements are so many terms apart, a block of terms is none in memory."""
    x, w = tensors(x=(256, 64, 16), w=(1024, 256))
    kernel = product_of(y=op.matmul(op.reshape(op.transpose(x, (0, 2, 1)), (256, 1024)), w))
    assert mapped(kernel, kernel.a, kernel.m) is None
    assert dot.generate(kernel, SM_90A) is None


def test_heads_are_stored_in_whole_vectors() -> None:
    x, w = tensors(x=(4, 1024, 768), w=(768, 768))
    y = op.transpose(op.reshape(op.matmul(x, w), (4, 1024, 12, 64)), (0, 2, 1, 3))
    program, = generated(product_of(y=y)).programs
    text = compile_program(program, "cuda", 90, 32).text
    assert b"st.global.v4" in text and b"st.global.b16" not in text


@pytest.mark.parametrize("least", [0, 1])
def test_no_blocks_are_asked_for_without_terms(least: int) -> None:
    """Nothing would wait for them, and the program would end while they are on their way."""
    k = op.dim("k", min=least, max=4096, multiple_of=64)
    x, w, r = tensors(x=(1024, k), w=(k, 512), r=(1024, 512))
    program, = generated(product_of(y=op.matmul(x, w) + r), dot.Form(Tile(256))).programs
    assert "_finish" in program.source and ("steps > 0" in program.source) == (least == 0)
    assert compile_program(program, "cuda", 90, 32).threads == 384


def functions_of(kernel: DotKernel) -> list[str]:
    """The functions of an epilogue."""
    return [o.function for o in of_narrow(kernel).epilogue if isinstance(o, Compute)]


def test_functions_of_16_bit_floats_take_fewer_instructions() -> None:
    """In what is generated for Hopper only: the kernel itself, and what is decided from it, stays."""
    assert "erf_beside_one" in functions_of(gelu_kernel()) and "erf" not in functions_of(gelu_kernel())
    found = functions_of(gelu_gradient_kernel())
    assert {"erf_beside_one", "exp_of_difference"} <= set(found) and not {"erf", "exp"} & set(found)
    assert "erf_beside_one(" in generated(gelu_gradient_kernel()).programs[0].source
    x, w = tensors(x=(1024, 768), w=(768, 512))
    wide = op.matmul(op.cast(x, "f32"), op.cast(w, "f32"))
    y = op.matmul(x, w)
    kept = op.gelu(op.cast(y, "f32"))  # stored in f32
    others = [op.gelu(wide), kept, op.erf(y), op.cast(op.erf(op.cast(y, "f32")) + 0.5, "bf16"), op.exp(-y)]
    for other in others:
        assert not {"erf_beside_one", "exp_of_difference"} & set(functions_of(product_of(y=other))), other


def test_error_function_beside_one() -> None:
    x = np.concatenate([np.linspace(-7, 7, 60001), np.geomspace(1e-30, 1, 5531), [0, -0.0, np.inf, -np.inf]])
    x = x.astype(np.float32)
    body = f"""@triton.jit
def values(x, y):
    at = tl.arange(0, {1 << 16})
    tl.store(y + at, erf_beside_one(tl.load(x + at)))
"""
    arguments = (BufferArgument(0, f32), BufferArgument(1, f32))
    program = Program("values", module_text(["erf_beside_one"], body), arguments, (1, 1, 1))
    x = np.concatenate([x, np.full((1 << 16) - x.size, np.nan, np.float32)])
    y = np.empty_like(x)
    triton_interpreter.launch(program, [x, y], [], (1,))
    assert np.array_equal(np.isnan(x), np.isnan(y))
    there = ~np.isnan(x)
    assert np.abs(y[there] - special.erf(x[there].astype(np.float64))).max() < 3e-7
    assert (y[x == 0] == 0).all() and (y[np.isinf(x)] == np.sign(x[np.isinf(x)])).all()
