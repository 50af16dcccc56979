"""Go on with what C++ built and trained: run its step, compile it, differentiate the loss, save it again."""

import numpy as np
from tessera import graph


def batch(first: int, count: int = 256) -> dict[str, np.ndarray]:
    """The points of train_mlp.cpp."""
    n = np.arange(first, first + count, dtype=np.float64)
    points = np.stack([2 * np.fmod(n * a, 1.0) - 1 for a in (0.7548776662466927, 0.5698402909980532)], 1)
    points = points.astype(np.float32)
    return {"x": points, "labels": (points[:, 0] * points[:, 1] > 0).astype(np.int64)}


step = graph.load("step.tsr")
weight = step.parameters["first.weight"]
before = weight.value

# One step by hand, from Python's gradient of the loss that C++ built, and one by the step that C++ built.
slope = graph.backward(step.outputs["loss"], wrt=weight)
by_hand = before - 0.2 * slope(**batch(0)).numpy()
loss = step(**batch(0))
print(f"largest difference of the two steps: {np.abs(by_hand - weight.value).max():.1e}")

compiled = graph.compile(step)  # native code for this CPU, on the same weights
for n in range(100):
    loss = compiled(**batch(1000 * n))
print(f"after 100 steps more: loss {loss.item():.4f}, target {compiled.target}")
compiled.save("step.tsr")
