"""cross_entropy with index or soft labels, and nll_loss, as ``torch.nn.functional`` defines them.

A label meets its class by comparing it with the class number, so that forward and gradient are pointwise work and
sums over rows of the logits: no one-hot matrix, gather or scatter. The gradient of the logits is
(softmax - target) · scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim
from tessera.ir.dtype import i32
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import count, total, widen
from tessera.op.arguments import FLOATS, one_axis, require_dtype, require_equal_dtypes, require_index, shape_text
from tessera.op.factors import letters
from tessera.op.lowering import Composite
from tessera.op.matmul import to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_binary import where
from tessera.op.pointwise_unary import log, reciprocal
from tessera.op.promotion import TensorLike, as_floating, as_index, as_tensor, cast_to, promote_operands
from tessera.op.softmax import shifted_exponentials

REDUCTIONS = ("mean", "sum", "none")


def require_reduction(op: str, reduction: str) -> None:
    """ArgumentError unless ``reduction`` is one of ``REDUCTIONS``."""
    if reduction not in REDUCTIONS:
        raise ArgumentError(f'[{op}] reduction is {reduction!r}; use "mean", "sum" or "none"')


def _kept(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _dropped(shape: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _along(vector: Value, rank: int, axis: int) -> Value:
    """A vector over the classes, wide, aligned with ``axis``."""
    return to_shape(widen(vector), (vector.shape[0], *[1] * (rank - axis - 1)))


def _label_infer(name: str, types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    scores, labels, *weight = types
    require_dtype(name, types[:1], FLOATS)
    require_index(name, 1, labels)
    require_reduction(name, attrs["reduction"])
    axis = one_axis(name, attrs["axis"], scores.ndim)
    if scores.shape[axis] == 0:
        raise ShapeError(
            f"[{name}] the scores have shape {shape_text(scores.shape)}: there are no classes along axis {axis}"
        )
    if labels.shape != _dropped(scores.shape, axis):
        fix = "; soft labels are floats: cast them" if labels.shape == scores.shape else ""
        raise ShapeError(
            f"[{name}] the scores have shape {shape_text(scores.shape)} and the labels {shape_text(labels.shape)}; "
            f"expected labels {shape_text(_dropped(scores.shape, axis))}, the scores without the class axis {axis}{fix}"
        )
    _check_weight(name, scores, axis, weight)
    return TensorType(scores.dtype, labels.shape if attrs["reduction"] == "none" else ())


def _check_weight(name: str, scores: TensorType, axis: int, weight: Sequence[TensorType]) -> None:
    for w in weight:
        require_equal_dtypes(name, (scores, w))
        if w.shape != (scores.shape[axis],):
            raise ShapeError(
                f"[{name}] weight has shape {shape_text(w.shape)}; expected {shape_text((scores.shape[axis],))}, "
                "one per class"
            )


class _Rows:
    """What forward and gradient share: per row (class axis kept, size 1) the labels' matches, validity and weight."""

    def __init__(self, node_attrs: Attrs, scores: Value, labels: Value, weight: Value | None) -> None:
        self.axis: int = node_attrs["axis"]
        self.ignore: int = node_attrs["ignore_index"]
        self.reduction: str = node_attrs["reduction"]
        classes, rank = scores.shape[self.axis], scores.ndim
        labels = build("check_range", labels, low=0, high=classes - 1, ignore=self.ignore, what="label")
        rows = to_shape(labels, _kept(scores.shape, self.axis))
        self.labels_shape = labels.shape
        self.valid = rows != self.ignore
        numbers = build("iota", shape=[classes, *[1] * (rank - self.axis - 1)], axis=0, dtype=i32)
        self.matches = cast_to(rows, i32) == numbers
        self.class_weight = None if weight is None else _along(weight, rank, self.axis)
        self.row_weight = None if self.class_weight is None else self.pick(self.class_weight)

    def pick(self, x: Value) -> Value:
        """The element of ``x`` (over the classes) at each row's label; 0 where there is none."""
        return total(where(self.matches, x, 0), [self.axis])

    def weighted(self, rows: Value) -> Value:
        """Rows times the weight of their labels."""
        return rows if self.row_weight is None else rows * self.row_weight

    def denominator(self, like: Value) -> Value:
        """What ``mean`` divides by: the number, or total weight, of the labels that are not ignored; a scalar."""
        axes = range(self.valid.ndim)
        if self.row_weight is None:
            return cast_to(total(self.valid, axes, keepdims=False), like.dtype)
        return total(where(self.valid, self.row_weight, 0), axes, keepdims=False)

    def reduce(self, rows: Value) -> Value:
        """The loss from each row's: zero where ignored."""
        rows = where(self.valid, rows, 0)
        if self.reduction == "none":
            return to_shape(rows, self.labels_shape)
        summed = total(rows, range(rows.ndim), keepdims=False)
        return summed / self.denominator(rows) if self.reduction == "mean" else summed

    def scale(self, g: Value) -> Value:
        """The cotangent of each row's loss."""
        if self.reduction == "none":
            g = to_shape(g, self.valid.shape)
        elif self.reduction == "mean":
            g = g / self.denominator(g)
        return where(self.valid, g, 0)

    def over_rows(self, contribution: Value) -> Value:
        """The sum over everything but the classes."""
        return total(contribution, [a for a in range(contribution.ndim) if a != self.axis], keepdims=False)

    def above_mean(self, rows: Value, loss: Value) -> Value:
        """What each row's loss per weight contributes to the gradient of its label's weight.

        A mean divides by the total weight, so that only what lies above the mean counts.
        """
        return rows - widen(loss) if self.reduction == "mean" else rows


# --- index labels ---------------------------------------------------------------------------------------------------


def _cross_entropy_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    return _label_infer("cross_entropy", types, attrs)


def _cross_entropy_body(logits: Value, labels: Value, weight: Value | None = None, **attrs: Any) -> Value:
    rows = _Rows(attrs, logits, labels, weight)
    smoothing, axis = attrs["label_smoothing"], rows.axis
    d, _, s = shifted_exponentials(widen(logits), axis)
    log_s = log(s)
    loss = rows.weighted(log_s - rows.pick(d))
    if smoothing:
        every = log_s - d if rows.class_weight is None else (log_s - d) * rows.class_weight
        part = smoothing / count([logits.shape[axis]], log_s.dtype)
        loss = loss * (1.0 - smoothing) + total(every, [axis]) * part
    return cast_to(rows.reduce(loss), logits.dtype)


def _cross_entropy_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    logits, labels, *weights = node.operands
    (g,) = cotangents
    assert g is not None
    rows = _Rows(node.attrs, logits, labels, weights[0] if weights else None)
    smoothing, axis = node.attrs["label_smoothing"], rows.axis
    d, e, s = shifted_exponentials(widen(logits), axis)
    scale = rows.scale(widen(g))
    at_label = rows.weighted(scale)
    at_all = at_label
    gradient_of_rest: Value | None = None
    part: Value | None = None
    if smoothing:
        part = smoothing / count([logits.shape[axis]], scale.dtype) * scale
        at_label = at_label * (1.0 - smoothing)
        if rows.class_weight is None:
            at_all, gradient_of_rest = scale, part
        else:
            at_all = at_label + part * total(rows.class_weight, [0])
            gradient_of_rest = part * rows.class_weight
    to_logits = e * (at_all * reciprocal(s)) - where(rows.matches, at_label, 0)
    if gradient_of_rest is not None:
        to_logits = to_logits - gradient_of_rest
    found: list[Value | None] = [cast_to(to_logits, logits.dtype), None]
    if weights:
        log_s = log(s)
        share = scale * rows.above_mean((log_s - rows.pick(d)) * (1.0 - smoothing), node.results[0])
        contribution = where(rows.matches, share, 0)
        if part is not None:
            contribution = contribution + part * (log_s - d)
        found.append(cast_to(rows.over_rows(contribution), weights[0].dtype))
    return found


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    d = x.astype(np.float64) - np.max(x.astype(np.float64), axis=axis, keepdims=True)
    return d - np.log(np.sum(np.exp(d), axis=axis, keepdims=True))


def _reduced(rows: np.ndarray, denominator: Any, reduction: str) -> np.ndarray:
    if reduction == "none":
        return rows
    return rows.sum() / denominator if reduction == "mean" else rows.sum()


def _labelled_reference(
    log_p: np.ndarray, labels: np.ndarray, weight: np.ndarray | None, ignore_index: int, label_smoothing: float,
    reduction: str, axis: int,
) -> np.ndarray:
    classes = log_p.shape[axis]
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    valid = labels != ignore_index
    if np.any(valid & ((labels < 0) | (labels >= classes))):
        raise IndexError("a label is out of range")
    safe = np.where(valid, labels, 0)
    rows = -np.take_along_axis(log_p, np.expand_dims(safe, axis), axis).squeeze(axis) * w[safe]
    if label_smoothing:
        spread = np.reshape(w, [-1 if a == axis % log_p.ndim else 1 for a in range(log_p.ndim)])
        rows = rows * (1 - label_smoothing) - (log_p * spread).sum(axis) * (label_smoothing / classes)
    rows = np.where(valid, rows, 0.0)
    return _reduced(rows, np.sum(np.where(valid, w[safe], 0.0)), reduction)


def _cross_entropy_reference(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None, **attrs: Any
) -> np.ndarray:
    return _labelled_reference(_log_softmax(logits, attrs["axis"]), labels, weight, **attrs)


def _label_samples(smoothing: bool) -> list[Sample]:
    def sample(
        shape: tuple[int, ...], axis: int = 1, weight: bool = False, ignore: int = -100, smooth: float = 0.0,
        reduction: str = "mean",
    ) -> Sample:
        labels = Input(_dropped(shape, axis), "index", 0, shape[axis])  # type: ignore[arg-type]
        inputs = [Input(shape), labels, *([Input((shape[axis],), "float", 0.2, 2.0)] if weight else [])]
        attrs: dict[str, Any] = {"ignore_index": ignore, "reduction": reduction, "axis": axis}
        if smoothing:
            attrs["label_smoothing"] = smooth
        return Sample(tuple(inputs), attrs, tolerance=4.0)

    cases = [
        sample((5, 7)), sample((5, 7), reduction="sum"), sample((5, 7), reduction="none"), sample((5, 7), weight=True),
        sample((5, 3), ignore=1), sample((9, 4), weight=True, ignore=1), sample((2, 5, 3)), sample((2, 3, 5), axis=2),
        sample((7,), axis=0), sample((4, 1)), sample((0, 3), reduction="sum"),
    ]
    if smoothing:
        cases += [
            sample((5, 7), smooth=0.1), sample((5, 7), weight=True, smooth=0.1), sample((5, 3), ignore=2, smooth=0.3),
            sample((2, 5, 3), weight=True, smooth=0.2, reduction="none"),
        ]
    return cases


def _label_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    names = letters(types[0].ndim)
    axis: int = attrs["axis"]
    labels = names[:axis] + names[axis + 1 :]
    dims = [c + "!" if i == axis else c for i, c in enumerate(names)]
    whole = "!".join(labels) + "!" if labels and attrs["reduction"] == "mean" else labels
    # A mean divides by a sum over all rows, so the composite as a whole does not split; its primitives do.
    scores = "".join(f"{c}!" if attrs["reduction"] == "mean" and len(c) == 1 else c for c in dims)
    result = labels if attrs["reduction"] == "none" else ""
    return f"{','.join([scores, whole] + [dims[axis]] * (len(types) - 2))}->{result}"


register(OpDef(
    name="cross_entropy",
    infer=_cross_entropy_infer,
    vjp=_cross_entropy_vjp,
    shard=_label_shard,
    lower=Composite(_cross_entropy_body),
    reference=_cross_entropy_reference,
    samples=lambda: _label_samples(True),
    dtypes=FLOATS,
    doc="-log softmax(logits)[label] along an axis, with index labels.",
))


# --- soft labels ----------------------------------------------------------------------------------------------------


def _soft_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    logits, target, *weight = types
    require_dtype("cross_entropy", types, FLOATS)
    require_equal_dtypes("cross_entropy", types)
    require_reduction("cross_entropy", attrs["reduction"])
    axis = one_axis("cross_entropy", attrs["axis"], logits.ndim)
    if target.shape != logits.shape:
        raise ShapeError(
            f"[cross_entropy] logits have shape {shape_text(logits.shape)}, float labels {shape_text(target.shape)}; "
            "soft labels need the shape of the logits, index labels an integer dtype"
        )
    if logits.shape[axis] == 0:
        raise ShapeError(
            f"[cross_entropy] logits have shape {shape_text(logits.shape)}: there are no classes along axis {axis}"
        )
    _check_weight("cross_entropy", logits, axis, weight)
    return TensorType(logits.dtype, _dropped(logits.shape, axis) if attrs["reduction"] == "none" else ())


def _soft_target(target: Value, weights: Sequence[Value], smoothing: float, axis: int) -> Value:
    """The labels after smoothing, times the class weights."""
    wide = widen(target)
    if smoothing:
        wide = wide * (1.0 - smoothing) + smoothing / count([target.shape[axis]], wide.dtype)
    return wide * _along(weights[0], target.ndim, axis) if weights else wide


def _soft_body(
    logits: Value, target: Value, *weights: Value, label_smoothing: float, reduction: str, axis: int
) -> Value:
    d, _, s = shifted_exponentials(widen(logits), axis)
    t = _soft_target(target, weights, label_smoothing, axis)
    rows = total((log(s) - d) * t, [axis])
    if reduction == "none":
        return cast_to(to_shape(rows, _dropped(logits.shape, axis)), logits.dtype)
    summed = total(rows, range(rows.ndim), keepdims=False)
    return cast_to(summed / count(rows.shape, rows.dtype) if reduction == "mean" else summed, logits.dtype)


def _soft_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    logits, target, *weights = node.operands
    smoothing, axis, reduction = (node.attrs[k] for k in ("label_smoothing", "axis", "reduction"))
    (g,) = cotangents
    assert g is not None
    kept = _kept(logits.shape, axis)
    scale = widen(g)
    if reduction == "mean":
        scale = scale / count(kept, scale.dtype)
    elif reduction == "none":
        scale = to_shape(scale, kept)
    d, e, s = shifted_exponentials(widen(logits), axis)
    t = _soft_target(target, weights, smoothing, axis)
    cost = (log(s) - d) * scale
    to_target = cost * (1.0 - smoothing)
    if weights:
        to_target = to_target * _along(weights[0], logits.ndim, axis)
    found: list[Value | None] = [
        cast_to((e * (total(t, [axis]) * reciprocal(s)) - t) * scale, logits.dtype), cast_to(to_target, target.dtype),
    ]
    if weights:
        others = [a for a in range(logits.ndim) if a != axis]
        to_weight = total(cost * _soft_target(target, (), smoothing, axis), others, keepdims=False)
        found.append(cast_to(to_weight, weights[0].dtype))
    return found


def _soft_reference(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, *, label_smoothing: float, reduction: str,
    axis: int,
) -> np.ndarray:
    t = target.astype(np.float64) * (1 - label_smoothing) + label_smoothing / logits.shape[axis]
    if weight is not None:
        shape = [-1 if a == axis % logits.ndim else 1 for a in range(logits.ndim)]
        t = t * np.reshape(weight.astype(np.float64), shape)
    rows = -(_log_softmax(logits, axis) * t).sum(axis)
    return _reduced(rows, rows.size, reduction)


def _soft_samples() -> list[Sample]:
    def sample(shape: tuple[int, ...], axis: int, weight: bool, smooth: float, reduction: str) -> Sample:
        inputs = [Input(shape), Input(shape, "float", 0.0, 1.0)]
        inputs += [Input((shape[axis],), "float", 0.2, 2.0)] if weight else []
        attrs = {"label_smoothing": smooth, "reduction": reduction, "axis": axis}
        return Sample(tuple(inputs), attrs, tolerance=4.0)

    return [
        sample((4, 6), 1, False, 0.0, "mean"),
        sample((4, 6), 1, True, 0.1, "mean"),
        sample((4, 6), 1, False, 0.2, "sum"),
        sample((2, 5, 3), 1, True, 0.0, "none"),
        sample((6,), 0, False, 0.0, "mean"),
        sample((0, 3), 1, True, 0.0, "sum"),
    ]


def _soft_shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    names = letters(types[0].ndim)
    axis: int = attrs["axis"]
    result = names[:axis] + names[axis + 1 :] if attrs["reduction"] == "none" else ""
    dims = [c + "!" if i == axis else c for i, c in enumerate(names)]
    scores = "".join(f"{c}!" if attrs["reduction"] == "mean" and len(c) == 1 else c for c in dims)
    return f"{','.join([scores, scores] + [dims[axis]] * (len(types) - 2))}->{result}"


register(OpDef(
    name="soft_cross_entropy",
    infer=_soft_infer,
    vjp=_soft_vjp,
    shard=_soft_shard,
    lower=Composite(_soft_body),
    reference=_soft_reference,
    samples=_soft_samples,
    dtypes=FLOATS,
    doc="-sum(target · log softmax(logits)) along an axis, with probabilities as labels.",
))


# --- nll_loss -------------------------------------------------------------------------------------------------------


def _nll_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    return _label_infer("nll_loss", types, attrs)


def _nll_body(log_p: Value, labels: Value, weight: Value | None = None, **attrs: Any) -> Value:
    rows = _Rows(attrs, log_p, labels, weight)
    return cast_to(rows.reduce(rows.weighted(-rows.pick(widen(log_p)))), log_p.dtype)


def _nll_vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    log_p, labels, *weights = node.operands
    (g,) = cotangents
    assert g is not None
    rows = _Rows(node.attrs, log_p, labels, weights[0] if weights else None)
    scale = rows.scale(widen(g))
    found: list[Value | None] = [cast_to(where(rows.matches, -rows.weighted(scale), 0), log_p.dtype), None]
    if weights:
        share = scale * rows.above_mean(-rows.pick(widen(log_p)), node.results[0])
        found.append(cast_to(rows.over_rows(where(rows.matches, share, 0)), weights[0].dtype))
    return found


def _nll_reference(log_p: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None, **attrs: Any) -> np.ndarray:
    return _labelled_reference(log_p.astype(np.float64), labels, weight, label_smoothing=0.0, **attrs)


register(OpDef(
    name="nll_loss",
    infer=_nll_infer,
    vjp=_nll_vjp,
    shard=_label_shard,
    lower=Composite(_nll_body),
    reference=_nll_reference,
    samples=lambda: _label_samples(False),
    dtypes=FLOATS,
    doc="-log_probabilities[label] along an axis.",
))


# --- what users call ------------------------------------------------------------------------------------------------


def cross_entropy(
    logits: TensorLike, labels: TensorLike, weight: TensorLike | None = None, *, ignore_index: int = -100,
    label_smoothing: float = 0.0, reduction: str = "mean", axis: int = -1,
) -> Value:
    """The cross entropy between softmax(logits) and labels, along ``axis``; equal to PyTorch's.

    ``logits``: floating-point, classes along ``axis`` (default the last; PyTorch's layout (N, C, d1, …) is ``axis=1``).
    ``labels``: integers with the logits' shape less ``axis``; or floats (probabilities) with the logits' shape.
    ``weight``: one factor per class, cast to the logits' dtype. ``ignore_index``: a label that counts for nothing
    (index labels only).
    ``label_smoothing``: the share, in [0, 1], of the label that is spread evenly over the classes.
    ``reduction``: ``"mean"`` divides by the total weight of the labels that are not ignored (soft labels: by the number
    of rows), so that it is NaN when all are ignored; ``"sum"``; ``"none"`` gives one loss per row.

    The result has the logits' (promoted) dtype; bf16 and f16 compute in f32. A label outside [0, classes) that is not
    ``ignore_index`` makes the run fail with IndexRangeError. Raises ShapeError, DTypeError and ArgumentError.
    """
    scores, target = as_floating(logits), as_tensor(labels)
    axis = _class_axis("cross_entropy", scores, axis)
    if isinstance(label_smoothing, bool) or not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"[cross_entropy] label_smoothing is {label_smoothing}; it must be in [0, 1]")
    attrs: dict[str, Any] = {"label_smoothing": float(label_smoothing), "reduction": reduction, "axis": axis}
    if target.dtype.is_float:
        operands = promote_operands("cross_entropy", scores, target)
        if weight is not None:
            operands.append(cast_to(as_floating(weight, operands[0]), operands[0].dtype))
        return build("soft_cross_entropy", *operands, **attrs)
    return _with_labels("cross_entropy", scores, target, weight, ignore_index=int(ignore_index), **attrs)


def nll_loss(
    log_probabilities: TensorLike, labels: TensorLike, weight: TensorLike | None = None, *, ignore_index: int = -100,
    reduction: str = "mean", axis: int = -1,
) -> Value:
    """-log_probabilities[label] along ``axis``; arguments as in ``cross_entropy``, index labels only."""
    scores, target = as_floating(log_probabilities), as_tensor(labels)
    axis = _class_axis("nll_loss", scores, axis)
    return _with_labels(
        "nll_loss", scores, target, weight, ignore_index=int(ignore_index), reduction=reduction, axis=axis
    )


def _class_axis(op: str, scores: Value, axis: int) -> int:
    if scores.ndim == 0:
        raise ShapeError(f"[{op}] the scores are a scalar; expected at least one dimension, the classes")
    return one_axis(op, axis, scores.ndim)


def _with_labels(op: str, scores: Value, labels: Value, weight: TensorLike | None, **attrs: Any) -> Value:
    labels = as_index(op, "labels", labels)
    if weight is None:
        return build(op, scores, labels, **attrs)
    return build(op, scores, labels, cast_to(as_floating(weight, scores), scores.dtype), **attrs)
