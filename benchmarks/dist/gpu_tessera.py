"""One work on one mesh of GPUs by Tessera: ``python -m benchmarks.dist.gpu_tessera WORK VARIANT DP TP`` prints JSON.

Inputs lie on the GPUs in shards, and outputs stay there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tessera
from tessera import dist, graph, op, optim

from benchmarks.gpu.timing import Work, measure

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "gpt2"))
WIDTH, HIDDEN, BATCH, SIDE = 4096, 8192, 8192, 16384
Example = tuple[tuple[int, ...], str]
Prepared = tuple[Any, list[Example]]
"""What is compiled, and shape and dtype of its inputs, whose rows lie over dp."""


def matmul(mesh: dist.Mesh | None, variant: str) -> Prepared:
    """W·Wᵀ as in the guide, the result sharded like W."""
    init = op.initializer.normal(0.0, 1.0)
    if mesh is None:
        w = op.parameter((SIDE, SIDE), "bf16", name="w", init=init)
        return {"y": op.matmul(w, w.T)}, []
    layout = dist.ShardSpec(("row", "col"), ("dp", "tp"))
    w = dist.tensor((SIDE, SIDE), layout=layout, mesh=mesh, dtype="bf16", name="w", init=init)
    return {"y": dist.constrain(op.matmul(w, w.T), layout, mesh)}, []


def rows(x: Any, mesh: dist.Mesh | None) -> Any:
    """A batch whose rows lie over dp."""
    return x if mesh is None else dist.constrain(x, dist.ShardSpec((0,), ("dp",)), mesh)


def mlp(mesh: dist.Mesh | None, variant: str) -> Prepared:
    """The guide's MLP: hidden units over tp; fully sharded: parameters, gradients and moments over dp too."""
    normal, full = op.initializer.normal(0.0, 0.02), "fully sharded" in variant

    def spec(hidden: int | None, *more: str) -> dist.ShardSpec:
        axes = {0: list(more)}
        if hidden is not None:
            axes[hidden] = ["tp", *axes.get(hidden, ())]
        split = {d: tuple(names) for d, names in axes.items() if names}
        return dist.ShardSpec(tuple(split), tuple(split.values()))

    def weight(name: str, shape: tuple[int, ...], hidden: int | None) -> Any:
        if mesh is None:
            return op.parameter(shape, "bf16", name=name, init=normal)
        layout = spec(hidden, *(["dp"] if full else []))
        w = dist.tensor(shape, layout=layout, mesh=mesh, dtype="bf16", name=name, init=normal)
        return dist.constrain(w, spec(hidden), mesh) if full else w

    w1, b1 = weight("w1", (WIDTH, HIDDEN), 1), weight("b1", (HIDDEN,), 0)
    w2, b2 = weight("w2", (HIDDEN, WIDTH), 0), weight("b2", (WIDTH,), None)
    adam = optim.AdamW(1e-4)

    def step(x: Any, labels: Any) -> Any:
        x = rows(x, mesh)
        loss = op.cross_entropy(op.relu(x @ w1 + b1) @ w2 + b2, rows(labels, mesh))
        adam.apply(graph.backward(loss))
        return {"loss": loss}

    count = BATCH * (1 if mesh is None else mesh.shape[0])
    return step, [((count, WIDTH), "bf16"), ((count,), "i64")]


def gpt2(mesh: dist.Mesh | None, variant: str) -> Prepared:
    """The step of ``examples/gpt2``, data parallel."""
    from model import GPT2, SIZES  # type: ignore[import-not-found]

    config = SIZES["124M"]
    model, adam = GPT2(config), optim.AdamW(6e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step(tokens: Any, labels: Any) -> Any:
        loss = model.loss(rows(tokens, mesh), rows(labels, mesh))
        adam.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return {"loss": loss}

    count = 16 * (1 if mesh is None else mesh.shape[0])
    return step, [((count, config.length), "i64")] * 2


def values(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """An input: normal numbers, or classes."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, WIDTH, shape) if dtype == "i64" else rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)


def given(mesh: dist.Mesh | None, examples: list[Example]) -> list[Any]:
    """Inputs on the GPUs."""
    arrays = [values(shape, dtype, i) for i, (shape, dtype) in enumerate(examples)]
    if mesh is None:
        return [tessera.array(a, device="cuda:0") for a in arrays]
    layout, found = dist.ShardSpec((0,), ("dp",)), []
    for a in arrays:
        here = dist.from_shards(lambda index, a=a: np.ascontiguousarray(a[index]), a.shape, layout=layout, mesh=mesh)
        here.shards[:] = [
            None if s is None else tessera.array(s, device=f"cuda:{mesh.gpu_index(rank)}")
            for rank, s in enumerate(here.shards)
        ]
        found.append(here)
    return found


def ended(outputs: dict[str, Any]) -> None:
    """Waits for a run, as the benchmark of one GPU does at the end of a round."""
    for out in outputs.values():
        for shard in out.shards:
            if shard is not None:
                shard.wait()


WORKS: dict[str, Callable[[dist.Mesh | None, str], Prepared]] = {"matmul": matmul, "mlp": mlp, "gpt2": gpt2}


def main() -> None:
    """Measure and print."""
    work, variant, dp, tp = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
    if "processes" in variant:
        dist.init()
    mesh = None if dp * tp == 1 else dist.Mesh(["dp", "tp"], dp * tp, (dp, tp), kind="cuda")
    subject, examples = WORKS[work](mesh, variant)
    schedule = graph.Schedule(overlap=False) if "in order" in variant else graph.Schedule()
    inputs, types = given(mesh, examples), [op.tensor(shape, dtype) for shape, dtype in examples]
    compiled = graph.compile(subject, *types, target="ptx", schedule=schedule)
    if mesh is None:
        runtime, program = tessera._core.default_runtime(), compiled.program()
        results = program.run(runtime, inputs)
        found = measure(Work(lambda: program.run(runtime, inputs, results), lambda _: runtime.wait()))
    else:
        found = measure(Work(lambda: compiled.call_sharded(*inputs), ended))
        found["predicted"] = dist.simulate(subject, *types, schedule=schedule).time
    print(json.dumps({**found, "version": f"Tessera {tessera.__version__}"}), flush=True)


if __name__ == "__main__":
    main()
