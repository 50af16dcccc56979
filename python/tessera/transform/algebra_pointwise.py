"""Rewrites of pointwise operators that keep IEEE semantics bit for bit (the payload and sign of a NaN apart).

Signed zeros decide what is allowed: ``x - 0.0``, ``x + -0.0``, ``x * 1``, ``x / 1`` are ``x`` for every x, but
``x + 0.0`` turns -0.0 into 0.0, so that it goes only where x cannot be -0.0 (or is an integer). ``x * 0`` is never 0,
since x may be infinite or NaN; ``0.0 - x`` is not ``-x``, since it gives 0.0 for x = 0.0.
"""

from __future__ import annotations

import math

import numpy as np

from tessera.ir.dtype import DType
from tessera.ir.value import Node, Value
from tessera.op.reference import rounded
from tessera.transform.cse import COMMUTATIVE
from tessera.transform.rewrite import (
    Builder,
    Rule,
    broadcast,
    common_shape,
    converted,
    is_number,
    number,
)

_NEVER_NEGATIVE_ZERO = frozenset({"exp", "exp2", "abs", "sigmoid", "cosh", "random_uniform", "iota"})
_MANTISSA_BITS = {"f64": 53, "f32": 24, "bf16": 8, "f16": 11, "f8e4m3": 4, "f8e5m2": 3}
_EXPONENT_RANGE = {
    "f64": (-1074, 1024), "f32": (-149, 128), "bf16": (-133, 128), "f16": (-24, 16),
    "f8e4m3": (-9, 9), "f8e5m2": (-16, 16),
}  # exponents of the smallest subnormal number and of the first power of two that is too large
_MIN_NORMAL = {"f64": -1022, "f32": -126, "bf16": -126, "f16": -14}


def strip_broadcasts(node: Node, build: Builder) -> Value | None:
    """Drop broadcasts of operands, which pointwise operators imply; move one that stays behind the operator."""
    stripped = [_stripped(v, build) for v in node.operands]
    if all(a is b for a, b in zip(stripped, node.operands)):
        return None
    shape = node.types[0].shape
    if common_shape([v.shape for v in stripped]) != shape:
        if not any(v.node.op in ("broadcast_to", "full") for v in node.operands if v.shape):
            return None
        return broadcast(build, build(node.op, *stripped, **node.attrs), shape)
    return build(node.op, *stripped, **node.attrs)


def _stripped(value: Value, build: Builder) -> Value:
    node = value.node
    if node.op == "full" and value.shape:
        return build("full", shape=[], value=node.attrs["value"], dtype=value.dtype)
    if node.op == "broadcast_to":
        return node.operands[0]
    if node.op == "reshape":  # one that only adds leading dimensions of size 1
        inner = node.operands[0]
        extra = value.ndim - inner.ndim
        if extra > 0 and value.shape[extra:] == inner.shape and all(d == 1 for d in value.shape[:extra]):
            return inner
    return value


def constants_right(node: Node, build: Builder) -> Value | None:
    """Put the constant operand of a commutative operator second."""
    if node.op not in COMMUTATIVE:
        return None
    a, b = node.operands
    return build(node.op, b, a) if a.node.op == "full" and b.node.op != "full" else None


def _same(node: Node, build: Builder, value: Value) -> Value:
    """``value`` as the result of the node: broadcast to its shape."""
    return broadcast(build, value, node.types[0].shape)


def _add(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    if is_number(b, -0.0) or (is_number(b, 0.0) and (not a.dtype.is_float or _never_negative_zero(a))):
        return _same(node, build, a)
    if b.node.op == "neg":
        return build("sub", a, b.node.operands[0])
    if a.node.op == "neg":
        return build("sub", b, a.node.operands[0])
    return None


def _never_negative_zero(value: Value) -> bool:
    node = value.node
    if node.op == "cast":
        return not node.operands[0].dtype.is_float
    if node.op == "mul":
        return node.operands[0] is node.operands[1]
    if node.op == "add":
        return is_number(node.operands[1], 0.0)
    return node.op in _NEVER_NEGATIVE_ZERO


def _sub(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    if is_number(b, 0.0):
        return _same(node, build, a)
    if b.node.op == "neg":
        return build("add", a, b.node.operands[0])
    if is_number(a, -0.0 if a.dtype.is_float else 0) and b.dtype.kind != "uint":
        return _same(node, build, build("neg", b))
    return None


def _mul(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    if is_number(b, 1):
        return _same(node, build, a)
    if is_number(b, -1) and a.dtype.kind != "uint":
        return _same(node, build, build("neg", a))
    if a.node.op == "neg" and b.node.op == "neg":
        return build("mul", a.node.operands[0], b.node.operands[0])
    if a.node.op == "neg" and a.dtype.is_float and (c := number(b)) is not None:
        return build("mul", a.node.operands[0], build("full", shape=[], value=-c, dtype=b.dtype))
    if a.node.op == "neg":  # outwards, where an addition absorbs it
        return build("neg", build("mul", a.node.operands[0], b))
    if b.node.op == "neg":
        return build("neg", build("mul", a, b.node.operands[0]))
    return None


def _div(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    if is_number(b, 1):
        return _same(node, build, a)
    if is_number(b, -1):
        return _same(node, build, build("neg", a))
    c = number(b)
    if c is None or b.dtype.name not in _MIN_NORMAL:
        return None
    mantissa, exponent = math.frexp(rounded(np.asarray(c), b.dtype).item())
    low = _MIN_NORMAL[b.dtype.name]
    # Division by a power of two is multiplication by its inverse when both are normal numbers.
    if abs(mantissa) == 0.5 and low <= exponent - 1 <= -low:
        return build("mul", a, build("full", shape=[], value=math.ldexp(mantissa * 4, -exponent), dtype=b.dtype))
    return None


def _floordiv(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    return _same(node, build, a) if is_number(b, 1) and not a.dtype.is_float else None


def _pow(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    if is_number(b, 1):
        return _same(node, build, a)
    if is_number(b, 2):
        return _same(node, build, build("mul", a, a))
    if number(b) == 0:  # 1 for every base, NaN too
        return build("full", shape=list(node.types[0].shape), value=1.0 if a.dtype.is_float else 1, dtype=a.dtype)
    return None


def _twice(inverse: str) -> Rule:
    """``f(inverse(x)) = x``."""

    def rule(node: Node, build: Builder) -> Value | None:
        inner = node.operands[0].node
        return inner.operands[0] if inner.op == inverse else None

    return rule


def _abs(node: Node, build: Builder) -> Value | None:
    inner = node.operands[0].node
    if inner.op == "abs":
        return node.operands[0]
    return build("abs", inner.operands[0]) if inner.op == "neg" and node.types[0].dtype.is_float else None


def _idempotent(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    return a if a is b else None


def _logical_and(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    return None if number(b) is None else _same(node, build, a if number(b) else b)


def _logical_or(node: Node, build: Builder) -> Value | None:
    a, b = node.operands
    return None if number(b) is None else _same(node, build, b if number(b) else a)


def _where(node: Node, build: Builder) -> Value | None:
    condition, a, b = node.operands
    if a is b:
        return _same(node, build, a)
    if (chosen := number(condition)) is not None:
        return _same(node, build, a if chosen else b)
    if condition.node.op == "logical_not":
        return build("where", condition.node.operands[0], b, a)
    return None


def _cast(node: Node, build: Builder) -> Value | None:
    middle = node.operands[0]
    target = node.types[0].dtype
    if middle.dtype == target:
        return middle
    if middle.node.op != "cast":
        return None
    x = middle.node.operands[0]
    if not _lossless(x.dtype, middle.dtype):
        return None
    # A float saturates where an integer wraps: an integer may skip the float only where neither happens.
    if x.dtype.is_integer and middle.dtype.is_float and target.is_integer and not _lossless(x.dtype, target):
        return None
    return converted(build, x, target)


def _lossless(source: DType, target: DType) -> bool:
    """Whether ``target`` holds every value of ``source``, so that casting over it changes nothing."""
    if source.kind == "bool":
        return True
    if source.is_float:
        if not target.is_float:
            return False
        (low, high), (target_low, target_high) = _EXPONENT_RANGE[source.name], _EXPONENT_RANGE[target.name]
        return _MANTISSA_BITS[source.name] <= _MANTISSA_BITS[target.name] and target_low <= low and high <= target_high
    magnitude = source.bits - (source.kind == "int")
    if target.is_float:
        return magnitude <= _MANTISSA_BITS[target.name] and magnitude < _EXPONENT_RANGE[target.name][1]
    if target.kind == "uint":
        return source.kind == "uint" and source.bits <= target.bits
    return target.kind == "int" and magnitude <= target.bits - 1


def _stop_gradient(node: Node, build: Builder) -> Value | None:
    return node.operands[0]


POINTWISE: tuple[Rule, ...] = (strip_broadcasts, constants_right)
"""Rules for every pointwise operator."""

RULES: dict[str, tuple[Rule, ...]] = {
    "add": (_add,), "sub": (_sub,), "mul": (_mul,), "div": (_div,), "floordiv": (_floordiv,), "pow": (_pow,),
    "neg": (_twice("neg"),), "abs": (_abs,),
    "logical_not": (_twice("logical_not"),), "bitwise_not": (_twice("bitwise_not"),),
    "maximum": (_idempotent,), "minimum": (_idempotent,), "bitwise_and": (_idempotent,), "bitwise_or": (_idempotent,),
    "logical_and": (_logical_and, _idempotent), "logical_or": (_logical_or, _idempotent),
    "where": (_where,), "cast": (_cast,), "stop_gradient": (_stop_gradient,),
}
"""Rules by operator."""
