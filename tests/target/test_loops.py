"""LoopKernels: reductions in every arrangement of axes, scans, gathers, scatters, random numbers, layouts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tessera.ir.dims import Symbol, add, floordiv, mod, mul, sym
from tessera.ir.dtype import DType, bf16, bool_, f16, f32, f64, i8, i16, i32, i64, u8
from tessera.op.philox import philox4x32
from tessera.tile.ir import (
    Axis,
    Buffer,
    Compute,
    Const,
    Index,
    Load,
    LoopKernel,
    Random,
    Reduce,
    Ref,
    Scan,
    Stage,
    Store,
)

from tests.target.harness import LEVEL_NAMES, Native, filled, guarded, misaligned

ROW, COLUMN = Symbol("i"), Symbol("j")


def contiguous(shape: tuple) -> tuple:
    """Row-major strides."""
    out, step = [], 1
    for d in reversed(shape):
        out.insert(0, step)
        step = mul(step, d)
    return tuple(out)


def buffer(name: str, dtype: DType, shape: tuple, role: str = "in") -> Buffer:
    return Buffer(name, dtype, shape, contiguous(shape), role)  # type: ignore[arg-type]


def reduction(combine: str, source: DType, target: DType, shape: tuple, axes: tuple[int, ...]) -> LoopKernel:
    """y[kept] = reduce over ``axes`` of x."""
    symbols = [Symbol(f"a{n}") for n in range(len(shape))]
    kept = [n for n in range(len(shape)) if n not in axes]
    result = tuple(shape[n] for n in kept)
    load = Load(0, tuple(sym(s) for s in symbols))
    return LoopKernel(
        combine,
        tuple(d_symbol(d) for d in shape if not isinstance(d, int)),
        (buffer("x", source, shape), buffer("y", target, result, "out")),
        tuple(Axis(symbols[n], shape[n]) for n in kept),
        (
            Stage(tuple(Axis(symbols[n], shape[n]) for n in axes), (load, Reduce(combine, Ref(0, 0), target))),
            Stage((), (Store(1, tuple(sym(symbols[n]) for n in kept), Ref(0, 1)),)),
        ),
    )


def d_symbol(d: object) -> Symbol:
    from tessera.ir.dims import symbols

    return symbols(d)[0]  # type: ignore[arg-type]


def sample(dtype: DType, shape: tuple, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype == bool_:
        return random.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        return random.integers(0 if dtype == u8 else -100, 100, shape).astype(dtype.numpy)
    return random.normal(size=shape).astype(dtype.numpy)


_SHAPES = [(5, 7, 33), (3, 1, 70), (1, 40, 2), (64, 3, 1)]
_AXES = [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)]


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("axes", _AXES, ids=str)
def test_sum_over_every_arrangement_of_axes(axes: tuple[int, ...], level: str) -> None:
    for shape in _SHAPES:
        native = Native(reduction("sum", f32, f32, shape, axes), level)
        x = sample(f32, shape)
        results = []
        for pieces in (1, 2, 5):
            y = filled([n for i, n in enumerate(shape) if i not in axes], f32)
            native.run([misaligned(x), y], pieces=pieces)
            results.append(y)
        np.testing.assert_allclose(results[0], x.sum(axis=axes, dtype=np.float64), rtol=2e-5, atol=2e-5)
        assert all(np.array_equal(results[0], r) for r in results)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [f64, f32, bf16, f16, i64, i32, i16, i8, u8, bool_], ids=str)
def test_reductions_of_every_dtype(dtype: DType, level: str) -> None:
    """Symbolic sizes, along rows and along columns."""
    r, c = Symbol("R", 1, None), Symbol("C", 1, None)
    shape = (sym(r), sym(c))
    wide = dtype if dtype.is_float else i64
    for combine, target in (
        ("sum", wide),
        ("prod", wide),
        ("max", dtype),
        ("min", dtype),
        ("argmax", i64),
        ("argmin", i64),
    ):
        for axis in (0, 1):
            native = Native(reduction(combine, dtype, target, shape, (axis,)), level)
            for rows, columns in ((1, 1), (3, 5), (17, 70), (40, 33)):
                x = sample(dtype, (rows, columns))
                if combine == "prod":
                    x = (x % 3 + 1).astype(dtype.numpy) if dtype.is_integer else x
                y = filled(columns if axis == 0 else rows, target)
                native.run([x, y], {"R": rows, "C": columns})
                if dtype.is_float and combine in ("sum", "prod"):
                    expected = getattr(np, combine)(x.astype(np.float64), axis=axis)
                    tolerance = {f64: 1e-12, f32: 2e-5, bf16: 1e-2, f16: 2e-3}[dtype]
                    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
                elif combine in ("sum", "prod"):
                    np.testing.assert_array_equal(y, getattr(np, combine)(x.astype(np.int64), axis=axis))
                else:
                    np.testing.assert_array_equal(y, getattr(np, combine)(x, axis=axis))


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("combine", ["max", "min", "argmax", "argmin"])
def test_extrema_with_nan_ties_and_infinities(combine: str, level: str) -> None:
    rows = []
    for n in (1, 2, 15, 16, 17, 65, 130):
        base = np.random.default_rng(n).integers(-2, 3, 130).astype(np.float32)
        rows += [base, np.full(130, -np.inf), np.full(130, np.inf), np.full(130, np.nan)]
        for at in (0, n - 1, min(n + 3, 129)):
            with_nan = base.copy()
            with_nan[at : at + 2] = np.nan
            rows.append(with_nan)
    x = np.array(rows, np.float32)
    target = i64 if combine.startswith("arg") else f32
    for a, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        y = filled(len(rows), target)
        Native(reduction(combine, f32, target, a.shape, (axis,)), level).run([a, y])
        np.testing.assert_array_equal(y, getattr(np, combine)(a, axis=axis))


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_empty_reductions(level: str) -> None:
    r, c = Symbol("R", 0, None), Symbol("C", 0, None)
    for axis in (0, 1):
        for combine, identity in (("sum", 0.0), ("prod", 1.0)):
            native = Native(reduction(combine, f32, f32, (sym(r), sym(c)), (axis,)), level)
            for rows, columns in ((0, 0), (0, 5), (5, 0)):
                y = filled(columns if axis == 0 else rows, f32)
                native.run([np.empty((rows, columns), np.float32), y], {"R": rows, "C": columns})
                assert (y == identity).all()


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [f64, f32, bf16, i32], ids=str)
def test_scan(dtype: DType, level: str) -> None:
    target = i64 if dtype.is_integer else dtype
    for shape, axis in itertools.product([(6, 37), (1, 5), (40, 1), (0, 4), (3, 0)], (0, 1)):
        grid, scanned = (COLUMN, ROW) if axis == 0 else (ROW, COLUMN)
        kernel = LoopKernel(
            "scan",
            (),
            (buffer("x", dtype, shape), buffer("y", target, shape, "out")),
            (Axis(grid, shape[1 - axis]),),
            (
                Stage(
                    (Axis(scanned, shape[axis]),),
                    (
                        Load(0, (sym(ROW), sym(COLUMN))),
                        Scan("sum", Ref(0, 0), target),
                        Store(1, (sym(ROW), sym(COLUMN)), Ref(0, 1)),
                    ),
                ),
            ),
        )
        x = sample(dtype, shape)
        y = filled(shape, target)
        Native(kernel, level).run([x, y], pieces=2)
        expected = np.cumsum(x.astype(np.int64 if dtype.is_integer else np.float64), axis=axis)
        tolerance = {f64: 1e-12, f32: 1e-5, bf16: 1e-2, i32: 0}[dtype]
        np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [f32, bf16, i64, bool_], ids=str)
def test_layouts(dtype: DType, level: str) -> None:
    """Transposes, reversed and strided reads, broadcasts, odd strides, reads through division."""
    m, n = 19, 45
    x = sample(dtype, (m, n))
    cases = {
        "transpose": ((n, m), (sym(COLUMN), sym(ROW)), x.T),
        "reverse": ((m, n), (sym(ROW), add(n - 1, mul(sym(COLUMN), -1))), x[:, ::-1]),
        "every third": ((m, 15), (sym(ROW), mul(sym(COLUMN), 3)), x[:, ::3]),
        "flat": ((m * n, 1), (floordiv(sym(ROW), n), mod(sym(ROW), n)), x.reshape(-1, 1)),
        "flat of a transpose": ((1, m * n), (mod(sym(COLUMN), m), floordiv(sym(COLUMN), m)), x.T.reshape(1, -1)),
        "one row": ((m, n), (3, sym(COLUMN)), np.broadcast_to(x[3], (m, n))),
        "one column": ((m, n), (sym(ROW), 7), np.broadcast_to(x[:, 7:8], (m, n))),
    }
    for name, (shape, index, expected) in cases.items():
        kernel = LoopKernel(
            "copy",
            (),
            (buffer("x", dtype, (m, n)), buffer("y", dtype, shape, "out")),
            (Axis(ROW, shape[0]), Axis(COLUMN, shape[1])),
            (Stage((), (Load(0, index), Store(1, (sym(ROW), sym(COLUMN)), Ref(0, 0)))),),
        )
        for pieces in (1, 3):
            y = filled(shape, dtype)
            Native(kernel, level).run([guarded(x), y], pieces=pieces)
            np.testing.assert_array_equal(y, expected, name)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_masked_load_reads_nothing_outside(level: str) -> None:
    """Padding: rows and columns outside are not touched and give ``other``."""
    m, n, low = 5, 21, 4
    inside = Compute("logical_and", (Ref(0, 2), Ref(0, 4)), bool_)
    ops = (
        Index(add(sym(COLUMN), -low)),
        Const(0, i64),
        Compute("ge", (Ref(0, 0), Ref(0, 1)), bool_),
        Const(n, i64),
        Compute("lt", (Ref(0, 0), Ref(0, 3)), bool_),
        inside,
        Load(0, (sym(ROW), add(sym(COLUMN), -low)), Ref(0, 5), 2.5),
        Store(1, (sym(ROW), sym(COLUMN)), Ref(0, 6)),
    )
    for dtype in (f32, bf16, f16, f64):
        wide = n + 2 * low
        kernel = LoopKernel(
            "pad",
            (),
            (buffer("x", dtype, (m, n)), buffer("y", dtype, (m, wide), "out")),
            (Axis(ROW, m), Axis(COLUMN, wide)),
            (Stage((), ops),),
        )
        x, y = sample(dtype, (m, n)), filled((m, wide), dtype)
        Native(kernel, level).run([guarded(x), y])
        np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (low, low)), constant_values=2.5))


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("index_dtype", [i64, i32], ids=str)
def test_gather_and_scatter(index_dtype: DType, level: str) -> None:
    rows, width, count = 11, 37, 50
    index = np.random.default_rng(1).integers(0, rows, count).astype(index_dtype.numpy)
    x, updates = sample(f32, (rows, width)), sample(f32, (count, width), 1)
    gather = LoopKernel(
        "take",
        (),
        (
            buffer("x", f32, (rows, width)),
            buffer("index", index_dtype, (count,)),
            buffer("y", f32, (count, width), "out"),
        ),
        (Axis(ROW, count), Axis(COLUMN, width)),
        (
            Stage(
                (),
                (Load(1, (sym(ROW),)), Load(0, (Ref(0, 0), sym(COLUMN))), Store(2, (sym(ROW), sym(COLUMN)), Ref(0, 1))),
            ),
        ),
    )
    y = filled((count, width), f32)
    Native(gather, level).run([x, index, y], pieces=3)
    np.testing.assert_array_equal(y, x[index])
    element = LoopKernel(
        "take_elements",
        (),
        (buffer("x", f32, (rows, width)), buffer("index", index_dtype, (count,)), buffer("y", f32, (count,), "out")),
        (Axis(ROW, count),),
        (Stage((), (Load(1, (sym(ROW),)), Load(0, (Ref(0, 0), 5)), Store(2, (sym(ROW),), Ref(0, 1)))),),
    )
    y = filled(count, f32)
    Native(element, level).run([x, index, y])
    np.testing.assert_array_equal(y, x[index, 5])
    for axis_width in (width, 1):
        scatter = LoopKernel(
            "index_add",
            (),
            (
                buffer("x", f32, (rows, axis_width), "inout"),
                buffer("index", index_dtype, (count,)),
                buffer("u", f32, (count, axis_width)),
            ),
            (Axis(COLUMN, axis_width),),
            (
                Stage(
                    (Axis(ROW, count),),
                    (
                        Load(1, (sym(ROW),)),
                        Load(2, (sym(ROW), sym(COLUMN))),
                        Store(0, (Ref(0, 0), sym(COLUMN)), Ref(0, 1), "add"),
                    ),
                ),
            ),
        )
        expected = x[:, :axis_width].copy()
        np.add.at(expected, index, updates[:, :axis_width])
        for pieces in (1, 2):
            target = x[:, :axis_width].copy()
            Native(scatter, level).run([target, index, updates[:, :axis_width].copy()], pieces=pieces)
            np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_random_numbers(dtype: DType, level: str) -> None:
    n = 100
    key = np.array([(123 << 32) + 77, 5], np.int64)
    ops = (
        Load(0, (0,)),
        Load(0, (1,)),
        Random((Ref(0, 0), Ref(0, 1)), 9, add(sym(ROW), (1 << 32) - 50), dtype),
        Store(1, (sym(ROW),), Ref(0, 2)),
    )
    kernel = LoopKernel(
        "uniform", (), (buffer("key", i64, (2,)), buffer("y", dtype, (n,), "out")), (Axis(ROW, n),), (Stage((), ops),)
    )
    y = filled(n, dtype)
    Native(kernel, level).run([key, y], pieces=4)
    element = np.arange(n, dtype=np.uint64) + np.uint64((1 << 32) - 50)
    low = np.uint64(0xFFFFFFFF)
    words = philox4x32((element & low, element >> np.uint64(32), np.uint64(9), np.uint64(5)), (77, 123))
    w0, w1 = (np.asarray(w).astype(np.uint64) for w in words[:2])
    if dtype == f32:
        expected = (w0 >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
    else:
        expected = ((w0 << np.uint64(32) | w1) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_stages_of_a_row_kernel(level: str) -> None:
    """Layer norm with a stored intermediate that a later stage reads back, in place."""
    for rows, width in ((1, 1), (4, 70), (3, 500)):
        index = (sym(ROW), sym(COLUMN))
        axis = (Axis(COLUMN, width),)
        stages = (
            Stage(axis, (Load(0, index), Reduce("sum", Ref(0, 0), f32))),
            Stage((), (Const(1 / width, f32), Compute("mul", (Ref(0, 1), Ref(1, 0)), f32))),
            Stage(
                axis,
                (
                    Load(0, index),
                    Compute("sub", (Ref(2, 0), Ref(1, 1)), f32),
                    Compute("mul", (Ref(2, 1), Ref(2, 1)), f32),
                    Store(1, index, Ref(2, 1)),
                    Reduce("sum", Ref(2, 2), f32),
                ),
            ),
            Stage(
                (),
                (
                    Const(1 / width, f32),
                    Compute("mul", (Ref(2, 4), Ref(3, 0)), f32),
                    Const(1e-5, f32),
                    Compute("add", (Ref(3, 1), Ref(3, 2)), f32),
                    Compute("rsqrt", (Ref(3, 3),), f32),
                ),
            ),
            Stage(axis, (Load(1, index), Compute("mul", (Ref(4, 0), Ref(3, 4)), f32), Store(1, index, Ref(4, 1)))),
        )
        kernel = LoopKernel(
            "norm",
            (),
            (buffer("x", f32, (rows, width)), buffer("y", f32, (rows, width), "out")),
            (Axis(ROW, rows),),
            stages,
        )
        x = sample(f32, (rows, width))
        y = filled((rows, width), f32)
        Native(kernel, level).run([x, y], pieces=2)
        centred = x - x.mean(axis=1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_in_place(level: str) -> None:
    n = 133
    kernel = LoopKernel(
        "scale",
        (),
        (Buffer("x", f32, (n,), (1,), "inout"),),
        (Axis(ROW, n),),
        (
            Stage(
                (),
                (
                    Load(0, (sym(ROW),)),
                    Const(3.0, f32),
                    Compute("mul", (Ref(0, 0), Ref(0, 1)), f32),
                    Store(0, (sym(ROW),), Ref(0, 2)),
                ),
            ),
        ),
    )
    x = sample(f32, (n,))
    y = x.copy()
    Native(kernel, level).run([y], pieces=3)
    np.testing.assert_array_equal(y, x * 3)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_large_outputs_bypass_the_caches(level: str) -> None:
    """A symbolic size above and below the bound, aligned and not: the same values."""
    n = Symbol("n", 0, None)
    kernel = LoopKernel(
        "big",
        (n,),
        (Buffer("x", f32, (sym(n),), (1,), "in"), Buffer("y", f32, (sym(n),), (1,), "out")),
        (Axis(ROW, sym(n)),),
        (Stage((), (Load(0, (sym(ROW),)), Compute("neg", (Ref(0, 0),), f32), Store(1, (sym(ROW),), Ref(0, 1)))),),
    )
    native = Native(kernel, level)
    for count in (100, (5 << 20) + 3):
        x = np.arange(count, dtype=np.float32)
        for place in (np.ascontiguousarray, misaligned):
            y = place(np.zeros(count, np.float32))
            native.run([x, y], {"n": count}, pieces=2)
            assert np.array_equal(y, -x)


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_rank_zero_and_no_grid(level: str) -> None:
    x = sample(f32, (300,))
    y = filled((), f32)
    Native(reduction("sum", f32, f32, (300,), (0,)), level).run([x, y])
    np.testing.assert_allclose(y, x.sum(), rtol=1e-5, atol=1e-5)
    kernel = LoopKernel(
        "scalar",
        (),
        (buffer("x", f32, ()), buffer("y", f32, (), "out")),
        (),
        (Stage((), (Load(0, ()), Compute("exp", (Ref(0, 0),), f32), Store(1, (), Ref(0, 1)))),),
    )
    Native(kernel, level).run([np.array(1, np.float32), y])
    np.testing.assert_allclose(y, np.e, rtol=1e-6)
