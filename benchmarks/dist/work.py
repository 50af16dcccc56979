"""One work on one mesh by one peer, in a process of its own: prints the timings as JSON.

``work.py PEER WORK DP TP SECONDS``; a mesh of 1×1 is one device with all cores. On a mesh the devices are virtual: they
share the machine's cores, and the work is the same in all.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

ROWS, WIDTH, HIDDEN, CLASSES = 2048, 512, 2048, 512
SIDE = 2048
RNG = np.random.default_rng(0)
Run = Callable[[], object]


def weights() -> dict[str, np.ndarray]:
    """The MLP's."""
    shapes = {"w1": (WIDTH, HIDDEN), "w2": (HIDDEN, CLASSES)}
    return {k: (RNG.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for k, s in shapes.items()}


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels."""
    return RNG.standard_normal((ROWS, WIDTH)).astype(np.float32), RNG.integers(0, CLASSES, ROWS)


def tessera_mlp(dp: int, tp: int) -> Run:
    """A training step with AdamW: rows over dp, hidden units over tp."""
    from tessera import dist, graph, op, optim

    mesh = dist.Mesh(["dp", "tp"], dp * tp, (dp, tp))
    values, (x, labels) = weights(), batch()
    layouts = {"w1": dist.ShardSpec(("col",), ("tp",)), "w2": dist.ShardSpec(("row",), ("tp",))}
    w = {
        k: op.parameter(v.shape, name=k, init=v) if mesh.size == 1
        else dist.tensor(v.shape, layout=layouts[k], mesh=mesh, name=k, init=v)
        for k, v in values.items()
    }
    adam = optim.AdamW(1e-3)

    def step(x, labels):  # noqa: ANN001, ANN202
        if mesh.size > 1:
            x = dist.constrain(x, dist.ShardSpec((0,), ("dp",)), mesh)
        loss = op.cross_entropy(op.relu(x @ w["w1"]) @ w["w2"], labels)
        adam.apply(graph.backward(loss))
        return {"loss": loss}

    compiled = graph.compile(step, x, labels)
    return lambda: compiled(x, labels)


def tessera_matmul(dp: int, tp: int) -> Run:
    """W·Wᵀ as in the guide, the result sharded like W."""
    from tessera import dist, graph, op

    mesh = dist.Mesh(["dp", "tp"], dp * tp, (dp, tp))
    value = RNG.standard_normal((SIDE, SIDE)).astype(np.float32)
    if mesh.size == 1:
        w = op.parameter(value.shape, name="w", init=value)
        compiled = graph.compile({"y": op.matmul(w, w.T)})
        return lambda: compiled()
    layout = dist.ShardSpec(("row", "col"), ("dp", "tp"))
    w = dist.tensor(value.shape, layout=layout, mesh=mesh, name="w", init=value)
    compiled = graph.compile({"y": dist.constrain(op.matmul(w, w.T), layout, mesh)})
    return lambda: compiled.call_sharded()


def _jax_mesh(dp: int, tp: int):  # noqa: ANN202
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={dp * tp}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from jax.sharding import Mesh

    return jax, Mesh(np.array(jax.devices()[: dp * tp]).reshape(dp, tp), ("dp", "tp"))


def jax_mlp(dp: int, tp: int) -> Run:
    """The same by JAX."""
    jax, mesh = _jax_mesh(dp, tp)
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    (x, labels), layouts = batch(), {"w1": P(None, "tp"), "w2": P("tp", None)}
    w = {k: jax.device_put(v, NamedSharding(mesh, layouts[k])) for k, v in weights().items()}
    first, second = jax.tree.map(jnp.zeros_like, w), jax.tree.map(jnp.zeros_like, w)
    rows = NamedSharding(mesh, P("dp"))

    def loss_of(w, x, labels):  # noqa: ANN001, ANN202
        logits = jnp.maximum(x @ w["w1"], 0) @ w["w2"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    @jax.jit
    def step(w, first, second, count, x, labels):  # noqa: ANN001, ANN202
        loss, g = jax.value_and_grad(loss_of)(w, x, labels)
        first = jax.tree.map(lambda m, d: 0.9 * m + 0.1 * d, first, g)
        second = jax.tree.map(lambda v, d: 0.999 * v + 0.001 * d * d, second, g)

        def update(p, m, v):  # noqa: ANN001, ANN202
            m, v = m / (1 - 0.9**count), v / (1 - 0.999**count)
            return p * (1 - 1e-3 * 1e-2) - 1e-3 * m / (jnp.sqrt(v) + 1e-8)

        return loss, jax.tree.map(update, w, first, second), first, second

    state = [w, first, second]

    def run() -> object:
        # From host memory in each step, as for Tessera.
        given = jax.device_put(x, rows), jax.device_put(labels, rows)
        loss, *state[:] = step(*state, 5.0, *given)
        return jax.block_until_ready((loss, state))

    return run


def jax_matmul(dp: int, tp: int) -> Run:
    """The same by JAX."""
    jax, mesh = _jax_mesh(dp, tp)
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    lies = NamedSharding(mesh, P("dp", "tp"))
    w = jax.device_put(RNG.standard_normal((SIDE, SIDE)).astype(np.float32), lies)
    product = jax.jit(lambda w: w @ w.T, out_shardings=lies)
    return lambda: jax.block_until_ready(product(w))


WORKS = {("tessera", "mlp"): tessera_mlp, ("tessera", "matmul"): tessera_matmul,
         ("jax", "mlp"): jax_mlp, ("jax", "matmul"): jax_matmul}


def main() -> None:
    """Measure and print."""
    peer, work, dp, tp, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]), float(sys.argv[5])
    run, times = WORKS[peer, work](dp, tp), []
    for _ in range(3):
        run()
    begin = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        once = time.perf_counter()
        run()
        times.append(time.perf_counter() - once)
    print(json.dumps({"min": min(times), "median": float(np.median(times))}))


if __name__ == "__main__":
    main()
