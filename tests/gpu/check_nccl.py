"""Meshes of GPUs: collectives through NCCL, programs and training on several devices against one.

``run.sh nccl`` runs this where there are at least two GPUs.
"""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest
import tessera
from tessera import dist, graph, op, optim
from tessera.errors import DeviceError, IndexRangeError

TARGET = os.environ.get("TESSERA_TEST_TARGET", "ptx")  # cpu: the same on virtual devices


def two_devices() -> bool:
    try:
        tessera.array(np.zeros(1, np.float32), device="cuda:1")
    except DeviceError:
        return False
    return True


pytestmark = pytest.mark.skipif(TARGET == "ptx" and not two_devices(), reason="needs two NVIDIA devices")
DTYPES = ("f32", "bf16", "i32", "f64")


def mesh(*shape: int) -> dist.Mesh:
    return dist.Mesh(["dp", "tp"][: len(shape)], shape=shape, kind={"ptx": "cuda"}.get(TARGET, "cpu"))


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def numpy_of(name: str) -> object:
    return {"bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64, "i32": np.int32}[name]


PLACES = [(None, None), ("row", None), (None, "col")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 9)])
@pytest.mark.parametrize("source", range(3))
@pytest.mark.parametrize("target", range(3))
def test_conversions(shape: tuple[int, int], source: int, target: int, dtype: str) -> None:
    """All-gather, slices and all-to-all, even and uneven."""
    devices = mesh(2)

    def lay(x: object, place: tuple[str | None, str | None]) -> object:
        names = tuple(p for p in place if p)
        return dist.constrain(x, dist.ShardSpec(partition=names, mesh_axes=("dp",) * len(names)), devices)

    x = op.tensor(shape, dtype, name="x")
    y = lay(lay(x, PLACES[source]) + 1, PLACES[target])
    values = drawn(*shape).astype(numpy_of(dtype))
    found = graph.compile({"y": y}, target=TARGET)(x=values)["y"]
    np.testing.assert_array_equal(np.asarray(found).astype(np.float64), values.astype(np.float64) + 1)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (3, 1)])
def test_sums_of_parts(shape: tuple[int, int], place: int) -> None:
    """All-reduce and reduce-scatter of products over a split dimension."""
    devices = mesh(2)
    a, b = op.tensor((shape[0], 10), name="a"), op.tensor((10, shape[1]), name="b")
    a = dist.constrain(a, dist.ShardSpec(partition=("col",), mesh_axes=("dp",)), devices)
    b = dist.constrain(b, dist.ShardSpec(partition=("row",), mesh_axes=("dp",)), devices)
    names = tuple(p for p in PLACES[place] if p)
    y = dist.constrain(a @ b, dist.ShardSpec(partition=names, mesh_axes=("dp",) * len(names)), devices)
    program = graph.compile({"y": y, "s": op.sum(y)}, target=TARGET)
    x, w = drawn(shape[0], 10), drawn(10, shape[1], seed=1)
    found = program(a=x, b=w)
    np.testing.assert_array_equal(np.asarray(found["y"]), x @ w)
    np.testing.assert_allclose(np.asarray(found["s"]), (x @ w).sum(), rtol=1e-5)
    assert sum(program.traffic()) > 0


def test_the_guide() -> None:
    normal = op.initializer.normal(0.0, 1.0)
    layout = dist.ShardSpec(partition=("row", "col"), mesh_axes=("dp", "tp"))
    w = dist.tensor((1024, 1024), layout=layout, mesh=mesh(2, 1), dtype="bf16", name="w", init=normal)
    program = graph.compile(op.matmul(w, w.T), target=TARGET)
    value = np.asarray(w).astype(np.float32)
    right = value @ value.T
    found = np.asarray(program()).astype(np.float32)
    assert np.linalg.norm(found - right) < 5e-3 * np.linalg.norm(right)


def _losses(shape: tuple[int, ...] | None, steps: int = 4) -> tuple[list[float], np.ndarray]:
    tessera.manual_seed(3)
    devices = None if shape is None else mesh(*shape)

    def weight(name: str, rows: int, columns: int, axis: str) -> object:
        init = op.initializer.normal(0.0, 0.1)
        if devices is None:
            return op.parameter((rows, columns), "f32", name=name, init=init)
        spec = dist.ShardSpec(partition=(axis,), mesh_axes=("tp",))
        return dist.tensor((rows, columns), layout=spec, mesh=devices, init=init, name=name)

    first, second = weight("first", 16, 32, "col"), weight("second", 32, 10, "row")
    bias = op.parameter((10,), "f32", name="bias")
    optimizer = optim.AdamW(1e-2)

    @graph.training_step(target=TARGET)
    def step(x, labels):  # noqa: ANN001, ANN202
        if devices is not None:
            x = dist.constrain(x, dist.ShardSpec(partition=("row",), mesh_axes=("dp",)), devices)
        loss = op.cross_entropy(op.relu(x @ first) @ second + bias, labels)
        optimizer.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return loss

    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x, labels = rng.standard_normal((24, 16)).astype(np.float32), rng.integers(0, 10, 24)
        losses.append(float(np.asarray(step(x, labels))))
    values = np.concatenate([np.asarray(v).reshape(-1) for v in (first, second, bias)])
    if devices is not None:
        with pytest.raises(IndexRangeError):
            step(x, np.full(24, 10))
        again = np.concatenate([np.asarray(v).reshape(-1) for v in (first, second, bias)])
        np.testing.assert_array_equal(again, values)
        op.parameter_of(first).value = np.zeros((16, 32), np.float32)
        assert np.isfinite(float(np.asarray(step(x, labels))))
    return losses, values


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_training_as_on_one_device(shape: tuple[int, int]) -> None:
    """Losses and parameters after some steps; a failed check on the devices changes nothing and hangs nobody."""
    losses, values = _losses(None)
    found, there = _losses(shape)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    np.testing.assert_allclose(there, values, rtol=1e-3, atol=2e-5)


def _trained(shape: tuple[int, ...], schedule: graph.Schedule) -> tuple[list[float], np.ndarray, int]:
    """Losses and weights after steps of layers gathered before use, and how many exchanges ran beside kernels."""
    tessera.manual_seed(3)
    devices, init = mesh(*shape), op.initializer.normal(0.0, 0.05)
    layout = dist.ShardSpec(partition=("row",), mesh_axes=("dp",))
    weights = [
        dist.tensor((1024, 1024), "bf16", layout=layout, mesh=devices, name=f"w{i}", init=init) for i in range(4)
    ]
    optimizer = optim.AdamW(1e-3)

    def step(x, labels):  # noqa: ANN001, ANN202
        x = dist.constrain(x, layout, devices)
        for w in weights:
            x = op.relu(x @ w)
        loss = op.cross_entropy(op.cast(x, "f32"), dist.constrain(labels, dist.ShardSpec((0,), ("dp",)), devices))
        optimizer.apply(optim.clip_by_global_norm(graph.backward(loss), 1.0))
        return {"loss": loss}

    inputs = op.tensor((8192, 1024), "bf16"), op.tensor((8192,), "i64")
    program = graph.compile(step, *inputs, target=TARGET, schedule=schedule)
    rng, losses = np.random.default_rng(0), []
    for _ in range(5):
        x, labels = rng.standard_normal((8192, 1024)).astype(ml_dtypes.bfloat16), rng.integers(0, 1024, 8192)
        losses.append(float(np.asarray(program(x, labels)["loss"])))
    return losses, np.stack([np.asarray(w).astype(np.float32) for w in weights]), program.schedule().count("wait for ")


def test_exchanges_beside_kernels_change_no_bit() -> None:
    """The same exchanges beside kernels and in their order: the same losses and weights, five steps on end."""
    beside, there, started = _trained((2,), graph.Schedule(overlap=True))
    apart, here, none = _trained((2,), graph.Schedule(overlap=False))
    assert beside == apart and np.array_equal(there, here)
    assert none == 0 and (started > 3 or TARGET == "cpu")


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
def test_products_in_chunks(shape: tuple[int, int]) -> None:
    """W·Wᵀ of a size whose exchange is cut and runs beside the product."""
    layout = dist.ShardSpec(partition=("row", "col"), mesh_axes=("dp", "tp"))
    size = 8192 if TARGET == "ptx" else 512
    devices = mesh(*shape)
    init = op.initializer.normal(0.0, 1.0)
    w = dist.tensor((size, size), layout=layout, mesh=devices, dtype="bf16", name="w", init=init)
    y = {"y": dist.constrain(op.matmul(w, w.T), layout, devices)}
    program = graph.compile(y, target=TARGET)
    found = np.asarray(program()["y"]).astype(np.float32)
    alone = graph.compile(y, target=TARGET, schedule=graph.Schedule(overlap=False))
    apart = np.asarray(alone()["y"]).astype(np.float32)
    rows = np.asarray(w)[::97].astype(np.float32)
    right = rows @ np.asarray(w).astype(np.float32).T
    assert np.linalg.norm(found[::97] - right) < 5e-3 * np.linalg.norm(right)
    np.testing.assert_array_equal(found, apart)
    again = np.asarray(program()["y"]).astype(np.float32)
    np.testing.assert_array_equal(found, again)
