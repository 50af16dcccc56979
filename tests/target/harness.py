"""Compiling one kernel and running it on NumPy arrays, in one piece or split over units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tessera.ir.dims import evaluate
from tessera.ir.dtype import DType
from tessera.target.cpu.compile import compile_kernels
from tessera.target.cpu.executable import LoadedImage
from tessera.target.cpu.levels import LEVELS, host_level
from tessera.tile.ir import Kernel

LEVEL_NAMES = [name for name, level in LEVELS.items() if level.rank <= LEVELS[host_level()].rank]
"""The levels that this machine can run."""


class Native:
    """One compiled kernel."""

    def __init__(self, kernel: Kernel, level: str, tiles: tuple[int, int, int] | None = None) -> None:
        self.kernel = kernel
        image = compile_kernels([kernel], level, tiles)
        self.info = image.kernels[0]
        self.loaded = LoadedImage(image.code)

    def run(self, arrays: Sequence[np.ndarray], sizes: dict[str, int] | None = None, pieces: int = 1) -> None:
        """Run on arrays (one per buffer, contiguous), the grid split into ``pieces``."""
        sizes = sizes or {}
        grid, scratch = (evaluate(d, sizes) for d in (self.info.grid, self.info.scratch))
        assert evaluate(self.info.grain, sizes) >= 1
        values = [sizes[s.name] for s in self.kernel.sizes]
        edges = [grid * i // pieces for i in range(pieces + 1)]
        for begin, end in zip(edges, edges[1:]):
            self.loaded.call(self.info.entry, [a.ctypes.data for a in arrays], values, begin, end, scratch)


def filled(shape: Sequence[int] | int, dtype: DType, value: float = 77) -> np.ndarray:
    """An array that shows which elements were written."""
    return np.full(shape, value).astype(dtype.numpy)


def misaligned(a: np.ndarray) -> np.ndarray:
    """A copy whose address is aligned to its element only."""
    raw = np.empty(a.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + a.itemsize
    out = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def guarded(a: np.ndarray) -> np.ndarray:
    """A copy that ends at the end of a page before one that may not be touched."""
    import ctypes
    import mmap

    page = mmap.PAGESIZE
    size = -(-max(1, a.nbytes) // page) * page
    memory = mmap.mmap(-1, size + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address + size), ctypes.c_size_t(page), 0) == 0
    out = np.frombuffer(memory, np.uint8, count=a.nbytes, offset=size - a.nbytes).view(a.dtype).reshape(a.shape)
    out[...] = a
    return out
