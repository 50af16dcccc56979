"""Writes a classifier for ``inference``, frames for it, and what it has to find: model.tsr, frames.u8, expected.i32."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tessera
from tessera import graph, op

FRAMES, PIXELS, CLASSES = 1000, 64, 10


def main() -> None:
    """Compile for NVIDIA GPUs; nothing runs here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("."))
    folder = parser.parse_args().folder
    tessera.manual_seed(1)
    x = op.tensor((op.dim("B", min=1, max=4096), PIXELS), name="x")
    scores = op.mlp(in_dim=PIXELS, hidden=[128], out_dim=CLASSES, name="mlp")(x)
    compiled = graph.compile({"scores": scores}, target="ptx")
    compiled.save(folder / "model.tsr")
    frames = np.random.default_rng(2).integers(0, 256, (FRAMES, PIXELS)).astype(np.uint8)
    frames.tofile(folder / "frames.u8")
    y = frames.astype(np.float64) / 255
    names = sorted(compiled.parameters, key=lambda name: (name.rsplit(".", 1)[0], name.endswith("bias")))
    for number, name in enumerate(names):
        value = compiled.parameters[name].value
        y = y + value if name.endswith("bias") else y @ value
        y = np.maximum(y, 0) if number == 1 else y
    y.argmax(axis=1).astype(np.int32).tofile(folder / "expected.i32")


if __name__ == "__main__":
    main()
