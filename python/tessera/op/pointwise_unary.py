"""Pointwise functions of one tensor.

Each line states one operator whole: the NumPy reference, the gradient ``vjp(x, y, g)`` in terms of the operand, the
result and the result's cotangent, and the range in which samples are drawn. The user-level functions take any tensor,
array or scalar; mathematical functions cast integers and bool to f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tessera.errors import DTypeError
from tessera.ir.dtype import DType, as_dtype, bool_
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import EVERY, FLOATS, INTEGERS, NUMBERS, require_count, require_dtype
from tessera.op.lowering import Composite, Pointwise, View
from tessera.op.opdef import Attrs, Input, NoVjp, OpDef, Sample, Vjp, build, no_vjp, register
from tessera.op.promotion import TensorLike, as_floating, as_tensor, cast_to

Rule = Callable[[Value, Value, Value], "Value | None"]
Function = Callable[[TensorLike], Value]

BOOLEAN_RESULT = no_vjp("the result is boolean")


def unary_vjp(rule: Rule) -> Vjp:
    """The vjp of an operator with one operand and one result from ``rule(x, y, g)``."""

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None]:
        g = cotangents[0]
        return (None if g is None else rule(node.operands[0], node.results[0], g),)

    return vjp


def no_gradient(x: Value, y: Value, g: Value) -> None:
    """The rule of a piecewise constant function: the gradient is zero wherever it exists."""


def unary_samples(
    low: float, high: float, kind: str = "any", grad: bool = True, tolerance: float = 1.0
) -> list[Sample]:
    """Shapes that every pointwise function of one operand is tested on: usual, rank 0, empty, size 1."""
    shapes = ((3, 4), (), (2, 0), (1, 1, 5), (33,))
    return [Sample((Input(shape, kind, low, high),), {}, grad, tolerance) for shape in shapes]


def _register(
    name: str, doc: str, reference: Callable[..., Any], vjp: Vjp | NoVjp, dtypes: tuple[str, ...],
    low: float, high: float, result: DType | None = None, grad: bool = True, tolerance: float = 1.0,
) -> None:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, dtypes)
        return TensorType(result or types[0].dtype, types[0].shape)

    kind = "bool" if dtypes == ("bool",) else "any"
    register(OpDef(
        name, infer, vjp, "*->*", Pointwise(name), reference,
        lambda: unary_samples(low, high, kind, grad, tolerance), dtypes, doc,
    ))


def _in_double(function: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """The reference computed in f64 and rounded once by the caller."""
    return lambda x: function(np.asarray(x, np.float64))


def _maths(
    name: str, doc: str, reference: Callable[[Any], Any], vjp: Rule, low: float = -2.0, high: float = 2.0,
    tolerance: float = 1.0,
) -> Function:
    """Register a function that is defined for floats only, and make its user-level form."""
    _register(name, doc, _in_double(reference), unary_vjp(vjp), FLOATS, low, high, tolerance=tolerance)
    return _named(name, doc + " Integers and bool are cast to f32.", lambda x: build(name, as_floating(x)))


def _named(name: str, doc: str, function: Function) -> Function:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{doc} Elementwise, of any shape."
    return function


def _numeric(name: str, doc: str, reference: Callable[[Any], Any], vjp: Rule, bool_advice: str) -> Function:
    """Register a function that is defined for floats and integers."""
    _register(name, doc, reference, unary_vjp(vjp), NUMBERS, -3.0, 3.0)

    def function(x: TensorLike) -> Value:
        tensor = as_tensor(x)
        if tensor.dtype == bool_:
            raise DTypeError(f"[{name}] operand 0 has dtype bool; {bool_advice}")
        return build(name, tensor)

    return _named(name, doc + " Floats and integers.", function)


def _rounding(name: str, doc: str, reference: Callable[[Any], Any]) -> Function:
    """Register a rounding of floats; integers and bool are returned as they are."""
    _register(name, doc, reference, unary_vjp(no_gradient), FLOATS, -3.0, 3.0)

    def function(x: TensorLike) -> Value:
        tensor = as_tensor(x)
        return build(name, tensor) if tensor.dtype.is_float else tensor

    return _named(name, doc + " Integers are returned unchanged; the gradient is zero.", function)


def _test(name: str, doc: str, reference: Callable[[Any], Any]) -> Function:
    """Register a bool-valued test of floats."""
    _register(name, doc, reference, BOOLEAN_RESULT, FLOATS, -3.0, 3.0, result=bool_, grad=False)
    return _named(name, doc, lambda x: build(name, as_floating(x)))


def _round_half_even(x: np.ndarray) -> np.ndarray:
    return np.round(x)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


_LN2 = math.log(2.0)

neg = _numeric("neg", "-x.", np.negative, lambda x, y, g: -g, "use logical_not")
abs = _numeric(
    "abs", "The absolute value; its gradient at 0 is 0.", np.abs, lambda x, y, g: g * sign(x), "it has no sign"
)
sign = _numeric("sign", "-1, 0 or 1; NaN for NaN; the gradient is zero.", np.sign, no_gradient, "it has no sign")

floor = _rounding("floor", "The largest integer that is at most x.", np.floor)
ceil = _rounding("ceil", "The smallest integer that is at least x.", np.ceil)
round = _rounding("round", "The nearest integer, halves to the even one.", _round_half_even)
trunc = _rounding("trunc", "x without its fraction.", np.trunc)

sqrt = _maths("sqrt", "The square root.", np.sqrt, lambda x, y, g: g / (y + y), 0.1, 4.0)
rsqrt = _maths("rsqrt", "1 / sqrt(x).", lambda x: 1 / np.sqrt(x), lambda x, y, g: g * (y * y * y * -0.5), 0.1, 4.0)
reciprocal = _maths("reciprocal", "1 / x.", np.reciprocal, lambda x, y, g: -g * y * y, 0.2, 4.0)
exp = _maths("exp", "e to the power x.", np.exp, lambda x, y, g: g * y)
exp2 = _maths("exp2", "2 to the power x.", np.exp2, lambda x, y, g: g * (y * _LN2))
expm1 = _maths("expm1", "exp(x) - 1, exact near 0.", np.expm1, lambda x, y, g: g * (y + 1))
log = _maths("log", "The natural logarithm.", np.log, lambda x, y, g: g / x, 0.1, 8.0)
log2 = _maths("log2", "The logarithm to base 2.", np.log2, lambda x, y, g: g / (x * _LN2), 0.1, 8.0)
log1p = _maths("log1p", "log(1 + x), exact near 0.", np.log1p, lambda x, y, g: g / (x + 1), -0.8, 4.0)
sin: Function = _maths("sin", "The sine.", np.sin, lambda x, y, g: g * cos(x), -7.0, 7.0)
cos: Function = _maths("cos", "The cosine.", np.cos, lambda x, y, g: -g * sin(x), -7.0, 7.0)
tan = _maths("tan", "The tangent.", np.tan, lambda x, y, g: g * (y * y + 1), -1.3, 1.3)
asin = _maths("asin", "The inverse sine.", np.arcsin, lambda x, y, g: g * rsqrt(1 - x * x), -0.9, 0.9)
acos = _maths("acos", "The inverse cosine.", np.arccos, lambda x, y, g: -g * rsqrt(1 - x * x), -0.9, 0.9)
atan = _maths("atan", "The inverse tangent.", np.arctan, lambda x, y, g: g / (x * x + 1))
sinh = _maths("sinh", "The hyperbolic sine.", np.sinh, lambda x, y, g: g * cosh(x))
cosh = _maths("cosh", "The hyperbolic cosine.", np.cosh, lambda x, y, g: g * sinh(x))
tanh = _maths("tanh", "The hyperbolic tangent.", np.tanh, lambda x, y, g: g * (1 - y * y), -3.0, 3.0)
erf = _maths(
    "erf", "The error function.", _erf, lambda x, y, g: g * (exp(-(x * x)) * (2 / math.sqrt(math.pi))), -3.0, 3.0
)
sigmoid = _maths("sigmoid", "1 / (1 + exp(-x)).", _sigmoid, lambda x, y, g: g * (y * (1 - y)), -4.0, 4.0)

isnan = _test("isnan", "Whether x is NaN.", np.isnan)
isinf = _test("isinf", "Whether x is an infinity of either sign.", np.isinf)
isfinite = _test("isfinite", "Whether x is neither NaN nor an infinity.", np.isfinite)

_register("logical_not", "not x, for bool.", np.logical_not, BOOLEAN_RESULT, ("bool",), 0, 2, grad=False)
_register(
    "bitwise_not", "Every bit inverted; for bool the logical not.", np.bitwise_not,
    no_vjp("the result is an integer"), (*INTEGERS, "bool"), -9, 9, grad=False,
)


def logical_not(x: TensorLike) -> Value:
    """Whether x is zero (false): bool of x's shape."""
    return build("logical_not", cast(x, bool_))


def bitwise_not(x: TensorLike) -> Value:
    """Every bit of an integer inverted; of bool the logical not. DTypeError for floats."""
    return build("bitwise_not", as_tensor(x))


def _cast_reference(x: np.ndarray, dtype: DType) -> np.ndarray:
    """Truncation with saturation and NaN to 0 for float to integer; nonzero is true; integers wrap."""
    target = dtype.numpy
    if dtype.is_integer and x.dtype.kind not in "iub":
        info = np.iinfo(target)
        wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
        inside = (wide > float(info.min)) & (wide < float(info.max))
        limit = np.where(wide > 0, info.max, info.min)
        return np.where(inside, np.where(inside, wide, 0).astype(np.int64), limit).astype(target)
    if dtype == bool_:
        return x != 0
    return x.astype(target)


def _cast_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("cast", types, 1)
    return TensorType(as_dtype(attrs["dtype"]), types[0].shape)


register(OpDef(
    "cast", _cast_infer,
    unary_vjp(lambda x, y, g: cast_to(g, x.dtype) if x.dtype.is_float else None),
    "*->*", Pointwise("cast"), _cast_reference,
    lambda: [
        Sample((Input((3, 5), "any", -9.0, 9.0),), {"dtype": as_dtype(name)}, grad=name == "f64")
        for name in EVERY
    ],
    EVERY, "Another element type.",
))


def cast(x: TensorLike, dtype: DType | str | type) -> Value:
    """x in another dtype.

    A float to an integer drops the fraction and saturates, NaN becomes 0; integers wrap; to bool: nonzero is true;
    to a narrower float: rounds to the nearest, halves to even. The gradient is cast back; integers have none.
    """
    return cast_to(as_tensor(x), as_dtype(dtype))


def _same_type(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    return types[0]


def _identity(x: np.ndarray) -> np.ndarray:
    return x


register(OpDef(
    "stop_gradient", _same_type, unary_vjp(no_gradient), "*->*", View(lambda index, operand, result, attrs: index),
    _identity, lambda: unary_samples(-2, 2, grad=False), EVERY, "x, as a constant for autodiff.",
))


def stop_gradient(x: TensorLike) -> Value:
    """x, of any shape and dtype; no gradient flows through it."""
    return build("stop_gradient", as_tensor(x))


def _composite(
    name: str, doc: str, body: Callable[[Value], Value], reference: Callable[[Any], Any], vjp: Rule | None,
    dtypes: tuple[str, ...] = FLOATS, low: float = -2.0, high: float = 2.0,
) -> Function:
    """Register a function that is defined by others; without ``vjp`` its gradient follows from the body."""
    register(OpDef(
        name, _same_type, unary_vjp(vjp) if vjp else None, "*->*", Composite(body),
        _in_double(reference) if dtypes == FLOATS else reference,
        lambda: unary_samples(low, high, tolerance=4.0), dtypes, doc,
    ))
    floating = dtypes == FLOATS
    return _named(name, doc, lambda x: build(name, as_floating(x) if floating else as_tensor(x)))


def _computed_wide(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """The body computed in f32 for bf16 and f16, rounded once."""
    return lambda x: cast_to(function(cast_to(x, as_dtype("f32")) if x.dtype.bits == 16 else x), x.dtype)


def _asinh(x: Value) -> Value:
    from tessera.op.pointwise_binary import minimum, where

    size = abs(x)
    small = minimum(size, 1e4)
    square_small = small * small
    near = log1p(small + square_small / (sqrt(square_small + 1) + 1))
    return sign(x) * where(size < 1e4, near, log(size) + _LN2)


def _acosh(x: Value) -> Value:
    from tessera.op.pointwise_binary import minimum, where

    t = minimum(x, 1e4) - 1
    return where(x < 1e4, log1p(t + sqrt(t * (t + 2))), log(x) + _LN2)


asinh = _composite(
    "asinh", "The inverse hyperbolic sine.", _computed_wide(_asinh), np.arcsinh, lambda x, y, g: g * rsqrt(x * x + 1),
    low=-4.0, high=4.0,
)
acosh = _composite(
    "acosh", "The inverse hyperbolic cosine.", _computed_wide(_acosh), np.arccosh,
    lambda x, y, g: g * rsqrt((x - 1) * (x + 1)), low=1.2, high=6.0,
)
atanh = _composite(
    "atanh", "The inverse hyperbolic tangent.", _computed_wide(lambda x: (log1p(x) - log1p(-x)) * 0.5), np.arctanh,
    lambda x, y, g: g / ((1 - x) * (1 + x)), low=-0.9, high=0.9,
)
square = _composite("square", "x · x.", lambda x: x * x, np.square, lambda x, y, g: g * (x + x), NUMBERS)
