"""Tessera: from Python, and from C++ (variant ``c++``: the saved artefact in a C++ program)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tessera
from tessera import graph, op, optim
from tessera.ir.value import Value

from benchmarks.cpu.program import build_program
from benchmarks.cpu.workloads import CHECK_STEPS, LEARNING_RATE, MOMENTUM, Prepared, Workload


def parameters(work: Workload) -> dict[str, op.Parameter]:
    """The layers' parameters with the workload's values."""
    found = {}
    for name, value in work.data.items():
        if name[0] in "wb":
            found[name] = op.Parameter(f"{work.name}.{name}", value.shape, "f32")
            found[name].value = value
    return found


def mlp(p: dict[str, Any], x: Value) -> Value:
    """Three layers with relu between them."""
    x = op.relu(op.linear(x, p["w0"].leaf(), p["b0"].leaf()))
    x = op.relu(op.linear(x, p["w1"].leaf(), p["b1"].leaf()))
    return op.linear(x, p["w2"].leaf(), p["b2"].leaf())


def training_step(work: Workload) -> tuple[graph.TrainingStep, dict[str, op.Parameter]]:
    """W1's whole step as one program, and its parameters."""
    p = parameters(work)
    sgd = optim.SGD(LEARNING_RATE, momentum=MOMENTUM)

    @graph.training_step
    def step(x: Value, labels: Value) -> Value:
        loss = op.cross_entropy(mlp(p, x), labels)
        sgd.apply(graph.backward(loss))
        return loss

    return step, p


def inference(work: Workload) -> graph.Compiled:
    """W3's forward pass, compiled."""
    return graph.compile({"y": mlp(parameters(work), op.tensor(work.data["x"].shape, "f32", name="x"))})


def _training(work: Workload) -> Prepared:
    x, labels = tessera.array(work.data["x"]), tessera.array(work.data["labels"])
    step, _ = training_step(work)

    def result() -> dict[str, np.ndarray]:
        fresh, p = training_step(work)
        for _ in range(CHECK_STEPS):
            loss = fresh(x, labels)
        return {"loss": np.asarray(loss), **{k: np.asarray(v.value) for k, v in p.items()}}

    return Prepared(lambda: step(x, labels), result)


def _inference(work: Workload) -> Prepared:
    compiled = inference(work)
    x = tessera.array(work.data["x"])
    return Prepared(lambda: compiled(x), lambda: {"y": np.asarray(compiled(x)["y"])})


def _pointwise(work: Workload) -> Prepared:
    n = work.data["x"].shape[0]
    x, r = op.tensor((n, n), "f32", name="x"), op.tensor((n, n), "f32", name="r")
    s, b = op.tensor((n,), "f32", name="s"), op.tensor((n,), "f32", name="b")
    compiled = graph.compile({"y": op.gelu(x * s + b) + r})
    arrays = {k: tessera.array(work.data[k]) for k in (i.name for i in compiled.inputs)}
    inputs = list(arrays.values())
    out = [tessera.array(np.empty((n, n), np.float32))]

    def result() -> dict[str, np.ndarray]:
        compiled.run(inputs, out)
        return {"y": np.asarray(out[0])}

    return Prepared(lambda: compiled.run(inputs, out), result)


_BY_NAME: dict[str, Callable[[Workload], Prepared]] = {"W1": _training, "W3": _inference, "W6a": _pointwise}


def prepare(work: Workload, threads: int, variant: str) -> Prepared:
    """The workload in Tessera, variant ``compiled``; the threads come from TESSERA_THREADS."""
    return _BY_NAME[work.name](work)


def measure_cpp(work: Workload, threads: int, seconds: float, results: Path) -> dict[str, Any]:
    """Save the inference artefact and its input, run the C++ program on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inference(work).save(folder / "work.tsr")
        work.data["x"].tofile(folder / "x.bin")
        command = [str(build_program()), "time", str(folder / "work.tsr"), str(folder / "x.bin"), str(folder / "y.bin"),
                   str(threads), str(seconds)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        np.savez(results, y=np.fromfile(folder / "y.bin", np.float32).reshape(work.data["x"].shape[0], -1))
    return row


def version() -> str:
    """The version that was measured."""
    return tessera.__version__
