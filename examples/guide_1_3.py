"""Guide §1.3: a sharded matrix product on eight virtual devices. The marked region is the guide's text."""
# ruff: noqa: E302, E402, E231, F401, I001

import numpy as np

from tessera import op, graph, dist

# guide: begin
mesh = dist.Mesh(axes=["dp","tp"], devices=range(8))

W = dist.tensor((1024, 1024),
                layout=dist.ShardSpec(partition=("row","col"), mesh_axes=("dp","tp")),
                mesh=mesh)

Y = op.matmul(W, W.T)
# guide: end

weight = op.parameter_of(W)
weight.value = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)

print(mesh)
print(W)
print(graph.collectives(Y))
expected = weight.value @ weight.value.T
error = np.abs(Y.numpy() - expected).max() / np.abs(expected).max()
print(f"largest difference from NumPy: {error:.1e}")
