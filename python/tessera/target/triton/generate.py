"""Tile IR kernels → Triton programs."""

from __future__ import annotations

from tessera.target.triton import attention, columns, dot, loops, product_sums, products, scatter, shared_rows
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Generated
from tessera.tile.ir import AttentionKernel, DotKernel, Kernel


def generate(kernel: Kernel, options: Options) -> Generated:
    """The programs of a kernel."""
    if isinstance(kernel, DotKernel):
        fast = dot.generate(kernel, options)
        if fast is None and product_sums.of(kernel):
            return product_sums.apart(kernel, generate(product_sums.without(kernel), options), options)
        return Generated((products.generate(kernel, options),)) if fast is None else fast
    if isinstance(kernel, AttentionKernel):
        return attention.generate(kernel, options)
    if scatter.is_scatter(kernel):
        return scatter.generate(kernel, options)
    if columns.has_sums(kernel):
        return columns.generate(kernel, options)
    return Generated((shared_rows.generate(kernel, options) or loops.generate(kernel, options),))
