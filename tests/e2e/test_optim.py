"""Optimizers against torch.optim (Lion: NumPy) over 20 updates, inside and outside a step."""

import math

import numpy as np
import pytest
import tessera
import torch
from tessera import graph, op, optim
from tessera.errors import ArgumentError, GraphError, NameMissingError, ShapeError
from tessera.graph.backward import Gradients
from tessera.op.parameter import Parameter, parameter_of

STEPS = 20
rng = np.random.default_rng(7)
FIRST = {"w": rng.standard_normal((5, 3)).astype(np.float32), "b": rng.standard_normal(3).astype(np.float32)}
DATA = [(rng.standard_normal((8, 5)).astype(np.float32), rng.integers(0, 3, 8)) for _ in range(STEPS)]


def model(dtype="f32", prefix="model"):
    w, b = (
        op.parameter(
            FIRST[k].shape, dtype, name=f"{prefix}.{k}", init=FIRST[k].astype(tessera.ir.dtype.as_dtype(dtype).numpy)
        )
        for k in ("w", "b")
    )
    X = op.tensor((8, 5), dtype=dtype, name="x")
    return X @ w + b, parameter_of(w), parameter_of(b)


def run_tessera(optimizer, *, inside=True, clip=None, dtype="f32"):
    Y, w, b = model(dtype)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(Y(batch["x"]), batch["labels"])
        grads = graph.backward(loss)
        if not inside:
            return grads
        if clip:
            grads = optim.clip_by_global_norm(grads, clip)
        optimizer.apply(grads)
        return loss

    for x, labels in DATA:
        found = step({"x": tessera.array(x, dtype), "labels": labels})
        if not inside:
            if clip:
                found = optim.clip_by_global_norm(found, clip)
            optimizer.apply(found)
    assert step.compilations == 1
    return w.value, b.value


def run_torch(make, *, clip=None, dtype=torch.float32, schedule=None):
    w = torch.tensor(FIRST["w"], dtype=dtype, requires_grad=True)
    b = torch.tensor(FIRST["b"], dtype=dtype, requires_grad=True)
    optimizer = make([w, b])
    scheduler = schedule(optimizer) if schedule else None
    for x, labels in DATA:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.tensor(x, dtype=dtype) @ w + b, torch.tensor(labels))
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([w, b], clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return w.detach().numpy(), b.detach().numpy()


PAIRS = {
    "sgd": (lambda: optim.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (lambda: optim.SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda: optim.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (lambda: optim.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam_decay": (
        lambda: optim.Adam(0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (lambda: optim.AdamW(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
}


def close(found, expected, tolerance=3e-6):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance * 10, atol=tolerance
        )


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_equals_torch(name, inside):
    make, peer = PAIRS[name]
    close(run_tessera(make(), inside=inside), run_torch(peer))


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_clipping_equals_torch(inside):
    close(run_tessera(optim.SGD(0.5), clip=0.3, inside=inside), run_torch(lambda p: torch.optim.SGD(p, 0.5), clip=0.3))


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_f64(inside):
    found = run_tessera(optim.AdamW(0.01, weight_decay=0.1), dtype="f64", inside=inside)
    peer = run_torch(lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1), dtype=torch.float64)
    close(found, peer, 1e-12)


def test_lion():
    w, m, g = FIRST["w"].astype(np.float64), np.zeros((5, 3)), []
    Y, p, b = model()
    start = p.value.copy()
    optimizer = optim.Lion(0.01, weight_decay=0.1)
    gradients = [rng.standard_normal((5, 3)).astype(np.float32) for _ in range(STEPS)]
    for g in gradients:
        optimizer.apply(Gradients({p.name: g}, {p.name: p}))
        direction = np.sign(0.9 * m + 0.1 * g)
        w = w * (1 - 0.01 * 0.1) - 0.01 * direction
        m = 0.99 * m + 0.01 * g
    assert not np.array_equal(start, p.value)
    np.testing.assert_allclose(p.value, w, rtol=1e-5, atol=1e-6)


SCHEDULES = {
    "linear": (
        lambda: optim.linear(0.1, 0.01, 10),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=10),
    ),
    "cosine": (lambda: optim.cosine(0.1, 20), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)),
    "exponential": (lambda: optim.exponential(0.1, 0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    "step": (lambda: optim.step_decay(0.1, 0.5, 6), lambda o: torch.optim.lr_scheduler.StepLR(o, 6, 0.5)),
    "milestones": (
        lambda: optim.step_decay(0.1, 0.5, [3, 9]),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 9], 0.5),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torch(name):
    make, peer = SCHEDULES[name]
    close(run_tessera(optim.SGD(make())), run_torch(lambda p: torch.optim.SGD(p, 0.1), schedule=peer), 1e-5)


@pytest.mark.parametrize(
    "rate",
    [
        optim.constant(0.3),
        optim.linear(0.1, 0.01, 5),
        optim.cosine(0.2, 7, 0.05),
        optim.exponential(0.1, 0.9, 2),
        optim.step_decay(0.1, 0.5, 3),
        optim.step_decay(0.1, 0.5, [2, 4]),
        optim.warmup(0.4, 4),
        optim.warmup(optim.cosine(0.4, 5), 3, start=0.1),
    ],
    ids=repr,
)
def test_schedule_in_a_graph_equals_python(rate):
    step = op.tensor((), dtype="f64", name="step")
    value = rate(step)
    for at in range(9):
        found = value(np.float64(at)).item() if isinstance(value, tessera.ir.value.Value) else value
        assert math.isclose(found, rate(at), rel_tol=1e-12, abs_tol=1e-15)


def test_warmup_rises_then_follows():
    rate = optim.warmup(optim.cosine(1.0, 10), 4)
    assert [rate(i) for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert rate(14) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_accumulate_equals_the_mean_gradient(inside):
    every = 4
    Y, w, b = model(prefix="acc")
    optimizer = optim.accumulate(optim.Adam(0.01), every)

    @graph.training_step
    def step(batch):
        grads = graph.backward(op.cross_entropy(Y(batch["x"]), batch["labels"]))
        if inside:
            optimizer.apply(grads)
        return grads

    tw, tb = (torch.tensor(FIRST[k], requires_grad=True) for k in ("w", "b"))
    peer = torch.optim.Adam([tw, tb], 0.01)
    before = w.value
    for number, (x, labels) in enumerate(DATA, start=1):
        grads = step({"x": x, "labels": labels})
        if not inside:
            optimizer.apply(grads)
        (torch.nn.functional.cross_entropy(torch.tensor(x) @ tw + tb, torch.tensor(labels)) / every).backward()
        if number % every == 0:
            peer.step()
            peer.zero_grad()
            assert not np.array_equal(before, w.value)
        else:
            assert np.array_equal(before, w.value)
        before = w.value
    close((w.value, b.value), (tw.detach().numpy(), tb.detach().numpy()))


def test_bf16_with_master_weights_follows_f32():
    exact = run_tessera(optim.SGD(1e-3))
    with_master = run_tessera(optim.SGD(1e-3), dtype="bf16")
    without = run_tessera(optim.SGD(1e-3, master_weights=False), dtype="bf16")
    start = FIRST["w"].astype(np.float32)

    def change(found):
        return np.abs(np.asarray(found[0], np.float32) - start)

    error = np.abs(np.asarray(with_master[0], np.float32) - exact[0]).max()
    assert error < 0.01
    # Each update is far below the spacing of bf16: without a master copy almost nothing arrives.
    assert np.count_nonzero(change(without) > change(exact) * 0.5) < np.count_nonzero(change(with_master) > 0) + 15


def test_master_weights_start_again_when_the_parameter_is_set():
    p = Parameter("bf16.p", (2,), "bf16")
    optimizer = optim.SGD(0.5)
    gradient = tessera.array([1.0, 1.0], "bf16")
    optimizer.apply(Gradients({p.name: gradient}, {p.name: p}))
    assert p.value.astype(np.float32).tolist() == [-0.5, -0.5]
    p.value = [8.0, 8.0]
    optimizer.apply(Gradients({p.name: gradient}, {p.name: p}))
    assert p.value.astype(np.float32).tolist() == [7.5, 7.5]
    assert f"{optimizer.name}.master.bf16.p" in optimizer.state


def test_state_is_named():
    Y, w, b = model(prefix="named")
    optimizer = optim.Adam(0.1, name="mine")

    @graph.training_step
    def step(x):
        optimizer.apply(graph.backward(op.sum(Y(x))))

    step(DATA[0][0])
    assert set(optimizer.state) == {"mine.step", "mine.m.named.w", "mine.v.named.w", "mine.m.named.b", "mine.v.named.b"}
    assert optimizer.state["mine.step"].value == 1
    assert np.allclose(optimizer.state["mine.m.named.b"].value, 0.1 * 8)


def test_optimizer_argument_of_training_step():
    Y, w, b = model(prefix="argument")

    @graph.training_step(optimizer=optim.SGD(0.1))
    def step(batch):
        loss = op.cross_entropy(Y(batch["x"]), batch["labels"])
        return graph.backward(loss), {"loss": loss}

    losses = [step({"x": DATA[0][0], "labels": DATA[0][1]})["loss"].item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)

    @graph.training_step(optimizer=optim.SGD(0.1))
    def wrong(batch):
        return {"loss": op.sum(Y(batch["x"]))}

    with pytest.raises(ArgumentError, match="must return grads or"):
        wrong({"x": DATA[0][0]})


def test_two_models_with_equal_names():
    first, second = Parameter("twin.w", (2,)), Parameter("twin.w", (2,))
    optimizers = [optim.SGD(1.0), optim.SGD(1.0)]
    for p, optimizer, size in ((first, optimizers[0], 3.0), (second, optimizers[1], 4.0)):
        grads = optim.clip_by_global_norm(Gradients({p.name: np.array([size, 0], np.float32)}, {p.name: p}), 1.0)
        assert grads.parameters[p.name] is p
        optimizer.apply(grads)
    for p in (first, second):
        np.testing.assert_allclose(p.value, [-1, 0], atol=1e-5)


def test_global_norm():
    Y, w, b = model(prefix="norm")

    @graph.training_step
    def step(x):
        grads = graph.backward(op.sum(Y(x)))
        return optim.global_norm(grads), grads

    norm, grads = step(DATA[0][0])
    assert norm.item() == pytest.approx(math.sqrt(sum(float((g.numpy() ** 2).sum()) for g in grads.values())), rel=1e-6)


def test_errors():
    p = Parameter("errors.p", (2,))
    optimizer = optim.SGD(0.1)
    with pytest.raises(ArgumentError, match="lr must be a number of at least 0"):
        optim.SGD(-1.0)
    with pytest.raises(ArgumentError, match="momentum must be in"):
        optim.SGD(0.1, momentum=1.0)
    with pytest.raises(ArgumentError, match="nesterov=True needs a momentum"):
        optim.SGD(0.1, nesterov=True)
    with pytest.raises(ArgumentError, match=r"betas\[1\] must be in"):
        optim.Adam(betas=(0.9, 1.5))
    with pytest.raises(ArgumentError, match="every must be a positive integer"):
        optim.accumulate(optimizer, 0)
    with pytest.raises(ArgumentError, match="max_norm must be positive"):
        optim.clip_by_global_norm(Gradients({}, {}), 0.0)
    with pytest.raises(ArgumentError, match="steps must be positive"):
        optim.cosine(0.1, 0)
    with pytest.raises(ArgumentError, match="takes the Gradients"):
        optimizer.apply({"p": np.zeros(2, np.float32)})
    with pytest.raises(ShapeError, match="the gradient of 'errors.p' has shape"):
        optimizer.apply(Gradients({p.name: np.zeros(3, np.float32)}, {p.name: p}))
    with pytest.raises(NameMissingError, match="no parameter 'q'"):
        optimizer.apply(Gradients({"q": np.zeros(2, np.float32)}, {p.name: p}))
    with pytest.raises(GraphError, match="state is updated by steps"):
        graph.update(p, p.leaf() + 1)

    @graph.training_step
    def twice(x):
        graph.update(p, p.leaf() + x)
        graph.update(p, p.leaf() - x)

    with pytest.raises(GraphError, match="already updates it"):
        twice(np.zeros(2, np.float32))
