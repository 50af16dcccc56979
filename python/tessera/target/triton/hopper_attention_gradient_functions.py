"""The gradient of attention in Gluon for Hopper: one warp has blocks copied, two groups of four warps multiply them.

A block of 128 keys stays in shared memory, 64 for each group, and meets one block of queries after the other, last
queries first. The gradient of queries is added up in memory by the blocks of keys in turn, first keys first: the sum
does not depend on who comes when. Two warps, each for every second block of queries, wait for this block's turn, have
the copy engine add what lies in shared memory, and pass the turn on.
"""
# ruff: noqa: ANN001, ANN201, D103

import triton.language.core as core
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from tessera.target.triton.functions import power_of_two
from tessera.target.triton.hopper_attention_functions import store_result


@core.builtin
def reduce_from_shared(target, coordinates, source, _semantic=None):
    """Have a block in shared memory added to memory; Gluon's ``tma`` has copies alone."""
    places = _semantic._convert_to_ir_values(coordinates, require_i64=False)
    kind = ir.DESCRIPTOR_REDUCE_KIND.ADD
    _semantic.builder.create_async_tma_reduce(kind, target.handle, places, source.handle)


@gluon.jit
def turn_of(pointer):
    """A word that another block writes, and all that was written before it."""
    text: tl.constexpr = "ld.acquire.gpu.global.b32 $0, [$1]; fence.proxy.async.global;"
    return tl.inline_asm_elementwise(text, "=r,l", [pointer], dtype=tl.int32, is_pure=False, pack=1)


@gluon.jit
def pass_turn_on(pointer, turn):
    """Let the next block add, when all that this warp added or had added is in memory."""
    text: tl.constexpr = """{
        .reg .pred first; .reg .u32 lane;
        cp.async.bulk.wait_group 0;
        bar.warp.sync 0xffffffff;
        fence.proxy.async.global;
        mov.u32 lane, %laneid; setp.eq.u32 first, lane, 0;
        @first st.release.gpu.global.b32 [$1], $2;
        mov.u32 $0, 0;
    }"""
    address = pointer.to(tl.int64, bitcast=True)
    tl.inline_asm_elementwise(text, "=r,l,r", [address, turn], dtype=tl.int32, is_pure=False, pack=1)


@gluon.jit
def add_four(pointer, a, b, c, d):
    """Add four neighbours to memory at once."""
    text: tl.constexpr = "{ red.relaxed.gpu.global.add.v4.f32 [$1], {$2, $3, $4, $5}; mov.u32 $0, 0; }"
    address = pointer.to(tl.int64, bitcast=True)
    tl.inline_asm_elementwise(
        text, "=r,l,f,f,f,f", [address, a, b, c, d], dtype=tl.int32, is_pure=False, pack=1
    )


@gluon.jit
def add_lines(block, target, number):
    """Add a block in shared memory to memory without the copy engine, or store it where it is the first."""
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2)
    lines: tl.constexpr = tl.BlockedLayout([1, 4], [4, 8], [1, 1], [1, 0])
    fours: tl.constexpr = tl.BlockedLayout([1, 1], [4, 8], [1, 1], [1, 0])
    row = tl.arange(0, 16, layout=tl.SliceLayout(1, lines))[:, None]
    column = tl.arange(0, 32, layout=tl.SliceLayout(0, lines))[None, :]
    at = tl.arange(0, 16, layout=tl.SliceLayout(1, fours))[:, None] * 32
    at += tl.arange(0, 8, layout=tl.SliceLayout(0, fours))[None, :] * 4
    for some in tl.static_range(8):
        value = block._reinterpret(tl.float32, [128, 32], flat).slice(some * 16, 16, dim=0).load(lines)
        if number == 0:
            tl.store(target + some * 512 + (row * 32 + column), value)
        else:
            even, odd = value.reshape((16, 8, 2, 2)).split()
            a, c = even.split()
            b, d = odd.split()
            add_four(target + some * 512 + tl.convert_layout(at, a.type.layout), a, b, c, d)


@gluon.jit
def gradient_tile(counter, shared, length, keys, rows: tl.constexpr, causal: tl.constexpr, span: tl.constexpr):
    """The head and the block of keys of this program, and the first block of queries that attends to it.

    Tiles are numbered in the order in which programs begin, so that each waits only for some that have begun. Heads are
    taken in spans that share the cache, longest blocks first, one of each head after the other: the block before in
    line has begun well before.
    """
    tile = tl.atomic_add(counter, 1, sem="relaxed")
    count = tl.cdiv(keys, 128)
    first = tile // (span * count) * span
    inside = tile % (span * count)
    heads = min(shared - first, span)
    number = inside // heads
    start = min(number * (128 // rows), tl.cdiv(length, rows)) if causal else 0
    return first + inside % heads, number, start


@gluon.jit
def gradient_copy(
    q_map, g_map, k_map, v_map, sums, delta, shared, number, start, length, kv_blocks, q_blocks, g_blocks, sum_rows,
    delta_rows, kv_ready, q_ready, q_free, g_ready, g_free, group: tl.constexpr, size: tl.constexpr, rows: tl.constexpr,
):
    line: tl.constexpr = tl.BlockedLayout([rows // 32], [32], [1], [0])
    mbarrier.expect(kv_ready, 2 * 128 * size * 2)
    tma.async_copy_global_to_shared(k_map, [shared, number * 128, 0], kv_ready, kv_blocks.index(0))
    tma.async_copy_global_to_shared(v_map, [shared, number * 128, 0], kv_ready, kv_blocks.index(1))
    step, turn = 0, 1
    for member in range(group):
        head = shared * group + member
        base = head.to(tl.int64) * length
        blocks = tl.cdiv(length, rows)
        for i in range(start, blocks):
            first = (blocks - 1 - (i - start)) * rows
            row = first + tl.arange(0, rows, layout=line)
            row_sums = tl.load(sums + base + row, mask=row < length, other=float("inf")) * 1.4426950408889634
            row_delta = tl.load(delta + base + row, mask=row < length, other=0.0)
            mbarrier.wait(q_free.index(step), turn)
            mbarrier.expect(q_ready.index(step), rows * size * 2)
            tma.async_copy_global_to_shared(q_map, [head, first, 0], q_ready.index(step), q_blocks.index(step))
            sum_rows.index(step).store(row_sums)
            delta_rows.index(step).store(row_delta)
            mbarrier.arrive(q_ready.index(step), count=1)
            mbarrier.wait(g_free.index(step), turn)
            mbarrier.expect(g_ready.index(step), rows * size * 2)
            tma.async_copy_global_to_shared(g_map, [head, first, 0], g_ready.index(step), g_blocks.index(step))
            step = step ^ 1
            if step == 0:
                turn = turn ^ 1


@gluon.jit
def gradient_add(
    space_map, space, turns, shared, number, start, length, sum_blocks, filled, emptied, finished, side: tl.constexpr,
    group: tl.constexpr, rows: tl.constexpr, mapped: tl.constexpr,
):
    """The warp that has every second part of the gradient of queries added up, in this block's turn."""
    blocks = tl.cdiv(length, rows)
    total = group * (blocks - start)
    for i in range(side, total, 2):
        member = i // (blocks - start)
        place = (shared * group + member + 1) * blocks - 1 - (i - member * (blocks - start))
        seen = turn_of(turns + place)
        while seen != number:
            seen = turn_of(turns + place)
        mbarrier.wait(filled.index(side), i // 2 % 2)
        if not mapped:
            add_lines(sum_blocks.index(side * 2), space + place.to(tl.int64) * 8192, number)
            add_lines(sum_blocks.index(side * 2 + 1), space + place.to(tl.int64) * 8192 + 4096, number)
        elif number == 0:
            tma.async_copy_shared_to_global(space_map, [place * 2, 0, 0], sum_blocks.index(side * 2))
            tma.async_copy_shared_to_global(space_map, [place * 2 + 1, 0, 0], sum_blocks.index(side * 2 + 1))
        else:
            reduce_from_shared(space_map, [place * 2, 0, 0], sum_blocks.index(side * 2))
            reduce_from_shared(space_map, [place * 2 + 1, 0, 0], sum_blocks.index(side * 2 + 1))
        tma.store_wait(0)
        mbarrier.arrive(emptied.index(side), count=1)
        pass_turn_on(turns + place, number + 1)
    mbarrier.arrive(finished, count=1)


@gluon.jit
def in_lines(value):
    """A product of 64 rows and 64 columns as lines of 32 numbers: four neighbours of each thread side by side."""
    return value.reshape((4, 2, 8, 8, 4, 2)).permute((3, 0, 2, 4, 1, 5)).reshape((1, 128, 32))


@gluon.jit
def read_sum(space, layout: tl.constexpr):
    """The sum of products that were added up ``in_lines``."""
    lines: tl.constexpr = tl.BlockedLayout([1, 8, 4], [32, 1, 1], [4, 1, 1], [2, 1, 0])
    pair: tl.constexpr = tl.SliceLayout(2, lines)
    thread = tl.arange(0, 128, layout=tl.SliceLayout(1, pair))[:, None]
    some = tl.arange(0, 8, layout=tl.SliceLayout(0, pair))[None, :]
    four = tl.arange(0, 4, layout=tl.SliceLayout(0, tl.SliceLayout(1, lines)))
    value = tl.load(space + ((some * 512 + thread * 4)[:, :, None] + four[None, None, :]), cache_modifier=".cg")
    value = value.reshape((4, 8, 4, 8, 2, 2)).permute((0, 4, 1, 3, 2, 5)).reshape((64, 64))
    return tl.convert_layout(value, layout, assert_trivial=True)


@gluon.jit
def store_queries(
    dq, space, shared, first, last, length, scale, layout: tl.constexpr, part: tl.constexpr, element: tl.constexpr,
    group: tl.constexpr, size: tl.constexpr, rows: tl.constexpr,
):
    """Write half of the gradient of blocks of queries to which nothing will be added any more."""
    blocks = tl.cdiv(length, rows)
    for member in range(group):
        head = shared * group + member
        for block in range(first, last):
            value = read_sum(space + ((head * blocks + block) * 2 + part).to(tl.int64) * 4096, layout) * scale
            row = block * rows + tl.arange(0, 64, layout=tl.SliceLayout(1, layout))
            column = tl.arange(0, 64, layout=tl.SliceLayout(0, layout))
            if rows == 64:
                column += part * 64
            else:
                row += part * 64
            place = dq + head.to(tl.int64) * length * size + (row.to(tl.int64)[:, None] * size + column[None, :])
            tl.store(place, value.to(element), mask=(row < length)[:, None])


@gluon.jit
def zero_of_the_moment():
    """0, but the compiler does not know it: what is computed from it is not kept in registers over a loop."""
    return tl.inline_asm_elementwise("mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


@gluon.jit
def weights_of(scores, row_sums, factor, first, query, key, number, keys, causal: tl.constexpr):
    """Weights of 64 keys (rows) and of queries from ``first``, 0 where a query may not attend or there is no key."""
    weights = power_of_two(scores * factor - row_sums[None, :])
    if causal:  # noqa: SIM102  # two questions: one for the compiler, one for the block
        if first < (number + 1) * 128:
            weights = tl.where((first + query)[None, :] >= key[:, None], weights, 0.0)
    if (number + 1) * 128 > keys:
        weights = tl.where((key < keys)[:, None], weights, 0.0)
    return weights


@gluon.jit
def gradient_multiply(
    dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, kv_blocks, q_blocks, g_blocks,
    sum_rows, delta_rows, changes, sum_blocks, kv_ready, q_ready, q_free, g_ready, g_free, changed, filled, emptied,
    finished, part: tl.constexpr, element: tl.constexpr, group: tl.constexpr, causal: tl.constexpr, size: tl.constexpr,
    rows: tl.constexpr,
):
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    of_scores: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    of_keys: tl.constexpr = tl.NVMMADistributedLayout([3, 0], [4, 1], [16, size, 16])
    operand: tl.constexpr = tl.DotOperandLayout(0, of_keys, 2)
    columns: tl.constexpr = tl.SliceLayout(0, of_scores)
    outstanding: tl.constexpr = rows // 32 - 1
    none = tl.zeros((64, 64), tl.float32, of_scores)
    dk = hopper.warpgroup_mma_init(tl.zeros((64, size), tl.float32, of_keys))
    dv = hopper.warpgroup_mma_init(tl.zeros((64, size), tl.float32, of_keys))
    key = number * 128 + part * 64 + tl.arange(0, 64, layout=tl.SliceLayout(1, of_scores))
    query = tl.arange(0, 64, layout=columns)
    blocks = tl.cdiv(length, rows)
    total = group * (blocks - start)
    step, turn = 0, 0
    mbarrier.wait(kv_ready, 0)
    for i in range(total):
        side = i % 2
        first = (blocks - 1 - i if group == 1 else blocks - 1 - i % (blocks - start)) * rows
        zero = zero_of_the_moment()
        all_keys = kv_blocks.index(zero)._reinterpret(element, [128, size], flat)
        my_keys = all_keys.slice(part * 64, 64, dim=0)
        my_values = kv_blocks.index(zero + 1)._reinterpret(element, [128, size], flat).slice(part * 64, 64, dim=0)
        queries = q_blocks.index(step)._reinterpret(element, [rows, size], flat)
        given = g_blocks.index(side)._reinterpret(element, [rows, size], flat)
        row_sums, row_delta = sum_rows.index(step), delta_rows.index(step)
        change = changes.index(side)
        mine = change.slice(part * 64, 64, dim=0)
        low_queries, low_given = queries.slice(0, 64, dim=0), given.slice(0, 64, dim=0)
        mbarrier.wait(q_ready.index(step), turn)
        scores = hopper.warpgroup_mma(my_keys, low_queries.permute((1, 0)), none, use_acc=False, is_async=True)
        mbarrier.wait(g_ready.index(side), i // 2 % 2)
        slope = hopper.warpgroup_mma(my_values, low_given.permute((1, 0)), none, use_acc=False, is_async=True)
        if rows == 128:  # the other half's, so that the matrix units work while powers are computed
            high_queries, high_given = queries.slice(64, 64, dim=0), given.slice(64, 64, dim=0)
            other = hopper.warpgroup_mma(my_keys, high_queries.permute((1, 0)), none, use_acc=False, is_async=True)
            steep = hopper.warpgroup_mma(my_values, high_given.permute((1, 0)), none, use_acc=False, is_async=True)
        scores = hopper.warpgroup_mma_wait(outstanding, deps=(scores,))
        weights = weights_of(
            scores, row_sums.slice(0, 64, dim=0).load(columns), factor, first, query, key, number, keys, causal
        )
        dv = hopper.warpgroup_mma(tl.convert_layout(weights.to(element), operand), low_given, dv, is_async=True)
        if rows == 64:  # with 128 there are no registers left
            delta = row_delta.slice(0, 64, dim=0).load(columns)
        slope = hopper.warpgroup_mma_wait(outstanding, deps=(slope,))
        if rows == 128:
            delta = row_delta.slice(0, 64, dim=0).load(columns)
        mine.slice(0, 64, dim=1).store((weights * (slope - delta[None, :])).to(element))
        if rows == 128:
            other = hopper.warpgroup_mma_wait(2, deps=(other,))
            weights = weights_of(
                other, row_sums.slice(64, 64, dim=0).load(columns), factor, first + 64, query, key, number, keys, causal
            )
            steep, sofar = hopper.warpgroup_mma_wait(0, deps=(steep, dv))
            dv = hopper.warpgroup_mma_init(sofar)
            dv = hopper.warpgroup_mma(tl.convert_layout(weights.to(element), operand), high_given, dv, is_async=True)
            delta = row_delta.slice(64, 64, dim=0).load(columns)
            mine.slice(64, 64, dim=1).store((weights * (steep - delta[None, :])).to(element))
        hopper.fence_async_shared()
        mbarrier.arrive(changed, count=1)
        mbarrier.wait(changed, side)
        if rows == 64:
            turned, some = change.permute((1, 0)), all_keys.slice(part * 64, 64, dim=1)
        else:
            turned, some = change.slice(part * 64, 64, dim=1).permute((1, 0)), all_keys
        dq_part = hopper.warpgroup_mma(turned, some, none, use_acc=False, is_async=True)
        dk = hopper.warpgroup_mma(mine, queries, dk, is_async=True)
        dv = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(2, deps=(dv,)))
        mbarrier.arrive(g_free.index(side), count=1)
        dq_part = hopper.warpgroup_mma_wait(1, deps=(dq_part,))
        mbarrier.wait(emptied.index(side), i // 2 % 2 ^ 1)
        sum_blocks.index(part + side * 2).store(in_lines(dq_part))
        hopper.fence_async_shared()
        mbarrier.arrive(filled.index(side), count=1)
        dk = hopper.warpgroup_mma_init(hopper.warpgroup_mma_wait(0, deps=(dk,)))
        mbarrier.arrive(q_free.index(step), count=1)
        step += 1
        if step == 2:
            step = 0
            turn = turn ^ 1
    for_keys = hopper.warpgroup_mma_wait(0, deps=(dk,))
    for_values = hopper.warpgroup_mma_wait(0, deps=(dv,))
    mbarrier.wait(emptied.index(0), (total + 1) // 2 % 2 ^ 1)
    out_block = sum_blocks.index(part)._reinterpret(element, [1, 64, size], dk_map.layout)
    first = number * 128 + part * 64
    store_result(for_values, dv_map, out_block, shared, first, element, size)
    store_result(for_keys * scale, dk_map, out_block, shared, first, element, size)
    if number + 1 == tl.cdiv(keys, 128):
        end = blocks
    else:
        end = min(start + 128 // rows, blocks) if causal else 0
    mbarrier.wait(finished, 0)
    store_queries(dq, space, shared, start, end, length, scale, of_scores, part, element, group, size, rows)
    tma.store_wait(0)


@gluon.jit
def hopper_attention_gradient(
    q_map, g_map, k_map, v_map, dk_map, dv_map, space_map, dq, sums, delta, space, turns, counter, shared, length, keys,
    factor, scale, group: tl.constexpr, element: tl.constexpr, causal: tl.constexpr, size: tl.constexpr,
    rows: tl.constexpr, span: tl.constexpr, mapped: tl.constexpr,
):
    """The gradients of a block of 128 keys and values, and its part of those of all queries."""
    flat: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    lines: tl.constexpr = tl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=3)
    plain: tl.constexpr = tl.SwizzledSharedLayout(1, 1, 1, [0])
    kv_blocks = tl.allocate_shared_memory(element, [2, 1, 128, size], k_map.layout)
    q_blocks = tl.allocate_shared_memory(element, [2, 1, rows, size], q_map.layout)
    g_blocks = tl.allocate_shared_memory(element, [2, 1, rows, size], g_map.layout)
    changes = tl.allocate_shared_memory(element, [2, 128, rows], flat)
    sum_blocks = tl.allocate_shared_memory(tl.float32, [4, 1, 128, 32], lines)
    sum_rows = tl.allocate_shared_memory(tl.float32, [2, rows], plain)
    delta_rows = tl.allocate_shared_memory(tl.float32, [2, rows], plain)
    q_ready = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_free = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    g_ready = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    g_free = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    once = tl.allocate_shared_memory(tl.int64, [3, 1], mbarrier.MBarrierLayout())
    filled = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    emptied = tl.allocate_shared_memory(tl.int64, [2, 1], mbarrier.MBarrierLayout())
    kv_ready, changed, finished = once.index(0), once.index(1), once.index(2)
    for stage in tl.static_range(2):
        mbarrier.init(q_ready.index(stage), count=2)
        mbarrier.init(q_free.index(stage), count=2)
    for stage in tl.static_range(2):
        mbarrier.init(g_ready.index(stage), count=1)
        mbarrier.init(g_free.index(stage), count=2)
    mbarrier.init(kv_ready, count=1)
    mbarrier.init(changed, count=2)
    for side in tl.static_range(2):
        mbarrier.init(filled.index(side), count=2)
        mbarrier.init(emptied.index(side), count=1)
    mbarrier.init(finished, count=2)
    hopper.fence_async_shared()
    shared, number, start = gradient_tile(counter, shared, length, keys, rows, causal, span)
    tl.warp_specialize([
        (gradient_multiply, (dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, kv_blocks,
                             q_blocks, g_blocks, sum_rows, delta_rows, changes, sum_blocks, kv_ready, q_ready, q_free,
                             g_ready, g_free, changed, filled, emptied, finished, 0, element, group, causal, size,
                             rows)),
        (gradient_multiply, (dk_map, dv_map, dq, space, shared, number, start, length, keys, factor, scale, kv_blocks,
                             q_blocks, g_blocks, sum_rows, delta_rows, changes, sum_blocks, kv_ready, q_ready, q_free,
                             g_ready, g_free, changed, filled, emptied, finished, 1, element, group, causal, size,
                             rows)),
        (gradient_copy, (q_map, g_map, k_map, v_map, sums, delta, shared, number, start, length, kv_blocks, q_blocks,
                         g_blocks, sum_rows, delta_rows, kv_ready, q_ready, q_free, g_ready, g_free, group, size,
                         rows)),
        (gradient_add, (space_map, space, turns, shared, number, start, length, sum_blocks, filled, emptied, finished,
                        0, group, rows, mapped)),
        (gradient_add, (space_map, space, turns, shared, number, start, length, sum_blocks, filled, emptied, finished,
                        1, group, rows, mapped)),
    ], [4, 1, 1, 1], [240, 24, 24, 24])
