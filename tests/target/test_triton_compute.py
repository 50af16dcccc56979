"""Every function of COMPUTES × dtype in generated Triton, interpreted, with special values, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special  # noqa: F401 - the interpreter's functions of libdevice need it
from tessera.ir.dtype import DTYPES, DType, bf16, bool_, f8e4m3, f8e5m2, f16, f32, f64
from tessera.op.opdef import get
from tessera.op.reference import rounded
from tessera.tile.ir import COMPUTES

from tests.target import triton_interpreter
from tests.target.harness import filled
from tests.target.test_compute import INTEGERS, kernel, seeded, values

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

FLOATS = (f64, f32, bf16, f16)
_FLOAT_ONLY = {
    "sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "erf", "sigmoid", "div", "atan2",
}
_TWO = {
    "add", "sub", "mul", "div", "floordiv", "mod", "pow", "maximum", "minimum", "atan2", "eq", "ne", "lt", "le", "gt",
    "ge", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left",
    "shift_right",
}
_TRUTH = {
    "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or",
    "logical_xor",
}
_INTEGER_ONLY = {"bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right"}


def run(function: str, args: list[np.ndarray], sources: tuple[DType, ...], target: DType) -> np.ndarray:
    out = filled(len(args[0]), target, 1)
    triton_interpreter.run_kernel(kernel(function, sources, target), [*args, out], {"n": len(args[0])})
    return out


def dtypes_of(function: str) -> tuple[DType, ...]:
    if function in _FLOAT_ONLY:
        return FLOATS
    truth = (bool_,) if function in _TRUTH or function.startswith("bitwise") else ()
    return (*INTEGERS, *truth) if function in _INTEGER_ONLY else (*FLOATS, *INTEGERS, *truth)


def wide(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float32) if a.dtype.name in ("bfloat16", "float16") or "float8" in a.dtype.name else a


def equal(got: np.ndarray, expected: np.ndarray, dtype: DType, ulp: float) -> None:
    if not dtype.is_float:
        np.testing.assert_array_equal(got, expected)
        return
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    steps = {"f64": 2.0**-52, "f32": 2.0**-23, "bf16": 2.0**-7, "f16": 2.0**-10}[dtype.name]
    least = {"f64": 5e-324, "f32": 2.0**-149, "bf16": 2.0**-133, "f16": 2.0**-24}[dtype.name]
    np.testing.assert_allclose(got, expected, rtol=ulp * steps, atol=ulp * least)


@pytest.mark.parametrize("function", [f for f in COMPUTES if f not in ("cast", "where")])
def test_function(function: str) -> None:
    """The text computes what NumPy does, NaN, infinities, signed zeros and the ends of the ranges included."""
    for dtype in dtypes_of(function):
        random = seeded(function, dtype)
        args = [values(dtype, random, 60)]
        if function in _TWO:
            other = values(dtype, random, 60)
            random.shuffle(other)
            if function.startswith("shift"):
                least = -2 if dtype.kind == "int" else 0
                other = random.integers(least, dtype.bits + 3, len(other)).astype(dtype.numpy)
            args.append(other)
        target = bool_ if function in _TRUTH else dtype
        with np.errstate(all="ignore"):
            reference = get(function).reference
            assert reference is not None
            expected = rounded(np.asarray(reference(*map(wide, args))), target)
        got = run(function, args, (dtype,) * len(args), target)
        equal(got, expected, target, 0 if function in ("floordiv", "mod", "round", "floor", "sign") else 3)


@pytest.mark.parametrize("source", DTYPES.values(), ids=str)
def test_cast(source: DType) -> None:
    """Truncation, saturation, NaN to 0, rounding to nearest even, 8-bit floats."""
    random = seeded("cast", source)
    if source in (f8e4m3, f8e5m2):
        x = np.arange(256, dtype=np.uint8).view(source.numpy)
    else:
        x = values(source, random, 100)
    for target in DTYPES.values():
        with np.errstate(all="ignore"):
            expected = np.asarray(get("cast").reference(wide(x), dtype=target))  # type: ignore[misc]
            expected = rounded(expected, target)
        got = run("cast", [x], (source,), target)
        if target.is_float:
            np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64), f"{source} to {target}")
        else:
            np.testing.assert_array_equal(got, expected, f"{source} to {target}")


@pytest.mark.parametrize("dtype", [f64, f32, bf16, f8e4m3, INTEGERS[0], bool_], ids=str)
def test_where(dtype: DType) -> None:
    random = seeded("where", dtype)
    condition = random.integers(0, 2, 70).astype(np.bool_)
    a, b = (random.integers(-3 if dtype.kind != "bool" else 0, 2, 70).astype(dtype.numpy) for _ in range(2))
    got = run("where", [condition, a, b], (bool_, dtype, dtype), dtype)
    np.testing.assert_array_equal(got.astype(np.float64), np.where(condition, a, b).astype(np.float64))


def test_every_function_is_tested() -> None:
    assert {f for f in COMPUTES if f in _TWO} == _TWO
