"""Tile IR kernels → Triton programs."""

from __future__ import annotations

from tessera.errors import UnsupportedError
from tessera.target.triton import dot, loops
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Generated
from tessera.tile.ir import DotKernel, Kernel


def generate(kernel: Kernel, options: Options) -> Generated:
    """The programs of a kernel."""
    if isinstance(kernel, DotKernel):
        fast = dot.generate(kernel, options)
        if fast is not None:
            return fast
        at = f"\n  at {kernel.loc}" if kernel.loc else ""
        raise UnsupportedError(f'[{kernel.name}] matrix products have no GPU kernels yet; use target="cpu"{at}')
    return Generated((loops.generate(kernel, options),))
