"""Writes golden files: ``python -m tests.compat.make_golden CASE …``, once for each case; the files are kept for ever.

``golden/<case>.tsr`` is an artefact as the build of its day wrote it, ``golden/<case>.safetensors`` what two runs took
and gave (``<run>/in/<name>``, ``<run>/out/<name>``) and the state after them (``state/<name>``).

``format_1.tsr`` with ``format_1.npz`` is older: the first file of format 1, written again before its first release,
when kernel entries got their marks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tessera
from safetensors.numpy import save_file
from tessera import graph, op, optim
from tessera.ir.dtype import as_dtype
from tessera.ir.provenance import Location, location

from tests.compat.frozen import build

HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]


def _floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def levels() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """Two CPU levels of a network over symbolic sizes with arithmetic in them."""
    B, M = op.dim("B", min=1, max=32), op.dim("M", min=2, max=64, multiple_of=2)
    x = op.tensor((B, 2 * M, 6), name="x")
    y = op.softmax(op.linear(6, 4)(x), axis=-1)
    outputs = {"y": y, "pairs": op.sum(op.reshape(y, (B, M, 8)), axis=1)}
    compiled = graph.compile(outputs, target="cpu", level=["x86-64-v2", "x86-64-v3"])
    return compiled, lambda rng, run: {"x": _floats(rng, 2 + run, 4 * (1 + run), 6)}


def portable() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """The portable form alone: indices, a constant, padding, a running sum."""
    N = op.dim("N", min=0, max=100)
    index = op.tensor((N,), "i64", name="index")
    table = op.constant(np.arange(20, dtype=np.float32).reshape(5, 4))
    rows = op.take(table, index, axis=0)
    outputs = {"rows": rows, "sums": op.cumsum(op.pad(rows, ((1, 0), (0, 0))), axis=0)}
    return graph.compile(outputs, target="portable"), lambda rng, run: {"index": rng.integers(0, 5, 7 * run)}


def training() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """A training step: two kinds of state, random numbers, a range check, several targets."""
    logits = op.mlp(in_dim=5, hidden=[7], out_dim=3)
    optimizer = optim.Adam(0.01)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(op.dropout(logits(batch["x"]), 0.25), batch["labels"])
        optimizer.apply(graph.backward(loss))
        return {"loss": loss}

    N = op.dim("N", min=1, max=64)
    examples = {"x": op.tensor((N, 5)), "labels": op.tensor((N,), "i64")}
    compiled = graph.compile(step, examples, target=["cpu", "portable"], level="x86-64-v2")
    return compiled, lambda rng, run: {"x": _floats(rng, 4 + run, 5), "labels": rng.integers(0, 3, 4 + run)}


def narrow() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """Weights of the narrow floating-point types."""
    x = op.tensor((3, 4), name="x")
    values = np.linspace(-2, 2, 8, dtype=np.float32).reshape(4, 2)
    outputs = {}
    for dtype in ("bf16", "f16", "f8e4m3", "f8e5m2"):
        weight = op.parameter((4, 2), dtype, f"weight_{dtype}", init=values.astype(as_dtype(dtype).numpy))
        outputs[dtype] = op.matmul(x, op.cast(weight, "f32"))
    weight = op.parameter((4, 2), "bf16", "direct", init=values.astype(as_dtype("bf16").numpy))
    outputs["direct"] = op.cast(op.matmul(op.cast(x, "bf16"), weight), "f32")
    compiled = graph.compile(outputs, target=["cpu", "portable"], level="x86-64-v2")
    return compiled, lambda rng, run: {"x": _floats(rng, 3, 4)}


def targets() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """Code for a CPU, an NVIDIA GPU and an AMD GPU, and the portable form."""
    x = op.tensor((op.dim("B", min=1, max=32), 8), name="x")
    outputs = {"y": op.relu(op.linear(8, 4)(x)), "total": op.sum(x, axis=0)}
    compiled = graph.compile(
        outputs, target=["cpu", "portable", "ptx", "hsaco"], level="x86-64-v2", arch=["sm_80", "gfx942"]
    )
    return compiled, lambda rng, run: {"x": _floats(rng, 3 + run, 8)}


def custom() -> tuple[Any, Callable[[np.random.Generator, int], Arrays]]:
    """Operators of a library (of the frozen headers) between kernels: attributes, several results, scratch memory."""
    tessera.load_library(build(HERE / "custom_op_abi_1"))
    x = op.tensor((op.dim("B", min=2, max=32), 4), name="x")
    head, tail = op.frozen_1.split(op.frozen_1.axpy(op.exp(x), x + 1, a=0.5), at=1)
    outputs = {"head": head * 2, "total": op.sum(tail, axis=0)}
    compiled = graph.compile(outputs, target=["cpu", "portable"], level="x86-64-v2")
    return compiled, lambda rng, run: {"x": _floats(rng, 3 + 4 * run, 4)}


CASES = {case.__name__: case for case in (levels, portable, training, narrow, targets, custom)}


def write(case: str) -> None:
    """Write the two files of a case."""
    tessera.manual_seed(7)
    compiled, inputs = CASES[case]()
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    compiled.save(folder / f"{case}.tsr", {"made": f"golden file {case}"})
    rng = np.random.default_rng(3)
    arrays: Arrays = {}
    for run in range(2):
        given = inputs(rng, run)
        found = compiled(given) if len(given) > 1 else compiled(*given.values())
        arrays |= {f"{run}/in/{name}": array for name, array in given.items()}
        arrays |= {f"{run}/out/{name}": np.array(array.numpy()) for name, array in found.items()}
    for name, parameter in compiled.parameters.items():
        if parameter.value.dtype in (np.float32, np.int64):
            arrays[f"state/{name}"] = np.array(parameter.value)
    save_file(arrays, folder / f"{case}.safetensors")


def record_from_cpp() -> None:
    """What ``from_cpp.tsr`` (make_cpp_golden.cpp) gives, by NumPy."""
    rng, scale = np.random.default_rng(3), np.array([1, 2, 3], np.float32)
    table, arrays = np.arange(1, 10, dtype=np.float32).reshape(3, 3), {}
    for run in range(2):
        x = _floats(rng, 2 + run, 3)
        e = np.exp(x * scale)
        arrays |= {f"{run}/in/x": x, f"{run}/out/y": e / e.sum(-1, keepdims=True), f"{run}/out/z": x @ table}
        scale = scale * 2
    save_file(arrays | {"state/scale": scale}, HERE / "golden" / "from_cpp.safetensors")


if __name__ == "__main__":
    with location(Location("make_golden.py", 1)):  # the same on every machine
        for name in sys.argv[1:]:
            record_from_cpp() if name == "from_cpp" else write(name)
