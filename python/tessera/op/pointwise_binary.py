"""Pointwise functions of two or three tensors: arithmetic, comparison, logic, bits, selection.

The primitives broadcast as NumPy does and take operands of one dtype; the user-level functions promote first (see
``tessera.op.promotion``). Each ``_register`` line states one operator whole; ``vjp(x, y, z, g)`` gives the cotangents
of x and y for the result z with cotangent g, before they are summed over broadcast dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tessera.errors import DTypeError
from tessera.ir.dtype import bool_, f32, promote
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    ALL,
    EVERY,
    FLOATS,
    INTEGERS,
    NUMBERS,
    SMALL_FLOATS,
    require_count,
    require_dtype,
    require_equal_dtypes,
)
from tessera.op.broadcasting import broadcast_shapes, unbroadcast
from tessera.op.lowering import Composite, Pointwise
from tessera.op.opdef import Attrs, Input, NoVjp, OpDef, Sample, Vjp, build, no_vjp, register
from tessera.op.pointwise_unary import BOOLEAN_RESULT, cast, exp, floor, log, log1p, reciprocal, rsqrt, sqrt, square
from tessera.op.pointwise_unary import abs as absolute
from tessera.op.promotion import TensorLike, as_tensor, cast_to, is_scalar, promote_operands, python_scalar

Rule = Callable[[Value, Value, Value, Value], "tuple[Value | None, Value | None]"]
INTEGER_RESULT = no_vjp("the result is an integer")


def binary_vjp(rule: Rule) -> Vjp:
    """The vjp of a broadcasting operator with two operands from ``rule(x, y, z, g)``."""

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
        (x, y), g = node.operands, cotangents[0]
        if g is None:
            return [None, None]
        found = rule(x, y, node.results[0], g)
        return [None if c is None else unbroadcast(c, v.shape) for c, v in zip(found, (x, y))]

    return vjp


def binary_samples(kind: str, x: tuple[float, float], y: tuple[float, float], grad: bool) -> list[Sample]:
    """Shapes that every broadcasting operator is tested on: equal, broadcast both ways, rank 0, empty, size 1."""
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((3, 4), (3, 4)), ((3, 1), (1, 4)), ((2, 3, 4), (4,)), ((), (5,)), ((2, 0), (1, 1)), ((), ()), ((1,), (7, 1)),
    )
    return [Sample((Input(a, kind, *x), Input(b, kind, *y)), {}, grad) for a, b in pairs]


def _register(
    name: str, doc: str, reference: Callable[..., Any], vjp: Rule | NoVjp, dtypes: tuple[str, ...],
    x: tuple[float, float] = (-4, 4), y: tuple[float, float] = (-4, 4), comparison: bool = False,
) -> None:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 2)
        require_dtype(name, types, dtypes)
        dtype = require_equal_dtypes(name, types)
        return TensorType(bool_ if comparison else dtype, broadcast_shapes(name, *(t.shape for t in types)))

    has_gradient = not isinstance(vjp, NoVjp)
    register(OpDef(
        name, infer, binary_vjp(vjp) if not isinstance(vjp, NoVjp) else vjp, "*,*->*", Pointwise(name), reference,
        lambda: binary_samples("bool" if dtypes == ("bool",) else "any", x, y, has_gradient), dtypes, doc,
    ))


# --- references whose semantics NumPy does not have ---


def _division_reference(function: Callable[[Any, Any], Any]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``function``, but 0 for an integer divided by 0."""

    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind not in "iu":
            return function(x, y)
        return np.where(y == 0, 0, function(x, np.where(y == 0, 1, y)))

    return reference


def _pow_reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "iu":
        return np.float_power(x, y)  # np.power takes 0.5 as a square root, which differs for -0.0 and -inf
    positive = np.power(x, np.where(y < 0, np.zeros_like(y), y))
    odd = (y % 2 != 0)
    inverse = np.where(x == 1, 1, np.where(x == -1, np.where(odd, -1, 1), 0)) if x.dtype.kind == "i" else positive
    return np.where(y < 0, inverse, positive).astype(x.dtype)


def _shift_reference(function: Callable[[Any, Any], Any], left: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        bits = x.dtype.itemsize * 8
        inside = (y >= 0) & (y < bits)
        outside = np.zeros_like(x) if left else np.where(x < 0, -1, 0).astype(x.dtype)
        return np.where(inside, function(x, np.where(inside, y, 0).astype(x.dtype)), outside).astype(x.dtype)

    return reference


# --- gradients ---


def _pow_vjp(x: Value, y: Value, z: Value, g: Value) -> tuple[Value, Value]:
    """Exact also at exponent 0 (no 0 · inf) and at base 0 (z · log 0 is taken as 0 for exponents >= 0)."""
    by_base = where(y == 0, 0.0, g * y * build("pow", x, y - 1))
    no_slope = (x == 0) & (y >= 0)
    return by_base, where(no_slope, 0.0, g * z * log(where(no_slope, 1.0, x)))


def _extremum_vjp(loses: Callable[[Value, Value], Value]) -> Rule:
    """The gradient goes to the operand that was taken, half to each at a tie, to both where one is NaN."""

    def rule(x: Value, y: Value, z: Value, g: Value) -> tuple[Value, Value]:
        shared = where(x == y, g * 0.5, g)
        return where(loses(x, y), 0.0, shared), where(loses(y, x), 0.0, shared)

    return rule


def _atan2_vjp(y: Value, x: Value, z: Value, g: Value) -> tuple[Value, Value]:
    scale = g / (x * x + y * y)
    return scale * x, -(scale * y)


def _no_slope(x: Value, y: Value, z: Value, g: Value) -> tuple[None, None]:
    return None, None


_register("add", "x + y.", np.add, lambda x, y, z, g: (g, g), NUMBERS)
_register("sub", "x - y.", np.subtract, lambda x, y, z, g: (g, -g), NUMBERS)
_register("mul", "x * y.", np.multiply, lambda x, y, z, g: (g * y, g * x), NUMBERS)
_register("div", "x / y.", np.divide, lambda x, y, z, g: ((q := g / y), -(q * z)), FLOATS, y=(0.3, 3))
_register(
    "floordiv", "floor(x / y); 0 for an integer divided by 0.", _division_reference(np.floor_divide), _no_slope,
    NUMBERS, y=(1, 4),
)
_register(
    "mod", "x - y * floor(x / y), with the sign of y; 0 for an integer modulo 0.", _division_reference(np.mod),
    lambda x, y, z, g: (g, -(g * floor(x / y))), NUMBERS, y=(1, 4),
)
_register("pow", "x to the power y.", _pow_reference, _pow_vjp, NUMBERS, x=(0.2, 4), y=(0, 3))
_register("maximum", "The larger; NaN if either is.", np.maximum, _extremum_vjp(lambda x, y: x < y), NUMBERS)
_register("minimum", "The smaller; NaN if either is.", np.minimum, _extremum_vjp(lambda x, y: x > y), NUMBERS)
_register("atan2", "The angle of the point (y, x): atan2(y, x).", np.arctan2, _atan2_vjp, FLOATS, x=(0.2, 3), y=(-3, 3))

_register("eq", "x == y.", np.equal, BOOLEAN_RESULT, ALL, comparison=True)
_register("ne", "x != y.", np.not_equal, BOOLEAN_RESULT, ALL, comparison=True)
_register("lt", "x < y.", np.less, BOOLEAN_RESULT, ALL, comparison=True)
_register("le", "x <= y.", np.less_equal, BOOLEAN_RESULT, ALL, comparison=True)
_register("gt", "x > y.", np.greater, BOOLEAN_RESULT, ALL, comparison=True)
_register("ge", "x >= y.", np.greater_equal, BOOLEAN_RESULT, ALL, comparison=True)

_register("logical_and", "x and y, for bool.", np.logical_and, BOOLEAN_RESULT, ("bool",))
_register("logical_or", "x or y, for bool.", np.logical_or, BOOLEAN_RESULT, ("bool",))
_register("logical_xor", "Exactly one of x and y, for bool.", np.logical_xor, BOOLEAN_RESULT, ("bool",))

_BITS = (*INTEGERS, "bool")
_register("bitwise_and", "The bits that both have.", np.bitwise_and, INTEGER_RESULT, _BITS, (-9, 9), (-9, 9))
_register("bitwise_or", "The bits that either has.", np.bitwise_or, INTEGER_RESULT, _BITS, (-9, 9), (-9, 9))
_register("bitwise_xor", "The bits that exactly one has.", np.bitwise_xor, INTEGER_RESULT, _BITS, (-9, 9), (-9, 9))
_register(
    "shift_left", "x · 2**y; 0 when y is not in [0, bits).", _shift_reference(np.left_shift, True), INTEGER_RESULT,
    INTEGERS, (-9, 9), (-1, 10),
)
_register(
    "shift_right", "floor(x / 2**y); all sign bits when y is not in [0, bits).",
    _shift_reference(np.right_shift, False), INTEGER_RESULT, INTEGERS, (-99, 99), (-1, 10),
)


def _where_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("where", types, 3)
    if types[0].dtype != bool_:
        raise DTypeError(
            f"[where] operand 0 (the condition) has dtype {types[0].dtype}; expected bool: compare or cast it"
        )
    if types[1].dtype != types[2].dtype:
        raise DTypeError(
            f"[where] operand 1 has dtype {types[1].dtype} but operand 2 has {types[2].dtype}; cast one of them"
        )
    return TensorType(types[1].dtype, broadcast_shapes("where", *(t.shape for t in types)))


def _where_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    (condition, x, y), g = node.operands, cotangents[0]
    if g is None or not g.dtype.is_float:
        return [None, None, None]
    return [None, unbroadcast(where(condition, g, 0.0), x.shape), unbroadcast(where(condition, 0.0, g), y.shape)]


register(OpDef(
    "where", _where_infer, _where_vjp, "*,*,*->*", Pointwise("where"), np.where,
    lambda: [
        Sample((Input(c, "bool", 0, 2), Input(a, "any"), Input(b, "any")))
        for c, a, b in (((3, 4), (3, 4), (3, 4)), ((4,), (3, 1), ()), ((2, 1, 1), (3, 1), (1, 0)), ((), (2,), (1,)))
    ],
    EVERY, "x where the condition is true, else y.",
))


# --- the user's functions ---


def _no_bool(name: str, operands: list[Value], advice: str) -> list[Value]:
    if operands[0].dtype == bool_:
        raise DTypeError(f"[{name}] both operands have dtype bool; {advice}")
    return operands


def _arithmetic(name: str, x: TensorLike, y: TensorLike, of_bools: str) -> Value:
    a, b = promote_operands(name, x, y)
    return build(of_bools if a.dtype == bool_ else name, a, b)


def _promoted(name: str, x: TensorLike, y: TensorLike) -> Value:
    return build(name, *promote_operands(name, x, y))


def _floats(name: str, *operands: TensorLike) -> list[Value]:
    """The operands promoted to one floating-point dtype: integers and bools become f32."""
    return [v if v.dtype.is_float else cast_to(v, f32) for v in promote_operands(name, *operands)]


def add(x: TensorLike, y: TensorLike) -> Value:
    """x + y, broadcast and promoted; the logical or of two bools. Integers wrap."""
    return _arithmetic("add", x, y, "logical_or")


def sub(x: TensorLike, y: TensorLike) -> Value:
    """x - y, broadcast and promoted. Integers wrap. DTypeError for two bools."""
    return build("sub", *_no_bool("sub", promote_operands("sub", x, y), "use logical_xor or cast them"))


def mul(x: TensorLike, y: TensorLike) -> Value:
    """x * y, broadcast and promoted; the logical and of two bools. Integers wrap."""
    return _arithmetic("mul", x, y, "logical_and")


def div(x: TensorLike, y: TensorLike) -> Value:
    """x / y, broadcast and promoted; integers and bools are cast to f32. Division by zero gives inf or NaN."""
    return build("div", *_floats("div", x, y))


def floordiv(x: TensorLike, y: TensorLike) -> Value:
    """floor(x / y), broadcast and promoted. An integer divided by zero gives 0. DTypeError for two bools."""
    return build("floordiv", *_no_bool("floordiv", promote_operands("floordiv", x, y), "cast them to an integer dtype"))


def mod(x: TensorLike, y: TensorLike) -> Value:
    """The remainder of ``floordiv``, with the sign of y. An integer modulo zero gives 0. DTypeError for two bools."""
    return build("mod", *_no_bool("mod", promote_operands("mod", x, y), "cast them to an integer dtype"))


_POWERS: dict[float, Callable[[Value], Value]] = {
    1.0: lambda x: x, 2.0: square, 3.0: lambda x: x * x * x, 0.5: sqrt, -0.5: rsqrt, -1.0: reciprocal,
}


def pow(x: TensorLike, y: TensorLike) -> Value:
    """x to the power y, broadcast and promoted.

    Integer powers wrap; with a negative integer exponent the result is 1 for base 1, ±1 for base -1 and otherwise 0.
    A scalar exponent of ±0.5, ±1, 2 or 3 becomes roots and products. DTypeError for two bools.
    """
    if is_scalar(y) and not is_scalar(x):
        exponent = python_scalar(y)
        base = as_tensor(x)
        special = _POWERS.get(float(exponent)) if not isinstance(exponent, bool) else None
        if special is not None and (base.dtype.is_float or (base.dtype.is_integer and exponent in (1, 2, 3))):
            return special(base if isinstance(exponent, int) or base.dtype.is_float else cast_to(base, f32))
    return build("pow", *_no_bool("pow", promote_operands("pow", x, y), "cast them to an integer dtype"))


def float_power(x: TensorLike, y: TensorLike) -> Value:
    """x to the power y in floating point: integers and bools are cast to f32."""
    return build("pow", *_floats("float_power", x, y))


def maximum(x: TensorLike, y: TensorLike) -> Value:
    """The larger of x and y, broadcast and promoted; NaN where either is. At a tie each gets half of the gradient."""
    return _arithmetic("maximum", x, y, "logical_or")


def minimum(x: TensorLike, y: TensorLike) -> Value:
    """The smaller of x and y, broadcast and promoted; NaN where either is. At a tie each gets half of the gradient."""
    return _arithmetic("minimum", x, y, "logical_and")


def atan2(y: TensorLike, x: TensorLike) -> Value:
    """The angle in (-pi, pi] of the point (x, y); integers and bools are cast to f32."""
    return build("atan2", *_floats("atan2", y, x))


def eq(x: TensorLike, y: TensorLike) -> Value:
    """Whether x == y, elementwise: bool. False where either is NaN."""
    return _promoted("eq", x, y)


def ne(x: TensorLike, y: TensorLike) -> Value:
    """Whether x != y, elementwise: bool. True where either is NaN."""
    return _promoted("ne", x, y)


def lt(x: TensorLike, y: TensorLike) -> Value:
    """Whether x < y, elementwise: bool."""
    return _promoted("lt", x, y)


def le(x: TensorLike, y: TensorLike) -> Value:
    """Whether x <= y, elementwise: bool."""
    return _promoted("le", x, y)


def gt(x: TensorLike, y: TensorLike) -> Value:
    """Whether x > y, elementwise: bool."""
    return _promoted("gt", x, y)


def ge(x: TensorLike, y: TensorLike) -> Value:
    """Whether x >= y, elementwise: bool."""
    return _promoted("ge", x, y)


def logical_and(x: TensorLike, y: TensorLike) -> Value:
    """Whether both are nonzero, elementwise: bool."""
    return build("logical_and", cast(x, bool_), cast(y, bool_))


def logical_or(x: TensorLike, y: TensorLike) -> Value:
    """Whether at least one is nonzero, elementwise: bool."""
    return build("logical_or", cast(x, bool_), cast(y, bool_))


def logical_xor(x: TensorLike, y: TensorLike) -> Value:
    """Whether exactly one is nonzero, elementwise: bool."""
    return build("logical_xor", cast(x, bool_), cast(y, bool_))


def bitwise_and(x: TensorLike, y: TensorLike) -> Value:
    """The bits that both have; integers or bools. DTypeError for floats."""
    return _promoted("bitwise_and", x, y)


def bitwise_or(x: TensorLike, y: TensorLike) -> Value:
    """The bits that either has; integers or bools. DTypeError for floats."""
    return _promoted("bitwise_or", x, y)


def bitwise_xor(x: TensorLike, y: TensorLike) -> Value:
    """The bits that exactly one has; integers or bools. DTypeError for floats."""
    return _promoted("bitwise_xor", x, y)


def shift_left(x: TensorLike, y: TensorLike) -> Value:
    """x · 2**y for integers; 0 when y is negative or at least the width of the dtype."""
    return _promoted("shift_left", x, y)


def shift_right(x: TensorLike, y: TensorLike) -> Value:
    """floor(x / 2**y) for integers; 0 (or -1 for negative x) when y is negative or at least the width of the dtype."""
    return _promoted("shift_right", x, y)


def where(condition: TensorLike, x: TensorLike, y: TensorLike) -> Value:
    """x where the condition is nonzero, else y; all three broadcast, x and y promoted.

    The gradient flows only to the operand that was taken: the other gets exactly 0, also where it is inf or NaN.
    """
    tensors = [v for v in (x, y) if isinstance(v, Value)]
    if tensors and all(v.dtype.name in SMALL_FLOATS for v in tensors) and len(tensors) == 2:
        dtype = promote(tensors[0].dtype, tensors[1].dtype)
        return build("where", cast(condition, bool_), *(cast_to(v, dtype) for v in tensors))
    return build("where", cast(condition, bool_), *promote_operands("where", x, y))


# --- composites ---


def _clip_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    """x gets the gradient where low <= x <= high, a bound where it replaced x."""
    (x, low, high), g = node.operands, cotangents[0]
    if g is None:
        return [None, None, None]
    above, below = x > high, x < low
    rules = (where(above | below, 0.0, g), where(below & (low <= high), g, 0.0), where(above | (low > high), g, 0.0))
    return [unbroadcast(c, v.shape) for c, v in zip(rules, node.operands)]


def _broadcasting_infer(name: str, count: int, dtypes: tuple[str, ...]) -> Callable[..., TensorType]:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, count)
        require_dtype(name, types, dtypes)
        return TensorType(require_equal_dtypes(name, types), broadcast_shapes(name, *(t.shape for t in types)))

    return infer


def _clip_body(x: Value, low: Value, high: Value) -> Value:
    return build("minimum", build("maximum", x, low), high)


def _clip_reference(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, low), high)


register(OpDef(
    "clip", _broadcasting_infer("clip", 3, NUMBERS), _clip_vjp, "*,*,*->*", Composite(_clip_body), _clip_reference,
    lambda: [
        Sample((Input(s, "any", -4, 4), Input(a, "any", -2, 0), Input(b, "any", 1, 3)))
        for s, a, b in (((3, 4), (), ()), ((5,), (5,), ()), ((2, 1), (3,), (2, 3)), ((0,), (), (1,)))
    ],
    NUMBERS, "x limited to [low, high].",
))


def clip(x: TensorLike, low: TensorLike | None = None, high: TensorLike | None = None) -> Value:
    """x limited to [low, high]; None leaves a side open; high wins where low > high. NaN stays.

    The gradient is that of x where low <= x <= high (also at the bounds), else it goes to the bound.
    """
    given = [x if low is None else low, x if high is None else high]
    tensor, *bounds = promote_operands("clip", x, *given)
    dtype = tensor.dtype
    limits = (-math.inf, math.inf) if dtype.is_float else (_limits(dtype.numpy) if dtype.is_integer else (False, True))
    if dtype == bool_:
        raise DTypeError("[clip] operand 0 has dtype bool; clip numbers")
    sides = [bounds[i] if side is not None else as_tensor(limits[i], dtype) for i, side in enumerate((low, high))]
    return build("clip", tensor, *sides)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _lerp_body(x: Value, y: Value, weight: Value) -> Value:
    return x + weight * (y - x)


def _lerp_reference(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.add(x, np.multiply(weight, np.subtract(y, x)))


register(OpDef(
    "lerp", _broadcasting_infer("lerp", 3, FLOATS), None, "*,*,*->*", Composite(_lerp_body), _lerp_reference,
    lambda: [
        Sample((Input(a), Input(b), Input(w, "float", 0, 1)), tolerance=4.0)
        for a, b, w in (((3, 4), (3, 4), ()), ((3, 1), (4,), (2, 1, 1)), ((0,), (1,), ()))
    ],
    FLOATS, "x + weight * (y - x).",
))


def lerp(x: TensorLike, y: TensorLike, weight: TensorLike) -> Value:
    """Linear interpolation x + weight * (y - x); all three broadcast; integers are cast to f32."""
    return build("lerp", *_floats("lerp", x, y, weight))


def isclose(x: TensorLike, y: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Value:
    """Whether |x - y| <= atol + rtol * |y|, elementwise: bool. Infinities are close to themselves only.

    ``equal_nan``: NaN is close to NaN.
    """
    a, b = _floats("isclose", x, y)
    near = (absolute(a - b) <= absolute(b) * rtol + atol) & (absolute(b) < math.inf)
    close = (a == b) | near
    return close | ((a != a) & (b != b)) if equal_nan else close


def nan_to_num(x: TensorLike, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Value:
    """x with NaN, inf and -inf replaced; None: the largest and the smallest finite number of the dtype."""
    tensor = as_tensor(x)
    if not tensor.dtype.is_float:
        return tensor
    from ml_dtypes import finfo

    largest = float(finfo(tensor.dtype.numpy).max)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    finite = where(tensor != tensor, nan, tensor)
    finite = where(tensor == math.inf, largest if posinf is None else posinf, finite)
    return where(tensor == -math.inf, -largest if neginf is None else neginf, finite)


def _logaddexp_body(x: Value, y: Value) -> Value:
    a, b = (cast_to(v, f32) if v.dtype.bits == 16 else v for v in (x, y))
    larger = build("maximum", a, b)
    gap = absolute(a - b)
    return cast_to(larger + log1p(exp(-where(a == b, 0.0, gap))), x.dtype)


def _logaddexp_vjp(x: Value, y: Value, z: Value, g: Value) -> tuple[Value, Value]:
    return g * exp(x - z), g * exp(y - z)


register(OpDef(
    "logaddexp", _broadcasting_infer("logaddexp", 2, FLOATS), binary_vjp(_logaddexp_vjp), "*,*->*",
    Composite(_logaddexp_body), np.logaddexp, lambda: binary_samples("float", (-4, 4), (-4, 4), True), FLOATS,
    "log(exp(x) + exp(y)) without overflow.",
))


def logaddexp(x: TensorLike, y: TensorLike) -> Value:
    """log(exp(x) + exp(y)) without overflow; integers are cast to f32."""
    return build("logaddexp", *_floats("logaddexp", x, y))
