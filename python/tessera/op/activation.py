"""Activation functions: composites of pointwise functions, computed in f32 for bf16 and f16."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, DTypeError
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import widen
from tessera.op.arguments import FLOATS, NUMBERS, require_count, require_dtype
from tessera.op.lowering import Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, Vjp, build, register
from tessera.op.pointwise_binary import logical_and, maximum, minimum, where
from tessera.op.pointwise_unary import abs, erf, exp, expm1, log1p, sigmoid, tanh
from tessera.op.promotion import TensorLike, as_floating, as_tensor, cast_to

Array = Any  # what a reference computes with
_SHAPES = ((3, 4), (), (2, 0), (1, 1, 5), (33,))


def _wide_vjp(rule: Callable[..., Value]) -> Vjp:
    """The vjp from ``rule(x, y, g, *attributes)``, computed in f32 for bf16 and f16."""

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> tuple[Value | None]:
        g = cotangents[0]
        if g is None:
            return (None,)
        (x,), (y,) = node.operands, node.results
        return (cast_to(rule(widen(x), widen(y), widen(g), *node.attrs.values()), x.dtype),)

    return vjp


def _define(
    name: str, doc: str, body: Callable[..., Value], reference: Callable[..., Array], rule: Callable[..., Value] | None,
    attrs: Sequence[dict[str, Any]], dtypes: tuple[str, ...],
) -> None:
    """Register an activation with at most one attribute; without ``rule`` its gradient follows from the body."""

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, dtypes)
        return types[0]

    def wide_body(x: Value, **attrs: Any) -> Value:
        return cast_to(body(widen(x), *attrs.values()), x.dtype)

    def wide_reference(x: np.ndarray, **attrs: Any) -> Array:
        return reference(x if x.dtype.kind in "iu" else x.astype(np.float64), *attrs.values())

    def samples() -> list[Sample]:
        inputs = [Input(shape, "any", -4.0, 4.0) for shape in _SHAPES]
        return [Sample((one,), dict(chosen), tolerance=4.0) for chosen in attrs for one in inputs]

    vjp = _wide_vjp(rule) if rule else None
    register(OpDef(name, infer, vjp, "*->*", Composite(wide_body), wide_reference, samples, dtypes, doc))


def _activation(
    name: str, doc: str, body: Callable[[Value], Value], reference: Callable[[Array], Array],
    rule: Callable[[Value, Value, Value], Value] | None = None, dtypes: tuple[str, ...] = FLOATS,
) -> None:
    """Register an activation from ``body(x)`` and, unless it follows, the gradient ``rule(x, y, g)``."""
    _define(name, doc, body, reference, rule, [{}], dtypes)


def _parametric(
    name: str, doc: str, attribute: str, tried: tuple[float, float], body: Callable[[Value, float], Value],
    reference: Callable[[Array, float], Array], rule: Callable[[Value, Value, Value, float], Value],
) -> None:
    """Register an activation with a parameter, from ``body(x, a)`` and the gradient ``rule(x, y, g, a)``."""
    _define(name, doc, body, reference, rule, [{attribute: a} for a in tried], FLOATS)


def _inside(x: Value, low: float, high: float) -> Value:
    return logical_and(x > low, x < high)


def _limited(x: Array, low: float, high: float) -> Array:
    return np.minimum(np.maximum(x, low), high)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


_erf = np.vectorize(math.erf, otypes=[np.float64])
_ROOT_HALF = math.sqrt(0.5)
_ROOT_2_OVER_PI = math.sqrt(2.0 / math.pi)

# The gradient of relu is written in terms of the result, which the next operator keeps anyway; NaN keeps its gradient.
_activation(
    "relu", "max(x, 0); the gradient at 0 is 0.", lambda x: maximum(x, 0), lambda x: np.maximum(x, 0),
    lambda x, y, g: where(y <= 0, 0, g), dtypes=NUMBERS,
)
_activation(
    "relu6", "min(max(x, 0), 6); the gradient at 0 and 6 is 0.", lambda x: minimum(maximum(x, 0), 6),
    lambda x: _limited(x, 0, 6), lambda x, y, g: where(_inside(x, 0, 6), g, 0), dtypes=NUMBERS,
)


def _gelu_body(x: Value, approximate: str) -> Value:
    if approximate == "tanh":
        return x * 0.5 * (tanh((x + x * x * x * 0.044715) * _ROOT_2_OVER_PI) + 1)
    return x * 0.5 * (erf(x * _ROOT_HALF) + 1)


def _gelu_reference(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(_ROOT_2_OVER_PI * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x * _ROOT_HALF))


_define(
    "gelu", "x · Φ(x), Φ the normal distribution function; or its tanh approximation.", _gelu_body, _gelu_reference,
    None, [{"approximate": "none"}, {"approximate": "tanh"}], FLOATS,
)

def _leaky_relu_reference(x: Array, slope: float) -> Array:
    return np.maximum(x, 0) + slope * np.minimum(x, 0)


def _elu_reference(x: Array, alpha: float) -> Array:
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0))


_activation("silu", "x · sigmoid(x).", lambda x: x * sigmoid(x), lambda x: x * _sigmoid(x))
_parametric(
    "leaky_relu", "x where positive, else slope · x.", "slope", (0.01, 0.3), lambda x, a: where(x > 0, x, x * a),
    _leaky_relu_reference, lambda x, y, g, a: where(x > 0, g, g * a),
)
_parametric(
    "elu", "x where positive, else alpha · (exp(x) - 1).", "alpha", (1.0, 0.5),
    lambda x, a: where(x > 0, x, expm1(minimum(x, 0)) * a),
    _elu_reference,
    lambda x, y, g, a: where(x > 0, g, g * (exp(minimum(x, 0)) * a)),
)
_parametric(
    "softplus", "log(1 + exp(beta · x)) / beta, without overflow.", "beta", (1.0, 2.0),
    lambda x, a: (maximum(x * a, 0) + log1p(exp(-abs(x * a)))) / a, lambda x, a: np.logaddexp(a * x, 0) / a,
    lambda x, y, g, a: g * sigmoid(x * a),
)
_activation(
    "hard_sigmoid", "min(max(x / 6 + 1/2, 0), 1).", lambda x: minimum(maximum(x / 6 + 0.5, 0), 1),
    lambda x: _limited(x / 6 + 0.5, 0, 1), lambda x, y, g: where(_inside(x, -3, 3), g / 6, 0),
)
_activation(
    "hard_swish", "x · hard_sigmoid(x).", lambda x: x * hard_sigmoid(x), lambda x: x * _limited(x / 6 + 0.5, 0, 1),
)
_activation(
    "mish", "x · tanh(softplus(x)).", lambda x: x * tanh(softplus(x)), lambda x: x * np.tanh(np.logaddexp(x, 0)),
)


def relu(x: TensorLike) -> Value:
    """max(x, 0), elementwise, for floats and integers; NaN stays; the gradient at 0 is 0."""
    return build("relu", _number("relu", x))


def relu6(x: TensorLike) -> Value:
    """min(max(x, 0), 6), elementwise, for floats and integers; the gradient is 0 outside (0, 6)."""
    return build("relu6", _number("relu6", x))


def gelu(x: TensorLike, approximate: str = "none") -> Value:
    """The product x · Φ(x), elementwise; ``approximate="tanh"`` is the cheaper formula (Hendrycks and Gimpel 2016)."""
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f'[gelu] approximate is {approximate!r}; use "none" (exact, with erf) or "tanh"')
    return build("gelu", as_floating(x), approximate=approximate)


def silu(x: TensorLike) -> Value:
    """The product x · sigmoid(x), elementwise (also called swish)."""
    return build("silu", as_floating(x))


def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Value:
    """Keeps x where x > 0, else ``negative_slope`` · x; the gradient at 0 is ``negative_slope``."""
    return build("leaky_relu", as_floating(x), slope=float(negative_slope))


def elu(x: TensorLike, alpha: float = 1.0) -> Value:
    """Keeps x where x > 0, else ``alpha`` · (exp(x) - 1)."""
    return build("elu", as_floating(x), alpha=float(alpha))


def softplus(x: TensorLike, beta: float = 1.0) -> Value:
    """log(1 + exp(beta · x)) / beta, elementwise, exact for large |x|. ArgumentError when ``beta`` is 0."""
    if beta == 0:
        raise ArgumentError("[softplus] beta is 0; it must be another number")
    return build("softplus", as_floating(x), beta=float(beta))


def hard_sigmoid(x: TensorLike) -> Value:
    """min(max(x / 6 + 1/2, 0), 1), elementwise."""
    return build("hard_sigmoid", as_floating(x))


def hard_swish(x: TensorLike) -> Value:
    """The product x · hard_sigmoid(x), elementwise."""
    return build("hard_swish", as_floating(x))


def mish(x: TensorLike) -> Value:
    """The product x · tanh(softplus(x)), elementwise."""
    return build("mish", as_floating(x))


def _number(op: str, x: TensorLike) -> Value:
    tensor = as_tensor(x)
    if tensor.dtype.name not in NUMBERS:
        raise DTypeError(f"[{op}] x has dtype {tensor.dtype}; expected a number: cast it first")
    return tensor
