"""Running a kernel image in this process, for tests, tuning and measurements."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence

import numpy as np

from tessera.errors import InternalError

_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                          ctypes.c_void_p)


class LoadedImage:
    """An image in executable pages. Calls release the GIL."""

    def __init__(self, code: bytes) -> None:
        size = max(1, len(code))
        self._pages = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._pages.write(code)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self.address), ctypes.c_size_t(size), 5) != 0:
            raise InternalError(f"mprotect failed with errno {ctypes.get_errno()}")

    def bind(self, entry: int, pointers: Sequence[int], sizes: Sequence[int], scratch_bytes: int = 0
             ) -> Callable[[int, int], None]:
        """A function that processes the units [begin, end) with the buffers at ``pointers``, one call at a time."""
        scratch = np.empty(scratch_bytes + 64, np.uint8)
        at = scratch.ctypes.data + -scratch.ctypes.data % 64
        buffers = (ctypes.c_void_p * max(1, len(pointers)))(*pointers)
        values = (ctypes.c_int64 * max(1, len(sizes)))(*sizes)
        first, second = ctypes.addressof(buffers), ctypes.addressof(values)
        function = _ENTRY(self.address + entry)
        keep = (self, scratch, buffers, values)

        def run(begin: int, end: int) -> None:
            status = function(first, second, begin, end, at)
            if status:
                raise InternalError(f"the kernel at {keep[0].address + entry:#x} returned status {status}")

        return run

    def call(self, entry: int, pointers: Sequence[int], sizes: Sequence[int], begin: int, end: int,
             scratch_bytes: int = 0) -> None:
        """Process the units [begin, end) with the buffers at ``pointers``."""
        self.bind(entry, pointers, sizes, scratch_bytes)(begin, end)
