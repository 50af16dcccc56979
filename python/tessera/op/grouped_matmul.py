"""Matrix products of groups of rows: ``grouped_matmul``, one matrix per group, as a mixture of experts has them.

Rows of a group lie side by side, and how many there are is known only at run time. The rows are laid out in blocks of
equal size, each of one group, so that all groups are one batched product: of about half as many rows again as there
are, since a group fills all of its blocks but the last. The layout is arithmetic on the sizes of the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tessera.errors import ShapeError
from tessera.ir.dims import Dim, add, bounds, ceildiv, dmax, mul
from tessera.ir.dtype import i64
from tessera.ir.value import Node, TensorType, Value
from tessera.op.accumulate import widen
from tessera.op.arguments import FLOATS, require_count, require_dtype, require_equal_dtypes, require_index, shape_text
from tessera.op.creation import iota
from tessera.op.joining import pad
from tessera.op.lowering import Composite
from tessera.op.matmul import swap_last, to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.pointwise_binary import clip, floordiv, ge, lt, where
from tessera.op.promotion import TensorLike, as_floating, as_index, as_tensor, cast_to, promote_operands
from tessera.op.reduce import cumsum
from tessera.op.reduce import sum as total

_OP = "grouped_matmul"
_BLOCKS_PER_GROUP = 2
_LARGE_BLOCK, _BLOCK_MULTIPLE = 256, 128


def _infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_count(_OP, types, 3)
    x, w, sizes = types
    require_dtype(_OP, types[:2], FLOATS)
    dtype = require_equal_dtypes(_OP, types[:2])
    require_index(_OP, 2, sizes)
    if x.ndim != 2 or w.ndim != 3:
        raise ShapeError(
            f"[{_OP}] x has shape {shape_text(x.shape)} and w has shape {shape_text(w.shape)}; "
            "expected x (rows, in) and w (groups, in, out)"
        )
    if x.shape[1] != w.shape[1]:
        raise ShapeError(
            f"[{_OP}] x has shape {shape_text(x.shape)} and w has shape {shape_text(w.shape)}: "
            f"the last dimension of x ({x.shape[1]}) must equal the second of w ({w.shape[1]})"
        )
    if w.shape[0] == 0:
        raise ShapeError(f"[{_OP}] w has shape {shape_text(w.shape)}; expected at least one group")
    if sizes.shape != (w.shape[0],):
        raise ShapeError(
            f"[{_OP}] group_sizes has shape {shape_text(sizes.shape)}; expected {shape_text((w.shape[0],))}, one per "
            "group of w"
        )
    return TensorType(dtype, (x.shape[0], w.shape[2]))


def _block_rows(rows: Dim, groups: Dim) -> Dim:
    """Rows of a block."""
    size = dmax(ceildiv(rows, mul(groups, _BLOCKS_PER_GROUP)), 1)
    if isinstance(size, int) and size >= _LARGE_BLOCK:
        return mul(ceildiv(size, _BLOCK_MULTIPLE), _BLOCK_MULTIPLE)
    return size


def _block_count(rows: Dim, groups: Dim, size: Dim) -> Dim:
    """How many blocks hold the rows, however they are grouped: full ones, and one per group that is not."""
    if isinstance(rows, int) and isinstance(groups, int) and isinstance(size, int):
        return max(min(-(-rows // size) + groups, rows), 1)
    return mul(groups, _BLOCKS_PER_GROUP + 1)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Where rows lie in blocks (blocks, size).

    ``row``: of each place the row, any where a place is empty; ``filled``: whether the place has a row; ``group``:
    of each block (blocks,); ``place``: of each row its place, counted through the blocks; ``grouped``: whether the row
    is in a group.
    """

    row: Value
    filled: Value
    group: Value
    place: Value
    grouped: Value


def _blocks(rows: Dim, sizes: Value) -> _Blocks:
    groups = sizes.shape[0]
    size = _block_rows(rows, groups)
    count = _block_count(rows, groups, size)
    step = as_tensor(size, i64)
    sizes = build("check_range", cast_to(sizes, i64), low=0, high=rows, ignore=None, what=f"{_OP}: rows of a group")
    ends = build("check_range", cumsum(sizes, 0), low=0, high=rows, ignore=None,
                 what=f"{_OP}: rows of this group and those before")
    starts = ends - sizes
    blocks = floordiv(sizes + (step - 1), step)
    block_ends = cumsum(blocks, 0)
    # A row of group g is `shift[g]` places behind its number.
    shift = (block_ends - blocks) * step - starts
    last = as_tensor(add(groups, -1), i64)

    def group_of(n: Dim, after: Value) -> Value:
        """The group of each of n rows or blocks: how many groups end before or with it."""
        passed = ge(iota((n, 1), 0, i64), after)
        return clip(total(cast_to(passed, i64), 1), 0, last)

    group = group_of(count, block_ends)
    of_row = group_of(rows, ends)
    place = iota((count, size), 0, i64) * step + iota((count, size), 1, i64)
    row = place - _per_block(shift, group)
    filled = lt(row, _per_block(ends, group))
    last_row = as_tensor(dmax(add(rows, -1), 0), i64)
    last_place = as_tensor(add(mul(count, size), -1), i64)
    number = iota((rows,), 0, i64)
    return _Blocks(
        row=clip(row, 0, last_row),
        filled=filled,
        group=group,
        place=clip(number + build("take", shift, of_row, axis=0), 0, last_place),
        grouped=lt(number, build("take", ends, as_tensor(add(groups, -1), i64), axis=0)),
    )


def _per_block(of_group: Value, group: Value) -> Value:
    """A number per group as one per block, (blocks, 1)."""
    return to_shape(build("take", of_group, group, axis=0), (group.shape[0], 1))


def _in_blocks(x: Value, blocks: _Blocks) -> Value:
    """Rows of x (rows, n) as blocks (blocks, size, n), 0 in empty places."""
    if bounds(x.shape[0])[0] < 1:  # so that there is a row to read
        x = pad(x, ((0, 1), (0, 0)))
    filled = to_shape(blocks.filled, (*blocks.filled.shape, 1))
    return where(filled, build("take", x, blocks.row, axis=0), 0)


def _products(x: Value, w: Value, sizes: Value, turned: bool) -> Value:
    """Rows of x times the matrices of their groups, which may be transposed."""
    blocks = _blocks(x.shape[0], sizes)
    matrices = build("take", w, blocks.group, axis=0)
    product = build("matmul", _in_blocks(x, blocks), swap_last(matrices) if turned else matrices)
    count, size, columns = product.shape
    y = build("take", to_shape(product, (mul(count, size), columns)), blocks.place, axis=0)
    return where(to_shape(blocks.grouped, (x.shape[0], 1)), y, 0)


def _body(x: Value, w: Value, sizes: Value) -> Value:
    return _products(x, w, sizes, turned=False)


def _weight_gradient(x: Value, g: Value, sizes: Value, w: TensorType) -> Value:
    """Of each group the product of its rows of x, transposed, with those of g; summed over blocks in f32 or f64."""
    blocks = _blocks(x.shape[0], sizes)
    a, b = (widen(_in_blocks(v, blocks)) for v in (x, g))
    product = build("matmul", swap_last(a), b)
    zeros = build("full", shape=list(w.shape), value=0.0, dtype=product.dtype)
    return cast_to(build("index_add", zeros, blocks.group, product, axis=0), w.dtype)


def _vjp(node: Node, cotangents: tuple[Value | None, ...]) -> Sequence[Value | None]:
    (x, w, sizes), (g,) = node.operands, cotangents
    assert g is not None
    return _products(g, w, sizes, turned=True), _weight_gradient(x, g, sizes, w.type), None


def _reference(x: np.ndarray, w: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    y = np.zeros((x.shape[0], w.shape[2]), wide)
    ends = np.cumsum(sizes)
    for matrix, start, end in zip(w, ends - sizes, ends, strict=True):
        y[start:end] = x[start:end].astype(wide) @ matrix.astype(wide)
    return y.astype(x.dtype)


def _samples() -> list[Sample]:
    cases = [(7, 3, 4, 5), (12, 2, 3, 1), (4, 1, 2, 3), (3, 5, 2, 2), (0, 2, 3, 2), (5, 2, 0, 3), (40, 4, 33, 17)]
    return [
        Sample((Input((m, k)), Input((g, k, n)), Input((g,), "index", 0, m // g + 1)), tolerance=2.0)
        for m, g, k, n in cases
    ]


register(OpDef(
    name=_OP,
    infer=_infer,
    vjp=_vjp,
    # Rows and groups belong together by numbers that are known at run time, so both are whole.
    shard="a!b,c!bd,c!->a!d",
    lower=Composite(_body),
    reference=_reference,
    samples=_samples,
    dtypes=FLOATS,
    doc="Rows of x (rows, in) in groups that lie side by side, each times its matrix of w (groups, in, out).",
))


def grouped_matmul(x: TensorLike, w: TensorLike, group_sizes: TensorLike) -> Value:
    """Matrix products of groups of rows: each group with its own matrix, as in a mixture of experts.

    ``x``: (rows, in), the rows of a group side by side, group after group; ``w``: (groups, in, out); ``group_sizes``:
    (groups,) integers, how many rows each group has, any of them 0; result (rows, out) in the promoted floating-point
    dtype. Rows after the last group give zeros and have zero gradient. bf16 and f16 accumulate in f32. The time depends
    on the number of rows and groups, not on how rows are spread; working memory holds up to three copies of ``w``.

    A size that is negative, or sizes that add up to more than the rows, make the run fail with IndexRangeError. Raises
    ShapeError when shapes do not fit, DTypeError when sizes are not integers. On a mesh ``in`` and ``out`` may be
    split, rows and groups are whole.
    """
    a, b = (as_floating(v) for v in promote_operands(_OP, x, w))
    return build(_OP, a, b, as_index(_OP, "group_sizes", group_sizes))
