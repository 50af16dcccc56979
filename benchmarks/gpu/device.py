"""Launching compiled kernels with PyTorch's tensors and the driver alone: for measurements, before any runtime.

The native module of Tessera is not needed here and may be missing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch


def without(*names: str) -> None:
    """Let modules that are not installed be imported, as far as names go."""
    for name in names:
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = MagicMock()


without("tessera._core", "pytest", "hypothesis")

from tessera.ir.dims import evaluate  # noqa: E402
from tessera.target.triton.compile import Architecture, build_image  # noqa: E402
from tessera.target.triton.generate import generate  # noqa: E402
from tessera.target.triton.head import Options  # noqa: E402
from tessera.target.triton.launch import BufferArgument, CompiledKernel, Generated, Image, SizeArgument  # noqa: E402
from tessera.tile.ir import Kernel  # noqa: E402

SM90 = Architecture("ptx", "sm_90a", "cuda", 90, 32)


class Device:
    """The driver, in the context that PyTorch uses."""

    def __init__(self) -> None:
        torch.zeros(1, device="cuda")
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self._modules: dict[int, ctypes.c_void_p] = {}
        self._kept: list[Any] = []

    def check(self, code: int) -> None:
        """Raise on an error of the driver."""
        if code:
            name = ctypes.c_char_p()
            self.cuda.cuGetErrorName(code, ctypes.byref(name))
            raise RuntimeError(f"{(name.value or b'?').decode()} ({code})")

    def function(self, image: Image, kernel: CompiledKernel) -> ctypes.c_void_p:
        """The function of a kernel of an image."""
        one = image.modules[kernel.module]
        code = image.code[one.offset : one.offset + one.bytes]
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), code))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, kernel.symbol.encode()))
        if kernel.shared > 48 * 1024:
            self.check(self.cuda.cuFuncSetAttribute(function, 8, kernel.shared))
        return function

    def launch(
        self, function: ctypes.c_void_p, kernel: CompiledKernel, buffers: Sequence[torch.Tensor],
        sizes: Sequence[int], grid: Sequence[int],
    ) -> None:
        """Put a launch on PyTorch's stream."""
        if 0 in grid:
            return
        values: list[Any] = []
        for a in kernel.arguments:
            if isinstance(a, BufferArgument):
                values.append(ctypes.c_void_p(buffers[a.index].data_ptr()))
            elif isinstance(a, SizeArgument):
                kind = ctypes.c_int64 if a.type == "i64" else ctypes.c_int32
                values.append(kind(sizes[a.index]))
            else:
                values.append(ctypes.c_void_p(0))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.check(self.cuda.cuLaunchKernel(
            function, *map(int, grid), kernel.threads, 1, 1, kernel.shared, stream, pointers, None
        ))


class Launches:
    """The launches of some kernels, compiled for Hopper."""

    def __init__(self, device: Device, generated: Sequence[Generated]) -> None:
        self.device, self.generated = device, generated
        self.image = build_image(generated, SM90)
        self.functions = [device.function(self.image, k) for k in self.image.kernels]

    def run(
        self, number: int, buffers: Sequence[torch.Tensor], sizes: Mapping[str, int], values: Sequence[int]
    ) -> None:
        """Kernel ``number``: ``sizes`` by name, ``values`` in the order of its size arguments."""
        generated = self.generated[number]
        room = evaluate(generated.workspace, sizes)
        everything = [*buffers, *([torch.empty(room, dtype=torch.uint8, device="cuda")] if room else [])]
        for at in self.image.launches[number]:
            kernel = self.image.kernels[at]
            grid = [evaluate(d, sizes) for d in kernel.grid]
            self.device.launch(self.functions[at], kernel, everything, values, grid)


def run_kernel(device: Device, kernel: Kernel, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]) -> None:
    """As ``tile.interpret.run_kernel``, on the device, between poisoned margins that must stay as they are."""
    launches = Launches(device, [generate(kernel, Options())])
    margin = 256
    tensors = []
    for a in arrays:
        raw = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
        whole = torch.full((raw.size + 2 * margin,), 0x5A, dtype=torch.uint8)
        whole[margin : margin + raw.size] = torch.from_numpy(raw.copy())
        tensors.append(whole.cuda())
    views = [t[margin : t.numel() - margin] for t in tensors]
    launches.run(0, views, sizes, [sizes[s.name] for s in kernel.sizes])
    torch.cuda.synchronize()
    for a, t in zip(arrays, tensors):
        back = t.cpu().numpy()
        assert (back[:margin] == 0x5A).all() and (back[len(back) - margin :] == 0x5A).all(), "written outside"
        a.reshape(-1).view(np.uint8)[...] = back[margin : len(back) - margin]
