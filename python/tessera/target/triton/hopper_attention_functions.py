"""Attention in Gluon for Hopper: one warp has blocks copied, two groups of four warps multiply them, 64 rows each.

Forward: a group multiplies queries and keys of the next block before it needs the product of this one's powers and
values, so that powers are computed while the matrix units work.
"""
# ruff: noqa: ANN001, ANN201, D103

import triton.language.core as core  # noqa: F401
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from tessera.target.triton.functions import power_of_two


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
        powers = power_of_two(scores * factor - shift[:, None])
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
            shrink = power_of_two(top * factor - shift)
            powers = power_of_two(scores * factor - shift[:, None])
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
