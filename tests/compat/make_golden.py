"""Writes the golden files of the present format version: run once for each new version, and keep the files.

``format_<version>.tsr`` holds a training step with state, a constant, random numbers and a symbolic batch, for the
targets cpu (x86-64-v2, which every supported CPU runs) and portable; ``format_<version>.npz`` what two runs gave.
Version 1 was written again, before its first release, when kernel entries got their marks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tessera
from tessera import graph, op, optim
from tessera.artifact.history import FORMAT_VERSION
from tessera.ir.provenance import Location, location

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write both files."""
    tessera.manual_seed(42)
    rng = np.random.default_rng(0)
    B = op.dim("B", min=1, max=64)
    X = op.tensor((B, 6), name="x")
    table = op.constant(rng.standard_normal((6, 6)).astype(np.float32))
    logits = op.mlp(in_dim=6, hidden=[8], out_dim=3)(X @ table)
    optimizer = optim.Adam(0.01)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(op.dropout(logits(batch["x"]), 0.25), batch["labels"])
        optimizer.apply(graph.backward(loss))
        return {"loss": loss, "logits": logits(batch["x"])}

    N = op.dim("N", min=1, max=64)
    compiled = graph.compile(
        step, {"x": op.tensor((N, 6)), "labels": op.tensor((N,), "i64")}, target=["cpu", "portable"], level="x86-64-v2"
    )
    compiled.save(HERE / f"format_{FORMAT_VERSION}.tsr", {"made": "golden file"})
    arrays: dict[str, np.ndarray] = {}
    for run, rows in enumerate((5, 9)):
        x, labels = rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 3, rows)
        result = compiled({"x": x, "labels": labels})
        arrays |= {f"x.{run}": x, f"labels.{run}": labels}
        arrays |= {f"{name}.{run}": array.numpy() for name, array in result.items()}
    arrays |= {f"state {name}": parameter.value for name, parameter in compiled.parameters.items()}
    np.savez(HERE / f"format_{FORMAT_VERSION}.npz", **arrays)


if __name__ == "__main__":
    with location(Location("make_golden.py", 1)):  # the same on every machine
        main()
