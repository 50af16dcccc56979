"""Single kernels of the CPU target against PyTorch, per code level: ``python -m benchmarks.cpu.kernels [threads]``.

Prints microseconds (the best of many runs; runs are timed in turn) and GFLOP/s. Kernels are compiled from graphs, so
this measures what a program would run, without the runtime: threads share the grid as the runtime would.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tessera import op
from tessera.graph.pipeline import to_primitives
from tessera.ir.graph import Graph
from tessera.ir.value import Value
from tessera.target.cpu.compile import compile_kernels
from tessera.target.cpu.executable import LoadedImage
from tessera.target.cpu.levels import LEVELS, host_level
from tessera.tile.ir import Kernel
from tessera.tile.plan import build_plan

LEVEL_NAMES = [n for n, x in LEVELS.items() if x.rank <= LEVELS[host_level()].rank]


@dataclass(frozen=True)
class Case:
    """A row of the table: what is computed, by Tessera and by PyTorch, on which shapes."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Value]
    peer: Callable[..., object]
    flops: float = 0.0


def _product(name: str, m: int, n: int, k: int, a_t: bool = False, b_t: bool = False) -> Case:
    def build(a: Value, b: Value) -> Value:
        return op.matmul(op.transpose(a, [1, 0]) if a_t else a, op.transpose(b, [1, 0]) if b_t else b)

    shapes = ((k, m) if a_t else (m, k), (n, k) if b_t else (k, n))
    return Case(name, shapes, build, lambda a, b: (a.T if a_t else a) @ (b.T if b_t else b), 2.0 * m * n * k)


def cases() -> list[Case]:
    """Products of W1 and W3, a large one, and memory-bound kernels."""
    import torch
    import torch.nn.functional as functional

    return [
        _product("256x512x784", 256, 512, 784),
        _product("256x512x512", 256, 512, 512),
        _product("256x10x512", 256, 10, 512),
        _product("784x512x256 TN", 784, 512, 256, a_t=True),
        _product("256x512x512 NT", 256, 512, 512, b_t=True),
        _product("1024x1024x1024", 1024, 1024, 1024),
        _product("1x256x64", 1, 256, 64),
        _product("1x256x256", 1, 256, 256),
        _product("1x8x256", 1, 8, 256),
        Case(
            "gelu(x*s+b)+r 4096^2",
            ((4096, 4096), (4096,), (4096,), (4096, 4096)),
            lambda x, s, b, r: op.gelu(x * s + b) + r,
            lambda x, s, b, r: functional.gelu(x * s + b) + r,
        ),
        Case("softmax 4096x1024", ((4096, 1024),), lambda x: op.softmax(x), lambda x: torch.softmax(x, -1)),
        Case(
            "layer_norm 4096x768",
            ((4096, 768),),
            lambda x: op.layer_norm(x),
            lambda x: functional.layer_norm(x, (768,)),
        ),
        Case("transpose 2048^2", ((2048, 2048),), lambda x: op.transpose(x, [1, 0]) + 0.0, lambda x: x.T.contiguous()),
        Case("sum of columns 2048^2", ((2048, 2048),), lambda x: op.sum(x, axis=0), lambda x: x.sum(0)),
        Case("sum of rows 2048^2", ((2048, 2048),), lambda x: op.sum(x, axis=1), lambda x: x.sum(1)),
    ]


class _Call:
    """One compiled kernel with its buffers."""

    def __init__(self, kernel: Kernel, level: str, threads: int) -> None:
        image = compile_kernels([kernel], level)
        self.info, self.loaded = image.kernels[0], LoadedImage(image.code)
        self.buffers = []
        for buffer in kernel.buffers:
            count = int(np.prod([int(d) for d in buffer.shape]))
            raw = np.zeros(count * buffer.dtype.itemsize + 64, np.uint8)
            a = raw[-raw.ctypes.data % 64 :][: count * buffer.dtype.itemsize].view(buffer.dtype.numpy)
            a[...] = np.random.default_rng(0).standard_normal(count, np.float32).astype(a.dtype)
            self.buffers.append(a)
        addresses = [a.ctypes.data for a in self.buffers]
        self.grid = int(self.info.grid)
        self.workers = [
            self.loaded.bind(self.info.entry, addresses, [], int(self.info.scratch))
            for _ in range(threads if self.grid > int(self.info.grain) else 1)
        ]

    def run(self) -> None:
        """The whole grid, split as evenly as it can be."""
        count = len(self.workers)
        edges = [self.grid * i // count for i in range(count + 1)]
        others = [threading.Thread(target=w, args=(a, b)) for w, a, b in zip(self.workers[1:], edges[1:], edges[2:])]
        for thread in others:
            thread.start()
        self.workers[0](edges[0], edges[1])
        for thread in others:
            thread.join()


def _best(call: Callable[[], object], seconds: float = 0.3) -> float:
    best, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def main(threads: int) -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(threads)
    print(f"{threads} thread(s); microseconds (GFLOP/s)")
    print(f"{'':24}" + "".join(f"{n:>24}" for n in [*LEVEL_NAMES, "torch " + torch.__version__]))
    for case in cases():
        inputs = [op.tensor(s, "f32", name=f"x{i}") for i, s in enumerate(case.shapes)]
        plan = build_plan(to_primitives(Graph({"y": case.build(*inputs)})))
        tensors = [torch.randn(*s) for s in case.shapes]
        row = []
        for level in LEVEL_NAMES:
            calls = [_Call(k, level, threads) for k in plan.kernels]
            row.append(_best(lambda calls=calls: [c.run() for c in calls]))
        row.append(_best(functools.partial(case.peer, *tensors)))
        cells = [f"{t * 1e6:.1f}" + (f" ({case.flops / t / 1e9:.0f})" if case.flops else "") for t in row]
        print(f"{case.name:24}" + "".join(f"{c:>24}" for c in cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
