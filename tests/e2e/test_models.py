"""Whole models against PyTorch: a transformer and a classifier, training step by step."""

import math

import numpy as np
import pytest
import tessera
import torch
import torch.nn.functional as F
from tessera import graph, op, optim
from tessera.op.parameter import parameter_of

rng = np.random.default_rng(5)
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH = 50, 32, 4, 2, 12


def weights() -> dict[str, np.ndarray]:
    def draw(*shape, scale=0.2):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    found = {"tokens": draw(VOCABULARY, WIDTH), "positions": draw(LENGTH, WIDTH)}
    for i in range(LAYERS):
        found |= {
            f"{i}.norm1.w": 1 + draw(WIDTH), f"{i}.norm1.b": draw(WIDTH), f"{i}.norm2.w": 1 + draw(WIDTH),
            f"{i}.qkv": draw(WIDTH, 3 * WIDTH), f"{i}.out": draw(WIDTH, WIDTH),
            f"{i}.up": draw(WIDTH, 4 * WIDTH), f"{i}.up.b": draw(4 * WIDTH), f"{i}.down": draw(4 * WIDTH, WIDTH),
        }  # fmt: skip
    return found


def tessera_model(p, ids):
    batch, length = ids.shape
    x = op.take(p["tokens"], ids, axis=0) + p["positions"]
    for i in range(LAYERS):
        h = op.layer_norm(x, p[f"{i}.norm1.w"], p[f"{i}.norm1.b"])
        qkv = op.reshape(h @ p[f"{i}.qkv"], (batch, length, 3, HEADS, WIDTH // HEADS))
        q, k, v = (op.transpose(qkv[:, :, j], (0, 2, 1, 3)) for j in range(3))
        attended = op.scaled_dot_product_attention(q, k, v, causal=True)
        x = x + op.reshape(op.transpose(attended, (0, 2, 1, 3)), (batch, length, WIDTH)) @ p[f"{i}.out"]
        h = op.rms_norm(x, p[f"{i}.norm2.w"], eps=1e-5)
        x = x + op.gelu(h @ p[f"{i}.up"] + p[f"{i}.up.b"]) @ p[f"{i}.down"]
    return x @ p["tokens"].T


def torch_model(p, ids):
    batch, length = ids.shape
    x = p["tokens"][ids] + p["positions"]
    for i in range(LAYERS):
        h = F.layer_norm(x, (WIDTH,), p[f"{i}.norm1.w"], p[f"{i}.norm1.b"])
        qkv = (h @ p[f"{i}.qkv"]).reshape(batch, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = (qkv[:, :, j].permute(0, 2, 1, 3) for j in range(3))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attended.permute(0, 2, 1, 3).reshape(batch, length, WIDTH) @ p[f"{i}.out"]
        h = F.rms_norm(x, (WIDTH,), p[f"{i}.norm2.w"], eps=1e-5)
        x = x + F.gelu(h @ p[f"{i}.up"] + p[f"{i}.up.b"]) @ p[f"{i}.down"]
    return x @ p["tokens"].T


def batches(count: int, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for _ in range(count):
        ids = rng.integers(0, VOCABULARY, (rows, LENGTH + 1))
        targets = ids[:, 1:].copy()
        targets[0, :3] = -100  # ignored
        found.append((ids[:, :-1].copy(), targets))
    return found


@pytest.mark.parametrize("symbolic", [False, True], ids=["constant", "symbolic"])
def test_transformer_trains_like_torch(symbolic):
    values = weights()
    p = {name: op.parameter(v.shape, name=f"gpt{int(symbolic)}.{name}", init=v) for name, v in values.items()}
    peer = {name: torch.tensor(v, requires_grad=True) for name, v in values.items()}
    optimizer, peer_optimizer = optim.AdamW(1e-2), torch.optim.AdamW(peer.values(), 1e-2)

    @graph.training_step(dynamic_batch=symbolic)
    def step(ids, targets):
        loss = op.cross_entropy(tessera_model(p, ids), targets)
        grads = optim.clip_by_global_norm(graph.backward(loss), 1.0)
        optimizer.apply(grads)
        return loss, grads

    for number, (ids, targets) in enumerate(batches(5, 6 if symbolic else 4)):
        loss, grads = step(ids, targets)
        expected = F.cross_entropy(
            torch_model(peer, torch.tensor(ids)).reshape(-1, VOCABULARY), torch.tensor(targets).reshape(-1)
        )
        peer_optimizer.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(peer.values(), 1.0)
        if number == 0:
            for (name, gradient), other in zip(grads.items(), [peer[n.split(".", 1)[1]] for n in grads], strict=True):
                np.testing.assert_allclose(gradient.numpy(), other.grad.numpy(), rtol=1e-3, atol=2e-5, err_msg=name)
        peer_optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=2e-4)
    assert step.compilations == 1


def test_transformer_portable_agrees_with_compiled(tmp_path):
    values = weights()
    p = {name: op.parameter(v.shape, name=f"gptp.{name}", init=v) for name, v in values.items()}
    B = op.dim("B", min=1, max=16)
    ids = op.tensor((B, LENGTH), "i64", name="ids")
    logits = tessera_model(p, ids)
    graph.compile({"logits": logits}, target=["cpu", "portable"]).save(tmp_path / "gpt.tsr")
    from tessera._core import Program, default_runtime
    from tessera.interop.array import as_array, to_numpy

    given = as_array(rng.integers(0, VOCABULARY, (3, LENGTH)))
    found = [
        to_numpy(Program.load_file(str(tmp_path / "gpt.tsr"), target=t).run(default_runtime(), [given], None)[0])
        for t in ("cpu", "portable")
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=2e-4, atol=2e-4)


def test_bf16_transformer_step_stays_near_f32():
    values = weights()
    losses = {}
    data = batches(6, 4)
    for dtype in ("f32", "bf16"):
        p = {
            name: op.parameter(v.shape, dtype, name=f"gpt{dtype}.{name}", init=np.asarray(tessera.array(v, dtype)))
            for name, v in values.items()
        }
        optimizer = optim.Adam(3e-3)

        @graph.training_step
        def step(ids, targets, p=p, optimizer=optimizer):
            loss = op.cross_entropy(op.cast(tessera_model(p, ids), "f32"), targets)
            optimizer.apply(graph.backward(loss))
            return loss

        losses[dtype] = []
        for ids, targets in data:
            losses[dtype].append(step(ids, targets).item())
    assert np.allclose(losses["f32"], losses["bf16"], rtol=0.03)


def test_mlp_with_dropout_learns():
    tessera.manual_seed(0)
    x = rng.standard_normal((256, 10)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    Y = op.mlp(in_dim=10, hidden=[64, 64], out_dim=2)(op.tensor((op.dim("B", min=1), 10), name="x"))

    @graph.training_step(optimizer=optim.AdamW(5e-3))
    def step(batch):
        loss = op.cross_entropy(op.dropout(Y(batch["x"]), 0.05), batch["labels"])
        return graph.backward(loss), loss

    losses = [step({"x": x, "labels": labels}).item() for _ in range(60)]
    accuracy = (Y(x).numpy().argmax(1) == labels).mean()
    assert losses[-1] < 0.5 * losses[0] and accuracy > 0.9


def test_weight_sharing_and_second_order():
    w = op.parameter((), "f64", name="shared.scalar", init=0.3)
    x = op.tensor((), "f64", name="x")
    y = op.tanh(w * op.tanh(w * x))
    first = graph.backward(y, wrt=w)
    second = graph.backward(first, wrt=w)
    v, at = 0.8, parameter_of(w).value.item()

    def f(w):
        return math.tanh(w * math.tanh(w * v))

    h = 1e-4
    assert first(v).item() == pytest.approx((f(at + h) - f(at - h)) / (2 * h), rel=1e-6)
    assert second(v).item() == pytest.approx((f(at + h) - 2 * f(at) + f(at - h)) / h**2, rel=1e-4)
