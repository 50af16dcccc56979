"""What a call costs on a GPU: one tiny kernel, and the guide's MLP at small batches, beside PyTorch.

    python -m benchmarks.gpu.submission

Pipelined: calls one after the other, waited for once at the end. Alone: each call waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tessera
import torch
from tessera import graph, op
from tessera._core import default_runtime

ROUNDS = 7


def microseconds(call: Callable[[], Any], wait: Callable[[], Any], count: int, *, alone: bool) -> float:
    """The least time of a call over the rounds."""
    for _ in range(5):
        call()
    wait()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            call()
            if alone:
                wait()
        wait()
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e6


def row(name: str, by: str, call: Callable[[], Any], wait: Callable[[], Any], count: int = 200) -> None:
    """One line of the table."""
    pipelined = microseconds(call, wait, count, alone=False)
    print(f"| {name} | {by} | {pipelined:.1f} | {microseconds(call, wait, count, alone=True):.1f} |", flush=True)


def bound(compiled: graph.Compiled, *inputs: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A call on fixed arrays, and the wait for it."""
    program, runtime = compiled.program(), default_runtime()
    arrays = [tessera.array(x, device="cuda:0") for x in inputs]
    outputs = program.run(runtime, arrays)
    return lambda: program.run(runtime, arrays, outputs), runtime.wait


def main() -> None:
    """Print the table."""
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, tessera {tessera.__version__}\n")
    print("| work | by | pipelined µs | alone µs |\n|---|---|---|---|")
    x = op.tensor((1024,), name="x")
    values = np.ones(1024, np.float32)
    row("x + 1 on 1024 f32", "tessera", *bound(graph.compile(x + 1.0, target="ptx"), values), 2000)
    t = torch.ones(1024, device="cuda")
    row("x + 1 on 1024 f32", "torch eager", lambda: t + 1.0, torch.cuda.synchronize, 2000)
    width, hidden = 4096, 8192
    for batch in (1, 16, 256):
        x = op.tensor((batch, width), dtype="bf16", name="x")
        compiled = graph.compile(op.mlp(in_dim=width, hidden=[hidden], out_dim=width, dtype="bf16")(x), target="ptx")
        random = torch.randn(batch, width, dtype=torch.bfloat16, device="cuda")
        name = f"MLP 4096-8192-4096 bf16, batch {batch}"
        call, wait = bound(compiled, random)
        row(name, "tessera", call, wait)
        model = torch.nn.Sequential(
            torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width)
        ).to("cuda", torch.bfloat16)
        with torch.no_grad():
            row(name, "torch eager", lambda: model(random), torch.cuda.synchronize)  # noqa: B023
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                model(random)
            row(name, "torch CUDA graph", captured.replay, torch.cuda.synchronize)


if __name__ == "__main__":
    main()
