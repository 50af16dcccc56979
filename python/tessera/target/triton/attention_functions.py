"""Attention in Triton, for every architecture: one block of queries against blocks of keys, or the other way round.

Scores are kept in units of log 2, so that powers are those of 2; ``factor`` is the scale times log2(e). The function
``dot`` multiplies 16-bit floats with sums in f32.
"""
# ruff: noqa: ANN001, ANN201

import triton
import triton.language as tl


@triton.jit
def rows_of(pointer, head, length, at, size: tl.constexpr, block: tl.constexpr):
    """A block of a head's rows from row ``at``, zeros beyond the last."""
    rows = at + tl.arange(0, block)
    base = pointer + head.to(tl.int64) * length * size
    place = rows.to(tl.int64)[:, None] * size + tl.arange(0, size)[None, :]
    return tl.load(base + place, mask=(rows < length)[:, None], other=0.0)


@triton.jit
def store_rows(pointer, head, length, at, value, size: tl.constexpr, block: tl.constexpr):
    """Write a block of a head's rows."""
    rows = at + tl.arange(0, block)
    base = pointer + head.to(tl.int64) * length * size
    place = rows.to(tl.int64)[:, None] * size + tl.arange(0, size)[None, :]
    tl.store(base + place, value, mask=(rows < length)[:, None])


@triton.jit
def mask_of_head(mask, head, heads, batch_step, head_step):
    """Where a head's mask begins; there are ``heads`` in a batch. Steps are 0 along what shares a mask."""
    return mask + (head // heads).to(tl.int64) * batch_step + (head % heads).to(tl.int64) * head_step


@triton.jit
def with_mask(scores, inside, mask, rows, columns, length, row_step, column_step, kind: tl.constexpr):
    """Scores with a mask, and where they count. ``kind``: 0, none; 1, true where queries attend; 2, numbers to add."""
    if kind != 0:
        place = rows.to(tl.int64) * row_step + columns.to(tl.int64) * column_step
        value = tl.load(mask + place, mask=inside & (rows < length), other=0)
        if kind == 1:
            inside = inside & (value != 0)
        else:
            scores = scores + value.to(tl.float32) * 1.4426950408889634
    return scores, inside


@triton.jit
def attention_forward(
    q, k, v, out, sums, length, keys, group, factor, causal: tl.constexpr, size: tl.constexpr, block: tl.constexpr,
    width: tl.constexpr, mask=None, heads=1, batch_step=0, head_step=0, row_step=0, column_step=0,
    kind: tl.constexpr = 0,
):
    """The result and the logarithms of sums for ``block`` queries; ``width`` keys at a time."""
    blocks = tl.cdiv(length, block)
    head = tl.program_id(0) // blocks
    first = (blocks - 1 - tl.program_id(0) % blocks) * block
    shared = head // group
    rows = first + tl.arange(0, block)
    queries = rows_of(q, head, length, first, size, block)
    if kind != 0:
        mask = mask_of_head(mask, head, heads, batch_step, head_step)
    top = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    result = tl.zeros((block, size), tl.float32)
    stop = tl.minimum(first + block, keys) if causal else keys
    for at in range(0, stop, width):
        columns = at + tl.arange(0, width)
        scores = tl.dot(queries, tl.trans(rows_of(k, shared, keys, at, size, width))) * factor
        inside = (columns < keys)[None, :]
        if causal:
            inside = inside & (columns[None, :] <= rows[:, None])
        scores, inside = with_mask(
            scores, inside, mask, rows[:, None], columns[None, :], length, row_step, column_step, kind
        )
        scores = tl.where(inside, scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        shift = new
        if kind != 0:  # a query may have met no key yet
            shift = tl.where(new == float("-inf"), 0.0, new)
        powers = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(top - shift)
        total = total * shrink + tl.sum(powers, 1)
        values = rows_of(v, shared, keys, at, size, width)
        result = tl.dot(powers.to(values.dtype), values, result * shrink[:, None])
        top = new
    place = sums + head.to(tl.int64) * length + rows
    tl.store(place, (top + tl.log2(total)) * 0.6931471805599453, mask=rows < length)
    if kind != 0:
        total = tl.where(total == 0, 1.0, total)
    store_rows(out, head, length, first, (result / total[:, None]).to(queries.dtype), size, block)


@triton.jit
def attention_prepare(out, gradient, workspace, length, size: tl.constexpr, block: tl.constexpr):
    """For each query the sum of result times gradient."""
    blocks = tl.cdiv(length, block)
    head = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * block
    rows = first + tl.arange(0, block)
    a = rows_of(out, head, length, first, size, block).to(tl.float32)
    b = rows_of(gradient, head, length, first, size, block).to(tl.float32)
    tl.store(workspace + head.to(tl.int64) * length + rows, tl.sum(a * b, 1), mask=rows < length)


@triton.jit
def attention_prepare_turns(out, gradient, delta, turns, length, size: tl.constexpr, block: tl.constexpr):
    """The same, and 0 for the turn of each block of queries and for a counter behind them."""
    attention_prepare(out, gradient, delta, length, size, block)
    tl.store(turns + tl.program_id(0), 0)
    if tl.program_id(0) == 0:
        tl.store(turns + tl.num_programs(0), 0)


@triton.jit
def gradient_of_scores(
    a, b, values, gradient, sums, delta, inside, factor, mask, rows, columns, length, row_step, column_step,
    kind: tl.constexpr,
):
    """The weights of queries and keys, and the gradient of their scores before scaling; ``a`` · ``b`` are scores."""
    scores, inside = with_mask(
        tl.dot(a, b) * factor, inside, mask, rows, columns, length, row_step, column_step, kind
    )
    if kind != 0:  # a query that met no key
        sums = tl.where(sums == float("-inf"), float("inf"), sums)
    weights = tl.exp2(scores - sums * 1.4426950408889634)
    weights = tl.where(inside, weights, 0.0)
    return weights, weights * (tl.dot(values, gradient) - delta)


@triton.jit
def attention_gradient_queries(
    q, k, v, sums, gradient, dq, workspace, length, keys, group, factor, scale, causal: tl.constexpr,
    size: tl.constexpr, block: tl.constexpr, width: tl.constexpr, mask=None, heads=1, batch_step=0, head_step=0,
    row_step=0, column_step=0, kind: tl.constexpr = 0,
):
    """The gradient of ``block`` queries."""
    blocks = tl.cdiv(length, block)
    head = tl.program_id(0) // blocks
    first = (blocks - 1 - tl.program_id(0) % blocks) * block
    shared = head // group
    rows = first + tl.arange(0, block)
    queries = rows_of(q, head, length, first, size, block)
    given = rows_of(gradient, head, length, first, size, block)
    at_row = head.to(tl.int64) * length + rows
    sum_ = tl.load(sums + at_row, mask=rows < length, other=float("inf"))[:, None]
    delta = tl.load(workspace + at_row, mask=rows < length, other=0.0)[:, None]
    result = tl.zeros((block, size), tl.float32)
    if kind != 0:
        mask = mask_of_head(mask, head, heads, batch_step, head_step)
    stop = tl.minimum(first + block, keys) if causal else keys
    for at in range(0, stop, width):
        columns = at + tl.arange(0, width)
        inside = (columns < keys)[None, :]
        if causal:
            inside = inside & (columns[None, :] <= rows[:, None])
        some = rows_of(k, shared, keys, at, size, width)
        values = tl.trans(rows_of(v, shared, keys, at, size, width))
        _, change = gradient_of_scores(
            queries, tl.trans(some), given, values, sum_, delta, inside, factor, mask, rows[:, None],
            columns[None, :], length, row_step, column_step, kind,
        )
        result = tl.dot(change.to(some.dtype), some, result)
    store_rows(dq, head, length, first, (result * scale).to(queries.dtype), size, block)


@triton.jit
def attention_gradient_keys(
    q, k, v, sums, gradient, dk, dv, workspace, length, keys, group, factor, scale, causal: tl.constexpr,
    size: tl.constexpr, block: tl.constexpr, width: tl.constexpr, mask=None, heads=1, batch_step=0, head_step=0,
    row_step=0, column_step=0, kind: tl.constexpr = 0,
):
    """The gradients of ``block`` keys and values: over all heads that share them, ``width`` queries at a time."""
    blocks = tl.cdiv(keys, block)
    shared = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * block
    columns = first + tl.arange(0, block)
    some = rows_of(k, shared, keys, first, size, block)
    values = rows_of(v, shared, keys, first, size, block)
    of_keys = tl.zeros((block, size), tl.float32)
    of_values = tl.zeros((block, size), tl.float32)
    start = first // width * width if causal else 0
    for member in range(group):
        head = shared * group + member
        own = mask
        if kind != 0:
            own = mask_of_head(mask, head, heads, batch_step, head_step)
        for at in range(start, length, width):
            rows = at + tl.arange(0, width)
            at_row = head.to(tl.int64) * length + rows
            sum_ = tl.load(sums + at_row, mask=rows < length, other=float("inf"))[None, :]
            delta = tl.load(workspace + at_row, mask=rows < length, other=0.0)[None, :]
            inside = (columns < keys)[:, None] & (rows < length)[None, :]
            if causal:
                inside = inside & (columns[:, None] <= rows[None, :])
            queries = rows_of(q, head, length, at, size, width)
            given = rows_of(gradient, head, length, at, size, width)
            weights, change = gradient_of_scores(
                some, tl.trans(queries), values, tl.trans(given), sum_, delta, inside, factor, own, rows[None, :],
                columns[:, None], length, row_step, column_step, kind,
            )
            of_values = tl.dot(weights.to(given.dtype), given, of_values)
            of_keys = tl.dot(change.to(queries.dtype), queries, of_keys)
    store_rows(dk, shared, keys, first, (of_keys * scale).to(some.dtype), size, block)
    store_rows(dv, shared, keys, first, of_values.to(some.dtype), size, block)
