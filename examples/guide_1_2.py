"""Guide §1.2: an MLP and its training step. The marked region is the guide's text; the rest binds its names."""
# ruff: noqa: E302, E402, F401, I001

import numpy as np

B, D = 32, 64

# guide: begin
from tessera import op, graph, dist

# Define a simple MLP
X = op.tensor((B, D), dtype="bf16")
Y = op.mlp(in_dim=D, hidden=[8192], out_dim=D)(X)

# Training step with autodiff
@graph.training_step
def step(batch):
    out = Y(batch["input"])
    loss = op.cross_entropy(out, batch["labels"])
    grads = graph.backward(loss)
    return grads, {"loss": loss}
# guide: end

import tessera

rng = np.random.default_rng(0)
batch = {
    "input": tessera.array(rng.standard_normal((B, D)), dtype="bf16"),
    "labels": rng.integers(0, D, B),
}
grads, result = step(batch)
for name, gradient in grads.items():
    print(f"{name}: {gradient.dtype}{list(gradient.shape)}")
print("loss:", result["loss"].item())
