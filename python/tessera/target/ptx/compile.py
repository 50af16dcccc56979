"""Tile IR kernels → one image for an NVIDIA architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.target.ptx.architectures import architecture_named
from tessera.target.triton.kernels import compile_for
from tessera.target.triton.launch import Image
from tessera.tile.ir import Kernel


def compile_kernels(kernels: Sequence[Kernel], arch: str, **options: Any) -> Image:
    """Compile kernels for an architecture by name; ``options`` as for ``compile_for``."""
    return compile_for(kernels, architecture_named(arch), **options)
