"""Compiles a model for a mesh and writes it as one file: ``python export.py FILE DEVICES``."""

import sys

import numpy as np
import tessera
from tessera import dist, graph, op

ROWS, WIDTH, HIDDEN, CLASSES = 10, 24, 50, 7
path, devices = sys.argv[1], int(sys.argv[2])
tessera.manual_seed(1)
mesh = dist.Mesh(axes=["dp", "tp"], devices=devices)
w1 = dist.tensor((WIDTH, HIDDEN), layout=dist.ShardSpec(("col",), ("tp",)), mesh=mesh, name="w1", init="he_normal")
w2 = dist.tensor((HIDDEN, CLASSES), layout=dist.ShardSpec(("row",), ("tp",)), mesh=mesh, name="w2", init="he_normal")
bias = op.parameter((CLASSES,), name="bias", init=0.25)
calls = op.parameter((), "i64", name="calls", trainable=False, init=0)


def model(x):
    graph.update(calls, calls + 1)
    x = dist.constrain(x, dist.ShardSpec((0,), ("dp",)), mesh)
    scores = op.relu(x @ w1) @ w2 + bias
    return {"scores": dist.constrain(scores, dist.ShardSpec((0,), ("dp",)), mesh), "largest": op.max(scores)}


x = (np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) % 13 - 6) / 6
compiled = graph.compile(model, x)
compiled.save(path)
scores = compiled(x)["scores"].numpy()
print(f"{path}: for {mesh}; scores of row 0: {' '.join(f'{v:.5f}' for v in scores[0])}")
