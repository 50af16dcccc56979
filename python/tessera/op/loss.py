"""Losses between a prediction and a target of the same shape: mse, l1, huber, binary cross entropy with logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import count, total, widen
from tessera.op.arguments import FLOATS, require_count, require_dtype, require_equal_dtypes, shape_text
from tessera.op.cross_entropy import require_reduction
from tessera.op.factors import letters
from tessera.op.lowering import Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_binary import maximum, minimum, where
from tessera.op.pointwise_unary import abs, exp, log1p, sigmoid, sign
from tessera.op.promotion import TensorLike, as_floating, cast_to, promote_operands

Array = Any  # what a reference computes with


def _define(
    name: str, doc: str, each: Callable[..., Value], slopes: Callable[..., tuple[Value, Value]],
    reference: Callable[..., Array], attrs: Sequence[dict[str, Any]], target_range: tuple[float, float],
) -> None:
    """Register a loss from ``each(x, t, **attrs)`` per element and ``slopes``, its derivatives by x and t."""

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 2)
        require_dtype(name, types, FLOATS)
        require_equal_dtypes(name, types)
        require_reduction(name, attrs["reduction"])
        x, t = types
        if x.shape != t.shape:
            raise ShapeError(
                f"[{name}] the prediction has shape {shape_text(x.shape)} and the target {shape_text(t.shape)}; "
                "they must be equal: broadcast or reshape one of them"
            )
        return x if attrs["reduction"] == "none" else TensorType(x.dtype, ())

    def body(x: Value, t: Value, reduction: str, **attrs: Any) -> Value:
        value = each(widen(x), widen(t), **attrs)
        if reduction != "none":
            summed = total(value, range(value.ndim), keepdims=False)
            value = summed / count(x.shape, summed.dtype) if reduction == "mean" else summed
        return cast_to(value, x.dtype)

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
        (x, t), g = node.operands, cotangents[0]
        assert g is not None
        attrs = dict(node.attrs)
        scale = widen(g)
        if attrs.pop("reduction") == "mean":
            scale = scale / count(x.shape, scale.dtype)
        return [cast_to(s * scale, x.dtype) for s in slopes(widen(x), widen(t), **attrs)]

    def wide_reference(x: np.ndarray, t: np.ndarray, reduction: str, **attrs: Any) -> np.ndarray:
        value = reference(x.astype(np.float64), t.astype(np.float64), **attrs)
        return value if reduction == "none" else value.sum() / (value.size if reduction == "mean" else 1)

    def samples() -> list[Sample]:
        low, high = target_range
        out = [
            Sample((Input(shape), Input(shape, "float", low, high)), {"reduction": reduction, **chosen}, tolerance=4.0)
            for chosen in attrs
            for shape, reduction in (((3, 4), "mean"), ((2, 3, 5), "sum"), ((7,), "none"), ((), "mean"))
        ]
        return [*out, Sample((Input((0, 3)), Input((0, 3))), {"reduction": "sum", **attrs[0]})]

    def shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
        dims = letters(types[0].ndim)
        # A mean divides by the global count, which a device cannot do on its part alone.
        operand = "".join(c + "!" for c in dims) if attrs["reduction"] == "mean" else dims
        return f"{operand},{operand}->{dims if attrs['reduction'] == 'none' else ''}"

    register(OpDef(name, infer, vjp, shard, Composite(body), wide_reference, samples, FLOATS, doc))


def _elementwise_loss(
    name: str, doc: str, each: Callable[[Value, Value], Value], slopes: Callable[[Value, Value], tuple[Value, Value]],
    reference: Callable[[Array, Array], Array], target_range: tuple[float, float] = (-2.0, 2.0),
) -> None:
    """Register a loss without further attributes."""
    _define(name, doc, each, slopes, reference, [{}], target_range)


def _mse_slopes(x: Value, t: Value) -> tuple[Value, Value]:
    slope = (x - t) * 2
    return slope, -slope


def _l1_slopes(x: Value, t: Value) -> tuple[Value, Value]:
    slope = sign(x - t)
    return slope, -slope


def _huber(x: Value, t: Value, delta: float) -> Value:
    size = abs(x - t)
    return where(size < delta, size * size * 0.5, (size - 0.5 * delta) * delta)


def _huber_slopes(x: Value, t: Value, delta: float) -> tuple[Value, Value]:
    slope = maximum(minimum(x - t, delta), -delta)
    return slope, -slope


def _huber_reference(x: Array, t: Array, delta: float) -> Array:
    size = np.abs(x - t)
    within = np.minimum(size, delta)
    return 0.5 * within**2 + delta * (size - within)


def _bce(x: Value, t: Value) -> Value:
    return maximum(x, 0) - x * t + log1p(exp(-abs(x)))


_elementwise_loss(
    "mse", "The squared difference.", lambda x, t: (x - t) * (x - t), _mse_slopes, lambda x, t: (x - t) ** 2,
)
_elementwise_loss("l1", "The absolute difference.", lambda x, t: abs(x - t), _l1_slopes, lambda x, t: np.abs(x - t))
_define(
    "huber", "Quadratic up to delta, then linear.", _huber, _huber_slopes, _huber_reference,
    [{"delta": 1.0}, {"delta": 0.5}], (-2.0, 2.0),
)
_elementwise_loss(
    "binary_cross_entropy_with_logits", "-(t log σ(x) + (1 - t) log(1 - σ(x))), without overflow.",
    _bce, lambda x, t: (sigmoid(x) - t, -x), lambda x, t: np.logaddexp(0, x) - x * t, target_range=(0.0, 1.0),
)


def mse(prediction: TensorLike, target: TensorLike, reduction: str = "mean") -> Value:
    """The squared difference, reduced: ``"mean"`` over all elements, ``"sum"``, or ``"none"``.

    Equal shapes; floating-point (promoted), bf16 and f16 compute in f32. Raises ShapeError, ArgumentError.
    """
    return _loss("mse", prediction, target, reduction=reduction)


def l1(prediction: TensorLike, target: TensorLike, reduction: str = "mean") -> Value:
    """The absolute difference, reduced as in ``mse``; the gradient where both are equal is 0."""
    return _loss("l1", prediction, target, reduction=reduction)


def huber(prediction: TensorLike, target: TensorLike, delta: float = 1.0, reduction: str = "mean") -> Value:
    """d² / 2 where |d| < delta, else delta · (|d| - delta / 2), reduced as in ``mse``; d is the difference.

    ``delta=1`` is the smooth L1 loss. Raises ArgumentError unless ``delta`` is positive.
    """
    if not delta > 0:
        raise ArgumentError(f"[huber] delta is {delta}; it must be positive")
    return _loss("huber", prediction, target, delta=float(delta), reduction=reduction)


def binary_cross_entropy_with_logits(logits: TensorLike, target: TensorLike, reduction: str = "mean") -> Value:
    """-(t log σ(x) + (1 - t) log(1 - σ(x))) for probabilities t, stable for any logit, reduced as in ``mse``."""
    return _loss("binary_cross_entropy_with_logits", logits, target, reduction=reduction)


def _loss(name: str, prediction: TensorLike, target: TensorLike, **attrs: Any) -> Value:
    x, t = promote_operands(name, prediction, target)
    return build(name, as_floating(x), as_floating(t), **attrs)
