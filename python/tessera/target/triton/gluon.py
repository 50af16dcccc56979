"""Words of Gluon that generated text is made of: layouts of blocks in registers and in shared memory."""

from __future__ import annotations

from tessera.ir.dtype import DType, bf16, f8e4m3, f8e5m2, f16

ELEMENTS = {bf16: "tl.bfloat16", f16: "tl.float16", f8e4m3: "tl.float8e4nv", f8e5m2: "tl.float8e5"}
"""The types that the matrix units multiply."""


def shared_layout(swizzle: int, dtype: DType, rank: int) -> str:
    """The layout in shared memory of what the copy engine brings and the matrix units read."""
    return f"NVMMASharedLayout(swizzle_byte_width={swizzle}, element_bitwidth={dtype.bits}, rank={rank})"


def product_layout(columns: int, warps: int = 4, bits: int = 16) -> str:
    """The layout in registers of a product with 16 rows for each warp (``wgmma``) of elements of so many bits."""
    shape = f"[16, {columns}, {256 // bits}]"
    return f"tl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[{warps}, 1], instr_shape={shape})"


def row_layout(columns: int, warps: int = 4, neighbours: int = 8) -> str:
    """A layout in which each thread holds so many neighbours of a row."""
    across = min(32, columns // neighbours)
    return f"tl.BlockedLayout([1, {neighbours}], [{32 // across}, {across}], [{warps}, 1], [1, 0])"
