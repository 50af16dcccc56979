"""The rows by Tessera."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tessera
from tessera import graph, op, optim
from tessera._core import default_runtime
from tessera.ir.value import Value
from tessera.transform.autodiff import gradients

from benchmarks.gpu.timing import Work

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "gpt2"))
DEVICE = "cuda:0"
WIDTH, HIDDEN, BATCH = 4096, 8192, 8192


def version() -> str:
    """The version measured."""
    return tessera.__version__


def drawn(*shape: int) -> np.ndarray:
    """Normal numbers in bf16."""
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)


def numbers(most: int, *shape: int) -> np.ndarray:
    """Integers below ``most``."""
    return np.random.default_rng(1).integers(0, most, shape)


def schedule(variant: str) -> graph.Schedule:
    """How a variant is compiled: as it comes, or with measured choices of kernels and libraries."""
    tuned = "autotuned" in variant
    return graph.Schedule(autotune=tuned, deterministic="any order" not in variant)


def program(outputs: Value | dict[str, Any], *inputs: np.ndarray, variant: str = "") -> Work:
    """A compiled graph on inputs and outputs that stay where they are."""
    compiled = graph.compile(outputs, target="ptx", schedule=schedule(variant))
    loaded, runtime = compiled.program(), default_runtime()
    arrays = [tessera.array(x, device=DEVICE) for x in inputs]
    results = loaded.run(runtime, arrays)
    return Work(lambda: loaded.run(runtime, arrays, results), lambda _: runtime.wait())


def step_of(step: Callable[..., Any], *inputs: np.ndarray) -> Work:
    """A training step on arrays of the device."""
    arrays = [tessera.array(x, device=DEVICE) for x in inputs]
    return Work(lambda: step(*arrays), lambda _: default_runtime().wait())


def mlp(batch: int) -> tuple[Callable[..., Value], Value]:
    """The guide's MLP and its input."""
    model = op.mlp(in_dim=WIDTH, hidden=[HIDDEN], out_dim=WIDTH, dtype="bf16")
    return model, op.tensor((batch, WIDTH), "bf16", name="x")


def mlp_gradients(variant: str) -> Work:
    """Loss and gradients."""
    model, x = mlp(BATCH)
    loss = op.cross_entropy(model(x), op.tensor((BATCH,), "i64", name="labels"))
    outputs = {"loss": loss, "gradients": graph.backward(loss)}
    return program(outputs, drawn(BATCH, WIDTH), numbers(WIDTH, BATCH), variant=variant)


def mlp_adamw(variant: str) -> Work:
    """A training step."""
    model, _ = mlp(BATCH)
    optimizer = optim.AdamW(1e-4, master_weights="no master" not in variant)

    @graph.training_step(target="ptx", schedule=schedule(variant))
    def step(x: Value, labels: Value) -> Value:
        loss = op.cross_entropy(model(x), labels)
        optimizer.apply(graph.backward(loss))
        return loss

    return step_of(step, drawn(BATCH, WIDTH), numbers(WIDTH, BATCH))


def mlp_inference(batch: int, variant: str) -> Work:
    """The MLP alone."""
    model, x = mlp(batch)
    return program(model(x), drawn(batch, WIDTH), variant=variant)


def gpt2(variant: str = "") -> tuple[Callable[..., Any], tuple[np.ndarray, np.ndarray]]:
    """The step of ``examples/gpt2``, and a batch."""
    from model import GPT2, SIZES  # type: ignore[import-not-found]

    config = SIZES["124M"]
    model, optimizer = GPT2(config), optim.AdamW(6e-4, betas=(0.9, 0.95), weight_decay=0.1)

    @graph.training_step(target="ptx", schedule=schedule(variant))
    def step(tokens: Value, labels: Value) -> Value:
        loss = model.loss(tokens, labels)
        optimizer.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return loss

    windows = numbers(config.vocabulary, 16, config.length + 1)
    return step, (windows[:, :-1].copy(), windows[:, 1:].copy())


def gpt2_step(variant: str) -> Work:
    """A training step, which has to learn its batch."""
    step, given = gpt2(variant)
    work = step_of(step, *given)
    losses = [float(np.asarray(work.call())) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.5, f"the loss does not fall: {losses}"
    return work


def compile_seconds(_: str) -> float:
    """From the first line of the step to a program ready to run, without Python's imports; the cache is as it is."""
    step, given = gpt2()
    before = time.perf_counter()
    graph.compile(step, *(op.tensor(x.shape, "i64") for x in given), target="ptx")
    return time.perf_counter() - before


def loop(name: str) -> Work:
    """A kernel bound by memory."""
    rows, columns = 16384, 8192
    x, r = (op.tensor((rows, columns), "bf16", name=n) for n in "xr")
    s, b = (op.tensor((columns,), "bf16", name=n) for n in "sb")
    wide, narrow = drawn(rows, columns), drawn(columns)
    outputs: dict[str, tuple[Callable[[], Value], Sequence[np.ndarray]]] = {
        "gelu": (lambda: op.gelu(x * s + b) + r, (wide, narrow, narrow, wide)),
        "softmax": (lambda: op.softmax(x), (wide,)),
        "layer_norm": (lambda: op.layer_norm(x, s, b), (wide, narrow, narrow)),
        "column_sum": (lambda: op.sum(x, axis=0), (wide,)),
    }
    build, inputs = outputs[name]
    return program(build(), *inputs)


def cross_entropy(_: str) -> Work:
    """Loss and gradient of the logits."""
    logits, labels = op.tensor((8192, 50304), "bf16", name="logits"), op.tensor((8192,), "i64", name="labels")
    loss = op.cross_entropy(logits, labels)
    gradient, = gradients([loss], [logits])
    return program({"loss": loss, "gradient": gradient}, drawn(8192, 50304), numbers(50304, 8192))


def attention(name: str, variant: str) -> Work:
    """Causal attention, perhaps with its gradients."""
    shape = (4, 16, 4096, 128)
    q, k, v, g = (op.tensor(shape, "bf16", name=n) for n in "qkvg")
    out, given = op.scaled_dot_product_attention(q, k, v, causal=True), drawn(*shape)
    if name == "attention":
        return program(out, given, given, given, variant=variant)
    dq, dk, dv = gradients([out], [q, k, v], [g])
    return program({"out": out, "dq": dq, "dk": dk, "dv": dv}, given, given, given, given, variant=variant)


def prepare(row: str, variant: str) -> Work | float:
    """The work of a row, or what it took."""
    found: dict[str, Callable[[str], Work | float]] = {
        "mlp_gradients": mlp_gradients, "mlp_adamw": mlp_adamw, "gpt2_step": gpt2_step, "cross_entropy": cross_entropy,
        "compile_cold": compile_seconds, "compile_cached": compile_seconds,
    }
    if row in found:
        return found[row](variant)
    if row.startswith("attention"):
        return attention(row, variant)
    if row.startswith("mlp_"):
        return mlp_inference(int(row.split("_")[1]), variant)
    return loop(row)
