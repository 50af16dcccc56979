"""Products for Hopper: what is chosen, what the machine code holds, and which blocks the copying warp asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tessera.ir.dims import Dim, Symbol, evaluate, mul, sym
from tessera.ir.dtype import DType, bf16, f8e4m3, f8e5m2, f16, f32
from tessera.schedule.index import strides
from tessera.target.ptx.compile import compile_kernels
from tessera.target.triton import dot
from tessera.target.triton.head import Options
from tessera.target.triton.launch import BufferArgument, ConstantArgument, Program, TensorMapArgument
from tessera.tile.ir import Axis, Buffer, Compute, DotKernel, Load, Ref, Store

HOPPER = Options("sm_90a")


def matmul(
    m: Dim, n: Dim, k: Dim, *, a_turned: bool = False, b_turned: bool = False, batch: Sequence[Dim] = (),
    dtype: DType = bf16, sizes: tuple[Symbol, ...] = (), bias: bool = False,
) -> DotKernel:
    """A product, each operand as it is or transposed in memory; perhaps with a bias for each column."""
    def axis(name: str, extent: Dim) -> Axis:
        return Axis(Symbol(name, 0, extent - 1 if isinstance(extent, int) else None), extent)

    rows, columns, terms = axis("m", m), axis("n", n), axis("k", k)
    outer = tuple(axis(f"e{i}", d) for i, d in enumerate(batch))
    at_m, at_n, at_k = sym(rows.symbol), sym(columns.symbol), sym(terms.symbol)
    at = tuple(sym(a.symbol) for a in outer)
    shapes = [(k, m) if a_turned else (m, k), (n, k) if b_turned else (k, n), (m, n)]
    shapes = [(*batch, *s) for s in shapes]
    buffers = [Buffer(f"b{i}", dtype, s, strides(s), "out" if i == 2 else "in") for i, s in enumerate(shapes)]
    epilogue: list[Any] = [Compute("cast", (Ref(3, 0),), dtype), Store(2, (*at, at_m, at_n), Ref(2, 0))]
    if bias:
        buffers.append(Buffer("b3", f32, (n,), (1,), "in"))
        epilogue = [
            Load(3, (at_n,)), Compute("add", (Ref(3, 0), Ref(2, 0)), f32), Compute("cast", (Ref(2, 1),), dtype),
            Store(2, (*at, at_m, at_n), Ref(2, 2)),
        ]
    a = (Load(0, (*at, at_k, at_m) if a_turned else (*at, at_m, at_k)),)
    b = (Load(1, (*at, at_n, at_k) if b_turned else (*at, at_k, at_n)),)
    return DotKernel("matmul", sizes, tuple(buffers), outer, rows, columns, terms, a, b, tuple(epilogue), f32)


def only(kernel: DotKernel) -> Program:
    """The one program of a product."""
    generated = dot.generate(kernel, HOPPER)
    assert generated is not None and len(generated.programs) == 1
    return generated.programs[0]


@pytest.mark.parametrize(
    "kernel",
    [
        matmul(1024, 4096, 512, bias=True),
        matmul(200, 328, 1000, a_turned=True, b_turned=True, batch=(2, 3), dtype=f16),
    ],
    ids=["plain", "turned"],
)
def test_machine_code(kernel: DotKernel) -> None:
    image = compile_kernels([kernel], "sm_90a")
    compiled = image.kernels[0]
    text = image.code[image.modules[0].offset :][: image.modules[0].bytes]
    assert text[:4] == b"\x7fELF" and compiled.threads == 384 and compiled.shared <= 227 * 1024
    maps = [a for a in compiled.arguments if isinstance(a, TensorMapArgument)]
    assert len(maps) == 2 and [a.index for a in maps] == [0, 1]
    at = compiled.arguments.index(maps[0])
    rank = len(maps[0].shape)
    follow = compiled.arguments[at + 1 : at + 1 + 2 * rank]
    assert [a.type for a in follow if isinstance(a, ConstantArgument)] == ["i32"] * rank + ["i64"] * rank
    assert sum(isinstance(a, BufferArgument) for a in compiled.arguments) == len(kernel.buffers)


def test_uses_the_matrix_units_and_the_copy_engine() -> None:
    from tessera.target.triton.build import compile_program

    text = compile_program(only(matmul(512, 512, 512, bias=True)), "cuda", 90, 32).text
    assert b"wgmma.mma_async" in text and b"cp.async.bulk.tensor" in text and b"setmaxnreg" in text
    assert b"ld.local" not in text and b"st.local" not in text


def widened(m: int, n: int, k: int, a: DType, b: DType, *, b_turned: bool = True) -> DotKernel:
    """A product in f32 of narrower floats."""
    plain = matmul(m, n, k, b_turned=b_turned)
    kinds = (a, b, f32)
    buffers = tuple(replace(x, dtype=kind) for x, kind in zip(plain.buffers, kinds))
    cast_a, cast_b = (Compute("cast", (Ref(i, 0),), f32) for i in (0, 1))
    store = Store(2, plain.epilogue[-1].index, Ref(3, 0))
    return replace(plain, buffers=buffers, a=(*plain.a, cast_a), b=(*plain.b, cast_b), epilogue=(store,))


@pytest.mark.parametrize(("a", "b", "kind"), [
    (f8e4m3, f8e4m3, b".e4m3.e4m3"), (f8e5m2, f8e4m3, b".e5m2.e4m3"), (bf16, bf16, b".bf16.bf16"),
    (f16, f16, b".f16.f16"),
])
def test_widened_operands_are_multiplied_as_they_are(a: DType, b: DType, kind: bytes) -> None:
    from tessera.target.triton.build import compile_program

    program = only(widened(512, 512, 1024, a, b))
    text = compile_program(program, "cuda", 90, 32).text
    assert b"wgmma.mma_async" in text and kind in text and b"ld.local" not in text
    blocks = [x.block for x in program.arguments if isinstance(x, TensorMapArgument)]
    assert all(block[-1] * a.bits == 1024 for block in blocks)


def test_what_the_matrix_units_do_not_take() -> None:
    assert dot.generate(widened(512, 512, 1024, bf16, f16), HOPPER) is None
    assert dot.generate(widened(512, 512, 1024, f32, f32), HOPPER) is None
    assert dot.generate(widened(512, 512, 1024, f8e4m3, f8e4m3, b_turned=False), HOPPER) is None


class _Blocks:
    """Stands for blocks in shared memory, and for barriers."""

    def index(self, at: int) -> _Blocks:
        return self


class _Engine:
    """Stands for ``tma``: what was asked for, as (map, place)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def async_copy_global_to_shared(self, name: str, at: list[int], arrived: object, to: object) -> None:
        self.asked.append((name, tuple(at)))


class _Barrier:
    wait = expect = staticmethod(lambda *_: None)


def asked(program: Program, sizes: dict[str, int], values: Sequence[object]) -> list[tuple[str, tuple[int, ...]]]:
    """What the copying warps of all programs ask for, in order: the generated text is run as Python."""
    found: list[tuple[str, tuple[int, ...]]] = []
    count = evaluate(program.grid[0], sizes)
    for number in range(count):
        engine = _Engine()

        class Language:
            program_id = staticmethod(lambda _, n=number: n)
            num_programs = staticmethod(lambda _: count)

        names: dict[str, Any] = {"tl": Language, "tma": engine, "mbarrier": _Barrier}
        text = program.source
        start = text.index(f"def {program.name}_copy")
        exec(text[start : text.index("@gluon.jit", start)], names)  # noqa: S102
        names[f"{program.name}_copy"](*values, "a", "b", *[_Blocks()] * 4)
        found += engine.asked
    return found


@pytest.mark.parametrize("m", [1, 128, 129, 1300, 5000])
def test_every_block_is_fetched_once(m: int) -> None:
    size = Symbol("s0", 1, 1 << 20)
    program = only(matmul(sym(size), 700 // 4 * 4, 200, batch=(3,), sizes=(size,), b_turned=True))
    b = next(a for a in program.arguments if isinstance(a, TensorMapArgument) and a.index == 1)
    columns = b.block[1]
    found = asked(program, {"s0": m}, [None] * 3 + [m])
    tiles = sorted({(e, i, j) for e in range(3) for i in range(0, m, 128) for j in range(0, 700, columns)})
    steps = range(0, 200, 64)
    blocks_a = sorted(at for name, at in found if name == "a")
    blocks_b = sorted(at for name, at in found if name == "b")
    assert blocks_a == sorted((e, i, k) for e, i, _ in tiles for k in steps)
    assert blocks_b == sorted((e, j, k) for e, _, j in tiles for k in steps)


def test_terms_in_parts() -> None:
    kernel = matmul(768, 768, 16384 + 8, a_turned=True)
    generated = dot.generate(kernel, HOPPER)
    assert generated is not None and len(generated.programs) == 2
    parts = dot.choose(kernel).parts
    assert parts > 1 and generated.workspace == parts * 768 * 768 * 4
    found = asked(generated.programs[0], {}, [None] * 4)
    a = sorted(at for name, at in found if name == "a")
    columns = dot.choose(kernel).tile.columns
    assert a == sorted((k, i) for i in range(0, 768, 128) for k in range(0, 16392, 64) for _ in range(0, 768, columns))
    assert len(compile_kernels([kernel], "sm_90a").launches[0]) == 2


def test_maps_of_symbolic_sizes() -> None:
    size = Symbol("s0", 1, 4096, 8)
    program = only(matmul(256, sym(size), 1024, sizes=(size,)))
    b = next(a for a in program.arguments if isinstance(a, TensorMapArgument) and a.index == 1)
    assert b.plan()["tensor_map"] == {
        "buffer": 1, "dtype": "bf16", "shape": [1024, {"size": 0}], "strides": [{"size": 0}, 1],
        "box": [64, 64], "swizzle": 128,
    }


@pytest.mark.parametrize(
    "kernel",
    [
        matmul(1024, 1024, 1024, dtype=f32),  # the copy engine brings 16-bit floats only
        matmul(16, 4096, 4096),  # few rows
        matmul(1024, 1024, 1023),  # rows that do not begin at 16 bytes
        matmul(1024, mul(sym(Symbol("s0", 1, 4096)), 1), 64, sizes=(Symbol("s0", 1, 4096),)),
    ],
    ids=["f32", "thin", "odd", "unknown steps"],
)
def test_others_go_to_the_general_kernel(kernel: DotKernel) -> None:
    assert dot.generate(kernel, HOPPER) is None


def test_only_on_hopper() -> None:
    assert dot.generate(matmul(1024, 1024, 1024), Options("sm_80")) is None


@pytest.mark.parametrize(
    ("sizes", "columns", "parts"),
    [
        ((8192, 8192, 8192), 256, 1), ((256, 8192, 4096), 128, 1), ((256, 4096, 8192), 128, 2),
        ((768, 3072, 16384), 256, 3), ((768, 768, 16384), 128, 3), ((768, 2304, 16384), 128, 1),
    ],
)
def test_choice(sizes: tuple[int, int, int], columns: int, parts: int) -> None:
    form = dot.choose(matmul(*sizes))
    assert (form.tile.columns, form.parts) == (columns, parts)


def test_an_optimizers_update_is_a_kernel_of_its_own() -> None:
    kernel = matmul(1024, 1024, 1024)
    rows, columns = sym(kernel.m.symbol), sym(kernel.n.symbol)
    buffers = [*kernel.buffers]
    epilogue: list[Any] = []
    for _ in range(3):  # weights and two moments
        buffers.append(Buffer(f"b{len(buffers)}", f32, (1024, 1024), (1024, 1), "inout"))
        at = len(epilogue)
        epilogue += [
            Load(len(buffers) - 1, (rows, columns)), Compute("add", (Ref(2, at), Ref(3, 0)), f32),
            Store(len(buffers) - 1, (rows, columns), Ref(2, at + 1)),
        ]
    update = replace(kernel, buffers=tuple(buffers), epilogue=tuple(epilogue))
    generated = dot.generate(update, HOPPER)
    assert dot.choose(update).parts == 1 and generated is not None
    assert len(generated.programs) == 2 and generated.workspace == 1024 * 1024 * 4
    assert len(compile_kernels([update], "sm_90a").launches[0]) == 2
