"""A transformer trained with data and tensor parallelism; the same program on virtual devices and on processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tessera
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.interop.array import to_numpy

FOLDER = Path(sys.argv[1])
WIDTH, HEADS, LENGTH, BATCH, VOCABULARY = 12, 3, 7, 5, 11  # uneven over every axis of two
WEIGHTS = {
    "embedding": ((VOCABULARY, WIDTH), (0,), ("tp",)), "query": ((HEADS, WIDTH, 4), (0,), ("tp",)),
    "key": ((HEADS, WIDTH, 4), (0,), ("tp",)), "value": ((HEADS, WIDTH, 4), (0,), ("tp",)),
    "mix": ((HEADS, 4, WIDTH), (0,), ("tp",)), "up": ((WIDTH, 17), (1, 0), ("tp", "dp")),
    "down": ((17, WIDTH), (0,), ("tp",)), "scale": ((WIDTH,), (), ()),
}


def make_step(mesh: Mesh | None):
    tessera.manual_seed(3)
    w = {}
    for name, (shape, split, axes) in WEIGHTS.items():
        init = 1.0 if len(shape) == 1 else op.initializer.normal(0.0, 0.2)
        if mesh is None or not split:
            w[name] = op.parameter(shape, name=name, init=init)
        else:
            w[name] = dist.tensor(shape, layout=ShardSpec(split, axes), mesh=mesh, name=name, init=init)
    adam = optim.AdamW(1e-2)

    def norm(x):
        return x * op.rsqrt(op.mean(x * x, -1, keepdims=True) + 1e-6) * w["scale"]

    def step(tokens):
        if mesh is not None:
            tokens = dist.constrain(tokens, ShardSpec((0,), ("dp",)), mesh)
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        x = op.take(w["embedding"], inputs, 0)
        h = norm(x)
        q, k, v = (op.einsum("btd,hdk->bhtk", h, w[name]) for name in ("query", "key", "value"))
        x = x + op.einsum("bhtk,hkd->btd", op.scaled_dot_product_attention(q, k, v, causal=True), w["mix"])
        x = x + op.random.dropout(op.gelu(norm(x) @ w["up"]) @ w["down"], 0.1)
        logits = x @ w["embedding"].T
        loss = op.cross_entropy(op.reshape(logits, (-1, VOCABULARY)), op.reshape(labels, (-1,)))
        adam.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return {"loss": loss, "logits": logits}

    return step, w


def main() -> None:
    here = dist.init(timeout=30)
    mesh = Mesh(["dp", "tp"], 4)
    assert mesh.local_ranks == ((here.rank,) if here.size > 1 else (0, 1, 2, 3))
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH))
    body, w = make_step(mesh)
    step = graph.compile(body, tokens)
    losses, logits = [], None
    for _ in range(4):
        out = step(tokens)
        losses.append(out["loss"].item())
        logits = to_numpy(out["logits"])
    rows = dist.from_shards(lambda index: tokens[index], tokens.shape, layout=ShardSpec((0,), ("dp",)), mesh=mesh)
    losses.append(step(rows)["loss"].item())
    assert step.traffic() == [step.collectives.bytes_of(rank) for rank in mesh.local_ranks]
    values = {f"w_{name}": op.parameter_of(value).value for name, value in w.items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    step.save_state(FOLDER / "state.safetensors")
    before = op.parameter_of(w["up"]).value
    step.load_state(FOLDER / "state.safetensors")
    assert (op.parameter_of(w["up"]).value == before).all()

    about = {}
    if here.size == 1:
        alone = graph.compile(make_step(None)[0], tokens)
        about["losses_of_one_device"] = [alone(tokens)["loss"].item() for _ in range(5)]
    np.savez(FOLDER / f"{here.rank}.npz", losses=losses, logits=logits, traffic=step.traffic(), **values, **about)


if __name__ == "__main__":
    main()
