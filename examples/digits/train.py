"""Train the guide's MLP on scikit-learn's handwritten digits and save it for C++."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tessera
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tessera import graph, op, optim

BATCH = 64


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and held-out images (f32 in [0, 1], 64 pixels each) and labels: 1,437 and 360 of 1,797."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    labels = labels.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return train_x, train_y, test_x, test_y


def train(folder: Path, epochs: int) -> float:
    """Train, write ``digits.tsr`` and the held-out images to ``folder``; the accuracy on held-out images."""
    tessera.manual_seed(0)
    train_x, train_y, test_x, test_y = data()

    X = op.tensor((op.dim("B", min=1, max=4096), 64), name="x")
    logits = op.mlp(in_dim=64, hidden=[256, 128], out_dim=10)(X)

    steps = epochs * (len(train_x) // BATCH)
    optimizer = optim.AdamW(optim.cosine(2e-3, steps), weight_decay=1e-2)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(logits(batch["input"]), batch["labels"], label_smoothing=0.05)
        optimizer.apply(graph.backward(loss))
        return {"loss": loss}

    rng = np.random.default_rng(0)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps, loss=float("nan"))
        for _ in range(epochs):
            order = rng.permutation(len(train_x))
            for at in range(0, len(order) - BATCH + 1, BATCH):
                rows = order[at : at + BATCH]
                result = step({"input": train_x[rows], "labels": train_y[rows]})
                progress.update(task, advance=1, loss=result["loss"].item())

    compiled = graph.compile({"logits": logits})
    predicted = compiled(test_x)["logits"].numpy()
    accuracy = float((predicted.argmax(axis=1) == test_y).mean())

    compiled.save(folder / "digits.tsr", {"task": "handwritten digits, 8 x 8 pixels in [0, 1]"})
    test_x.tofile(folder / "images.f32")
    test_y.tofile(folder / "labels.i64")
    predicted.tofile(folder / "logits.f32")
    return accuracy


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the results go")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    accuracy = train(options.folder, options.epochs)
    print(f"Python: {accuracy:.2%} of the held-out images are right; wrote {options.folder / 'digits.tsr'}")


if __name__ == "__main__":
    main()
