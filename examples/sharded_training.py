"""A small transformer trained on a mesh of data and tensor parallel devices, and the same run on one device.

``python sharded_training.py [STEPS]`` prints the losses of both, and what the devices exchange. The four devices are
virtual; ``mpiexec -n 4 python sharded_training.py`` trains on four processes, with the same losses.
"""

import sys

import numpy as np
import tessera
from tessera import dist, graph, op, optim

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
VOCABULARY, WIDTH, HEADS, LENGTH, BATCH = 29, 32, 4, 12, 6
HEAD = WIDTH // HEADS


def make_weights(mesh: dist.Mesh | None) -> dict:
    """Weights by name: heads and hidden units over tp, the vocabulary over tp, everything else on every device."""
    layouts = {
        "embedding": ((VOCABULARY, WIDTH), (0,)),
        "query": ((HEADS, WIDTH, HEAD), (0,)), "key": ((HEADS, WIDTH, HEAD), (0,)),
        "value": ((HEADS, WIDTH, HEAD), (0,)),
        "mix": ((HEADS, HEAD, WIDTH), (0,)),
        "up": ((WIDTH, 4 * WIDTH), (1,)), "down": ((4 * WIDTH, WIDTH), (0,)),
        "norm1": ((WIDTH,), ()), "norm2": ((WIDTH,), ()),
    }
    weights = {}
    for name, (shape, split) in layouts.items():
        init = 1.0 if len(shape) == 1 else op.initializer.normal(0.0, 0.1)
        if mesh is None:
            weights[name] = op.parameter(shape, name=name, init=init)
        else:
            layout = dist.ShardSpec(split, ["tp"] * len(split))
            weights[name] = dist.tensor(shape, layout=layout, mesh=mesh, name=name, init=init)
    return weights


def make_step(mesh: dist.Mesh | None):
    tessera.manual_seed(0)
    w = make_weights(mesh)
    adam = optim.AdamW(3e-3)

    def norm(x, scale):
        return x * op.rsqrt(op.mean(x * x, -1, keepdims=True) + 1e-6) * scale

    def step(tokens):
        if mesh is not None:
            tokens = dist.constrain(tokens, dist.ShardSpec((0,), ("dp",)), mesh)
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        x = op.take(w["embedding"], inputs, 0)
        h = norm(x, w["norm1"])
        q, k, v = (op.einsum("btd,hdk->bhtk", h, w[name]) for name in ("query", "key", "value"))
        x = x + op.einsum("bhtk,hkd->btd", op.scaled_dot_product_attention(q, k, v, causal=True), w["mix"])
        x = x + op.gelu(norm(x, w["norm2"]) @ w["up"]) @ w["down"]
        logits = op.reshape(x @ w["embedding"].T, (-1, VOCABULARY))
        loss = op.cross_entropy(logits, op.reshape(labels, (-1,)))
        adam.apply(graph.backward(loss))
        return loss

    return graph.training_step(step)


world = dist.init()  # the processes of a launcher; alone without one


def say(text: str) -> None:
    if world.rank == 0:
        print(text)


rng = np.random.default_rng(0)
start = rng.integers(0, VOCABULARY, (BATCH, 1))
tokens = (start + np.arange(LENGTH + 1) * 3) % VOCABULARY  # sequences that can be learned

mesh = dist.Mesh(axes=["dp", "tp"], devices=4)
sharded, alone = make_step(mesh), make_step(None)
for number in range(STEPS):
    a, b = sharded(tokens).item(), alone(tokens).item()
    say(f"step {number}: loss {a:.5f} on {mesh}, {b:.5f} on one device")
    assert abs(a - b) < 1e-3

plan = graph.collectives(sharded, tokens)
say(f"{len(plan)} collectives; each device receives at most {plan.most_bytes()} bytes a step; the largest:")
for item in sorted(plan, key=lambda c: -c.bytes if isinstance(c.bytes, int) else 0)[:3]:
    say(f"  {item}")
