"""Attention in Gluon for Hopper: one warp has blocks copied, two groups of four warps multiply them, 64 rows each.

Forward: a group multiplies queries and keys of the next block before it needs the product of this one's powers and
values, so that powers are computed while the matrix units work. Gradient: a block of keys stays in shared memory and
meets one block of queries after the other. The gradient of queries is added up in memory by the blocks of keys in
turn, last keys first: the sum does not depend on who comes when. One warp waits for this block's turn and passes it on.
"""
# ruff: noqa: ANN001, ANN201, D103

import triton.language.core as core  # noqa: F401
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma


@gluon.jit
def queries_of_tile(tile, heads, blocks, span: tl.constexpr):
    """The block of queries and the head of a tile: heads in spans that share the cache, longest blocks first."""
    per_span = span * blocks
    first = tile // per_span * span
    inside = tile % per_span
    count = min(heads - first, span)
    return blocks - 1 - inside // count, first + inside % count


@gluon.jit
def key_blocks(block, keys, causal: tl.constexpr):
    """How many blocks of 128 keys a block of 128 queries attends to."""
    if causal:
        return tl.cdiv(min((block + 1) * 128, keys), 128)
    return tl.cdiv(keys, 128)


@gluon.jit
def forward_copy(
    q_map, k_map, v_map, heads, length, keys, q_block, k_blocks, v_blocks, q_ready, q_free, k_ready, k_free, v_ready,
    v_free, group, causal: tl.constexpr, size: tl.constexpr, stages: tl.constexpr, span: tl.constexpr,
):
    blocks = tl.cdiv(length, 128)
    step, turn, q_turn = 0, 1, 1
    for tile in range(tl.program_id(0), blocks * heads, tl.num_programs(0)):
        block, head = queries_of_tile(tile, heads, blocks, span)
        count = key_blocks(block, keys, causal)
        mbarrier.wait(q_free, q_turn)
        q_turn = q_turn ^ 1
        mbarrier.expect(q_ready, 128 * size * 2)
        tma.async_copy_global_to_shared(q_map, [head, block * 128, 0], q_ready, q_block)
        for i in range(count):
            at = (count - 1 - i) * 128
            mbarrier.wait(k_free.index(step), turn)
            mbarrier.expect(k_ready.index(step), 128 * size * 2)
            tma.async_copy_global_to_shared(k_map, [head // group, at, 0], k_ready.index(step), k_blocks.index(step))
            mbarrier.wait(v_free.index(step), turn)
            mbarrier.expect(v_ready.index(step), 128 * size * 2)
            tma.async_copy_global_to_shared(v_map, [head // group, at, 0], v_ready.index(step), v_blocks.index(step))
            step += 1
            if step == stages:
                step = 0
                turn = turn ^ 1


@gluon.jit
def masked(scores, rows, columns, keys, causal: tl.constexpr):
    """Scores, -inf where a query may not attend or there is no key."""
    if causal:
        scores = tl.where(columns[None, :] <= rows[:, None], scores, float("-inf"))
    return tl.where((columns < keys)[None, :], scores, float("-inf"))


@gluon.jit
def shift_of(top, factor):
    """What is taken off scores before powers of 2 are formed: the largest; 0 where all are -inf."""
    return tl.where(top == float("-inf"), 0.0, top * factor)


@gluon.jit
def store_result(value, out_map, out_block, head, first, element: tl.constexpr, size: tl.constexpr):
    """Have 64 rows copied to memory, after what the block in shared memory held before."""
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    tma.store_wait(0)
    out_block._reinterpret(element, [64, size], flat).store(value.to(element))
    hopper.fence_async_shared()
    tma.async_copy_shared_to_global(out_map, [head, first, 0], out_block)


@gluon.jit
def forward_multiply(
    out_map, sums, heads, length, keys, factor, q_block, k_blocks, v_blocks, out_block, q_ready, q_free, k_ready,
    k_free, v_ready, v_free, part: tl.constexpr, element: tl.constexpr, causal: tl.constexpr, size: tl.constexpr,
    stages: tl.constexpr, span: tl.constexpr,
):
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    of_scores: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    of_result: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, size, 16])
    of_powers: tl.constexpr = tl.DotOperandLayout(0, of_result, 2)
    result_rows: tl.constexpr = tl.SliceLayout(1, of_result)
    blocks = tl.cdiv(length, 128)
    step, turn, q_turn = 0, 0, 0
    none = tl.zeros((64, 128), tl.float32, of_scores)
    columns = tl.arange(0, 128, layout=tl.SliceLayout(0, of_scores))
    queries = q_block._reinterpret(element, [128, size], flat).slice(part * 64, 64, dim=0)
    for tile in range(tl.program_id(0), blocks * heads, tl.num_programs(0)):
        block, head = queries_of_tile(tile, heads, blocks, span)
        count = key_blocks(block, keys, causal)
        rows = block * 128 + part * 64 + tl.arange(0, 64, layout=tl.SliceLayout(1, of_scores))
        mbarrier.wait(q_ready, q_turn)
        q_turn = q_turn ^ 1
        mbarrier.wait(k_ready.index(step), turn)
        some = k_blocks.index(step)._reinterpret(element, [128, size], flat).permute((1, 0))
        scores = hopper.warpgroup_mma(queries, some, none, use_acc=False, is_async=True)
        scores = hopper.warpgroup_mma_wait(0, deps=(scores,))
        mbarrier.arrive(k_free.index(step), count=1)
        scores = masked(scores, rows, (count - 1) * 128 + columns, keys, causal)
        top = tl.max(scores, 1)
        shift = shift_of(top, factor)
        powers = tl.exp2(scores * factor - shift[:, None])
        total = tl.sum(powers, 1)
        narrow = tl.convert_layout(powers.to(element), of_powers)
        result = hopper.warpgroup_mma_init(tl.zeros((64, size), tl.float32, of_result))
        v_step, v_turn = step, turn
        step += 1
        if step == stages:
            step = 0
            turn = turn ^ 1
        for _ in range(1, count):
            mbarrier.wait(k_ready.index(step), turn)
            some = k_blocks.index(step)._reinterpret(element, [128, size], flat).permute((1, 0))
            scores = hopper.warpgroup_mma(queries, some, none, use_acc=False, is_async=True)
            mbarrier.wait(v_ready.index(v_step), v_turn)
            values = v_blocks.index(v_step)._reinterpret(element, [128, size], flat)
            result = hopper.warpgroup_mma(narrow, values, result, is_async=True)
            scores = hopper.warpgroup_mma_wait(1, deps=(scores,))
            mbarrier.arrive(k_free.index(step), count=1)
            new = tl.maximum(top, tl.max(scores, 1))
            shift = shift_of(new, factor)
            shrink = tl.exp2(top * factor - shift)
            powers = tl.exp2(scores * factor - shift[:, None])
            total = total * shrink + tl.sum(powers, 1)
            top = new
            sofar = hopper.warpgroup_mma_wait(0, deps=(result,))
            mbarrier.arrive(v_free.index(v_step), count=1)
            sofar = sofar * tl.convert_layout(shrink, result_rows)[:, None]
            result = hopper.warpgroup_mma_init(sofar)
            narrow = tl.convert_layout(powers.to(element), of_powers)
            v_step, v_turn = step, turn
            step += 1
            if step == stages:
                step = 0
                turn = turn ^ 1
        mbarrier.arrive(q_free, count=1)
        mbarrier.wait(v_ready.index(v_step), v_turn)
        values = v_blocks.index(v_step)._reinterpret(element, [128, size], flat)
        result = hopper.warpgroup_mma(narrow, values, result, is_async=True)
        finished = hopper.warpgroup_mma_wait(0, deps=(result,))
        mbarrier.arrive(v_free.index(v_step), count=1)
        finished = finished * tl.convert_layout(1.0 / total, result_rows)[:, None]
        store_result(finished, out_map, out_block, head, block * 128 + part * 64, element, size)
        logarithm = (top * factor + tl.log2(total)) * 0.6931471805599453
        tl.store(sums + head.to(tl.int64) * length + rows, logarithm, mask=rows < length)
    tma.store_wait(0)


@gluon.jit
def hopper_attention_forward(
    q_map, k_map, v_map, out_map, sums, heads, length, keys, group, factor, element: tl.constexpr, causal: tl.constexpr,
    size: tl.constexpr, stages: tl.constexpr, span: tl.constexpr,
):
    """The result and the logarithms of sums, for tiles of 128 queries."""
    q_block = tl.allocate_shared_memory(element, [1, 128, size], q_map.layout)
    k_blocks = tl.allocate_shared_memory(element, [stages, 1, 128, size], k_map.layout)
    v_blocks = tl.allocate_shared_memory(element, [stages, 1, 128, size], v_map.layout)
    out_blocks = tl.allocate_shared_memory(element, [2, 1, 64, size], out_map.layout)
    q_ready = tl.allocate_shared_memory(tl.int64, [1], mbarrier.MBarrierLayout())
    q_free = tl.allocate_shared_memory(tl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    k_free = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    v_ready = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    v_free = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    mbarrier.init(q_free, count=2)
    for stage in tl.static_range(stages):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)
    hopper.fence_async_shared()
    tl.warp_specialize([
        (forward_multiply, (out_map, sums, heads, length, keys, factor, q_block, k_blocks, v_blocks,
                            out_blocks.index(0), q_ready, q_free, k_ready, k_free, v_ready, v_free, 0, element, causal,
                            size, stages, span)),
        (forward_multiply, (out_map, sums, heads, length, keys, factor, q_block, k_blocks, v_blocks,
                            out_blocks.index(1), q_ready, q_free, k_ready, k_free, v_ready, v_free, 1, element, causal,
                            size, stages, span)),
        (forward_copy, (q_map, k_map, v_map, heads, length, keys, q_block, k_blocks, v_blocks, q_ready, q_free, k_ready,
                        k_free, v_ready, v_free, group, causal, size, stages, span)),
    ], [4, 1], [240, 24])


@gluon.jit
def turn_of(pointer):
    """A word that another block writes, and all that was written before it."""
    text: tl.constexpr = "ld.acquire.gpu.global.b32 $0, [$1];"
    return tl.inline_asm_elementwise(text, "=r,l", [pointer], dtype=tl.int32, is_pure=False, pack=1)


@gluon.jit
def add_four(pointer, a, b, c, d):
    """Add four neighbours to memory at once."""
    text: tl.constexpr = "{ red.relaxed.gpu.global.add.v4.f32 [$1], {$2, $3, $4, $5}; mov.u32 $0, 0; }"
    address = pointer.to(tl.int64, bitcast=True)
    tl.inline_asm_elementwise(
        text, "=r,l,f,f,f,f", [address, a, b, c, d], dtype=tl.int32, is_pure=False, pack=1
    )


@gluon.jit
def place_in_line(block, first, keys, causal: tl.constexpr):
    """How many blocks of 128 keys add to a block of 64 queries before the one with this number (``first``)."""
    count = tl.cdiv(keys, 128)
    if causal:
        return min((block * 64 + 63) // 128, count - 1) - first
    return count - 1 - first


@gluon.jit
def gradient_copy(
    q_map, g_map, k_map, v_map, sums, delta, shared, number, start, length, k_block, v_block, q_blocks, g_blocks,
    sum_rows, delta_rows, kv_ready, q_ready, q_free, g_ready, g_free, group: tl.constexpr, size: tl.constexpr,
    stages: tl.constexpr,
):
    pairs: tl.constexpr = tl.BlockedLayout([2], [32], [1], [0])
    mbarrier.expect(kv_ready, 2 * 128 * size * 2)
    tma.async_copy_global_to_shared(k_map, [shared, number * 128, 0], kv_ready, k_block)
    tma.async_copy_global_to_shared(v_map, [shared, number * 128, 0], kv_ready, v_block)
    step, turn = 0, 1
    for member in range(group):
        head = shared * group + member
        base = head.to(tl.int64) * length
        for block in range(start, tl.cdiv(length, 64)):
            rows = block * 64 + tl.arange(0, 64, layout=pairs)
            row_sums = tl.load(sums + base + rows, mask=rows < length, other=float("inf")) * 1.4426950408889634
            row_delta = tl.load(delta + base + rows, mask=rows < length, other=0.0)
            mbarrier.wait(q_free.index(step), turn)
            mbarrier.expect(q_ready.index(step), 64 * size * 2)
            tma.async_copy_global_to_shared(q_map, [head, block * 64, 0], q_ready.index(step), q_blocks.index(step))
            mbarrier.wait(g_free.index(step), turn)
            mbarrier.expect(g_ready.index(step), 64 * size * 2)
            tma.async_copy_global_to_shared(g_map, [head, block * 64, 0], g_ready.index(step), g_blocks.index(step))
            sum_rows.index(step).store(row_sums)
            delta_rows.index(step).store(row_delta)
            mbarrier.arrive(q_ready.index(step), count=1)
            step += 1
            if step == stages:
                step = 0
                turn = turn ^ 1


@gluon.jit
def gradient_turns(
    turns, shared, number, start, length, keys, may_add, added, group: tl.constexpr, causal: tl.constexpr,
):
    """The warp that waits until it is this block's turn to add to a block of queries, and passes the turn on."""
    blocks = tl.cdiv(length, 64)
    phase = 0
    for member in range(group):
        base = (shared * group + member) * blocks
        for block in range(start, blocks):
            before = place_in_line(block, number, keys, causal)
            place = turns + base + block
            seen = turn_of(place)
            while seen != before:
                seen = turn_of(place)
            mbarrier.arrive(may_add, count=1)
            mbarrier.wait(added, phase)
            phase = phase ^ 1
            if number > 0:
                tl.atomic_add(place, 1, sem="release", scope="gpu")


@gluon.jit
def add_to_queries(value, space, before, size: tl.constexpr):
    """Add a product of 64 rows and half the columns to a workspace, four neighbours of a thread side by side."""
    layout: tl.constexpr = tl.BlockedLayout([1, size // 16, 4], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    pair: tl.constexpr = tl.SliceLayout(2, layout)
    thread = tl.arange(0, 128, layout=tl.SliceLayout(1, pair))[:, None]
    some = tl.arange(0, size // 16, layout=tl.SliceLayout(0, pair))[None, :]
    at = some * 512 + thread * 4
    value = value.reshape((4, 2, 8, size // 16, 4, 2)).permute((0, 2, 4, 3, 1, 5)).reshape((128, size // 16, 4))
    value = tl.convert_layout(value, layout, assert_trivial=True)
    if before > 0:
        even, odd = value.reshape((128, size // 16, 2, 2)).split()
        a, c = even.split()
        b, d = odd.split()
        add_four(space + tl.convert_layout(at, a.type.layout), a, b, c, d)
    else:
        four = tl.arange(0, 4, layout=tl.SliceLayout(0, tl.SliceLayout(1, layout)))
        tl.store(space + (at[:, :, None] + four[None, None, :]), value)


@gluon.jit
def read_queries(space, layout: tl.constexpr, size: tl.constexpr):
    """What ``add_to_queries`` has added up."""
    lines: tl.constexpr = tl.BlockedLayout([1, size // 16, 4], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    pair: tl.constexpr = tl.SliceLayout(2, lines)
    thread = tl.arange(0, 128, layout=tl.SliceLayout(1, pair))[:, None]
    some = tl.arange(0, size // 16, layout=tl.SliceLayout(0, pair))[None, :]
    four = tl.arange(0, 4, layout=tl.SliceLayout(0, tl.SliceLayout(1, lines)))
    value = tl.load(space + ((some * 512 + thread * 4)[:, :, None] + four[None, None, :]), cache_modifier=".cg")
    value = value.reshape((4, 8, 4, size // 16, 2, 2)).permute((0, 4, 1, 3, 2, 5)).reshape((64, size // 2))
    return tl.convert_layout(value, layout, assert_trivial=True)


@gluon.jit
def store_queries(
    value, dq, head, first, length, part: tl.constexpr, layout: tl.constexpr, element: tl.constexpr, size: tl.constexpr,
):
    """Write the gradient of 64 queries, half the columns."""
    row = first + tl.arange(0, 64, layout=tl.SliceLayout(1, layout))
    column = part * (size // 2) + tl.arange(0, size // 2, layout=tl.SliceLayout(0, layout))
    place = dq + head.to(tl.int64) * length * size + (row.to(tl.int64)[:, None] * size + column[None, :])
    tl.store(place, value.to(element), mask=(row < length)[:, None])


@gluon.jit
def masked_weights(weights, first, query, key, number, keys, causal: tl.constexpr):
    """Weights of keys (rows) and queries from ``first``, 0 where a query may not attend or there is no key."""
    if causal:  # noqa: SIM102  # two questions: one for the compiler, one for the block
        if first < (number + 1) * 128:
            weights = tl.where((first + query)[None, :] >= key[:, None], weights, 0.0)
    if (number + 1) * 128 > keys:
        weights = tl.where((key < keys)[:, None], weights, 0.0)
    return weights


@gluon.jit
def gradient_multiply(
    dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, k_block, v_block, q_blocks, g_blocks,
    sum_rows, delta_rows, changes, out_block, kv_ready, q_ready, q_free, g_ready, g_free, changed, may_add, added,
    part: tl.constexpr, element: tl.constexpr, group: tl.constexpr, causal: tl.constexpr, size: tl.constexpr,
    stages: tl.constexpr,
):
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    of_scores: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    of_keys: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, size, 16])
    of_queries: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, size // 2, 16])
    operand: tl.constexpr = tl.DotOperandLayout(0, of_keys, 2)
    columns: tl.constexpr = tl.SliceLayout(0, of_scores)
    all_keys = k_block._reinterpret(element, [128, size], flat)
    my_keys = all_keys.slice(part * 64, 64, dim=0)
    my_values = v_block._reinterpret(element, [128, size], flat).slice(part * 64, 64, dim=0)
    my_columns = all_keys.slice(part * (size // 2), size // 2, dim=1)
    none = tl.zeros((64, 64), tl.float32, of_scores)
    no_queries = tl.zeros((64, size // 2), tl.float32, of_queries)
    dk = hopper.warpgroup_mma_init(tl.zeros((64, size), tl.float32, of_keys))
    dv = hopper.warpgroup_mma_init(tl.zeros((64, size), tl.float32, of_keys))
    key = number * 128 + part * 64 + tl.arange(0, 64, layout=tl.SliceLayout(1, of_scores))
    query = tl.arange(0, 64, layout=columns)
    step, turn, side, phase = 0, 0, 0, 0
    blocks = tl.cdiv(length, 64)
    mbarrier.wait(kv_ready, 0)
    for member in range(group):
        head = shared * group + member
        for block in range(start, blocks):
            queries = q_blocks.index(step)._reinterpret(element, [64, size], flat)
            given = g_blocks.index(step)._reinterpret(element, [64, size], flat)
            mbarrier.wait(q_ready.index(step), turn)
            scores = hopper.warpgroup_mma(my_keys, queries.permute((1, 0)), none, use_acc=False, is_async=True)
            mbarrier.wait(g_ready.index(step), turn)
            slope = hopper.warpgroup_mma(my_values, given.permute((1, 0)), none, use_acc=False, is_async=True)
            row_sums = sum_rows.index(step).load(columns)
            scores = hopper.warpgroup_mma_wait(1, deps=(scores,))
            weights = tl.exp2(scores * factor - row_sums[None, :])
            weights = masked_weights(weights, block * 64, query, key, number, keys, causal)
            dv = hopper.warpgroup_mma(tl.convert_layout(weights.to(element), operand), given, dv, is_async=True)
            row_delta = delta_rows.index(step).load(columns)
            slope = hopper.warpgroup_mma_wait(1, deps=(slope,))
            change = (weights * (slope - row_delta[None, :])).to(element)
            changes.index(side).slice(part * 64, 64, dim=0).store(change)
            hopper.fence_async_shared()
            mbarrier.arrive(changed, count=1)
            mbarrier.wait(changed, phase)
            turned = changes.index(side).permute((1, 0))
            dq_part = hopper.warpgroup_mma(turned, my_columns, no_queries, use_acc=False, is_async=True)
            dk = hopper.warpgroup_mma(tl.convert_layout(change, operand), queries, dk, is_async=True)
            dv = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(2, deps=(dv,)))
            mbarrier.arrive(g_free.index(step), count=1)
            dq_sum = hopper.warpgroup_mma_wait(1, deps=(dq_part,))
            side = side ^ 1
            mbarrier.wait(may_add, phase)
            phase = phase ^ 1
            before = place_in_line(block, number, keys, causal)
            my_space = space + ((head * blocks + block) * 2 + part).to(tl.int64) * (32 * size)
            if number == 0:
                if before > 0:
                    dq_sum = dq_sum + read_queries(my_space, of_queries, size)
                store_queries(dq_sum * scale, dq, head, block * 64, length, part, of_queries, element, size)
            else:
                add_to_queries(dq_sum, my_space, before, size)
            mbarrier.arrive(added, count=1)
            dk = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(0, deps=(dk,)))
            mbarrier.arrive(q_free.index(step), count=1)
            step += 1
            if step == stages:
                step = 0
                turn = turn ^ 1
    for_keys = hopper.warpgroup_mma_wait(0, deps=(dk,))
    for_values = hopper.warpgroup_mma_wait(0, deps=(dv,))
    first = number * 128 + part * 64
    store_result(for_values, dv_map, out_block, shared, first, element, size)
    store_result(for_keys * scale, dk_map, out_block, shared, first, element, size)
    tma.store_wait(0)


@gluon.jit
def hopper_attention_gradient(
    q_map, g_map, k_map, v_map, dk_map, dv_map, dq, sums, delta, space, turns, counter, length, keys, factor, scale,
    group: tl.constexpr, element: tl.constexpr, causal: tl.constexpr, size: tl.constexpr, stages: tl.constexpr,
):
    """The gradients of a block of 128 keys and values, and its part of those of all queries.

    Blocks are numbered in the order in which programs begin, so that each waits only for some that have begun.
    """
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    plain: tl.constexpr = tl.SwizzledSharedLayout(1, 1, 1, [0])
    k_block = tl.allocate_shared_memory(element, [1, 128, size], k_map.layout)
    v_block = tl.allocate_shared_memory(element, [1, 128, size], v_map.layout)
    q_blocks = tl.allocate_shared_memory(element, [stages, 1, 64, size], q_map.layout)
    g_blocks = tl.allocate_shared_memory(element, [stages, 1, 64, size], g_map.layout)
    changes = tl.allocate_shared_memory(element, [2, 128, 64], flat)
    out_blocks = tl.allocate_shared_memory(element, [2, 1, 64, size], dk_map.layout)
    sum_rows = tl.allocate_shared_memory(tl.float32, [stages, 64], plain)
    delta_rows = tl.allocate_shared_memory(tl.float32, [stages, 64], plain)
    q_ready = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    q_free = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    g_ready = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    g_free = tl.allocate_shared_memory(tl.int64, [stages, 1], mbarrier.MBarrierLayout())
    once = tl.allocate_shared_memory(tl.int64, [4, 1], mbarrier.MBarrierLayout())
    kv_ready, changed, may_add, added = once.index(0), once.index(1), once.index(2), once.index(3)
    for stage in tl.static_range(stages):
        mbarrier.init(q_ready.index(stage), count=2)
        mbarrier.init(q_free.index(stage), count=2)
        mbarrier.init(g_ready.index(stage), count=1)
        mbarrier.init(g_free.index(stage), count=2)
    mbarrier.init(kv_ready, count=1)
    mbarrier.init(changed, count=2)
    mbarrier.init(may_add, count=1)
    mbarrier.init(added, count=2)
    hopper.fence_async_shared()
    tile = tl.atomic_add(counter, 1, sem="relaxed")
    key_tiles = tl.cdiv(keys, 128)
    shared = tile // key_tiles
    number = key_tiles - 1 - tile % key_tiles
    start = min(number * 2, tl.cdiv(length, 64)) if causal else 0
    tl.warp_specialize([
        (gradient_multiply, (dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, k_block,
                             v_block, q_blocks, g_blocks, sum_rows, delta_rows, changes, out_blocks.index(0), kv_ready,
                             q_ready, q_free, g_ready, g_free, changed, may_add, added, 0, element, group, causal, size,
                             stages)),
        (gradient_multiply, (dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, k_block,
                             v_block, q_blocks, g_blocks, sum_rows, delta_rows, changes, out_blocks.index(1), kv_ready,
                             q_ready, q_free, g_ready, g_free, changed, may_add, added, 1, element, group, causal, size,
                             stages)),
        (gradient_copy, (q_map, g_map, k_map, v_map, sums, delta, shared, number, start, length, k_block, v_block,
                         q_blocks, g_blocks, sum_rows, delta_rows, kv_ready, q_ready, q_free, g_ready, g_free, group,
                         size, stages)),
        (gradient_turns, (turns, shared, number, start, length, keys, may_add, added, group, causal)),
    ], [4, 1, 1], [240, 24, 24])
