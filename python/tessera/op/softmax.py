"""softmax and log_softmax, stable, computed in f32 for bf16 and f16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tessera.ir.dims import bounds
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import largest, total, widen
from tessera.op.arguments import FLOATS, one_axis, require_count, require_dtype
from tessera.op.factors import whole_axes
from tessera.op.lowering import Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, Vjp, build, register
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import exp, log, reciprocal, stop_gradient
from tessera.op.promotion import TensorLike, as_floating, cast_to


def _top(x: Value, axis: int) -> Value:
    """The maximum along an axis (kept). A symbolic axis that may be empty has -inf behind its elements."""
    if bounds(x.shape[axis])[0] == 0:
        high = [int(i == axis) for i in range(x.ndim)]
        x = build("pad", x, low=[0] * x.ndim, high=high, value=float("-inf"))
    return largest(x, [axis])


def shifted_exponentials(x: Value, axis: int) -> tuple[Value, Value, Value]:
    """(d, e, s): d = x - max(x), e = exp(d), s = sum(e), over ``axis`` (kept).

    The maximum is a constant for autodiff: whatever is computed from these does not depend on it.
    """
    d = x - stop_gradient(_top(x, axis))
    e = exp(d)
    return d, e, total(e, [axis])


def _register(
    name: str, doc: str, body: Callable[[Value, int], Value], vjp: Vjp,
    reference: Callable[[np.ndarray, int], np.ndarray],
) -> None:
    """Register a composite along one axis from ``body(x, axis)`` on a wide x."""

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, FLOATS)
        one_axis(name, attrs["axis"], types[0].ndim)
        return types[0]

    def whole_body(x: Value, axis: int) -> Value:
        return x if x.shape[axis] == 0 else cast_to(body(widen(x), axis), x.dtype)

    def wide_reference(x: np.ndarray, axis: int) -> np.ndarray:
        return reference(x.astype(np.float64), axis)

    register(OpDef(name, infer, vjp, _shard, Composite(whole_body), wide_reference, _samples, FLOATS, doc))


def _shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    return "{0}->{0}".format(whole_axes(types[0].ndim, [attrs["axis"]]))


def _samples() -> list[Sample]:
    cases = [((3, 5), 1), ((3, 5), 0), ((2, 3, 4), 1), ((7,), 0), ((4, 1), 1), ((0, 3), 1), ((3, 0), 1), ((2, 33), 1)]
    return [Sample((Input(shape, low=-6.0, high=6.0),), {"axis": axis}, tolerance=4.0) for shape, axis in cases]


def _softmax_body(x: Value, axis: int) -> Value:
    _, e, s = shifted_exponentials(x, axis)
    return e * reciprocal(s)


def _softmax_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None]:
    y, g = node.results[0], cotangents[0]
    assert g is not None
    wide = widen(y)
    product = widen(g) * wide
    return (cast_to(product - wide * total(product, [node.attrs["axis"]]), y.dtype),)


def _softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return e / np.sum(e, axis=axis, keepdims=True)


_register(
    "softmax", "exp(x) / sum(exp(x)) along an axis.", _softmax_body, _softmax_vjp, _softmax_reference
)


def _safe_softmax_body(x: Value, axis: int) -> Value:
    top = _top(x, axis)
    e = exp(x - where(top == float("-inf"), 0, top))
    s = total(e, [axis])
    return e * reciprocal(where(s == 0, 1, s))


def _safe_softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.equal(top, -np.inf), 0, top))
    s = np.sum(e, axis=axis, keepdims=True)
    return e / np.where(s == 0, 1, s)


_register(
    "safe_softmax",
    "softmax that is zero, instead of NaN, along an axis whose elements are all -inf.",
    _safe_softmax_body, _softmax_vjp, _safe_softmax_reference,
)


def _log_softmax_body(x: Value, axis: int) -> Value:
    d, _, s = shifted_exponentials(x, axis)
    return d - log(s)


def _log_softmax_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None]:
    y, g = node.results[0], cotangents[0]
    assert g is not None
    wide = widen(g)
    return (cast_to(wide - exp(widen(y)) * total(wide, [node.attrs["axis"]]), y.dtype),)


def _log_softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    d = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return d - np.log(np.sum(np.exp(d), axis=axis, keepdims=True))


_register(
    "log_softmax",
    "log(softmax(x)) along an axis, without forming the softmax.",
    _log_softmax_body, _log_softmax_vjp, _log_softmax_reference,
)


def _along(name: str, x: TensorLike, axis: int) -> Value:
    tensor = as_floating(x)
    return build(name, tensor, axis=one_axis(name, axis, tensor.ndim))


def softmax(x: TensorLike, axis: int = -1) -> Value:
    """exp(x) / sum(exp(x)) along ``axis``; same shape, floating-point; a row of only -inf gives NaN.

    Raises ArgumentError for an axis out of range.
    """
    return _along("softmax", x, axis)


def safe_softmax(x: TensorLike, axis: int = -1) -> Value:
    """``softmax`` in which a row of only -inf gives zeros (and has zero gradient); what attention uses."""
    return _along("safe_softmax", x, axis)


def log_softmax(x: TensorLike, axis: int = -1) -> Value:
    """log(softmax(x)) along ``axis``, exact where the softmax underflows; same shape, floating-point."""
    return _along("log_softmax", x, axis)
