"""Attention as two operators that a target may have kernels for: the forward pass with what the gradient needs, and
the gradient. Both are composites: a target without such kernels gets the same graph as from attention itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tessera.ir.dims import bounds
from tessera.ir.dtype import bf16, f16, f32
from tessera.ir.graph import Graph, rebuild
from tessera.ir.graph import keep as keep_node
from tessera.ir.provenance import location
from tessera.ir.value import Node, TensorType, Value
from tessera.op import opdef
from tessera.op.accumulate import largest, total
from tessera.op.arguments import FLOATS
from tessera.op.attention import attention_scores
from tessera.op.lowering import Composite
from tessera.op.matmul import to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, register
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import exp, log
from tessera.op.promotion import cast_to
from tessera.transform.autodiff import composite_gradients

ATTENTION = "scaled_dot_product_attention"
FORWARD, GRADIENT = "flash_attention", "flash_attention_gradient"
_SIZES = (16, 32, 64, 128)
_LARGEST_SCALE = 2.0**100
"""Scales up to which, and from whose reciprocal on, kernels compute in f32."""


def _forward_infer(types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
    out, = opdef.infer_types(ATTENTION, types, dict(attrs))
    return out, TensorType(f32, out.shape[:-1])


def _gradient_infer(types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
    _forward_infer((*types[:3], *types[6:]), attrs)
    return types[:3]


def _forward_body(q: Value, k: Value, v: Value, *mask: Value, **attrs: Any) -> tuple[Value, ...]:
    scores = attention_scores(q, k, *mask, **attrs)
    axis = [scores.ndim - 1]
    top = largest(scores, axis)
    shift = where(top == float("-inf"), 0, top)
    sums = log(total(exp(scores - shift), axis)) + shift
    out, = opdef.apply(ATTENTION, (q, k, v, *mask), dict(attrs))
    return out, cast_to(to_shape(sums, out.shape[:-1]), f32)


def _gradient_body(
    q: Value, k: Value, v: Value, out: Value, sums: Value, gradient: Value, *mask: Value, **attrs: Any
) -> tuple[Value, ...]:
    attention, = opdef.apply(ATTENTION, (q, k, v, *mask), dict(attrs))
    return tuple(composite_gradients(attention.node, (gradient,)))[:3]


def _scores(q: np.ndarray, k: np.ndarray, mask: Sequence[np.ndarray], causal: bool, scale: float) -> np.ndarray:
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * scale
    for m in mask:
        scores = np.where(m, scores, -np.inf) if m.dtype == bool else scores + m.astype(np.float64)
    return np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf) if causal else scores


def _groups(q: np.ndarray, k: np.ndarray) -> int:
    return q.shape[-3] // k.shape[-3] if q.ndim > 2 else 1


def _forward_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *mask: np.ndarray, causal: bool, scale: float
) -> Any:
    out = opdef.get(ATTENTION).reference
    assert out is not None
    wide_q, wide_k = q.astype(np.float64), k.astype(np.float64)
    wide_k = np.repeat(wide_k, _groups(q, k), axis=-3) if q.ndim > 2 else wide_k
    scores = _scores(wide_q, wide_k, mask, causal, scale)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(scores).sum(axis=-1))
    return out(q, k, v, *mask, causal=causal, scale=scale), sums


def _gradient_reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, out: np.ndarray, sums: np.ndarray, gradient: np.ndarray,
    *mask: np.ndarray, causal: bool, scale: float,
) -> Any:
    q, k, v, g = (x.astype(np.float64) for x in (q, k, v, gradient))
    groups = _groups(q, k)
    wide_k, wide_v = (np.repeat(x, groups, axis=-3) if q.ndim > 2 else x for x in (k, v))
    scores = _scores(q, wide_k, mask, causal, scale)
    top = scores.max(axis=-1, keepdims=True)
    powers = np.exp(scores - np.maximum(top, np.finfo(np.float64).min))
    weights = powers / np.maximum(powers.sum(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    change = np.matmul(g, np.swapaxes(wide_v, -1, -2))
    change = weights * (change - (weights * change).sum(axis=-1, keepdims=True)) * scale
    dk = np.matmul(np.swapaxes(change, -1, -2), q)
    dv = np.matmul(np.swapaxes(weights, -1, -2), g)
    if groups > 1:
        dk, dv = (x.reshape(*k.shape[:-2], groups, *k.shape[-2:]).sum(axis=-3) for x in (dk, dv))
    return np.matmul(change, wide_k), dk, dv


def _samples(gradient: bool) -> list[Sample]:
    def sample(q: tuple[int, ...], k: tuple[int, ...], causal: bool, *mask: Input) -> Sample:
        inputs = [Input(q), Input(k), Input(k)]
        if gradient:
            inputs += [Input(q), Input(q[:-1]), Input(q)]
        inputs += mask
        return Sample(tuple(inputs), {"causal": causal, "scale": 0.5}, grad=False, tolerance=8.0)

    square = (2, 2, 4, 3)
    return [
        sample(square, square, True), sample((4, 4, 3), (2, 6, 3), False), sample((3, 4), (5, 4), False),
        sample(square, square, False, Input((2, 1, 1, 4), "bool", 0, 2)),
        sample(square, square, True, Input((2, 4, 4))),
    ]


def _shard(gradient: bool) -> Callable[[tuple[TensorType, ...], Attrs], str]:
    # Batch and heads may be split; with grouped heads as well, since groups lie side by side.
    operands = "*l!e!,*s!e!,*s!e!,*l!e!,*l!,*l!e!" if gradient else "*l!e!,*s!e!,*s!e!"
    results = "*l!e!,*s!e!,*s!e!" if gradient else "*l!e!,*l!"

    def rule(types: tuple[TensorType, ...], attrs: Attrs) -> str:
        masks = [{0: "", 1: "s!", 2: "l!s!"}.get(t.ndim, "*l!s!") for t in types[operands.count(",") + 1 :]]
        return f"{','.join([operands, *masks])}->{results}"

    return rule


register(OpDef(
    name=FORWARD,
    infer=_forward_infer,
    vjp=None,
    shard=_shard(gradient=False),
    lower=Composite(_forward_body),
    reference=_forward_reference,
    samples=lambda: _samples(False),
    dtypes=FLOATS,
    doc="Attention, and the logarithm of the sum of the exponentials of each query's scores.",
))

register(OpDef(
    name=GRADIENT,
    infer=_gradient_infer,
    vjp=None,
    shard=_shard(gradient=True),
    lower=Composite(_gradient_body),
    reference=_gradient_reference,
    samples=lambda: _samples(True),
    dtypes=FLOATS,
    doc="The gradients of attention for q, k, v, given its result and sums and the result's gradient.",
))


def mask_of(node: Node) -> Value | None:
    """The mask of an attention operator, its last operand."""
    without = 6 if node.op == GRADIENT else 3
    return node.operands[without] if len(node.operands) > without else None


def _covers(mask: TensorType, q: TensorType) -> bool:
    """Whether a mask has all batch dimensions of the queries or none."""
    batch = (1,) * (q.ndim - mask.ndim) + mask.shape[:-3] if mask.ndim > 3 else (1,) * (q.ndim - 3)
    return all(d == 1 for d in batch) or batch == q.shape[:-3]


def has_kernel(node: Node) -> bool:
    """Whether attention on these operands can be one kernel: 16-bit floats, equal batches, heads of a usual size, a
    usual scale; a mask for all batches or for each.
    """
    scale = abs(node.attrs["scale"])
    if scale and not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
        return False
    mask = mask_of(node)
    if mask is not None and not _covers(mask.type, node.operands[0].type):
        return False
    q, k, v = (x.type for x in node.operands[:3])
    if q.dtype not in (bf16, f16) or not q.ndim == k.ndim == v.ndim or k.shape != v.shape:
        return False
    if q.shape[-1] not in _SIZES or q.shape[:-3] != k.shape[:-3]:
        return False
    if q.ndim > 2 and q.shape[-3] != k.shape[-3]:
        heads, shared = q.shape[-3], k.shape[-3]
        if not isinstance(heads, int) or not isinstance(shared, int) or heads % max(shared, 1) or not shared:
            return False
    return all(bounds(d)[0] >= 1 for t in (q, k) for d in t.shape)


def claim(graph: Graph) -> Graph:
    """The graph with attention, where it can be one kernel, as the operator that also gives the sums."""
    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        if node.op != ATTENTION or not has_kernel(node):
            return keep_node(node, operands)
        with location(node.loc):
            return opdef.apply(FORWARD, operands, dict(node.attrs))[:1]

    return rebuild(graph, visit)


def is_claimed(node: Node) -> bool:
    """Whether the node is attention that stays as it is for a target with kernels for it."""
    return node.op in (FORWARD, GRADIENT) and has_kernel(node)
