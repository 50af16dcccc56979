"""Matrix products: ``matmul``, ``dot``, ``outer``, ``scaled_matmul`` and ``linear``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.errors import DTypeError, ShapeError
from tessera.ir.dims import Dim, product
from tessera.ir.dtype import DType, as_dtype, bf16, f32
from tessera.ir.value import Node, TensorType, Value
from tessera.op.arguments import (
    FLOATS,
    NUMBERS,
    SMALL_FLOATS,
    one_of,
    require_count,
    require_dtype,
    require_equal_dtypes,
    shape_text,
)
from tessera.op.broadcasting import broadcast_shapes, unbroadcast
from tessera.op.lowering import Composite, Dot
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.promotion import TensorLike, as_tensor, cast_to, promote_operands


def swap_last(x: Value) -> Value:
    """``x`` with its last two dimensions exchanged."""
    n = x.ndim
    return build("transpose", x, perm=[*range(n - 2), n - 1, n - 2])


def to_shape(x: Value, shape: Sequence[Dim]) -> Value:
    """``x`` reshaped; ``x`` itself when it has the shape."""
    return x if x.shape == tuple(shape) else build("reshape", x, shape=list(shape))


# --- matmul ---------------------------------------------------------------------------------------------------------


def _matmul_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("matmul", types, 2)
    a, b = types
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(
            f"[matmul] a has shape {shape_text(a.shape)} and b has shape {shape_text(b.shape)}: "
            "the primitive needs at least two dimensions each"
        )
    require_dtype("matmul", types, NUMBERS)
    dtype = require_equal_dtypes("matmul", types)
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"[matmul] a has shape {shape_text(a.shape)} and b has shape {shape_text(b.shape)}: the last dimension of "
            f"a ({a.shape[-1]}) must equal the second-last of b ({b.shape[-2]})"
        )
    batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    return TensorType(dtype, (*batch, a.shape[-2], b.shape[-1]))


def _matmul_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    (a, b), (g,) = node.operands, cotangents
    assert g is not None
    to_a = unbroadcast(build("matmul", g, swap_last(b)), a.shape)
    if b.ndim == 2 and a.ndim > 2:  # one product over all rows, instead of one per batch element and a sum
        rows = product(a.shape[:-1])
        a, g = to_shape(a, (rows, a.shape[-1])), to_shape(g, (rows, g.shape[-1]))
    return to_a, unbroadcast(build("matmul", swap_last(a), g), b.shape)


def _matmul_reference(a: np.ndarray, b: np.ndarray, **attrs: Any) -> np.ndarray:
    wide = np.float32 if a.dtype.itemsize == 2 and a.dtype.kind not in "iu" else a.dtype
    return np.matmul(a.astype(wide), b.astype(wide)).astype(a.dtype)


def _matmul_samples() -> list[Sample]:
    shapes = [
        ((3, 4), (4, 5)), ((1, 7), (7, 1)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (3, 4, 2)), ((0, 4), (4, 3)), ((3, 0), (0, 2)), ((33, 65), (65, 17)),
    ]
    return [Sample((Input(a, "any"), Input(b, "any"))) for a, b in shapes]


register(OpDef(
    name="matmul",
    infer=_matmul_infer,
    vjp=_matmul_vjp,
    shard="*ik,*kj->*ij",
    lower=Dot(),
    reference=_matmul_reference,
    samples=_matmul_samples,
    dtypes=NUMBERS,
    doc="Matrix product over the last two dimensions; batch dimensions broadcast; bf16 and f16 accumulate in f32.",
))


def matmul(a: TensorLike, b: TensorLike) -> Value:
    """Matrix product, with the rules of ``numpy.matmul``.

    ``a``: (…, m, k) or (k,); ``b``: (…, k, n) or (k,); result (…, m, n) without the dimension of a 1-D operand. Batch
    dimensions broadcast. Operands are promoted to one dtype (numbers; bf16 and f16 accumulate in f32, integers wrap).

    Raises ShapeError when the shapes do not fit, DTypeError for bool.
    """
    x, y = _numbers("matmul", a, b)
    if x.ndim == 0 or y.ndim == 0:
        which = "a" if x.ndim == 0 else "b"
        raise ShapeError(f"[matmul] {which} is a scalar; a matrix product needs at least one dimension: use mul")
    inner = y.shape[-2] if y.ndim > 1 else y.shape[0]
    if x.shape[-1] != inner:
        place = "the second-last of b" if y.ndim > 1 else "the length of b"
        raise ShapeError(
            f"[matmul] a has shape {shape_text(x.shape)} and b has shape {shape_text(y.shape)}: "
            f"the last dimension of a ({x.shape[-1]}) must equal {place} ({inner})"
        )
    rows = x.shape[:-1]
    columns = y.shape[-1:] if y.ndim > 1 else ()
    right = y if y.ndim > 1 else to_shape(y, (inner, 1))
    if right.ndim == 2:  # all leading dimensions of a are rows
        result = build("matmul", to_shape(x, (product(rows), inner)), right)
        return to_shape(result, (*rows, *columns))
    if x.ndim > 1:
        return build("matmul", x, right)
    result = build("matmul", to_shape(x, (1, inner)), right)
    return to_shape(result, (*result.shape[:-2], result.shape[-1]))


def dot(a: TensorLike, b: TensorLike) -> Value:
    """``numpy.dot``: the sum of products over the last dimension of ``a`` and the second-last (or only) one of ``b``.

    The result has shape ``a.shape[:-1] + b.shape[:-2] + b.shape[-1:]``; a scalar operand multiplies.
    """
    x, y = _numbers("dot", a, b)
    if x.ndim == 0 or y.ndim == 0:
        return build("mul", x, y)
    if y.ndim <= 2:
        return matmul(x, y)
    if x.shape[-1] != y.shape[-2]:
        raise ShapeError(
            f"[dot] a has shape {shape_text(x.shape)} and b has shape {shape_text(y.shape)}: "
            f"the last dimension of a ({x.shape[-1]}) must equal the second-last of b ({y.shape[-2]})"
        )
    n = y.ndim
    k = y.shape[-2]
    columns = (*y.shape[:-2], y.shape[-1])
    table = to_shape(build("transpose", y, perm=[n - 2, *range(n - 2), n - 1]), (k, product(columns)))
    return to_shape(matmul(x, table), (*x.shape[:-1], *columns))


def outer(a: TensorLike, b: TensorLike) -> Value:
    """Products of all pairs of elements: shape (a.size, b.size); operands of any rank are flattened."""
    x, y = promote_operands("outer", a, b)
    return build("mul", to_shape(x, (x.size, 1)), to_shape(y, (1, y.size)))


def scaled_matmul(
    a: TensorLike, b: TensorLike, scale_a: TensorLike = 1.0, scale_b: TensorLike = 1.0,
    out_dtype: DType | str | type = bf16,
) -> Value:
    """Matrix product of 8-bit floats with scales: ``(a @ b) * scale_a * scale_b``, rounded once, to ``out_dtype``.

    ``a``: (…, m, k) and ``b``: (…, k, n) in f8e4m3 or f8e5m2, each its own; the rules of ``matmul`` hold. ``scale_a``
    and ``scale_b``: f32, one for the tensor or one per row of ``a`` (…, m, 1) and per column of ``b`` (…, 1, n);
    what the numbers were divided by before they were cast. Products are summed in f32. On Hopper the matrix units take
    8-bit operands whose terms lie side by side in memory (``b`` transposed); they keep about 14 bits of a sum, so that
    every 128 terms are added to a total in f32.

    Gradients reach ``a`` and ``b`` in their own dtypes. Raises DTypeError for operands of other dtypes or a result
    that is no wider float, ShapeError when shapes do not fit.
    """
    x, y = as_tensor(a), as_tensor(b)
    for name, v in (("a", x), ("b", y)):
        if v.dtype.name not in SMALL_FLOATS:
            raise DTypeError(
                f"[scaled_matmul] {name} is {v.dtype.name}; expected {one_of(SMALL_FLOATS)}: divide it by a scale and "
                "cast it, or use matmul"
            )
    wide = as_dtype(out_dtype)
    if wide.name not in FLOATS:
        raise DTypeError(f"[scaled_matmul] out_dtype is {wide.name}; expected {one_of(FLOATS)}")
    total = matmul(cast_to(x, f32), cast_to(y, f32))
    for name, scale in (("scale_a", scale_a), ("scale_b", scale_b)):
        factor = as_tensor(scale, f32)
        if factor.dtype != f32:
            raise DTypeError(f"[scaled_matmul] {name} is {factor.dtype.name}; expected f32: cast it first")
        aligned = (1,) * (total.ndim - factor.ndim) + factor.shape
        if len(aligned) > total.ndim or any(d not in (1, n) for d, n in zip(aligned, total.shape)):
            raise ShapeError(
                f"[scaled_matmul] {name} has shape {shape_text(factor.shape)}, which does not broadcast to the "
                f"product's {shape_text(total.shape)}; expected one number, or one per "
                + ("row of a" if name == "scale_a" else "column of b")
            )
        total = build("mul", total, factor)
    return cast_to(total, wide)


def _numbers(op: str, a: TensorLike, b: TensorLike) -> list[Value]:
    operands = promote_operands(op, a, b)
    if operands[0].dtype.kind == "bool":
        raise DTypeError(f"[{op}] both operands are bool; cast them to a number dtype, or use logical_and and any")
    return operands


# --- linear ---------------------------------------------------------------------------------------------------------


def _linear_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    x, w = types[:2]
    require_dtype("linear", types, FLOATS)
    dtype = require_equal_dtypes("linear", types)
    if w.ndim != 2 or x.ndim < 1:
        raise ShapeError(
            f"[linear] x has shape {shape_text(x.shape)} and w has shape {shape_text(w.shape)}; "
            "expected x (…, in) and w (in, out)"
        )
    if x.shape[-1] != w.shape[0]:
        raise ShapeError(
            f"[linear] x has shape {shape_text(x.shape)} and w has shape {shape_text(w.shape)}: "
            f"the last dimension of x ({x.shape[-1]}) must equal the first of w ({w.shape[0]})"
        )
    if len(types) == 3 and types[2].shape != (w.shape[1],):
        raise ShapeError(
            f"[linear] b has shape {shape_text(types[2].shape)}; expected {shape_text((w.shape[1],))}, one per "
            "column of w"
        )
    return TensorType(dtype, (*x.shape[:-1], w.shape[1]))


def _linear_body(x: Value, w: Value, b: Value | None = None) -> Value:
    y = build("matmul", to_shape(x, (product(x.shape[:-1]), x.shape[-1])), w)
    if b is not None:
        y = build("add", y, b)
    return to_shape(y, (*x.shape[:-1], w.shape[1]))


def _linear_samples() -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], ...]] = [
        ((3, 4), (4, 5)),
        ((3, 4), (4, 5), (5,)),
        ((4,), (4, 5), (5,)),
        ((2, 3, 4), (4, 5), (5,)),
        ((0, 4), (4, 2), (2,)),
    ]
    return [Sample(tuple(Input(s) for s in operands)) for operands in shapes]


def _linear_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    return "*k,kj->*j" if len(types) == 2 else "*k,kj,j->*j"


register(OpDef(
    name="linear",
    infer=_linear_infer,
    vjp=None,
    shard=_linear_shard,
    lower=Composite(_linear_body),
    reference=None,
    samples=_linear_samples,
    dtypes=FLOATS,
    doc="x @ w + b with x (…, in), w (in, out) and b (out,).",
))


def apply_linear(x: TensorLike, w: TensorLike, b: TensorLike | None = None) -> Value:
    """``x @ w + b``: x (…, in), w (in, out), b (out,); result (…, out) in the promoted floating-point dtype."""
    operands = promote_operands("linear", *([x, w] if b is None else [x, w, b]))
    return build("linear", *operands)
