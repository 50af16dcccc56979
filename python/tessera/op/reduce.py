"""Reductions over any axes, and running sums.

``axis`` is None (all), an int or several; with ``keepdims`` reduced dimensions stay as size 1. Sums and products of
bool and of integers below 64 bits are i64; bf16 and f16 accumulate in f32 and round once.
"""

from __future__ import annotations

import builtins
import itertools
import math
import string
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, bounds, product
from tessera.ir.dtype import DType, i64
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import widen
from tessera.op.arguments import ALL, FLOATS, one_axis, require_count, require_dtype, several_axes, shape_text
from tessera.op.factors import letters, whole_axes
from tessera.op.lowering import Composite, Reduction, Scan
from tessera.op.opdef import Attrs, Input, NoVjp, OpDef, Sample, Vjp, build, no_vjp, register
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import abs as absolute
from tessera.op.pointwise_unary import cast, exp, isfinite, log, sqrt, square, stop_gradient
from tessera.op.promotion import TensorLike, as_floating, as_tensor, cast_to, scalar

Axis = Union[int, Sequence[int], None]


def _accumulated(dtype: DType) -> DType:
    """The dtype of a sum or product."""
    return dtype if dtype.is_float else i64


def reduced_shape(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    """The shape after reduction over ``axes``."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def reduced_count(x: Value, axes: Sequence[int]) -> Dim:
    """The number of elements that are combined into one."""
    return product(x.shape[a] for a in axes)


def _check_axes(name: str, t: TensorType, axes: Sequence[int]) -> None:
    if list(axes) != several_axes(name, list(axes), t.ndim, "axes"):
        raise ArgumentError(f"[{name}] axes {list(axes)} must be sorted, non-negative and without repetition")


def _not_empty(name: str, t: TensorType, axes: Sequence[int]) -> None:
    for a in axes:
        if t.shape[a] == 0:
            raise ShapeError(
                f"[{name}] dimension {a} of operand 0 with shape {shape_text(t.shape)} is empty, and the {name} of no "
                "elements is not defined; reduce over dimensions that have elements"
            )


def _reduction_shard(combine: str) -> Callable[[tuple[TensorType, ...], Attrs], str]:
    def factors(types: tuple[TensorType, ...], attrs: Attrs) -> str:
        names = letters(types[0].ndim)
        axes = attrs["axes"]
        if attrs["keepdims"]:  # the dimension of size 1 gets a letter of its own
            spare = iter(string.ascii_letters[types[0].ndim :])
            kept = "".join(next(spare) if i in axes else c for i, c in enumerate(names))
        else:
            kept = "".join(c for i, c in enumerate(names) if i not in axes)
        return f"{names}->{kept}" + ("" if combine == "sum" else f";{combine}")

    return factors


def _whole_axis_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    """For operators that need all of ``axis`` on one device; a result may lack it or have it with size 1."""
    rank, axis = types[0].ndim, attrs["axis"]
    kept = "Z" if attrs.get("keepdims", False) else ""
    after = "".join(c if i != axis else kept for i, c in enumerate(letters(rank)))
    return f"{whole_axes(rank, [axis])}->{after}"


def _scan_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    return "{0}->{0}".format(whole_axes(types[0].ndim, [attrs["axis"]]))


def reduction_samples(
    kind: str = "any", low: float = -2.0, high: float = 2.0, empty: bool = True, **attrs: Any
) -> list[Sample]:
    """Axes and shapes that every reduction is tested on: each axis, several, all, none, size 1, rank 0, empty."""
    cases: list[tuple[tuple[int, ...], list[int], bool]] = [
        ((3, 4), [0], False), ((3, 4), [1], True), ((2, 3, 4), [0, 2], False), ((2, 3, 4), [1], False),
        ((3, 4), [0, 1], True), ((5,), [0], False), ((3,), [], False), ((), [], False), ((1, 4, 1), [0, 2], False),
        ((37,), [0], False), ((0, 3), [1], False),
    ]
    if empty:
        cases += [((0, 3), [0], False), ((2, 0), [0, 1], True)]
    return [
        Sample((Input(shape, kind, low, high),), {"axes": axes, "keepdims": keep, **attrs}, tolerance=2.0)
        for shape, axes, keep in cases
    ]


def keep_dims(reduced: Value, node: Node) -> Value:
    """A cotangent or result of a reduction, with the reduced dimensions as size 1."""
    shape = list(reduced_shape(node.operands[0].shape, node.attrs["axes"], True))
    return reduced if list(reduced.shape) == shape else build("reshape", reduced, shape=shape)


def reduction_vjp(rule: Callable[[Value, Value, Value, Node], Value]) -> Vjp:
    """The vjp of a reduction from ``rule(x, y, g, node)``, y and g with kept dimensions, broadcast to x by the rule."""

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
        g = cotangents[0]
        if g is None or not g.dtype.is_float:
            return [None]
        return [rule(node.operands[0], keep_dims(node.results[0], node), keep_dims(g, node), node)]

    return vjp


def _broadcast(g: Value, x: Value) -> Value:
    return g if g.shape == x.shape else build("broadcast_to", g, shape=list(x.shape))


def _extremum_vjp(x: Value, y: Value, g: Value, node: Node) -> Value:
    """Equal shares for all elements that attain the extremum; NaN where it is NaN."""
    attained = cast(x == y, x.dtype)
    shares = build("sum", attained, axes=node.attrs["axes"], keepdims=True)
    return attained * (g / shares)


def _prod_vjp(x: Value, y: Value, g: Value, node: Node) -> Value:
    return g * build("prod_others", x, axes=node.attrs["axes"])


def _register(
    name: str, doc: str, reference: Callable[..., Any], vjp: Vjp | NoVjp, dtypes: tuple[str, ...],
    low: float = -2.0, high: float = 2.0,
) -> None:
    accumulates = name in ("sum", "prod")

    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, dtypes)
        t = types[0]
        _check_axes(name, t, attrs["axes"])
        if not accumulates:
            _not_empty(name, t, attrs["axes"])
        dtype = _accumulated(t.dtype) if accumulates else t.dtype
        return TensorType(dtype, reduced_shape(t.shape, attrs["axes"], attrs["keepdims"]))

    def numpy_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool) -> Any:
        extra = {"dtype": np.int64} if accumulates and x.dtype.kind in "iub" else {}
        return reference(x, axis=tuple(axes), keepdims=keepdims, **extra)

    register(OpDef(
        name, infer, vjp, _reduction_shard(name), Reduction(name), numpy_reference,
        lambda: reduction_samples("any", low, high, empty=accumulates), dtypes, doc,
    ))


_register("sum", "The sum over axes.", np.sum, reduction_vjp(lambda x, y, g, node: _broadcast(g, x)), ALL)
_register("prod", "The product over axes.", np.prod, reduction_vjp(_prod_vjp), ALL, 0.5, 2.0)
_register("max", "The largest element over axes; NaN if any is.", np.max, reduction_vjp(_extremum_vjp), ALL, -9, 9)
_register("min", "The smallest element over axes; NaN if any is.", np.min, reduction_vjp(_extremum_vjp), ALL, -9, 9)


# --- the gradient of prod, right also where elements are zero ---


def _prod_others_body(x: Value, axes: Sequence[int]) -> Value:
    """prod / x where nothing is zero; a single zero gets the product of the rest; else 0."""
    zero = x == 0
    zeros = build("sum", cast(zero, i64), axes=list(axes), keepdims=True)
    rest = where(zero, 1.0, x)
    whole = build("prod", rest, axes=list(axes), keepdims=True)
    return where(zero, where(zeros == 1, whole, 0.0), where(zeros == 0, whole / rest, 0.0))


def _prod_others_reference(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    out = np.empty_like(x)
    for index in itertools.product(*map(range, x.shape)):
        group = tuple(slice(None) if a in axes else i for a, i in enumerate(index))
        others = np.array(x)
        others[index] = 1
        out[index] = np.prod(others[group])
    return out


def _prod_others_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    """d out[i] / d x[k] is the product of all but i and k: row i of a matrix in which element i is 1.

    Quadratic in the number of reduced elements; used by second derivatives only.
    """
    x, g, axes = node.operands[0], cotangents[0], list(node.attrs["axes"])
    if g is None:
        return [None]
    kept = [a for a in range(x.ndim) if a not in axes]
    order = kept + axes
    moved = [x.shape[a] for a in order]
    outer, count = [x.shape[a] for a in kept], reduced_count(x, axes)
    rank = len(outer)

    def rows(v: Value) -> Value:
        return build("reshape", build("transpose", v, perm=order), shape=[*outer, count])

    def iota(axis: int) -> Value:
        return build("iota", shape=[count, count], axis=axis, dtype=i64)

    matrix = build("broadcast_to", build("reshape", rows(x), shape=[*outer, 1, count]), shape=[*outer, count, count])
    diagonal = iota(0) == iota(1)
    others = build("prod_others", where(diagonal, 1.0, matrix), axes=[rank + 1])
    weighted = where(diagonal, 0.0, others * build("reshape", rows(g), shape=[*outer, count, 1]))
    total = build("reshape", build("sum", weighted, axes=[rank], keepdims=False), shape=moved)
    return [build("transpose", total, perm=[order.index(a) for a in range(x.ndim)])]


register(OpDef(
    "prod_others", lambda types, attrs: types[0], _prod_others_vjp,
    lambda types, attrs: "{0}->{0}".format(whole_axes(types[0].ndim, attrs["axes"])),
    Composite(_prod_others_body), _prod_others_reference,
    lambda: [
        Sample((Input(shape, "float", 0.5, 2.0),), {"axes": axes}, tolerance=4.0)
        for shape, axes in (((3, 4), [1]), ((2, 3, 2), [0, 2]), ((5,), [0]), ((0, 2), [0]), ((3,), []))
    ],
    FLOATS, "For each element the product of the others along the axes: the gradient of prod.",
))


# --- positions and running sums ---


def _arg_infer(name: str) -> Callable[..., TensorType]:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, ALL)
        axis = one_axis(name, attrs["axis"], types[0].ndim)
        _not_empty(name, types[0], [axis])
        return TensorType(i64, reduced_shape(types[0].shape, [axis], attrs["keepdims"]))

    return infer


def _arg_samples() -> list[Sample]:
    cases = (
        ((3, 4), 0, False), ((3, 4), 1, True), ((2, 3, 4), 1, False), ((7,), 0, False), ((1,), 0, False),
        ((0, 2), 1, False),
    )
    return [Sample((Input(s, "any", -9, 9),), {"axis": a, "keepdims": k}, grad=False) for s, a, k in cases]


def _argmax_reference(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.asarray(np.argmax(x, axis=axis, keepdims=keepdims))


def _argmin_reference(x: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.asarray(np.argmin(x, axis=axis, keepdims=keepdims))


for _name, _reference, _which in (("argmax", _argmax_reference, "largest"), ("argmin", _argmin_reference, "smallest")):
    register(OpDef(
        _name, _arg_infer(_name), no_vjp("the result is a position"), _whole_axis_shard, Reduction(_name),
        _reference, _arg_samples, ALL,
        f"The position of the first {_which} element along an axis; a NaN counts as the {_which}.",
    ))


def _cumsum_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("cumsum", types, 1)
    require_dtype("cumsum", types, ALL)
    one_axis("cumsum", attrs["axis"], types[0].ndim)
    return TensorType(_accumulated(types[0].dtype), types[0].shape)


def _cumsum_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
    g, axis = cotangents[0], node.attrs["axis"]
    if g is None or not g.dtype.is_float:
        return [None]
    return [build("flip", build("cumsum", build("flip", g, axes=[axis]), axis=axis), axes=[axis])]


def _cumsum_reference(x: np.ndarray, axis: int) -> np.ndarray:
    return np.cumsum(x, axis=axis, dtype=np.int64 if x.dtype.kind in "iub" else None)


register(OpDef(
    "cumsum", _cumsum_infer, _cumsum_vjp, _scan_shard, Scan("sum"),
    _cumsum_reference,
    lambda: [
        Sample((Input(s, "any"),), {"axis": a}, tolerance=2.0)
        for s, a in (((3, 4), 0), ((3, 4), 1), ((2, 3, 4), 1), ((9,), 0), ((1,), 0), ((0, 2), 0), ((2, 0), 0))
    ],
    ALL, "Running sums along an axis.",
))


# --- the user's functions ---


def _reduce(name: str, x: TensorLike, axis: Axis, keepdims: bool) -> Value:
    tensor = as_tensor(x)
    return build(name, tensor, axes=several_axes(name, axis, tensor.ndim), keepdims=bool(keepdims))


def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """The sum over ``axis``; 0 for no elements. bool, i8, i16, u8 and i32 give i64."""
    return _reduce("sum", x, axis, keepdims)


def prod(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """The product over ``axis``; 1 for no elements. bool, i8, i16, u8 and i32 give i64.

    The gradient is right also where elements are zero.
    """
    return _reduce("prod", x, axis, keepdims)


def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """The largest element over ``axis``; NaN if any is. Equal extrema share the gradient equally.

    ShapeError when a reduced dimension is empty.
    """
    return _reduce("max", x, axis, keepdims)


def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """The smallest element over ``axis``; NaN if any is. Equal extrema share the gradient equally.

    ShapeError when a reduced dimension is empty.
    """
    return _reduce("min", x, axis, keepdims)


def _position(name: str, x: TensorLike, axis: int | None, keepdims: bool) -> Value:
    tensor = as_tensor(x)
    if axis is not None:
        return build(name, tensor, axis=one_axis(name, axis, tensor.ndim), keepdims=bool(keepdims))
    flat = build("reshape", tensor, shape=[tensor.size])
    found = build(name, flat, axis=0, keepdims=False)
    return build("reshape", found, shape=[1] * tensor.ndim) if keepdims else found


def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Value:
    """The position (i64) of the first largest element along ``axis`` (None: of all, flattened); NaN is largest."""
    return _position("argmax", x, axis, keepdims)


def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Value:
    """The position (i64) of the first smallest element along ``axis`` (None: of all, flattened); NaN is smallest."""
    return _position("argmin", x, axis, keepdims)


def cumsum(x: TensorLike, axis: int) -> Value:
    """Running sums along ``axis``, the dtype as for ``sum``."""
    tensor = as_tensor(x)
    return build("cumsum", tensor, axis=one_axis("cumsum", axis, tensor.ndim))


# --- composites ---


def _mean_of(x: Value, axes: Sequence[int], keepdims: bool, correction: float = 0.0) -> Value:
    """The sum divided by max(count - correction, 0)."""
    total = build("sum", x, axes=list(axes), keepdims=keepdims)
    count = reduced_count(x, axes)
    if isinstance(count, int):
        divisor = scalar(float(builtins.max(count - correction, 0)), x.dtype)
    else:
        size = build("full", shape=[], value=count, dtype=x.dtype)
        divisor = build("maximum", size - correction, scalar(0.0, x.dtype))
    return total / divisor


def _mean_body(x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    return cast_to(_mean_of(widen(x), axes, keepdims), x.dtype)


def _variance(x: Value, axes: Sequence[int], keepdims: bool, ddof: float) -> Value:
    return _mean_of(square(x - _mean_of(x, axes, True)), axes, keepdims, ddof)


def _var_body(x: Value, axes: Sequence[int], keepdims: bool, ddof: float) -> Value:
    return cast_to(_variance(widen(x), axes, keepdims, ddof), x.dtype)


def _std_body(x: Value, axes: Sequence[int], keepdims: bool, ddof: float) -> Value:
    return cast_to(sqrt(_variance(widen(x), axes, keepdims, ddof)), x.dtype)


def _logsumexp_body(x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    wide = widen(x)
    top = stop_gradient(build("max", wide, axes=list(axes), keepdims=True))
    shift = where(isfinite(top), top, 0.0)
    total = log(build("sum", exp(wide - shift), axes=list(axes), keepdims=True)) + shift
    shape = list(reduced_shape(x.shape, axes, keepdims))
    return cast_to(build("reshape", total, shape=shape), x.dtype)


def _norm_body(x: Value, axes: Sequence[int], keepdims: bool, ord: float) -> Value:
    size = absolute(widen(x))
    how = {"axes": list(axes), "keepdims": keepdims}
    if math.isinf(ord):
        return cast_to(build("max" if ord > 0 else "min", size, **how), x.dtype)
    if ord == 0:
        return build("sum", cast(size != 0, x.dtype), **how)
    if ord == 1:
        return cast_to(build("sum", size, **how), x.dtype)
    if ord == 2:
        return cast_to(sqrt(build("sum", square(widen(x)), **how)), x.dtype)
    return cast_to(build("sum", size**ord, **how) ** (1.0 / ord), x.dtype)


def _norm_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool, ord: float) -> Any:
    size = np.abs(x.astype(np.float64))
    how: dict[str, Any] = {"axis": tuple(axes), "keepdims": keepdims}
    if math.isinf(ord):
        return np.max(size, **how) if ord > 0 else np.min(size, **how)
    return np.sum(size != 0, **how) if ord == 0 else np.sum(size**ord, **how) ** (1.0 / ord)


def _logsumexp_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool) -> Any:
    wide = x.astype(np.float64)
    if len(axes) == 1:
        return np.logaddexp.reduce(wide, axis=axes[0], keepdims=keepdims)  # pyright: ignore[reportUnknownMemberType]
    return np.log(np.sum(np.exp(wide), axis=tuple(axes), keepdims=keepdims))


def _composite(
    name: str, doc: str, body: Callable[..., Value], reference: Callable[..., Any],
    samples: Callable[[], list[Sample]], empty: bool = True,
) -> None:
    def infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
        require_count(name, types, 1)
        require_dtype(name, types, FLOATS)
        _check_axes(name, types[0], attrs["axes"])
        if not empty:
            _not_empty(name, types[0], attrs["axes"])
        return TensorType(types[0].dtype, reduced_shape(types[0].shape, attrs["axes"], attrs["keepdims"]))

    # Partial results of these do not add up, so that the reduced dimensions are whole.
    def shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
        before = whole_axes(types[0].ndim, attrs["axes"])
        return f"{before}->{_reduction_shard('sum')(types, attrs).split('->')[1]}"

    register(OpDef(name, infer, None, shard, Composite(body), reference, samples, FLOATS, doc))


def _nonempty_samples(**attrs: Any) -> list[Sample]:
    """Reductions of at least two elements each (a deviation of one element has no gradient at 0)."""
    cases: tuple[tuple[tuple[int, ...], list[int], bool], ...] = (
        ((3, 4), [0], False), ((3, 4), [1], True), ((2, 3, 4), [0, 2], False), ((37,), [0], False),
        ((0, 3), [1], False),
    )
    return [Sample((Input(s, "float"),), {"axes": a, "keepdims": k, **attrs}, tolerance=4.0) for s, a, k in cases]


def _mean_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool) -> Any:
    total = np.sum(x.astype(np.float64), axis=tuple(axes), keepdims=keepdims)
    return np.divide(total, math.prod(x.shape[a] for a in axes))


def _var_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool, ddof: float) -> Any:
    return np.var(x.astype(np.float64), axis=tuple(axes), keepdims=keepdims, ddof=ddof)


def _std_reference(x: np.ndarray, axes: Sequence[int], keepdims: bool, ddof: float) -> Any:
    return np.std(x.astype(np.float64), axis=tuple(axes), keepdims=keepdims, ddof=ddof)


_composite(
    "mean", "The arithmetic mean over axes.", _mean_body, _mean_reference,
    lambda: reduction_samples("float"),
)
_composite(
    "var", "The variance over axes; ddof is subtracted from the count.", _var_body, _var_reference,
    lambda: [*_nonempty_samples(ddof=0.0), *_nonempty_samples(ddof=1.0)],
)
_composite(
    "std", "The standard deviation over axes; ddof is subtracted from the count.", _std_body, _std_reference,
    lambda: [*_nonempty_samples(ddof=0.0), *_nonempty_samples(ddof=1.0)],
)
_composite(
    "logsumexp", "log(sum(exp(x))) over axes, without overflow.", _logsumexp_body, _logsumexp_reference,
    lambda: reduction_samples("float", empty=False), empty=False,
)
_composite(
    "norm", "The vector norm of order ord over axes.", _norm_body, _norm_reference,
    lambda: [s for order in (2.0, 1.0, math.inf, -math.inf, 3.0, 0.0) for s in _nonempty_samples(ord=order)],
)


def _reduce_floating(name: str, x: TensorLike, axis: Axis, keepdims: bool, **attrs: Any) -> Value:
    tensor = as_floating(x)
    return build(name, tensor, axes=several_axes(name, axis, tensor.ndim), keepdims=bool(keepdims), **attrs)


def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """The mean over ``axis``; NaN for no elements. Integers and bool are cast to f32."""
    return _reduce_floating("mean", x, axis, keepdims)


def var(x: TensorLike, axis: Axis = None, keepdims: bool = False, ddof: float = 0.0) -> Value:
    """The variance over ``axis``: squared deviations from the mean, divided by count - ddof (two passes)."""
    return _reduce_floating("var", x, axis, keepdims, ddof=float(ddof))


def std(x: TensorLike, axis: Axis = None, keepdims: bool = False, ddof: float = 0.0) -> Value:
    """The square root of ``var``; its gradient is NaN where the deviation is 0."""
    return _reduce_floating("std", x, axis, keepdims, ddof=float(ddof))


def logsumexp(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) over ``axis`` without overflow. ShapeError when a reduced dimension is empty."""
    return _reduce_floating("logsumexp", x, axis, keepdims)


def norm(x: TensorLike, ord: float = 2.0, axis: Axis = None, keepdims: bool = False) -> Value:
    """The vector norm (sum |x|**ord)**(1/ord) over ``axis``; ord inf, -inf and 0 (the number of nonzeros) too."""
    return _reduce_floating("norm", x, axis, keepdims, ord=float(ord))


def _truth(name: str, x: TensorLike, axis: Axis, keepdims: bool) -> Value:
    tensor = cast(x, "bool")
    axes = several_axes(name, axis, tensor.ndim)
    if builtins.all(bounds(tensor.shape[a])[0] >= 1 for a in axes):
        return build("max" if name == "any" else "min", tensor, axes=axes, keepdims=bool(keepdims))
    count = build("sum", tensor if name == "any" else ~tensor, axes=axes, keepdims=bool(keepdims))
    return count > 0 if name == "any" else count == 0


def any(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """Whether an element over ``axis`` is nonzero: bool; false for no elements."""
    return _truth("any", x, axis, keepdims)


def all(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Value:
    """Whether every element over ``axis`` is nonzero: bool; true for no elements."""
    return _truth("all", x, axis, keepdims)
