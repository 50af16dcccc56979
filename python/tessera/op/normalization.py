"""layer_norm, rms_norm and group_norm: statistics in f32 for bf16 and f16, gradients that reuse the normalised rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, floordiv, is_multiple
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import average, total, widen
from tessera.op.arguments import FLOATS, require_dtype, require_equal_dtypes, several_axes, shape_text
from tessera.op.factors import letters, whole_axes
from tessera.op.lowering import Composite
from tessera.op.matmul import to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, Vjp, build, register
from tessera.op.pointwise_unary import rsqrt
from tessera.op.promotion import TensorLike, as_floating, cast_to, promote_operands

Axes = Sequence[int]


def _parameter_shape(x: Sequence[Dim], axes: Axes) -> tuple[Dim, ...]:
    return tuple(x[a] for a in axes)


def _aligned(parameter: Value, rank: int, axes: Axes) -> Value:
    """A weight or bias over ``axes``, in f32 for bf16 and f16, with size 1 in every other dimension."""
    shape: list[Dim] = [1] * rank
    for position, axis in enumerate(axes):
        shape[axis] = parameter.shape[position]
    while shape and shape[0] == 1 and len(shape) > len(axes):
        shape = shape[1:]
    return to_shape(widen(parameter), shape)


def _register(
    name: str, doc: str, most: int, statistics: Callable[[Value, Axes, float], tuple[Value, Value]], vjp: Vjp,
    reference: Callable[[np.ndarray, tuple[int, ...], float], np.ndarray],
) -> None:
    """Register a normalisation with 1 to ``most`` operands (x, weight, bias).

    ``statistics(x, axes, eps)``: (normalised x, the factor that normalised it); ``reference``: the former, in f64.
    """

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        if not 1 <= len(types) <= most:
            raise ArgumentError(f"[{name}] takes 1 to {most} operands, got {len(types)}")
        require_dtype(name, types, FLOATS)
        require_equal_dtypes(name, types)
        expected = _parameter_shape(types[0].shape, attrs["axes"])
        for what, t in zip(("weight", "bias"), types[1:], strict=False):
            if t.shape != expected:
                raise ShapeError(
                    f"[{name}] {what} has shape {shape_text(t.shape)}; expected {shape_text(expected)}, "
                    f"the sizes of x {shape_text(types[0].shape)} over axes {list(attrs['axes'])}"
                )
        return types[0]

    def body(x: Value, *parameters: Value, axes: Axes, eps: float) -> Value:
        y, _ = statistics(x, axes, eps)
        return cast_to(_affine(y, parameters, axes), x.dtype)

    def affine_reference(x: np.ndarray, *parameters: np.ndarray, axes: Axes, eps: float) -> np.ndarray:
        y = reference(x.astype(np.float64), tuple(axes), eps)
        shape = [y.shape[a] if a in axes else 1 for a in range(y.ndim)]
        for p, combine in zip(parameters, (np.multiply, np.add), strict=False):
            y = combine(y, np.reshape(p.astype(np.float64), shape))
        return y

    register(OpDef(
        name, infer, vjp, _shard, Composite(body), affine_reference, lambda: _samples(most), FLOATS, doc
    ))


def _shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    rank, axes = types[0].ndim, attrs["axes"]
    x, weight = whole_axes(rank, axes), "".join(f"{letters(rank)[a]}!" for a in axes)
    return f"{','.join([x] + [weight] * (len(types) - 1))}->{x}"


def _parameter_gradient(contribution: Value, axes: Axes, parameter: Value) -> Value:
    """The sum over every dimension that the parameter does not have, in the parameter's dtype."""
    others = [a for a in range(contribution.ndim) if a not in axes]
    return cast_to(total(contribution, others, keepdims=False), parameter.dtype)


# --- layer_norm -----------------------------------------------------------------------------------------------------


def _layer_statistics(x: Value, axes: Axes, eps: float) -> tuple[Value, Value]:
    """(normalised x, 1 / standard deviation) over ``axes``; the variance from the centred values."""
    wide = widen(x)
    centred = wide - average(wide, axes)
    scale = rsqrt(average(centred * centred, axes) + eps)
    return centred * scale, scale


def _affine(y: Value, parameters: Sequence[Value], axes: Axes) -> Value:
    if parameters:
        y = y * _aligned(parameters[0], y.ndim, axes)
    if len(parameters) > 1:
        y = y + _aligned(parameters[1], y.ndim, axes)
    return y


def _layer_norm_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    x, *parameters = node.operands
    axes, g = node.attrs["axes"], widen(_present(cotangents))
    normal, scale = _layer_statistics(x, axes, node.attrs["eps"])
    inner = _affine(g, parameters[:1], axes)
    to_x = (inner - average(inner, axes) - normal * average(inner * normal, axes)) * scale
    to_parameters = [
        _parameter_gradient(c, axes, p) for c, p in zip((g * normal, g), parameters, strict=False)
    ]
    return [cast_to(to_x, x.dtype), *to_parameters]


def _present(cotangents: tuple[Value | None, ...]) -> Value:
    (g,) = cotangents
    assert g is not None
    return g


def _layer_norm_reference(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + eps)


def _samples(most: int) -> list[Sample]:
    cases: list[tuple[tuple[int, ...], list[int], int]] = [
        ((3, 8), [1], 1), ((3, 8), [1], 2), ((3, 8), [1], 3), ((2, 3, 4), [1, 2], 3), ((2, 3, 4), [1], 3),
        ((7,), [0], 3), ((0, 4), [1], 3), ((5, 1), [1], 2),
    ]
    out: list[Sample] = []
    for shape, axes, operands in cases:
        weight = tuple(shape[a] for a in axes)
        inputs = (Input(shape), *[Input(weight)] * (min(operands, most) - 1))
        out.append(Sample(inputs, {"axes": axes, "eps": 1e-2}, tolerance=4.0))
    return out


_register(
    "layer_norm", "(x - mean) / sqrt(variance + eps) · weight + bias, statistics over axes.", 3, _layer_statistics,
    _layer_norm_vjp, _layer_norm_reference,
)


def apply_layer_norm(
    x: TensorLike, weight: TensorLike | None = None, bias: TensorLike | None = None,
    axes: int | Sequence[int] = -1, eps: float = 1e-5,
) -> Value:
    """See ``layer_norm``."""
    return _normalize("layer_norm", x, weight, bias, axes, eps)


# --- rms_norm -------------------------------------------------------------------------------------------------------


def _rms_statistics(x: Value, axes: Axes, eps: float) -> tuple[Value, Value]:
    wide = widen(x)
    scale = rsqrt(average(wide * wide, axes) + eps)
    return wide * scale, scale


def _rms_norm_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    x, *parameters = node.operands
    axes, g = node.attrs["axes"], widen(_present(cotangents))
    normal, scale = _rms_statistics(x, axes, node.attrs["eps"])
    inner = _affine(g, parameters, axes)
    to_x = (inner - normal * average(inner * normal, axes)) * scale
    return [cast_to(to_x, x.dtype), *(_parameter_gradient(g * normal, axes, p) for p in parameters)]


def _rms_norm_reference(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=axes, keepdims=True) + eps)


_register(
    "rms_norm", "x / sqrt(mean(x²) + eps) · weight, the mean over axes.", 2, _rms_statistics, _rms_norm_vjp,
    _rms_norm_reference,
)


def apply_rms_norm(
    x: TensorLike, weight: TensorLike | None = None, axes: int | Sequence[int] = -1, eps: float = 1e-6
) -> Value:
    """See ``rms_norm``."""
    return _normalize("rms_norm", x, weight, None, axes, eps)


def _normalize(
    name: str, x: TensorLike, weight: TensorLike | None, bias: TensorLike | None, axes: int | Sequence[int], eps: float
) -> Value:
    tensor = as_floating(x)
    chosen = several_axes(name, axes, tensor.ndim, "axes")
    if not chosen:
        raise ArgumentError(f"[{name}] axes is empty; name at least one dimension")
    operands = [tensor, *(p for p in (weight, bias if weight is not None else None) if p is not None)]
    y = build(name, *promote_operands(name, *operands), axes=chosen, eps=float(eps))
    if bias is None or weight is not None:
        return y
    _, shift = promote_operands(name, y, bias)
    expected = _parameter_shape(tensor.shape, chosen)
    if shift.shape != expected:
        raise ShapeError(f"[{name}] bias has shape {shape_text(shift.shape)}; expected {shape_text(expected)}")
    shape = [tensor.shape[a] if a in chosen else 1 for a in range(tensor.ndim)]
    return build("add", y, to_shape(shift, shape))


# --- group_norm -----------------------------------------------------------------------------------------------------


def group_norm(
    x: TensorLike, groups: int, weight: TensorLike | None = None, bias: TensorLike | None = None, eps: float = 1e-5
) -> Value:
    """Normalises each group of channels of each example (Wu and He 2018).

    ``x``: (N, C, …) with C divisible by ``groups``; ``weight``, ``bias``: (C,). Raises ShapeError otherwise.
    """
    tensor = as_floating(x)
    if tensor.ndim < 2:
        raise ShapeError(f"[group_norm] x has shape {shape_text(tensor.shape)}; expected (N, C, …)")
    n, channels, *rest = tensor.shape
    if groups < 1 or not is_multiple(channels, groups):
        raise ShapeError(
            f"[group_norm] the {channels} channels of x {shape_text(tensor.shape)} do not split into {groups} groups"
        )
    grouped = to_shape(tensor, (n, groups, floordiv(channels, groups), *rest))
    y = to_shape(apply_layer_norm(grouped, axes=range(2, grouped.ndim), eps=eps), tensor.shape)
    for what, parameter, operation in (("weight", weight, "mul"), ("bias", bias, "add")):
        if parameter is not None:
            y, p = promote_operands("group_norm", y, parameter)
            if p.shape != (channels,):
                raise ShapeError(
                    f"[group_norm] {what} has shape {shape_text(p.shape)}; expected {shape_text((channels,))}"
                )
            y = build(operation, y, to_shape(p, (channels, *[1] * len(rest))))
    return y
