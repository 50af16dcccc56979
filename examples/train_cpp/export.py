"""Export a whole training step for C++, and train in Python for comparison."""

from __future__ import annotations

import argparse

import numpy as np
import tessera
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from tessera import graph, op, optim

BATCH = 64


def main() -> None:
    """Write ``train.tsr`` and the batches, then train in Python and write ``python.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps

    tessera.manual_seed(1)
    X = op.tensor((op.dim("B", min=1, max=4096), 64), name="x")
    logits = op.mlp(in_dim=64, hidden=[128], out_dim=10)(X)
    optimizer = optim.AdamW(optim.warmup(2e-3, steps=10), weight_decay=1e-2)

    @graph.training_step
    def step(batch):
        out = op.dropout(logits(batch["input"]), 0.1)
        loss = op.cross_entropy(out, batch["labels"])
        grads = optim.clip_by_global_norm(graph.backward(loss), 1.0)
        optimizer.apply(grads)
        return {"loss": loss}

    images, labels = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).integers(0, len(images), steps * BATCH)
    inputs = (images[rows] / 16.0).astype(np.float32).reshape(steps, BATCH, 64)
    targets = labels[rows].astype(np.int64).reshape(steps, BATCH)
    inputs.tofile("inputs.f32")
    targets.tofile("labels.i64")

    compiled = graph.compile(step, {"input": inputs[0], "labels": targets[0]})
    compiled.save("train.tsr")  # the state before the first step

    for x, y in zip(inputs, targets, strict=True):
        result = compiled({"input": x, "labels": y})
    save_file({name: parameter.value for name, parameter in compiled.parameters.items()}, "python.safetensors")
    print(f"Python: {steps} steps, loss {result['loss'].item():.4f}")


if __name__ == "__main__":
    main()
