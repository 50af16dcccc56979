"""JAX: jit of the whole step, state donated."""

from __future__ import annotations

import os

import numpy as np

from benchmarks.cpu.workloads import CHECK_STEPS, LEARNING_RATE, MOMENTUM, Prepared, Workload


def _mlp(jnp, p, x):  # noqa: ANN001, ANN202 - jax is imported after its thread settings are made
    x = jnp.maximum(x @ p["w0"] + p["b0"], 0)
    x = jnp.maximum(x @ p["w1"] + p["b1"], 0)
    return x @ p["w2"] + p["b2"]


def _params(work: Workload) -> dict[str, np.ndarray]:
    return {k: v for k, v in work.data.items() if k[0] in "wb"}


def _training(work: Workload) -> Prepared:
    import jax
    import jax.numpy as jnp

    x, labels = jnp.asarray(work.data["x"]), jnp.asarray(work.data["labels"])

    def loss_of(p, x, labels):  # noqa: ANN001, ANN202
        logp = jax.nn.log_softmax(_mlp(jnp, p, x))
        return -jnp.mean(jnp.take_along_axis(logp, labels[:, None], axis=1))

    def step(p, v, x, labels):  # noqa: ANN001, ANN202
        loss, g = jax.value_and_grad(loss_of)(p, x, labels)
        v = jax.tree.map(lambda a, b: MOMENTUM * a + b, v, g)
        return loss, jax.tree.map(lambda a, b: a - LEARNING_RATE * b, p, v), v

    run = jax.jit(step, donate_argnums=(0, 1))

    def start() -> list:
        p = {k: jnp.array(v) for k, v in _params(work).items()}
        return [p, jax.tree.map(jnp.zeros_like, p)]

    state = start()

    def call() -> None:
        loss, state[0], state[1] = run(state[0], state[1], x, labels)
        loss.block_until_ready()
        state[0]["w2"].block_until_ready()

    def result() -> dict[str, np.ndarray]:
        p, v = start()
        for _ in range(CHECK_STEPS):
            loss, p, v = run(p, v, x, labels)
        return {"loss": np.asarray(loss), **{k: np.asarray(a) for k, a in p.items()}}

    return Prepared(call, result)


def _inference(work: Workload) -> Prepared:
    import jax
    import jax.numpy as jnp

    p = {k: jnp.asarray(v) for k, v in _params(work).items()}
    x = jnp.asarray(work.data["x"])
    run = jax.jit(lambda x: _mlp(jnp, p, x))
    return Prepared(lambda: run(x).block_until_ready(), lambda: {"y": np.asarray(run(x))})


def _pointwise(work: Workload) -> Prepared:
    import jax
    import jax.numpy as jnp

    d = {k: jnp.asarray(v) for k, v in work.data.items()}

    def forward(out, x, s, b, r):  # noqa: ANN001, ANN202 - ``out`` is donated: its memory takes the result
        del out
        return jax.nn.gelu(x * s + b, approximate=False) + r

    run = jax.jit(forward, donate_argnums=(0,), keep_unused=True)
    out = [jnp.zeros_like(d["x"])]

    def call() -> None:
        out[0] = run(out[0], d["x"], d["s"], d["b"], d["r"])
        out[0].block_until_ready()

    def result() -> dict[str, np.ndarray]:
        call()
        return {"y": np.asarray(out[0])}

    return Prepared(call, result)


_BY_NAME = {"W1": _training, "W3": _inference, "W6a": _pointwise}


def prepare(work: Workload, threads: int, variant: str) -> Prepared:
    """The workload in JAX on ``threads`` threads; there is one variant, ``jit``."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["NPROC"] = str(threads)
    return _BY_NAME[work.name](work)


def version() -> str:
    """The version that was measured."""
    import jax

    return jax.__version__
