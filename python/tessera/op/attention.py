"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.dims import Dim
from tessera.ir.dtype import bool_, i32
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import widen
from tessera.op.arguments import FLOATS, require_dtype, require_equal_dtypes, shape_text
from tessera.op.broadcasting import broadcast_shapes
from tessera.op.lowering import Composite
from tessera.op.matmul import swap_last, to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, apply, build, register
from tessera.op.pointwise_binary import where
from tessera.op.promotion import TensorLike, as_floating, as_tensor, cast_to, promote_operands

_OP = "scaled_dot_product_attention"


def _group(q: tuple[Dim, ...], k: tuple[Dim, ...]) -> int:
    """How many query heads share a key head; 1 when heads are not grouped."""
    if len(q) < 3 or len(k) < 3 or q[-3] == k[-3]:
        return 1
    heads, shared = q[-3], k[-3]
    if isinstance(heads, int) and isinstance(shared, int) and shared > 1 and heads > shared and heads % shared == 0:
        return heads // shared
    return 1


def _infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    q, k, v, *mask = types
    require_dtype(_OP, types[:3], FLOATS)
    require_equal_dtypes(_OP, types[:3])
    shapes = f"q {shape_text(q.shape)}, k {shape_text(k.shape)}, v {shape_text(v.shape)}"
    for name, t in zip("qkv", types[:3], strict=True):
        if t.ndim < 2:
            raise ShapeError(f"[{_OP}] {name} has shape {shape_text(t.shape)}; expected (…, heads, length, size)")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(
            f"[{_OP}] {shapes}: the last dimension of q ({q.shape[-1]}) must equal that of k ({k.shape[-1]})"
        )
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"[{_OP}] {shapes}: k has {k.shape[-2]} positions and v has {v.shape[-2]}; they must be equal")
    group = _group(q.shape, k.shape)
    heads = (q.shape[-3], k.shape[-3]) if min(q.ndim, k.ndim) > 2 else (1, 1)
    if group == 1 and heads[0] != heads[1] and 1 not in heads:
        raise ShapeError(
            f"[{_OP}] {shapes}: q has {heads[0]} heads and k {heads[1]}; they must be equal, or the heads of q a "
            "multiple of those of k, both ints"
        )
    if group > 1 and v.shape[-3] != k.shape[-3]:
        raise ShapeError(f"[{_OP}] {shapes}: k and v must have equally many heads")
    leading = [t.shape[:-3] if group > 1 else t.shape[:-2] for t in (q, k, v)]
    batch = broadcast_shapes(_OP, *leading)
    if group > 1:
        batch = (*batch, q.shape[-3])
    scores = (*batch, q.shape[-2], k.shape[-2])
    for m in mask:
        if m.dtype != bool_ and m.dtype != q.dtype:
            raise DTypeError(
                f"[{_OP}] mask has dtype {m.dtype}; expected bool (true: attend) or {q.dtype} (added to the scores)"
            )
        if broadcast_shapes(_OP, scores, m.shape) != scores:
            raise ShapeError(
                f"[{_OP}] mask has shape {shape_text(m.shape)}; it must broadcast to the scores {shape_text(scores)}"
            )
    return TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1]))


def attention_scores(q: Value, k: Value, mask: Value | None = None, *, causal: bool, scale: float) -> Value:
    """q kᵀ · scale with masks applied: (…, heads, L, S), where heads are grouped (…, shared heads, group, L, S)."""
    group = _group(q.shape, k.shape)
    if group > 1:  # heads as (shared, group), so that a key head meets its queries by broadcasting
        q = to_shape(q, (*q.shape[:-3], k.shape[-3], group, *q.shape[-2:]))
        k = to_shape(k, (*k.shape[:-2], 1, *k.shape[-2:]))
    scores = build("matmul", widen(q), swap_last(widen(k))) * scale
    if mask is not None:
        mask = _grouped_mask(mask, group)
        scores = where(mask, scores, float("-inf")) if mask.dtype == bool_ else scores + widen(mask)
    if causal:
        rows, columns = (build("iota", shape=list(scores.shape[-2:]), axis=a, dtype=i32) for a in (0, 1))
        scores = where(columns <= rows, scores, float("-inf"))
    return scores


def _body(q: Value, k: Value, v: Value, mask: Value | None = None, *, causal: bool, scale: float) -> Value:
    result_shape = _infer(tuple(x.type for x in (q, k, v)), {}).shape
    scores = attention_scores(q, k, mask, causal=causal, scale=scale)
    if _group(q.shape, k.shape) > 1:
        v = to_shape(v, (*v.shape[:-2], 1, *v.shape[-2:]))
    weights = build("safe_softmax", scores, axis=scores.ndim - 1)
    result = build("matmul", weights, widen(v))
    return to_shape(cast_to(result, q.dtype), result_shape)


def _vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None] | None:
    """The gradient as one operator, which a target may have a kernel for; with a mask of numbers, which may have a
    gradient of its own, it follows from the body.
    """
    gradient, (q, k, v, *mask) = cotangents[0], node.operands
    if gradient is None or any(m.dtype != bool_ for m in mask):
        return None
    out, sums = apply("flash_attention", node.operands, dict(node.attrs))
    found = apply("flash_attention_gradient", (q, k, v, out, sums, gradient, *mask), dict(node.attrs))
    return (*found, *(None for _ in mask))


def _grouped_mask(mask: Value, group: int) -> Value:
    """A mask over (…, heads, L, S) as one over (…, shared heads, group, L, S)."""
    if group == 1 or mask.ndim < 3:
        return mask
    heads = mask.shape[-3]
    split = (1, 1) if heads == 1 else (heads // group, group)  # type: ignore[operator]
    return to_shape(mask, (*mask.shape[:-3], *split, *mask.shape[-2:]))


def _reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None, *, causal: bool, scale: float
) -> np.ndarray:
    wide_q, wide_k, wide_v = (x.astype(np.float64) for x in (q, k, v))
    group = _group(q.shape, k.shape)
    if group > 1:
        wide_k, wide_v = (np.repeat(x, group, axis=-3) for x in (wide_k, wide_v))
    scores = np.matmul(wide_q, np.swapaxes(wide_k, -1, -2)) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.equal(top, -np.inf), 0, top))
    s = e.sum(axis=-1, keepdims=True)
    return np.matmul(e / np.where(s == 0, 1, s), wide_v)


def _samples() -> list[Sample]:
    def sample(
        q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], mask: Input | None = None, causal: bool = False
    ) -> Sample:
        inputs = [Input(q), Input(k), Input(v), *([] if mask is None else [mask])]
        return Sample(tuple(inputs), {"causal": causal, "scale": 0.5}, tolerance=8.0)

    square = (2, 2, 4, 3)
    return [
        sample(square, square, square),
        sample(square, square, square, causal=True),
        sample((3, 4), (5, 4), (5, 2)),
        sample((2, 4, 4, 3), square, square),
        sample((2, 1, 4, 3), (2, 1, 6, 3), (2, 1, 6, 5), causal=True),
        sample(square, square, square, Input((4, 4), "bool", 0, 2)),
        sample(square, square, square, Input((2, 1, 4, 4))),
        sample((2, 4, 4, 3), square, square, Input((4, 4, 4), "bool", 0, 2)),
        sample((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ]


def _shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    # Grouped heads meet by position within a group, so they stay whole; batch and, ungrouped, heads may be split.
    group = _group(types[0].shape, types[1].shape)
    if group > 1:
        operands = ["*hl!e!", "*gs!e!", "*gs!f!"]
        result = "*hl!f!"
        operands = [o.replace("h", "h!").replace("g", "g!") for o in operands]
        result = result.replace("h", "h!")
    else:
        operands, result = ["*l!e!", "*s!e!", "*s!f!"], "*l!f!"
    if len(types) == 4:
        rank = types[3].ndim
        heads = ("*" + "h!" if group > 1 else "*") if rank > 2 else ""
        lengths = {0: "", 1: "s!"}.get(rank, "l!s!")
        operands.append(heads + lengths)
    return f"{','.join(operands)}->{result}"


register(OpDef(
    name=_OP,
    infer=_infer,
    vjp=_vjp,
    shard=_shard,
    lower=Composite(_body),
    reference=_reference,
    samples=_samples,
    dtypes=FLOATS,
    doc="softmax(q kᵀ · scale + mask) v.",
))


def scaled_dot_product_attention(
    q: TensorLike, k: TensorLike, v: TensorLike, mask: TensorLike | None = None, *, causal: bool = False,
    scale: float | None = None,
) -> Value:
    """softmax(q kᵀ · scale + mask) v.

    ``q``: (…, heads, L, E); ``k``: (…, heads, S, E); ``v``: (…, heads, S, F); result (…, heads, L, F). Leading
    dimensions broadcast. Grouped heads: k and v may have fewer heads, a divisor of q's; query head i uses key head
    i // (heads of q / heads of k). ``mask`` broadcasts to (…, heads, L, S): bool (true: attend) or floating-point
    (added to the scores). ``causal``: position i attends to positions up to i (both counted from the start).
    ``scale``: 1/√E by default.

    A query that may attend to nothing gives zeros, as in PyTorch, and has zero gradient. Scores and softmax are
    computed in f32 for bf16 and f16. Raises ShapeError, DTypeError, ArgumentError.
    """
    x, y, z = (as_floating(t) for t in promote_operands(_OP, q, k, v))
    operands = [x, y, z]
    if mask is not None:
        m = as_tensor(mask, x)
        if not (m.dtype == bool_ or m.dtype.is_float):
            raise DTypeError(
                f"[{_OP}] mask has dtype {m.dtype}; expected bool (true: attend) or a float (added to the scores)"
            )
        operands.append(m if m.dtype == bool_ else cast_to(m, x.dtype))
    if scale is None:
        size = x.shape[-1] if x.ndim else 1
        if not isinstance(size, int):
            raise ArgumentError(f"[{_OP}] the size of a head is symbolic ({size}); give scale")
        scale = 1.0 / math.sqrt(max(size, 1))
    attrs: dict[str, Any] = {"causal": bool(causal), "scale": float(scale)}
    return build(_OP, *operands, **attrs)
