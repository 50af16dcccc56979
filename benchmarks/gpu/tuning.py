"""What measured choices and vendor libraries bring: whole programs, and each of their products.

    python -m benchmarks.gpu.tuning [WORK...] [--seconds S]

A program is compiled three times: choices by the model with generated kernels alone, measured with libraries, measured
with generated kernels alone. The times of products are those that the tuner found, each over operands that together
are larger than the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tessera
from tessera import graph, op, optim
from tessera._core import default_runtime, vendor_library_version
from tessera.graph import tuning
from tessera.ir.value import Value

from benchmarks.gpu.timing import Work, measure

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "gpt2"))
DEVICE = "cuda:0"
WIDTH, HIDDEN = 4096, 8192
Made = tuple[Work, dict[str, str]]


def drawn(*shape: int) -> np.ndarray:
    """Normal numbers in bf16."""
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)


def numbers(most: int, *shape: int) -> np.ndarray:
    """Integers below ``most``."""
    return np.random.default_rng(1).integers(0, most, shape)


def program(outputs: Any, schedule: graph.Schedule, *inputs: np.ndarray) -> Made:
    """A compiled graph on arrays of the device, and its metadata."""
    compiled = graph.compile(outputs, target="ptx", schedule=schedule)
    loaded, runtime = compiled.program(), default_runtime()
    arrays = [tessera.array(x, device=DEVICE) for x in inputs]
    results: list[tessera.Array | None] = list(loaded.run(runtime, arrays))
    work = Work(lambda: loaded.run(runtime, arrays, results), lambda _: runtime.wait())
    return work, compiled._built.metadata


def mlp(batch: int) -> Value:
    """The guide's MLP on an input."""
    model = op.mlp(in_dim=WIDTH, hidden=[HIDDEN], out_dim=WIDTH, dtype="bf16")
    return model(op.tensor((batch, WIDTH), "bf16", name="x"))


def mlp_gradients(schedule: graph.Schedule) -> Made:
    """Loss and gradients of the MLP, batch 8192."""
    loss = op.cross_entropy(mlp(8192), op.tensor((8192,), "i64", name="labels"))
    outputs = {"loss": loss, "gradients": graph.backward(loss)}
    return program(outputs, schedule, drawn(8192, WIDTH), numbers(WIDTH, 8192))


def gpt2_step(schedule: graph.Schedule) -> Made:
    """A training step of GPT-2 124M, 16 × 1024 tokens."""
    from model import GPT2, SIZES  # type: ignore[import-not-found]

    config = SIZES["124M"]
    model, optimizer = GPT2(config), optim.AdamW(6e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step(tokens: Value, labels: Value) -> Value:
        loss = model.loss(tokens, labels)
        optimizer.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return loss

    traced = graph.training_step(target="ptx", schedule=schedule)(step)
    shape = (16, config.length)
    compiled = graph.compile(traced, *(op.tensor(shape, "i64") for _ in range(2)), target="ptx", schedule=schedule)
    windows = numbers(config.vocabulary, 16, config.length + 1)
    arrays = [tessera.array(x, device=DEVICE) for x in (windows[:, :-1].copy(), windows[:, 1:].copy())]
    return Work(lambda: compiled(*arrays), lambda _: default_runtime().wait()), compiled._built.metadata


THIN = (1, 2, 4, 8, 16, 32, 64, 128)
PRODUCTS = (
    *((m, n, k, "bf16", ()) for m in THIN for n, k in ((8192, 4096), (4096, 8192))),
    *((2048, 2048, 2048, dtype, ()) for dtype in ("f16", "f32", "f64")), (256, 256, 256, "bf16", (64,)),
    (1024, 1024, 64, "bf16", (192,)), (1024, 1024, 1024, "bf16", ()), (4096, 4096, 4096, "bf16", ()),
    (8192, 8192, 8192, "bf16", ()), (1000, 1000, 1000, "bf16", ()),
)


def products(schedule: graph.Schedule) -> dict[str, str]:
    """Plain products of many sizes: the metadata of a program of all of them."""
    found = {}
    for i, (m, n, k, dtype, batch) in enumerate(PRODUCTS):
        a, b = op.tensor((*batch, m, k), dtype, name=f"a{i}"), op.tensor((*batch, k, n), dtype, name=f"b{i}")
        found[f"y{i}"] = op.matmul(a, b)
    return graph.compile(found, target="ptx", schedule=schedule)._built.metadata


WORKS: dict[str, Callable[[graph.Schedule], Made]] = {
    "MLP, batch 8192: loss and gradients": mlp_gradients,
    **{
        f"MLP, inference, batch {n}": lambda schedule, n=n: program(mlp(n), schedule, drawn(n, WIDTH))
        for n in (1, 16, 256)
    },
    "GPT-2 124M: training step": gpt2_step,
}


def variants(seconds: float) -> dict[str, graph.Schedule]:
    """How a program is compiled."""
    return {
        "model": graph.Schedule(libraries=[]), "measured, libraries": graph.Schedule(autotune=seconds),
        "measured": graph.Schedule(libraries=[], autotune=seconds),
    }


def main() -> None:
    """Print tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", help="parts of names of works; all without")
    parser.add_argument("--seconds", type=float, default=1.0, help="for the measurements of a product")
    given = parser.parse_args()
    library = vendor_library_version("cublaslt")
    print(f"{tuning.device_name('ptx')}, Tessera {tessera.__version__}, cuBLASLt {library}\n")
    if not given.works or any(w in "products" for w in given.works):
        _print_products("Products", products(variants(given.seconds)["measured, libraries"]))
    rows = ["| program | model | measured, libraries | measured |", "|---|---|---|---|"]
    for name, make in WORKS.items():
        if given.works and not any(w in name for w in given.works):
            continue
        cells = []
        for variant, schedule in variants(given.seconds).items():
            work, metadata = make(schedule)
            cells.append(f"{measure(work)['median'] * 1e6:.1f} us")
            if variant == "measured, libraries":
                _print_products(name, metadata)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    print("\n".join(rows))


def _print_products(title: str, metadata: dict[str, str]) -> None:
    choices = next((json.loads(v) for k, v in metadata.items() if k.startswith("tessera.choices")), [])
    print(f"{title}\n\n| product | model's choice, us | best generated | best of cuBLASLt | chosen |")
    print("|---|---|---|---|---|")
    print("\n".join(_row(c) for c in choices if "microseconds" in c) + "\n", flush=True)


def _row(choice: dict[str, Any]) -> str:
    times: dict[str, float] = choice["microseconds"]
    generated = {n: t for n, t in times.items() if not n.startswith("cublaslt")}
    library = {n: t for n, t in times.items() if n.startswith("cublaslt")}
    best = min(generated, key=lambda n: generated[n])
    cells = [f"{generated.get('generated', float('nan')):.1f}", f"{generated[best]:.1f} ({best})",
             f"{min(library.values()):.1f}" if library else "-", choice["choice"]]
    return f"| {choice['kernel']} {choice.get('product', '')} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
