"""Every function of COMPUTES × dtype × level, with special values, odd lengths, misaligned and guarded memory."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special
from tessera.ir.dims import Symbol, sym
from tessera.ir.dtype import DTYPES, DType, bf16, bool_, f8e4m3, f8e5m2, f16, f32, f64, i8, i16, i32, i64, u8
from tessera.tile.ir import COMPUTES, Axis, Buffer, Compute, Load, LoopKernel, Ref, Stage, Store

from tests.target.harness import LEVEL_NAMES, Native, filled, guarded, misaligned

pytestmark = pytest.mark.filterwarnings("ignore:invalid value")  # comparisons and casts of NaN in the references

FLOATS = (f64, f32, bf16, f16)
INTEGERS = (i64, i32, i16, i8, u8)
N = Symbol("n", 0, None)
INDEX = Symbol("i")

_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "erf": lambda x: special.erf(x.astype(np.float64)),
    "sigmoid": lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x))),
}
_BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "atan2": np.arctan2,
}
_COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_LOGIC = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
_BITS = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}
# tolerated error in units of the last place
_ULP = {"erf": 4.5}
_FLOAT_ONLY = {
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "erf",
    "sigmoid",
    "div",
    "atan2",
}


def kernel(function: str, sources: tuple[DType, ...], target: DType) -> LoopKernel:
    """y[i] = function(x0[i], …) over a symbolic length."""
    buffers = [Buffer(f"x{k}", d, (sym(N),), (1,), "in") for k, d in enumerate(sources)]
    buffers.append(Buffer("y", target, (sym(N),), (1,), "out"))
    loads = tuple(Load(k, (sym(INDEX),)) for k in range(len(sources)))
    args = tuple(Ref(0, k) for k in range(len(sources)))
    n = len(sources)
    ops = (*loads, Compute(function, args, target), Store(n, (sym(INDEX),), Ref(0, n)))
    return LoopKernel(function, (N,), tuple(buffers), (Axis(INDEX, sym(N)),), (Stage((), ops),))


def values(dtype: DType, random: np.random.Generator, count: int = 400) -> np.ndarray:
    """Ordinary, extreme and special values of a dtype."""
    if dtype == bool_:
        return random.integers(0, 2, count).astype(np.bool_)
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        wide = random.integers(info.min, info.max, count, dtype.numpy, endpoint=True)
        small = random.integers(-5 if info.min else 0, 6, count)
        return np.concatenate([wide, small.astype(dtype.numpy), [info.min, info.max, 0, 1]]).astype(dtype.numpy)
    top = 60 if dtype in (f32, bf16) else 300 if dtype == f64 else 8
    signs = random.choice([-1, 1], count)
    parts = [
        random.normal(size=count) * 2,
        random.uniform(-1, 1, count),
        signs * np.exp(random.uniform(-top, top, count)),
        random.uniform(-100, 100, count),
        random.integers(-20, 20, count) / 2,
        [
            0.0,
            -0.0,
            1,
            -1,
            np.inf,
            -np.inf,
            np.nan,
            1e-310,
            -3e-40,
            1e-44,
            2.5,
            0.5,
            -0.5,
            1.5,
            88.8,
            709.9,
            -104,
            -745.5,
        ],
    ]
    with np.errstate(over="ignore"):
        return np.concatenate(parts).astype(dtype.numpy)


def check_float(got: np.ndarray, exact: np.ndarray, dtype: DType, ulp: float, args: list[np.ndarray]) -> None:
    """``got`` against a reference of higher precision, in units of the last place of ``dtype``."""
    with np.errstate(all="ignore"):
        expected = exact.astype(dtype.numpy) if dtype in (f32, f64) else exact.astype(np.float64).astype(dtype.numpy)
        work = np.longdouble
        spacing = (
            np.spacing(np.abs(expected))
            if dtype != bf16
            else np.maximum(np.abs(expected.astype(np.float64)) * 2.0**-8, 2.0**-133)
        )
        if dtype == f16:
            spacing = np.maximum(np.spacing(np.abs(expected)).astype(np.float64), 2.0**-24)
        error = np.abs(got.astype(work) - exact.astype(work)) / np.abs(spacing.astype(work))
    same = (got == expected) | (np.isnan(got.astype(np.float64)) & np.isnan(expected.astype(np.float64)))
    wrong = ~same & ~(error <= ulp)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise AssertionError(
            f"f({[a[i] for a in args]}) = {got[i]!r}, not {expected[i]!r} ({error[i]} ulp); {wrong.sum()} wrong"
        )


def run(function: str, level: str, args: list[np.ndarray], sources: tuple[DType, ...], target: DType) -> np.ndarray:
    out = filled(len(args[0]), target, 1)
    Native(kernel(function, sources, target), level).run([*args, out], {"n": len(args[0])})
    return out


def seeded(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def wider(a: np.ndarray, dtype: DType) -> np.ndarray:
    """An array in a precision in which the reference is nearly exact."""
    if dtype == f64:
        return a.astype(np.longdouble)
    return a.astype(np.float64) if dtype.is_float else a


def test_every_function_is_tested() -> None:
    tested = {
        *_UNARY,
        *_BINARY,
        *_COMPARE,
        *_LOGIC,
        *_BITS,
        "cast",
        "where",
        "isnan",
        "isinf",
        "isfinite",
        "logical_not",
        "bitwise_not",
        "shift_left",
        "shift_right",
    }
    assert tested == set(COMPUTES)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("function", _UNARY)
def test_unary_float(function: str, dtype: DType, level: str) -> None:
    x = values(dtype, seeded(function, dtype))
    with np.errstate(all="ignore"):
        exact = np.asarray(_UNARY[function](wider(x, dtype)))
    got = run(function, level, [x], (dtype,), dtype)
    narrow = 0.51 if dtype in (bf16, f16) else _ULP.get(function, 3.0)
    check_float(got, exact, dtype, narrow, [x])


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("function", ["sin", "cos", "tan"])
@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
def test_huge_and_hard_angles(function: str, dtype: DType, level: str) -> None:
    """Arguments up to the largest float, and near multiples of pi/2; the reference is exact rational arithmetic."""
    from fractions import Fraction

    random = seeded(function, dtype, "huge")
    limit = 127 if dtype == f32 else 1000
    x = np.concatenate(
        [
            np.ldexp(random.uniform(1, 2, 60), random.integers(18, limit, 60)),
            np.round(random.integers(1, 10**6, 40)) * (np.pi / 2),
            [6381956970095103.0 * 2.0**797 if dtype == f64 else 16367173.0 * 2.0**72],  # the hardest arguments
        ]
    ).astype(dtype.numpy)
    x = np.concatenate([x, -x])
    pi = _pi()
    reduced = []
    for value in x:
        turns = Fraction(float(value)) / (pi / 2)
        quadrant = round(turns)
        r = np.longdouble(float((turns - quadrant) * pi / 2))
        s, c = np.sin(r), np.cos(r)
        quarter = [(s, c), (c, -s), (-s, -c), (-c, s)][quadrant % 4]
        reduced.append({"sin": quarter[0], "cos": quarter[1], "tan": quarter[0] / quarter[1]}[function])
    check_float(run(function, level, [x], (dtype,), dtype), np.array(reduced), dtype, 3.0, [x])


def _pi():  # noqa: ANN202
    """pi to 1200 bits as a fraction (Machin)."""
    from fractions import Fraction

    bits = 1300

    def arctan(n: int) -> int:
        total, term, k, sign = 0, (1 << bits) // n, 1, 1
        while term:
            total, term, k, sign = total + sign * (term // k), term // (n * n), k + 2, -sign
        return total

    return Fraction(4 * (4 * arctan(5) - arctan(239)), 1 << bits)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("function", _BINARY)
def test_binary_float(function: str, dtype: DType, level: str) -> None:
    random = seeded(function, dtype)
    x, y = values(dtype, random), values(dtype, random)
    random.shuffle(y)
    special_values = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 2, -3, 0.5, -2.5]).astype(dtype.numpy)
    grid = np.meshgrid(special_values, special_values)
    x, y = np.concatenate([x, grid[0].ravel()]), np.concatenate([y, grid[1].ravel()])
    if function in ("floordiv", "mod") and dtype in (bf16, f16):
        y = np.where(np.abs(y.astype(np.float64)) < 1e-3, np.ones_like(y), y)
    with np.errstate(all="ignore"):
        if function in ("floordiv", "mod") and dtype in (f32, f64):
            exact = _BINARY[function](x, y).astype(np.longdouble)  # exact by definition in the type itself
        else:
            exact = np.asarray(_BINARY[function](wider(x, dtype), wider(y, dtype)))
    got = run(function, level, [x, y], (dtype, dtype), dtype)
    if function in ("floordiv", "mod") and dtype in (bf16, f16):
        # computed in f32 and rounded: the quotient may fall on the other side of an integer only beyond f32
        with np.errstate(all="ignore"):
            exact = _BINARY[function](x.astype(np.float32), y.astype(np.float32)).astype(np.longdouble)
    if function in ("maximum", "minimum"):
        exact = exact + 0.0
        got = (got.astype(np.float64) + 0.0).astype(dtype.numpy)
    check_float(got, exact, dtype, 0.51 if dtype in (bf16, f16) else 2.5, [x, y])


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize(
    "function", [f for f in {**_UNARY, **_BINARY, **_BITS, "bitwise_not": None} if f not in _FLOAT_ONLY]
)
def test_integer(function: str, dtype: DType, level: str) -> None:
    random = seeded(function, dtype)
    x, y = values(dtype, random), values(dtype, random)
    random.shuffle(y)
    with np.errstate(all="ignore"):
        if function == "bitwise_not" or function in _UNARY:
            identity = function in ("floor", "ceil", "round", "trunc")
            expected = x if identity else (np.invert if function == "bitwise_not" else _UNARY[function])(x)
            got = run(function, level, [x], (dtype,), dtype)
        else:
            expected = _integer_reference(function, x, y)
            got = run(function, level, [x, y], (dtype, dtype), dtype)
    np.testing.assert_array_equal(got, expected)


def _integer_reference(function: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if function in ("floordiv", "mod"):
        safe = np.where(y == 0, 1, y).astype(y.dtype)
        return np.where(y == 0, 0, _BINARY[function](x, safe)).astype(x.dtype)
    if function == "pow":
        bits = 8 * x.dtype.itemsize
        out = [
            pow(int(a), int(e), 2**bits) if e >= 0 else (1 if a == 1 else (1 if e % 2 == 0 else -1) if a == -1 else 0)
            for a, e in zip(x, y)
        ]
        return np.array([v % 2**bits for v in out], np.uint64).astype(x.dtype)
    return {**_BINARY, **_BITS}[function](x, y)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("function", ["shift_left", "shift_right"])
def test_shift(function: str, dtype: DType, level: str) -> None:
    random = seeded(function, dtype)
    x = values(dtype, random)
    y = random.integers(-3 if dtype.kind == "int" else 0, dtype.bits + 4, len(x)).astype(dtype.numpy)
    out = []
    for a, s in zip(x.tolist(), y.tolist()):
        inside = 0 <= s < dtype.bits
        v = ((a << s) if inside else 0) if function == "shift_left" else (a >> s if inside else (-1 if a < 0 else 0))
        out.append(v % 2**dtype.bits)
    np.testing.assert_array_equal(
        run(function, level, [x, y], (dtype, dtype), dtype), np.array(out, np.uint64).astype(dtype.numpy)
    )


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS, bool_), ids=str)
def test_comparison_and_classification(dtype: DType, level: str) -> None:
    random = seeded("compare", dtype)
    x, y = values(dtype, random), values(dtype, random)
    random.shuffle(y)
    y[::3] = x[::3]
    for function, reference in _COMPARE.items():
        np.testing.assert_array_equal(run(function, level, [x, y], (dtype, dtype), bool_), reference(x, y), function)
    if dtype == bool_:
        for function, reference in _LOGIC.items():
            np.testing.assert_array_equal(run(function, level, [x, y], (dtype, dtype), bool_), reference(x, y))
        np.testing.assert_array_equal(run("logical_not", level, [x], (dtype,), bool_), ~x)
        for function, reference in {**_BITS}.items():
            np.testing.assert_array_equal(run(function, level, [x, y], (dtype, dtype), bool_), reference(x, y))
    if dtype.is_float:
        for function in ("isnan", "isinf", "isfinite"):
            expected = getattr(np, function)(x.astype(np.float64))
            np.testing.assert_array_equal(run(function, level, [x], (dtype,), bool_), expected)


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS, bool_), ids=str)
def test_where(dtype: DType, level: str) -> None:
    random = seeded("where", dtype)
    x, y = values(dtype, random), values(dtype, random)
    c = values(bool_, random, len(x))
    got = run("where", level, [c, x, y], (bool_, dtype, dtype), dtype)
    raw = f"u{x.itemsize}"
    np.testing.assert_array_equal(got.view(raw), np.where(c, x, y).view(raw))


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("source", DTYPES.values(), ids=str)
def test_cast(source: DType, level: str) -> None:
    """From ``source`` to every dtype."""
    if source in (f8e4m3, f8e5m2):
        x = np.arange(256, dtype=np.uint8).view(source.numpy)
    else:
        x = values(source, seeded("cast", source))
    wide = x.astype(np.float64) if source.is_float else x
    for target in DTYPES.values():
        got = run("cast", level, [x], (source,), target)
        with np.errstate(all="ignore"):
            if target == bool_:
                expected = wide != 0
            elif target.is_integer and source.is_float:
                info = np.iinfo(target.numpy)
                clipped = np.trunc(np.nan_to_num(wide, nan=0.0, posinf=1e300, neginf=-1e300))
                expected = np.array([int(min(max(int(v), info.min), info.max)) for v in clipped], target.numpy)
            elif target in (f16, f8e4m3, f8e5m2, bf16) and source == f64:
                expected = _round_once(x, target)
            elif target.is_float and target.bits < 32 and source != f64:
                expected = wide.astype(np.float32).astype(target.numpy)
            else:
                expected = wide.astype(target.numpy)
        np.testing.assert_array_equal(
            got.astype(np.float64) if target.is_float else got,
            expected.astype(np.float64) if target.is_float else expected,
            f"{source} to {target}",
        )


def _round_once(x: np.ndarray, target: DType) -> np.ndarray:
    """f64 to a narrow float with one rounding: candidates around the twice rounded value, the nearest, ties to even."""
    first = x.astype(np.float32).astype(target.numpy)
    raw = first.view(np.uint16 if target.bits == 16 else np.uint8)
    out = first.copy()
    for i, v in enumerate(x):
        if not np.isfinite(v) or not np.isfinite(np.float64(first[i])):
            continue
        best = None
        for step in (-1, 0, 1):
            bits = int(raw[i]) + step
            if not 0 <= bits < 2**target.bits:
                continue
            candidate = np.array([bits], raw.dtype).view(target.numpy)[0]
            if np.isfinite(np.float64(candidate)) and (np.signbit(np.float64(candidate)) == np.signbit(v)):
                key = (abs(np.float64(candidate) - v), bits & 1)
                if best is None or key < best[0]:
                    best = (key, candidate)
        if best is not None:
            out[i] = best[1]
    return out


@pytest.mark.parametrize("level", LEVEL_NAMES)
@pytest.mark.parametrize("dtype", [f64, f32, f16, bf16, i64, i8, bool_], ids=str)
def test_lengths_alignment_and_bounds(dtype: DType, level: str) -> None:
    """Lengths 0 to 70: nothing is read or written outside, at any alignment, however the grid is split."""
    native = Native(kernel("where", (bool_, dtype, dtype), dtype), level)
    random = seeded("lengths", dtype)
    for n in range(71):
        x, y = (random.integers(0, 2, n).astype(dtype.numpy) for _ in range(2))
        c = random.integers(0, 2, n).astype(np.bool_)
        for place in (misaligned, guarded):
            out = place(filled(n, dtype))
            native.run([place(c), place(x), place(y), out], {"n": n}, pieces=1 + n % 3)
            np.testing.assert_array_equal(out, np.where(c, x, y))
