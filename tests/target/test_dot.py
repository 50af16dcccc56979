"""DotKernels: layouts × dtypes × odd sizes × prologues and epilogues × batches × symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from tessera.ir.dims import Dim, Expr, Symbol, evaluate, mul, sym, symbols
from tessera.ir.dtype import DType, bf16, f16, f32, f64, i8, i16, i32, i64, u8
from tessera.target.cpu.compile import compile_kernels
from tessera.target.cpu.levels import LEVELS
from tessera.target.cpu.microkernel import register_rows
from tessera.tile.ir import Axis, Buffer, Compute, Const, DotKernel, Load, Op, Ref, Store

from tests.target.harness import LEVEL_NAMES, Native, filled, guarded, misaligned

M, N, K, B = Symbol("m"), Symbol("n"), Symbol("k"), Symbol("b")
_ACC = {f64: f64, f32: f32, bf16: f32, f16: f32, i64: i64, i32: i32, i16: i32, i8: i32, u8: i32}


def product(
    m: Dim,
    n: Dim,
    k: Dim,
    dtype: DType = f32,
    a_t: bool = False,
    b_t: bool = False,
    batch: int | None = None,
    shared_b: bool = False,
    a_ops: tuple[Op, ...] = (),
    b_ops: tuple[Op, ...] = (),
    epilogue: tuple[Op, ...] = (),
    result: DType | None = None,
    extra: tuple[Buffer, ...] = (),
) -> DotKernel:
    """C = A·B; buffers a, b, c, then ``extra``.

    Extra operand ops refer to the load as op 0; an epilogue's last op is stored.
    """
    acc = _ACC[dtype]
    result = result or (acc if acc.is_integer else dtype)

    def matrix(
        name: str, dt: DType, rows: Dim, columns: Dim, transposed: bool, batched: bool, role: str = "in"
    ) -> Buffer:
        shape = (columns, rows) if transposed else (rows, columns)
        strides = (shape[1], 1)
        if batched:
            return Buffer(name, dt, (batch, *shape), (mul(*shape), *strides), role)  # type: ignore[arg-type]
        return Buffer(name, dt, shape, strides, role)  # type: ignore[arg-type]

    def index(rows: Symbol, columns: Symbol, transposed: bool, batched: bool) -> tuple:
        pair = (sym(columns), sym(rows)) if transposed else (sym(rows), sym(columns))
        return (sym(B), *pair) if batched else pair

    batched = batch is not None
    ops = list(epilogue)
    value = Ref(2, len(ops) - 1) if ops else Ref(3, 0)
    if result != acc:
        ops.append(Compute("cast", (value,), result))
        value = Ref(2, len(ops) - 1)
    ops.append(Store(2, index(M, N, False, batched), value))
    sizes = {s: None for d in (m, n, k) if isinstance(d, Expr) for s in symbols(d)}
    return DotKernel(
        "dot",
        tuple(sizes),
        (
            matrix("a", dtype, m, k, a_t, batched),
            matrix("b", dtype, k, n, b_t, batched and not shared_b),
            matrix("c", result, m, n, False, batched, "out"),
            *extra,
        ),
        (Axis(B, batch),) if batched else (),
        Axis(M, m),
        Axis(N, n),
        Axis(K, k),
        (Load(0, index(M, K, a_t, batched)), *a_ops),
        (Load(1, index(K, N, b_t, batched and not shared_b)), *b_ops),
        tuple(ops),
        acc,
    )


def operand(dtype: DType, shape: tuple[int, ...], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype.is_integer:
        return random.integers(0 if dtype == u8 else -9, 10, shape).astype(dtype.numpy)
    return random.normal(size=shape).astype(dtype.numpy)


def run(
    kernel: DotKernel,
    level: str,
    sizes: dict[str, int],
    extra: list[np.ndarray] | None = None,
    pieces: tuple[int, ...] = (1, 3),
    tiles: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, c) after a run whose grid is split in different ways with the same bits."""
    native = Native(kernel, level, tiles)
    a, b = (operand(x.dtype, tuple(evaluate(d, sizes) for d in x.shape), i) for i, x in enumerate(kernel.buffers[:2]))
    results = []
    for parts in pieces:
        c = filled([evaluate(d, sizes) for d in kernel.buffers[2].shape], kernel.buffers[2].dtype)
        place = guarded if parts == 1 else misaligned
        c = place(c)
        native.run([place(a), place(b), c, *(extra or [])], sizes, parts)
        results.append(c)
    assert all(np.array_equal(results[0], r) for r in results)
    return a, b, results[0]


def check(c: np.ndarray, expected: np.ndarray, dtype: DType, k: int) -> None:
    tolerance = {f64: 1e-12, f32: 1e-5, bf16: 2e-2, f16: 3e-3}.get(dtype, 0) * max(1, k) ** 0.5
    np.testing.assert_allclose(c.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance)


def wide(a: np.ndarray, transposed: bool = False) -> np.ndarray:
    a = a.astype(np.float64) if a.dtype.kind not in "iu" else a.astype(np.int64)
    return np.swapaxes(a, -1, -2) if transposed else a


_SIZES = [
    (1, 1, 1),
    (1, 70, 33),
    (3, 17, 5),
    (14, 32, 16),
    (15, 33, 17),
    (40, 100, 64),
    (61, 47, 130),
    (30, 10, 600),
    (29, 300, 1),
    (20, 35, 0),
    (100, 3, 37),
]


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("b_t", [False, True])
@pytest.mark.parametrize("a_t", [False, True])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_layouts_and_sizes(dtype: DType, a_t: bool, b_t: bool, level: str) -> None:
    for m, n, k in _SIZES:
        a, b, c = run(product(m, n, k, dtype, a_t, b_t), level, {})
        check(c, wide(a, a_t) @ wide(b, b_t), dtype, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [bf16, f16, i64, i32, i16, i8, u8], ids=str)
def test_dtypes(dtype: DType, level: str) -> None:
    for m, n, k in ((2, 40, 19), (21, 37, 66)):
        for a_t, b_t in ((False, False), (True, True)):
            a, b, c = run(product(m, n, k, dtype, a_t, b_t), level, {})
            check(c, wide(a, a_t) @ wide(b, b_t), dtype, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_several_blocks(level: str) -> None:
    """More than one block of rows, columns and k (the accumulator then lives in memory between k blocks)."""
    for dtype, m, n, k, a_t, b_t in (
        (f32, 270, 300, 1300, False, False),
        (f64, 150, 140, 1100, True, True),
        (bf16, 140, 150, 1100, False, True),
        (f32, 64, 200, 1024, False, False),
    ):
        a, b, c = run(product(m, n, k, dtype, a_t, b_t), level, {})
        check(c, wide(a, a_t) @ wide(b, b_t), dtype, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("a_t, b_t", [(False, False), (True, False), (False, True)])
def test_symbolic_sizes(a_t: bool, b_t: bool, level: str) -> None:
    """One compilation for all sizes of m, of n or of k."""
    d = Symbol("D", 0, None)
    for which in range(3):
        shape: list[Dim] = [33, 50, 20]
        shape[which] = sym(d)
        kernel = product(*shape, a_t=a_t, b_t=b_t)  # type: ignore[arg-type]
        for size in (0, 1, 2, 5, 13, 14, 17, 130, 700):
            concrete = [33, 50, 20]
            concrete[which] = size
            a, b, c = run(kernel, level, {"D": size}, pieces=(1, 2))
            check(c, wide(a, a_t) @ wide(b, b_t), f32, concrete[2])
    kernel = product(sym(d), sym(d), sym(d), a_t=a_t, b_t=b_t)
    for size in (1, 20, 75):
        a, b, c = run(kernel, level, {"D": size})
        check(c, wide(a, a_t) @ wide(b, b_t), f32, size)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_batches(level: str) -> None:
    for m, n, k in ((5, 9, 7), (20, 40, 33)):
        for b_t, shared in ((False, False), (True, False), (False, True)):
            a, b, c = run(product(m, n, k, batch=3, b_t=b_t, shared_b=shared), level, {}, pieces=(1, 2, 4))
            check(c, wide(a) @ wide(b, b_t), f32, k)


def _bias_relu() -> tuple[Op, ...]:
    return (
        Load(3, (sym(N),)),
        Compute("add", (Ref(3, 0), Ref(2, 0)), f32),
        Const(0.0, f32),
        Compute("maximum", (Ref(2, 1), Ref(2, 2)), f32),
    )


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_epilogue_with_bias_relu_and_residual(level: str) -> None:
    for m, n, k in ((1, 40, 30), (7, 10, 64), (50, 70, 30), (45, 64, 600)):
        extra = (Buffer("bias", f32, (n,), (1,), "in"), Buffer("r", f32, (m, n), (n, 1), "in"))
        epilogue = (*_bias_relu(), Load(4, (sym(M), sym(N))), Compute("add", (Ref(2, 3), Ref(2, 4)), f32))
        bias, residual = operand(f32, (n,), 5), operand(f32, (m, n), 6)
        a, b, c = run(product(m, n, k, epilogue=epilogue, extra=extra), level, {}, [guarded(bias), guarded(residual)])
        check(c, np.maximum(wide(a) @ wide(b) + bias, 0) + residual, f32, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_epilogue_updates_in_place(level: str) -> None:
    """c is read and written (an optimizer's step): rows computed twice at an edge must not be stored twice."""
    for m, n, k in ((5, 40, 20), (257, 33, 20), (512, 64, 24), (31, 16, 700)):
        ops = (Load(2, (sym(M), sym(N))), Compute("add", (Ref(2, 0), Ref(3, 0)), f32))
        kernel = product(m, n, k, epilogue=ops)
        native = Native(kernel, level)
        a, b, c = operand(f32, (m, k), 0), operand(f32, (k, n), 1), operand(f32, (m, n), 2)
        got = c.copy()
        native.run([a, b, got], pieces=2)
        check(got, wide(a) @ wide(b) + c, f32, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_prologues(level: str) -> None:
    """Operands computed while they are packed: relu of a, b scaled by a vector over k."""
    relu = (Const(0.0, f32), Compute("maximum", (Ref(0, 0), Ref(0, 1)), f32))
    for m, n, k in ((3, 40, 20), (40, 50, 70), (30, 60, 1100)):
        for a_t, b_t in ((False, False), (True, True)):
            extra = (Buffer("scale", f32, (k,), (1,), "in"),)
            scale = (Load(3, (sym(K),)), Compute("mul", (Ref(1, 0), Ref(1, 1)), f32))
            s = operand(f32, (k,), 9)
            kernel = product(m, n, k, a_t=a_t, b_t=b_t, a_ops=relu, b_ops=scale, extra=extra)
            a, b, c = run(kernel, level, {}, [guarded(s)])
            check(c, np.maximum(wide(a, a_t), 0) @ (wide(b, b_t) * s[:, None]), f32, k)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_nan_and_infinity_spread(level: str) -> None:
    kernel = product(20, 40, 30)
    native = Native(kernel, level)
    a, b = operand(f32, (20, 30), 0), operand(f32, (30, 40), 1)
    a[3, 4], a[5, 29], b[7, 39] = np.nan, np.inf, np.nan
    c = filled((20, 40), f32)
    native.run([a, b, c])
    with np.errstate(invalid="ignore"):
        expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


_TILES = [(1, 1, 1), (13, 32, 16), (30, 70, 40), (512, 512, 1000)]


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("tiles", _TILES, ids=str)
@pytest.mark.parametrize("a_t, b_t", [(False, False), (True, True)])
def test_tiles(tiles: tuple[int, int, int], a_t: bool, b_t: bool, level: str) -> None:
    for m, n, k in ((5, 70, 100), (61, 147, 130), (40, 100, 64), (29, 300, 1), (20, 35, 0)):
        a, b, c = run(product(m, n, k, f32, a_t, b_t), level, {}, tiles=tiles)
        check(c, wide(a, a_t) @ wide(b, b_t), f32, k)
    a, b, c = run(product(50, 40, 70, bf16, a_t, b_t), level, {}, tiles=tiles)
    check(c, wide(a, a_t) @ wide(b, b_t), bf16, 70)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_tiles_with_symbolic_sizes(level: str) -> None:
    m, n, k = (Symbol(name, 0, None) for name in ("rows", "columns", "depth"))
    kernel = product(sym(m), sym(n), sym(k))
    for sizes in ((3, 5, 7), (61, 147, 130), (0, 4, 4)):
        a, b, c = run(kernel, level, dict(zip(("rows", "columns", "depth"), sizes)), tiles=(26, 64, 32))
        check(c, wide(a) @ wide(b), f32, sizes[2])


def test_tiles_set_the_units_of_the_grid() -> None:
    kernel = product(256, 256, 256)
    level = LEVELS[LEVEL_NAMES[0]]
    columns, rows = 2 * level.lanes(32), register_rows(level, 2)

    def units(tiles: tuple[int, int, int] | None) -> int:
        return evaluate(compile_kernels([kernel], level.name, tiles).kernels[0].grid, {})

    panels = -(-256 // rows)
    assert units((1, 1, 16)) == panels * (256 // columns)
    assert units((256, 256, 256)) == 1
    assert units((4 * rows, 2 * columns, 64)) == -(-panels // 4) * (256 // (2 * columns))
    assert units(None) == evaluate(compile_kernels([kernel], level.name).kernels[0].grid, {})
    loop = [kernel, kernel]
    assert len(compile_kernels(loop, level.name, (8, 8, 8)).code) == len(
        compile_kernels(loop[:1], level.name, (8, 8, 8)).code)
