"""References of pointwise operators and reductions against PyTorch, also at NaN, infinities, zeros and extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tessera import op
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.op.opdef import REGISTRY
from tessera.op.reference import evaluate

from tests.ops.harness import assert_close, cases, special_values

TORCH_DTYPE = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool,
}

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    name: getattr(torch, name)
    for name in (
        "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1",
        "log",
        "log2", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "sigmoid",
        "logical_not",
        "bitwise_not", "isnan", "isinf", "isfinite", "asinh", "acosh", "atanh", "square",
    )
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "floordiv": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum, "atan2": torch.atan2,
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
    "bitwise_and": torch.bitwise_and, "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor,
    "shift_left": torch.bitwise_left_shift, "shift_right": torch.bitwise_right_shift, "logaddexp": torch.logaddexp,
}


def reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """A PyTorch reduction with our attributes; none of the axes means none, not all."""
    return lambda x, axes, keepdims: function(x, dim=tuple(axes), keepdim=keepdims) if axes else x


OTHERS: dict[str, Callable[..., Any]] = {
    "where": torch.where,
    "clip": torch.clamp,
    "lerp": torch.lerp,
    "sum": reduction(torch.sum),
    "max": reduction(torch.amax),
    "min": reduction(torch.amin),
    "mean": reduction(torch.mean),
    "logsumexp": reduction(torch.logsumexp),
    "var": lambda x, axes, keepdims, ddof: torch.var(x, dim=axes, keepdim=keepdims, correction=ddof),
    "std": lambda x, axes, keepdims, ddof: torch.std(x, dim=axes, keepdim=keepdims, correction=ddof),
    "norm": lambda x, axes, keepdims, ord: torch.linalg.vector_norm(x, ord, axes, keepdims),
    "argmax": lambda x, axis, keepdims: torch.argmax(x, axis, keepdims),
    "argmin": lambda x, axis, keepdims: torch.argmin(x, axis, keepdims),
    "cumsum": lambda x, axis: torch.cumsum(x, axis),
    "transpose": lambda x, perm: x.permute(perm),
    "reshape": lambda x, shape: x.reshape(shape),
    "broadcast_to": lambda x, shape: x.broadcast_to(shape),
    "flip": lambda x, axes: x.flip(axes),
    "concat": lambda *xs, axis: torch.cat(xs, axis),
    "take_along_axis": lambda x, index, axis: torch.take_along_dim(x, index, axis),
    "scatter_add": lambda x, index, updates, axis: torch.scatter_add(x, axis, index, updates),
    "cast": lambda x, dtype: x.to(TORCH_DTYPE[dtype.name]),
}
# Where PyTorch has no kernel on the CPU, or another rule.
DIFFERENT = {
    ("pow", d): "negative integer powers" for d in ("i64", "i32", "i16", "i8")
}
FEW_DTYPES = {"argmax", "argmin", "logsumexp", "mean", "rsqrt", "reciprocal", "sigmoid", "max", "min", "clip"}


def to_torch(array: np.ndarray) -> torch.Tensor:
    name = next(n for n, d in DTYPES.items() if d.numpy == array.dtype)
    if name == "bf16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, copy=True, order="C"))


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(DTYPES["bf16"].numpy)
    return tensor.numpy()


def compare(
    name: str, function: Callable[..., Any], arrays: tuple[np.ndarray, ...], attrs: dict[str, Any], factor: float
) -> None:
    leaves = [op.tensor(a.shape, a.dtype, name=f"x{i}") for i, a in enumerate(arrays)]
    result = op.build(name, *leaves, **attrs)
    found = evaluate(Graph({"y": result}, inputs=leaves), {f"x{i}": a for i, a in enumerate(arrays)})["y"]
    try:
        theirs = function(*(to_torch(a) for a in arrays), **attrs)
    except (RuntimeError, NotImplementedError, IndexError):
        if arrays and arrays[0].dtype in (np.float64, np.float32):
            raise
        pytest.skip("PyTorch has no kernel for this dtype")
    expected = from_torch(theirs)
    if expected.dtype != found.dtype:  # PyTorch keeps narrow results of some reductions
        expected = expected.astype(found.dtype)
    assert_close(found, expected, factor, f"{name} {[a.dtype for a in arrays]}")


NAMES = [*UNARY, *BINARY, *OTHERS]
ALL_FUNCTIONS: dict[str, Callable[..., Any]] = {**UNARY, **BINARY, **OTHERS}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i64", "i32", "i16", "i8", "u8", "bool"])
def test_values(name: str, dtype: str) -> None:
    definition = REGISTRY[name]
    if dtype not in definition.dtypes or (name, dtype) in DIFFERENT:
        return
    for case in cases(definition, dtype):
        if name == "cast" and case.sample.attrs["dtype"].name not in (*TORCH_DTYPE.keys() - {"u8"},):
            continue  # a negative float saturates to 0 in u8, in PyTorch it wraps
        if any(0 in a.shape for a in case.arrays) and name not in UNARY and name not in BINARY:
            continue
        compare(name, ALL_FUNCTIONS[name], case.arrays, case.sample.attrs, 4 * case.sample.tolerance)


# Where the definition differs from PyTorch's.
UNARY_DIFFERENT = {"sign": "sign(NaN) is NaN, in PyTorch 0"}


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
@pytest.mark.parametrize("name", [n for n in UNARY if n not in UNARY_DIFFERENT])
def test_special_values_unary(name: str, dtype: str) -> None:
    if dtype in REGISTRY[name].dtypes:
        x = special_values(DTYPES[dtype])
        if name in ("exp2", "asinh", "acosh", "expm1", "sinh", "square"):
            x = x[np.abs(x.astype(np.float64)) != np.finfo(np.float64).max]
        compare(name, UNARY[name], (x,), {}, 8)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16", "i32", "i8", "u8"])
@pytest.mark.parametrize("name", BINARY)
def test_special_values_binary(name: str, dtype: str) -> None:
    if dtype not in REGISTRY[name].dtypes or (name, dtype) in DIFFERENT:
        return
    values = special_values(DTYPES[dtype])
    x, y = (a.reshape(-1).copy() for a in np.meshgrid(values, values))
    keep = np.ones(x.shape, bool)
    if name in ("floordiv", "mod"):
        # An integer divided by zero raises in PyTorch; a float divided by an infinity follows NumPy here.
        wide = y.astype(np.float64)
        keep &= (wide != 0) & np.isfinite(wide) & np.isfinite(x.astype(np.float64))
        if DTYPES[dtype].is_float:
            keep &= np.abs(x.astype(np.float64)) < 1e4
            keep &= np.abs(wide) > 1e-3
        elif DTYPES[dtype].kind == "int":
            keep &= (wide != -1)
    if name.startswith("shift"):
        keep &= (y >= 0) & (y < DTYPES[dtype].bits)
    compare(name, BINARY[name], (x[keep], y[keep]), {}, 8)


def test_sign_of_nan() -> None:
    found = evaluate(Graph({"y": op.sign(op.constant(np.array([np.nan, -0.0, -np.inf])))}), {})["y"]
    np.testing.assert_array_equal(found, [np.nan, 0, -1])


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_nan_wins(name: str) -> None:
    x = np.array([[1.0, np.nan, 3.0], [np.nan, 5.0, np.nan], [2.0, 2.0, 1.0]])
    attrs = {"axis": 1, "keepdims": False} if name.startswith("arg") else {"axes": [1], "keepdims": False}
    compare(name, OTHERS[name], (x,), attrs, 1)


def test_cast_of_floats_to_integers_saturates() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.9, -2.9, 255.0, 256.0, -1.0])
    for name, expected in {
        "i8": [0, 127, -128, 127, -128, 2, -2, 127, 127, -1],
        "u8": [0, 255, 0, 255, 0, 2, 0, 255, 255, 0],
        "i64": [0, 2**63 - 1, -(2**63), 2**63 - 1, -(2**63), 2, -2, 255, 256, -1],
        "bool": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    }.items():
        found = evaluate(Graph({"y": op.cast(op.constant(x), name)}), {})["y"]
        np.testing.assert_array_equal(found, np.array(expected, dtype=DTYPES[name].numpy))


def test_integers_wrap() -> None:
    x = op.constant(np.array([127, -128], np.int8))
    found = evaluate(Graph({"a": x + 1, "b": x * 2, "c": -x, "d": op.cast(op.constant(np.array([300, -1])), "u8")}), {})
    np.testing.assert_array_equal(found["a"], np.array([-128, -127], np.int8))
    np.testing.assert_array_equal(found["b"], np.array([-2, 0], np.int8))
    np.testing.assert_array_equal(found["c"], np.array([-127, -128], np.int8))
    np.testing.assert_array_equal(found["d"], np.array([44, 255], np.uint8))


def test_half_precision_is_rounded_once() -> None:
    x = op.constant(np.full(4096, 1.0, DTYPES["bf16"].numpy))
    found = evaluate(Graph({"s": op.sum(x), "m": op.mean(x), "f": op.sum(op.cast(x, "f16") * 16)}), {})
    assert float(found["s"]) == 4096 and float(found["m"]) == 1
    assert float(found["f"]) == np.inf
    assert float(evaluate(Graph({"m": op.mean(op.cast(x, "f16") * 16)}), {})["m"]) == 16
