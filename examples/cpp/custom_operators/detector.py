"""Builds a small detector of the operators in libmylib.so, looks at its gradient, and saves it for C++."""

import sys

import numpy as np
import tessera
from tessera import graph, op


def detector(features):
    """Boxes and scores of each row of features (B, 8), and those that non-max suppression keeps."""
    random = np.random.default_rng(0)
    weight = op.constant(random.normal(size=(8, 10)).astype(np.float32))
    hidden = features @ weight
    activated = op.mylib.swiglu(hidden[:, :5], hidden[:, 5:])  # between fused kernels
    corner = op.relu(activated[:, :2])
    boxes = op.concat([corner, corner + 0.5 + op.sigmoid(activated[:, 2:4])], axis=1)
    return op.mylib.nms(boxes, activated[:, 4], limit=4, threshold=0.3)


def main(library, path):
    tessera.load_library(library)
    features = op.tensor((op.dim("B", min=0, max=1000), 8), name="features")
    found = detector(features)
    compiled = graph.compile({"indices": found.indices, "count": found.count}, target=["cpu", "portable"])
    compiled.save(path)

    gate = op.tensor(("N",), name="gate")
    slope = graph.backward(op.sum(op.mylib.swiglu(gate, gate * 2)), wrt=gate)
    print("slope", *(f"{s:.4f}" for s in slope(np.array([0.0, 1.0], np.float32))))

    example = ((np.arange(48) * 37) % 11 / np.float32(11)).astype(np.float32).reshape(6, 8)
    result = compiled(features=example)
    print("kept", int(result["count"].item()), "of 6:", *result["indices"].tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
