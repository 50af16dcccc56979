"""How long the GPU code of a GPT-2 124M training step takes to schedule, generate and compile.

    PYTHONPATH=python:. python benchmarks/gpu/compile_time.py [layers]
"""

from __future__ import annotations

import os
import sys
import time

from benchmarks.gpu.device import SM90  # isort: skip
from tessera import op
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.value import PARAM, Node, TensorType, Value
from tessera.schedule.machine import GPU
from tessera.target.triton import compile as driver
from tessera.target.triton.plan import compile_plan
from tessera.tile.plan import build_plan
from tessera.transform.autodiff import gradients
from tessera.transform.pipeline import to_primitives

BATCH, LENGTH, WIDTH, HEADS, WORDS = 16, 1024, 768, 12, 50304


def state(name: str, *shape: int) -> Value:
    """A parameter without storage, in f32."""
    return Node(PARAM, (), {"name": name, "trainable": True}, (TensorType(DTYPES["f32"], shape),)).results[0]


def gpt2_step(layers: int) -> Graph:
    """Forward, backward and AdamW of GPT-2 in bf16 with f32 master weights."""
    parameters: dict[str, Value] = {}

    def weight(name: str, *shape: int) -> Value:
        parameters[name] = state(name, *shape)
        return op.cast(parameters[name], "bf16")

    def norm(x: Value, name: str) -> Value:
        return op.layer_norm(x, weight(f"{name}.w", WIDTH), weight(f"{name}.b", WIDTH))

    def linear(x: Value, name: str, inner: int, outer: int) -> Value:
        return x @ weight(f"{name}.w", inner, outer) + weight(f"{name}.b", outer)

    def heads(x: Value) -> Value:
        return op.transpose(op.reshape(x, (BATCH, LENGTH, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))

    tokens, labels = (op.tensor((BATCH, LENGTH), "i64", name=n) for n in ("tokens", "labels"))
    table = weight("wte", WORDS, WIDTH)
    h = op.take(table, tokens, axis=0) + weight("wpe", LENGTH, WIDTH)
    for i in range(layers):
        x = norm(h, f"{i}.ln1")
        q, k, v = (heads(linear(x, f"{i}.{n}", WIDTH, WIDTH)) for n in "qkv")
        a = op.scaled_dot_product_attention(q, k, v, causal=True)
        a = op.reshape(op.transpose(a, (0, 2, 1, 3)), (BATCH, LENGTH, WIDTH))
        h = h + linear(a, f"{i}.proj", WIDTH, WIDTH)
        y = op.gelu(linear(norm(h, f"{i}.ln2"), f"{i}.fc", WIDTH, 4 * WIDTH))
        h = h + linear(y, f"{i}.out", 4 * WIDTH, WIDTH)
    logits = norm(h, "lnf") @ op.transpose(table, (1, 0))
    loss = op.cross_entropy(op.reshape(logits, (-1, WORDS)), op.reshape(labels, (-1,)))
    updates: dict[Value, Value] = {}
    for (name, p), g in zip(parameters.items(), gradients([loss], list(parameters.values()))):
        m, v = state(f"m.{name}", *map(int, p.shape)), state(f"v.{name}", *map(int, p.shape))
        updates[m] = m * 0.9 + g * 0.1
        updates[v] = v * 0.95 + g * g * 0.05
        updates[p] = p * 0.9999 - updates[m] / (op.sqrt(updates[v]) + 1e-8) * 1e-3
    return Graph({"loss": loss}, inputs=[tokens, labels], updates=updates)


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    start = time.perf_counter()
    graph = gpt2_step(layers)
    built = time.perf_counter()
    plan = build_plan(to_primitives(graph), None, GPU)
    scheduled = time.perf_counter()
    print(f"{len(graph.nodes())} nodes in {built - start:.2f} s; {len(plan.instructions)} instructions of "
          f"{len(plan.kernels)} kernels in {scheduled - built:.2f} s; {os.cpu_count()} cores", flush=True)
    if len(sys.argv) > 2:
        for kernel in plan.kernels:
            print(type(kernel).__name__, kernel.name)
        return
    for what in ("cold", "again"):
        start = time.perf_counter()
        compiled = compile_plan(plan, SM90)
        print(f"{what}: {len(compiled.image.modules)} modules, {len(compiled.code) >> 10} KiB in "
              f"{time.perf_counter() - start:.2f} s; {len(driver._cache._known)} known", flush=True)


if __name__ == "__main__":
    main()
