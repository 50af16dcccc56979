"""Reductions as copies and sums, as GPUs do them: the same results and bytes on virtual devices."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import dist, graph, op, optim
from tessera.dist import ShardSpec, copies
from tessera.graph import on_mesh

DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32}


@pytest.fixture(autouse=True)
def as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Programs of virtual devices get the exchanges of GPUs, however small; the exchanges that they then have."""
    seen: list[str] = []
    original = on_mesh.build

    def build(program, options):  # noqa: ANN001, ANN202
        made = on_mesh.with_gpu_exchanges(program)
        seen[:] = [n.op for n in made.nodes() if n.op in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")]
        return original(made, options)

    monkeypatch.setattr(copies, "_LEAST_BYTES", 1)
    monkeypatch.setattr(on_mesh, "build", build)
    return seen


def lay(x: object, dim: int | None, mesh: dist.Mesh) -> object:
    return dist.constrain(x, ShardSpec(() if dim is None else (dim,), () if dim is None else ("dp",)), mesh)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 4), st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 4)), st.sampled_from([None, 0, 1]),
    st.sampled_from(sorted(DTYPES)), st.sampled_from(["sum", "max"]),
)
def test_the_same_results(count: int, shape: tuple[int, int, int], target: int | None, dtype: str, combine: str) -> None:
    rows, columns, parts = shape
    mesh = dist.Mesh(["dp"], count)
    x = op.tensor((parts * count, rows, columns), dtype, name="x")
    found = op.sum(lay(x, 0, mesh), axis=0) if combine == "sum" else op.max(lay(x, 0, mesh), axis=0)
    program = graph.compile({"y": lay(found, target, mesh)})
    values = np.random.default_rng(0).integers(-8, 9, x.shape).astype(DTYPES[dtype])
    expected = values.astype(np.float64).sum(0) if combine == "sum" else values.astype(np.float64).max(0)
    np.testing.assert_array_equal(program(x=values)["y"].astype(np.float64), expected)
    assert program.traffic() == [program.collectives.bytes_of(rank) for rank in range(count)]


def test_which_are_done_so(as_on_gpus: list[str]) -> None:
    """Even parts are sent and summed; uneven ones are left to the library, and so are groups of more than eight."""

    def kinds(count: int, shape: tuple[int, ...], target: int | None) -> list[str]:
        mesh = dist.Mesh(["dp"], count)
        x = lay(op.tensor((2 * count, *shape), name="x"), 0, mesh)
        graph.compile({"y": lay(op.sum(x, axis=0), target, mesh)})
        return list(as_on_gpus)

    assert kinds(4, (8, 3), 0) == ["all_to_all"]
    assert kinds(4, (3, 8), 1) == ["all_to_all"]
    assert kinds(4, (2, 6), None) == ["all_to_all", "all_gather"]
    assert kinds(4, (7, 3), 0) == ["reduce_scatter"]
    assert kinds(4, (5, 3), None) == ["all_reduce"]
    assert kinds(9, (9, 3), 0) == ["reduce_scatter"]


def test_sums_of_16_bits_round_once() -> None:
    """1 + 2⁻⁸ + 2⁻⁸: rounded after each addition it would stay 1."""
    mesh = dist.Mesh(["dp"], 4)
    x = lay(op.tensor((4, 8), "bf16", name="x"), 0, mesh)
    values = np.array([[1.0], [2.0**-8], [2.0**-8], [0.0]], np.float32).repeat(8, 1).astype(ml_dtypes.bfloat16)
    found = graph.compile({"y": lay(op.sum(x, axis=0), 0, mesh)})(x=values)["y"]
    np.testing.assert_array_equal(found.astype(np.float32), np.float32(1 + 2.0**-7))


@pytest.mark.parametrize("stated", [True, False], ids=["gathered as stated", "gathered by itself"])
@pytest.mark.parametrize("shape", [(4, 1), (2, 2)])
def test_fully_sharded_training(shape: tuple[int, int], stated: bool) -> None:
    """Weights in shards over dp are gathered, gradients scattered, activations stay where they are; as on one device."""
    mesh = dist.Mesh(["dp", "tp"], shape=shape)
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(s).astype(np.float32) / 8 for s in ((64, 128), (128, 64)))
    x, labels = rng.standard_normal((256, 64)).astype(np.float32), rng.integers(0, 64, 256)

    def trained(sharded: bool) -> tuple[list[float], list[np.ndarray], list[tuple[str, tuple[str, ...]]]]:
        layouts = ShardSpec((0, 1), ("dp", "tp")), ShardSpec((0,), (("tp", "dp"),))
        whole = ShardSpec((1,), ("tp",)), ShardSpec((0,), ("tp",))
        leaves = [
            dist.tensor(v.shape, layout=lies, mesh=mesh, name=n, init=v) if sharded
            else op.parameter(v.shape, name=n, init=v) for n, v, lies in zip("ab", (first, second), layouts)
        ]
        w = [dist.constrain(p, lies, mesh) if sharded and stated else p for p, lies in zip(leaves, whole)]
        adam = optim.AdamW(1e-2)

        def step(x, labels):  # noqa: ANN001, ANN202
            x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh) if sharded else x
            loss = op.cross_entropy(op.relu(x @ w[0]) @ w[1], labels)
            adam.apply(graph.backward(loss))
            return {"loss": loss}

        program = graph.compile(step, x, labels)
        losses = [float(program(x, labels)["loss"]) for _ in range(4)]
        kinds = [(c.kind, c.axes) for c in program.collectives] if sharded else []  # type: ignore[attr-defined]
        return losses, [np.asarray(p) for p in leaves], kinds

    losses, weights, kinds = trained(sharded=True)
    expected, right, _ = trained(sharded=False)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for found, value in zip(weights, right, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-5)
    over_dp = [kind for kind, axes in kinds if axes == ("dp",)]
    assert over_dp.count("reduce_scatter") == 2 and "all_to_all" not in over_dp
    assert 2 <= over_dp.count("all_gather") <= 4
