"""One work on one mesh of GPUs by JAX: ``python -m benchmarks.dist.gpu_jax WORK jax DP TP`` prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.gpu.peers_jax import BATCH, HIDDEN, WIDTH, Stepper, adamw, entropy, forward, fresh, numbers
from benchmarks.gpu.timing import Work, measure

SIDE = 16384


def put(mesh: Mesh, x: jax.Array, *axes: str | None) -> jax.Array:
    """An array in shards."""
    return jax.device_put(x, NamedSharding(mesh, P(*axes)))


def drawn(*shape: int, scale: float = 1.0) -> jax.Array:
    """Normal numbers in bf16."""
    return (jax.random.normal(jax.random.key(0), shape, jnp.float32) * scale).astype(jnp.bfloat16)


def matmul(mesh: Mesh) -> Work:
    """W·Wᵀ, the result sharded like W."""
    lies = NamedSharding(mesh, P("dp", "tp"))
    w = put(mesh, drawn(SIDE, SIDE), "dp", "tp")
    product = jax.jit(lambda w: w @ w.T, out_shardings=lies)
    return Work(lambda: product(w), jax.block_until_ready)


def mlp(mesh: Mesh) -> Work:
    """The training step: rows over dp, hidden units over tp; parameters and moments in bf16."""
    parameters: Any = [
        (put(mesh, drawn(WIDTH, HIDDEN, scale=0.02), None, "tp"), put(mesh, drawn(HIDDEN), "tp")),
        (put(mesh, drawn(HIDDEN, WIDTH, scale=0.02), "tp", None), put(mesh, drawn(WIDTH))),
    ]
    count = BATCH * mesh.shape["dp"]
    x, labels = put(mesh, drawn(count, WIDTH), "dp"), put(mesh, numbers(WIDTH, count), "dp")
    loss = jax.value_and_grad(lambda p, x, labels: entropy(forward(p, x), labels))

    def step(state: Any, x: jax.Array, labels: jax.Array) -> Any:
        value, gradients = loss(state[0], x, labels)
        return adamw(state, gradients, 1e-4, 0.01, (0.9, 0.999)), value

    return Work(Stepper(jax.jit(step, donate_argnums=0), fresh(parameters), x, labels), jax.block_until_ready)


def main() -> None:
    """Measure and print."""
    work, dp, tp = sys.argv[1], *map(int, sys.argv[3:5])
    mesh = Mesh(np.array(jax.devices()[: dp * tp]).reshape(dp, tp), ("dp", "tp"))
    found = measure({"matmul": matmul, "mlp": mlp}[work](mesh))
    print(json.dumps({**found, "version": f"JAX {jax.__version__}"}))


if __name__ == "__main__":
    main()
