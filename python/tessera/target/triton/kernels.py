"""Tile IR kernels → one image for a GPU architecture."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.target.triton.compile import Architecture, build_image
from tessera.target.triton.generate import generate
from tessera.target.triton.head import Options
from tessera.target.triton.launch import Image
from tessera.target.triton.toolchain import check_toolchain
from tessera.tile.ir import Kernel


def compile_for(
    kernels: Sequence[Kernel], architecture: Architecture, guarded: Sequence[bool] = (), deterministic: bool = True,
    tiles: tuple[int, int, int] | None = None,
) -> Image:
    """Compile kernels.

    ``guarded``: which of them do nothing once a check of the run has failed. Kernels of equal content share code.
    Raises CompileError, UnsupportedError or ArgumentError.
    """
    check_toolchain(architecture.target)
    flags = [*guarded, *[False] * (len(kernels) - len(guarded))]
    options = [Options(architecture.name, flag, deterministic, tiles) for flag in flags]
    return build_image([generate(k, o) for k, o in zip(kernels, options)], architecture)
