"""Every operator, dtype and gradient on a GPU against the references; ``run.sh`` runs it on a real device."""

from __future__ import annotations

import numpy as np
import pytest
import tessera
from tessera import graph, op, optim
from tessera._core import gpu_levels
from tessera.errors import IndexRangeError, UnsupportedError

from tests.ops import test_compiled as compiled
from tests.ops.harness import each, operators

pytestmark = pytest.mark.skipif(not gpu_levels("ptx"), reason="needs an NVIDIA device")


@pytest.mark.parametrize(("name", "dtype"), each(operators()))
def test_values(name: str, dtype: str) -> None:
    try:
        compiled.test_values(name, dtype, "ptx")
    except UnsupportedError as error:  # said before anything runs
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "dtype"), each(compiled.DIFFERENTIABLE, ("f32", "bf16")))
def test_gradients(name: str, dtype: str) -> None:
    try:
        compiled.test_gradients(name, dtype, "ptx")
    except UnsupportedError as error:
        pytest.skip(str(error))


def losses(target: str, steps: int = 12) -> list[float]:
    """Of training steps of an MLP with dropout and Adam, on batches of two sizes."""
    tessera.manual_seed(7)
    random = np.random.default_rng(3)
    x = op.tensor((op.dim("B", min=1, max=512), 48), name="x")
    y = op.mlp(in_dim=48, hidden=[96, 64], out_dim=10, name="model")(x)
    adam = optim.Adam(1e-2)

    @graph.training_step(target=target, dynamic_batch=True)
    def step(data: dict) -> dict:
        loss = op.cross_entropy(y(op.dropout(data["x"], 0.25)), data["labels"])
        adam.apply(graph.backward(loss))
        return {"loss": loss}

    found = []
    for i in range(steps):
        size = (64, 37)[i % 2]
        data = {"x": random.random((size, 48), np.float32), "labels": random.integers(0, 10, size)}
        found.append(step(data)["loss"])
    return [float(value) for value in found]


def test_a_training_step_learns_as_on_the_cpu() -> None:
    np.testing.assert_allclose(losses("ptx"), losses("cpu"), rtol=2e-4)


def test_wrong_labels_change_nothing() -> None:
    x = op.tensor((16, 8), name="x")
    y = op.mlp(in_dim=8, hidden=[16], out_dim=4, name="checked")(x)
    sgd = optim.SGD(0.5)

    @graph.training_step(target="ptx")
    def step(data: dict) -> dict:
        loss = op.cross_entropy(y(data["x"]), data["labels"])
        sgd.apply(graph.backward(loss))
        return {"loss": loss}

    values = np.random.default_rng(0).random((16, 8), np.float32)
    good, bad = np.arange(16) % 4, np.arange(16) % 4
    bad[5] = 9
    parameters = graph.compile({"y": y}, target="cpu").parameters
    first = float(step({"x": values, "labels": good})["loss"])
    before = {n: p.value for n, p in parameters.items()}
    with pytest.raises(IndexRangeError, match=r"position \[5\] is outside"):
        float(step({"x": values, "labels": bad})["loss"])
    for name, parameter in parameters.items():
        assert parameter.device == "cuda:0"
        np.testing.assert_array_equal(parameter.value, before[name])
    assert float(step({"x": values, "labels": good})["loss"]) < first
