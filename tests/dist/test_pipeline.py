"""Pipelines over a mesh axis: values and gradients of one device, alone and with data and tensor parallelism."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import ArgumentError, NameMissingError, ShapeError

WIDTH, HIDDEN = 8, 12
RNG = np.random.default_rng(0)


def stage(p: dict[str, Any], x: Any) -> Any:
    """A residual MLP with a norm: not linear, and zeros would be a special case for it."""
    h = op.rms_norm(x, p["scale"]) @ p["up"]
    return x + op.tanh(h) @ p["down"]


def weights(stages: int) -> dict[str, np.ndarray]:
    shapes = {"scale": (stages, WIDTH), "up": (stages, WIDTH, HIDDEN), "down": (stages, HIDDEN, WIDTH)}
    return {k: RNG.standard_normal(s) / np.sqrt(s[-2]) if len(s) > 2 else 1 + 0.1 * RNG.standard_normal(s)
            for k, s in shapes.items()}


def run(mesh: Mesh | None, given: dict[str, np.ndarray], x: np.ndarray, microbatches: int, layouts: dict[str, ShardSpec]):
    """The result, and the gradients of x and all weights."""
    leaves = {k: op.tensor(v.shape, "f64", name=k) for k, v in given.items()}
    inputs = op.tensor(x.shape, "f64", name="x")
    if mesh is None:
        y = inputs
        for i in range(given["up"].shape[0]):
            y = stage({k: v[i] for k, v in leaves.items()}, y)
    else:
        laid = {k: dist.constrain(v, layouts.get(k, ShardSpec((0,), ("pp",))), mesh) for k, v in leaves.items()}
        start = dist.constrain(inputs, ShardSpec((0,), ("dp",)), mesh) if "dp" in mesh.axes else inputs
        y = dist.pipeline(stage, laid, start, mesh, microbatches=microbatches)
    loss = op.sum(y * op.sin(op.reshape(op.iota(int(np.prod(y.shape)), dtype="f64"), y.shape)))
    wrt = [inputs, *leaves.values()]
    found = graph.backward(loss, wrt)
    compiled = graph.compile({"y": y, **{f"d{v.node.attrs['name']}": g for v, g in zip(wrt, found, strict=True)}})
    results = {k: np.asarray(v) for k, v in compiled(x=x, **given).items()}
    if mesh is not None:
        assert compiled.traffic() == [compiled.collectives.bytes_of(r) for r in range(mesh.size)]
    return results, compiled


MESHES = {
    "pp 2": (("pp",), (2,)), "pp 4": (("pp",), (4,)), "pp 1": (("pp",), (1,)), "dp pp": (("dp", "pp"), (2, 2)),
    "pp tp": (("pp", "tp"), (2, 2)), "all": (("dp", "pp", "tp"), (2, 2, 2)), "pp last": (("tp", "pp"), (2, 4)),
}


@pytest.mark.parametrize("microbatches", [1, 3, 4])
@pytest.mark.parametrize("name", MESHES)
def test_values_and_gradients(name: str, microbatches: int) -> None:
    axes, shape = MESHES[name]
    mesh = Mesh(axes, int(np.prod(shape)), shape)
    layouts = {}
    if "tp" in axes:
        layouts = {"up": ShardSpec((0, 2), ("pp", "tp")), "down": ShardSpec((0, 1), ("pp", "tp"))}
    given, x = weights(4), RNG.standard_normal((12, WIDTH))
    expected, _ = run(None, given, x, 1, {})
    got, compiled = run(mesh, given, x, microbatches, layouts)
    for key, want in expected.items():
        np.testing.assert_allclose(got[key], want, rtol=1e-10, atol=1e-11, err_msg=key)
    passed = [c for c in compiled.collectives if c.kind == "collective_permute"]
    count = mesh.layout.size("pp")
    # Forward and backward; nothing else is exchanged between stages but the result.
    assert len(passed) == (0 if count == 1 else 2 * (microbatches + count - 2))
    if name == "pp tp":
        assert {c.axes for c in compiled.collectives if c.kind != "collective_permute"} <= {("tp",), ("pp",), ("pp", "tp")}


def test_training_is_that_of_one_device() -> None:
    """Parameters shard by shard, an optimizer's state with them, several steps."""
    data = RNG.standard_normal((12, WIDTH)).astype(np.float32)
    losses = []
    for shape in ((1, 1), (1, 4), (2, 2)):
        mesh = Mesh(["dp", "pp"], int(np.prod(shape)), shape)
        layout, normal = ShardSpec((0,), ("pp",)), op.initializer.normal(0.0, 0.3)
        made = {
            "scale": dist.tensor((4, WIDTH), layout=layout, mesh=mesh, init="ones", name="scale"),
            "up": dist.tensor((4, WIDTH, HIDDEN), layout=layout, mesh=mesh, name="up", init=normal),
            "down": dist.tensor((4, HIDDEN, WIDTH), layout=layout, mesh=mesh, name="down", init=normal),
        }
        adam = optim.AdamW(1e-2)

        @graph.training_step
        def step(x, made=made, adam=adam, mesh=mesh):
            x = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
            y = dist.pipeline(stage, made, x, mesh, microbatches=3)
            loss = op.mean((y - 1) ** 2)
            adam.apply(graph.backward(loss))
            return loss

        losses.append([float(step(data).item()) for _ in range(4)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=2e-5)
    assert losses[0][-1] < losses[0][0]


def test_symbolic_batch() -> None:
    mesh = Mesh(["pp"], 2)
    x = op.tensor((4 * op.dim("B", min=1, max=16), WIDTH), "f64", name="x")
    given = weights(2)
    leaves = {k: op.tensor(v.shape, "f64", name=k) for k, v in given.items()}
    program = graph.compile(dist.pipeline(stage, leaves, x, mesh, microbatches=4))
    for rows in (4, 12):
        data = RNG.standard_normal((rows, WIDTH))
        got = np.asarray(program(x=data, **given))
        np.testing.assert_allclose(got, run(None, given, data, 1, {})[0]["y"], rtol=1e-10, atol=1e-11)


def test_the_bubble_is_seen() -> None:
    """Arithmetic of a device: (m + p - 1) / m times that of its stages on the whole batch."""
    operations = {}
    for microbatches in (4, 16):
        mesh = Mesh(["pp"], shape=(4,), kind="cuda")
        layout = ShardSpec((0,), ("pp",))
        w = dist.tensor((8, 512, 512), layout=layout, mesh=mesh, name="w")
        x = op.tensor((1024, 512), name="x")
        y = dist.pipeline(lambda w, x: x @ w, w, x, mesh, microbatches=microbatches)
        found = dist.simulate({"y": y})
        operations[microbatches] = sum(e.operations for e in found.events if "matmul" in e.name)
        assert sum("collective_permute" in e.name for e in found.events) == microbatches + 2
    once = 2 * 2 * 1024 * 512 * 512
    assert operations[4] == pytest.approx(once * 7 / 4, rel=0.01)
    assert operations[16] == pytest.approx(once * 19 / 16, rel=0.01)


def test_errors() -> None:
    mesh = Mesh(["dp", "pp"], 4, (2, 2))
    w, x = op.tensor((4, 3, 3), name="w"), op.tensor((6, 3), name="x")

    def product(w, x):
        return x @ w

    with pytest.raises(NameMissingError, match="has no axis 'stages'; its axes are dp, pp"):
        dist.pipeline(product, w, x, mesh, "stages", microbatches=2)
    with pytest.raises(ArgumentError, match="microbatches is 0; give a number of parts"):
        dist.pipeline(product, w, x, mesh, microbatches=0)
    with pytest.raises(ShapeError, match=r"x has shape \(6, 3\); its first dimension must be a multiple of the 4"):
        dist.pipeline(product, w, x, mesh, microbatches=4)
    with pytest.raises(ShapeError, match=r"shapes \(3, 3, 3\); the first dimension of all of them must be the number of "):
        dist.pipeline(product, op.tensor((3, 3, 3)), x, mesh, microbatches=2)
    with pytest.raises(ShapeError, match=r"a stage makes f32\[3, 5\] of f32\[3, 3\]; the next one needs the type of x"):
        dist.pipeline(product, op.tensor((2, 3, 5)), x, mesh, microbatches=2)
    with pytest.raises(ArgumentError, match="there are no parameters"):
        dist.pipeline(product, [], x, mesh, microbatches=2)
    with pytest.raises(ArgumentError, match="the mesh must be a dist.Mesh, not str"):
        dist.pipeline(product, w, x, "pp", microbatches=2)  # type: ignore[arg-type]


def test_bodies_for_some_axes() -> None:
    mesh = Mesh(["dp", "pp"], 4, (2, 2))
    x = op.tensor((8, 4), "f64", name="x")
    data = RNG.standard_normal((8, 4))
    rows = ShardSpec((0,), ("pp",))

    def body(x):
        y = dist.constrain(x * 2, ShardSpec((1,), ("dp",)), mesh)
        return dist.all_reduce(op.sum(y * y), "pp"), y + 1

    total, y = dist.shard_map(body, mesh, rows, (ShardSpec((), ()), rows), axes="pp")(x)
    got = graph.compile([total, y])(x=data)
    np.testing.assert_allclose(got[0], (4 * data**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(got[1], 2 * data + 1, rtol=1e-12)

    with pytest.raises(ArgumentError, match="in_specs name the axis dp, but the body is written for pp"):
        dist.shard_map(body, mesh, ShardSpec((0,), ("dp",)), rows, axes="pp")(x)
    with pytest.raises(ArgumentError, match="along dp it is one whole tensor"):
        dist.shard_map(lambda x: dist.all_reduce(x, "dp"), mesh, rows, rows, axes="pp")(x)
    with pytest.raises(ArgumentError, match="there it may use all_reduce and collective_permute"):
        dist.shard_map(lambda x: dist.all_gather(x, "pp"), mesh, rows, rows, axes="pp")(x)
    with pytest.raises(NameMissingError, match="has no axis 'ep'"):
        dist.shard_map(body, mesh, rows, rows, axes="ep")
    with pytest.raises(ArgumentError, match="has no layout"):
        dist.shard_map(lambda x: dist.constrain(x, rows, mesh), mesh, rows, rows, axes="pp")(x)
    kept = []
    dist.shard_map(lambda x: kept.append(x * 2) or x, mesh, rows, rows, axes="pp")(x)
    with pytest.raises(ArgumentError, match="is used outside of it"):
        graph.compile({"y": kept[0]})
