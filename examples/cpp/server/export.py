"""Writes what the server serves: ``model.tsr``, and ``new.safetensors`` with other weights for it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tessera
from safetensors.numpy import save_file
from tessera import graph, op


def main() -> None:
    """Compile a classifier, then draw its weights anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("."))
    folder = parser.parse_args().folder
    tessera.manual_seed(1)
    x = op.tensor((op.dim("B", min=1, max=16), 32), name="x")
    logits = op.mlp(in_dim=32, hidden=[64, 64], out_dim=8)(x)
    compiled = graph.compile({"scores": op.softmax(logits, axis=-1)}, target=["cpu", "portable"], level="x86-64-v2")
    compiled.save(folder / "model.tsr")
    rng = np.random.default_rng(2)
    save_file(
        {name: rng.normal(0, 0.3, p.value.shape).astype(np.float32) for name, p in compiled.parameters.items()},
        folder / "new.safetensors",
    )


if __name__ == "__main__":
    main()
