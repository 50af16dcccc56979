"""The lower and the upper triangle of matrices."""

from __future__ import annotations

import numpy as np

from tessera.errors import ShapeError
from tessera.ir.dtype import i64
from tessera.ir.value import TensorType, Value
from tessera.op.arguments import (
    ALL,
    require_count,
    shape_text,
)
from tessera.op.factors import letters
from tessera.op.lowering import Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_binary import where
from tessera.op.promotion import TensorLike, as_tensor


def _triangle_body(x: Value, k: int, lower: bool) -> Value:
    shape = list(x.shape[-2:])
    rows = build("iota", shape=shape, axis=0, dtype=i64)
    columns = build("iota", shape=shape, axis=1, dtype=i64)
    bound = rows + k
    return where(columns <= bound if lower else columns >= bound, x, False if x.dtype.kind == "bool" else 0)


def _triangle_infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("triangle", types, 1)
    if types[0].ndim < 2:
        raise ShapeError(
            f"[{'tril' if attrs['lower'] else 'triu'}] operand 0 has shape {shape_text(types[0].shape)}; a matrix "
            "needs 2 dimensions"
        )
    return types[0]


def _triangle_reference(x: np.ndarray, k: int, lower: bool) -> np.ndarray:
    return np.tril(x, k) if lower else np.triu(x, k)


register(OpDef(
    "triangle", _triangle_infer, None,
    lambda types, attrs: "{0}->{0}".format(letters(types[0].ndim)), Composite(_triangle_body),
    _triangle_reference,
    lambda: [
        Sample((Input(s, "any"),), {"k": k, "lower": lower})
        for s, k in (((3, 4), 0), ((4, 4), -1), ((2, 3, 3), 1), ((0, 2), 0)) for lower in (True, False)
    ],
    ALL, "The lower or upper triangle of matrices.",
))


def tril(x: TensorLike, k: int = 0) -> Value:
    """Matrices (the last two dimensions) with zeros where column - row > k."""
    return build("triangle", as_tensor(x), k=int(k), lower=True)


def triu(x: TensorLike, k: int = 0) -> Value:
    """Matrices (the last two dimensions) with zeros where column - row < k."""
    return build("triangle", as_tensor(x), k=int(k), lower=False)
