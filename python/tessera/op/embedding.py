"""Rows of a table by index."""

from __future__ import annotations

import numpy as np

from tessera.errors import ShapeError
from tessera.ir.value import TensorType, Value
from tessera.op.arguments import ALL, require_count, require_index, shape_text
from tessera.op.factors import letters
from tessera.op.lowering import Composite
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.promotion import TensorLike, as_index, as_tensor


def _infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count("embedding", types, 2)
    ids, table = types
    require_index("embedding", 0, ids)
    if table.ndim != 2:
        raise ShapeError(f"[embedding] the table has shape {shape_text(table.shape)}; expected (rows, size)")
    return TensorType(table.dtype, (*ids.shape, table.shape[1]))


def _body(ids: Value, table: Value) -> Value:
    checked = build("check_range", ids, low=0, high=table.shape[0] - 1, ignore=None, what="embedding index")
    return build("take", table, checked, axis=0)


def _shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    ids = letters(types[0].ndim)
    return f"{ids},Y!Z->{ids}Z"


def _reference(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    return table[ids]


def _samples() -> list[Sample]:
    cases: list[tuple[tuple[int, ...], tuple[int, int]]] = [
        ((4,), (5, 3)),
        ((2, 3), (7, 4)),
        ((), (2, 2)),
        ((0,), (3, 2)),
        ((9,), (1, 1)),
    ]
    return [Sample((Input(ids, "index", 0, table[0]), Input(table, "any"))) for ids, table in cases]


register(OpDef(
    name="embedding",
    infer=_infer,
    vjp=None,
    shard=_shard,
    lower=Composite(_body),
    reference=_reference,
    samples=_samples,
    dtypes=ALL,
    doc="table[ids], with ids checked.",
))


def look_up(ids: TensorLike, table: TensorLike) -> Value:
    """Rows of ``table`` (rows, size) at integer ``ids`` of any shape: shape ids.shape + (size,).

    An id outside [0, rows) makes the run fail with IndexRangeError. Raises DTypeError for ids that are not integers.
    """
    return build("embedding", as_index("embedding", "ids", ids), as_tensor(table))
