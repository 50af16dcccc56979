"""Programs on virtual devices: training as on one device, traffic as predicted, errors on all devices, files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tessera
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    IndexRangeError,
    NameMissingError,
    ShapeError,
    TesseraError,
    UnsupportedError,
)
from tessera.graph.devices import devices_of

RNG = np.random.default_rng(5)
X = RNG.normal(size=(22, 10)).astype(np.float32)
LABELS = RNG.integers(0, 7, 22)
SHAPES = {"w1": (10, 13), "b1": (13,), "w2": (13, 7), "b2": (7,)}
LAYOUTS = {
    "data": {},
    "tensor": {
        "w1": ShardSpec(("col",), ("tp",)), "b1": ShardSpec((0,), ("tp",)), "w2": ShardSpec(("row",), ("tp",)),
    },
    "fully sharded": {
        "w1": ShardSpec(("row",), ("dp",)), "b1": ShardSpec((0,), ("dp",)), "w2": ShardSpec(("row",), ("dp",)),
        "b2": ShardSpec((0,), ("dp",)),
    },
    "both": {
        "w1": ShardSpec(("row", "col"), ("dp", "tp")), "b1": ShardSpec((0,), ("tp",)),
        "w2": ShardSpec(("row", "col"), ("tp", "dp")), "b2": ShardSpec((0,), ("dp",)),
    },
}


def make_step(mesh: Mesh | None, layouts: dict[str, ShardSpec]):
    """A training step with dropout, clipping by global norm and AdamW; uneven everywhere."""
    tessera.manual_seed(7)
    weights = {}
    for name, shape in SHAPES.items():
        init = "xavier_normal" if len(shape) == 2 else 0.1
        if mesh is not None and name in layouts:
            weights[name] = dist.tensor(shape, layout=layouts[name], mesh=mesh, name=name, init=init)
        else:
            weights[name] = op.parameter(shape, name=name, init=init)
    adam = optim.AdamW(1e-2)

    def step(x, labels):
        x = x if mesh is None else dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        hidden = op.random.dropout(op.gelu(x @ weights["w1"] + weights["b1"]), 0.3)
        out = hidden @ weights["w2"] + weights["b2"]
        loss = op.cross_entropy(out, labels)
        adam.apply(optim.clip_by_global_norm(graph.backward(loss), 0.5))
        return {"loss": loss, "out": out}

    return step, {k: op.parameter_of(w) for k, w in weights.items()}


def train(mesh: Mesh | None, layouts: dict[str, ShardSpec], steps: int = 4):
    body, parameters = make_step(mesh, layouts)
    compiled = graph.compile(body, X, LABELS)
    results = [compiled(X, LABELS) for _ in range(steps)]
    losses = [float(np.asarray(r["loss"])) for r in results]
    return losses, np.asarray(results[-1]["out"]), {k: p.value for k, p in parameters.items()}, compiled


@pytest.fixture(scope="module")
def one_device():
    return train(None, {})


@pytest.mark.parametrize("shape, layout", [
    ((1, 1), "both"), ((2, 1), "data"), ((4, 1), "fully sharded"), ((2, 2), "both"), ((8, 1), "fully sharded"),
    ((1, 4), "tensor"), ((2, 4), "tensor"),
])
def test_training_does_not_depend_on_the_mesh(one_device, shape, layout):
    mesh = Mesh(["dp", "tp"], shape[0] * shape[1], shape)
    losses, out, weights, compiled = train(mesh, LAYOUTS[layout])
    np.testing.assert_allclose(losses, one_device[0], rtol=2e-5)
    np.testing.assert_allclose(out, one_device[1], rtol=1e-3, atol=1e-4)
    for name, value in one_device[2].items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-3, atol=2e-5)
    assert compiled.traffic() == [compiled.collectives.bytes_of(rank) for rank in range(mesh.size)]
    assert losses[-1] < losses[0]


def test_optimizer_state_lies_where_its_parameter_lies():
    mesh = Mesh(["dp", "tp"], 4, (2, 2))
    compiled = train(mesh, LAYOUTS["both"], 1)[3]
    lie = compiled.layouts()
    assert lie["state w1"] == "split [dp, tp]"
    assert [v for k, v in lie.items() if k.startswith("state adam") and k.endswith(".w1")] == ["split [dp, tp]"] * 2
    assert lie["input x"] == "split [dp, -]"


def matmul_on(mesh: Mesh, **options):
    w = dist.tensor((12, 10), layout=ShardSpec(("row", "col"), ("dp", "tp")), mesh=mesh, name="w", init="xavier_normal")
    return w, graph.compile({"y": op.matmul(w, w.T)}, **options)


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_both_engines_run_collectives(target):
    w, compiled = matmul_on(Mesh(["dp", "tp"], 6, (2, 3)), target=target)
    value = op.parameter_of(w).value
    np.testing.assert_allclose(compiled()["y"], value @ value.T, rtol=1e-5, atol=1e-6)
    assert compiled.traffic() == [compiled.collectives.bytes_of(r) for r in range(6)] and sum(compiled.traffic()) > 0


def test_results_may_stay_in_shards():
    mesh = Mesh(["dp", "tp"], 6, (2, 3))
    x = op.tensor((9, 4), name="x")
    y = graph.compile({"y": dist.constrain(x, ShardSpec((0,), (("dp", "tp"),)), mesh) * 2})
    first = y.call_sharded(np.ones((9, 4), np.float32))["y"]
    assert [np.asarray(s).shape for s in first.shards] == [(2, 4)] * 4 + [(1, 4), (0, 4)]
    again = y.call_sharded(first)["y"]
    np.testing.assert_array_equal(again, np.full((9, 4), 4, np.float32))
    assert repr(again) == "ShardedArray([9, 4], split [dp*tp, -], Mesh(dp=2, tp=3; 6 cpu devices))"


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 64])
def test_symbolic_batch_over_devices(rows):
    mesh = Mesh(["dp"], 4)
    batch = op.dim("B", min=1, max=64)
    x = op.tensor((batch, 6), name="x")
    if not hasattr(test_symbolic_batch_over_devices, "program"):
        z = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        test_symbolic_batch_over_devices.program = graph.compile({"mean": (z * z).mean(0), "soft": op.softmax(z, 1)})
    program = test_symbolic_batch_over_devices.program
    data = RNG.normal(size=(rows, 6)).astype(np.float32)
    got = program(x=data)
    np.testing.assert_allclose(got["mean"], (data * data).mean(0), rtol=1e-5)
    e = np.exp(data - data.max(1, keepdims=True))
    np.testing.assert_allclose(got["soft"], e / e.sum(1, keepdims=True), rtol=1e-5)
    assert program.traffic() == [program.collectives.bytes_of(r, {"B": rows}) for r in range(4)]


def test_an_error_on_one_device_stops_all_and_changes_nothing():
    mesh = Mesh(["dp"], 4)
    table = dist.tensor((9, 3), layout=ShardSpec((0,), ("dp",)), mesh=mesh, name="table", init="xavier_normal")
    sgd = optim.SGD(0.1)

    @graph.training_step
    def step(index):
        index = dist.constrain(index, ShardSpec((0,), ("dp",)), mesh)
        rows = op.take(table, index, 0)
        loss = (rows * rows).sum()
        sgd.apply(graph.backward(loss))
        return loss

    before = op.parameter_of(table).value
    with pytest.raises(IndexRangeError, match=r"9(.|\n)*test_execution.py:\d+(.|\n)*on the device dp=2"):
        step(np.array([0, 1, 2, 3, 9, 5, 6, 7]))
    np.testing.assert_array_equal(op.parameter_of(table).value, before)
    index = np.array([0, 1, 2, 3, 8, 8, 6, 7])
    assert step(index).item() == pytest.approx((before[index] ** 2).sum(), rel=1e-5)
    expected = before.copy()
    np.add.at(expected, index, -0.2 * before[index])
    np.testing.assert_allclose(op.parameter_of(table).value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call, error, words", [
    (lambda p: p(np.ones((9, 5), np.float32)), ShapeError, "input 'x': expected x: f32.9, 4."),
    (lambda p: p(np.ones((9, 4))), DTypeError, "input 'x': expected x: f32.9, 4., got f64"),
    (lambda p: p(np.ones((9,), np.float32)), ShapeError, "got shape .9,."),
    (lambda p: p(y=np.ones((9, 4), np.float32)), NameMissingError, "no input 'y'"),
    (lambda p: p.run([np.ones((9, 4), np.float32)], outputs=[None]), UnsupportedError, "leave them out"),
    (lambda p: p.run({"z": 1}), NameMissingError, "no input 'z'"),
])
def test_wrong_arguments(call, error, words):
    x = op.tensor((9, 4), name="x")
    program = graph.compile({"y": dist.constrain(x, ShardSpec((0,), ("dp",)), Mesh(["dp"], 2)) + 1})
    with pytest.raises(error, match=words):
        call(program)


def test_one_graph_has_one_mesh():
    layout = ShardSpec((0,), ("dp",))
    a = dist.tensor((4, 4), layout=layout, mesh=Mesh(["dp"], 2))
    b = dist.tensor((4, 4), layout=layout, mesh=Mesh(["dp"], 4))
    with pytest.raises(ArgumentError, match="different meshes, Mesh.dp=2; 2 cpu devices. and Mesh.dp=4"):
        graph.compile(a + b)
    with pytest.raises(ArgumentError, match="use one mesh for all(.|\n)*test_execution.py"):
        graph.compile(dist.constrain(a * 2, layout, Mesh(["dp"], 4)))


def test_budget_of_collectives():
    mesh = Mesh(["dp", "tp"], 4)
    _, compiled = matmul_on(mesh)
    most = max(compiled.collectives.bytes_of(r) for r in range(4))
    matmul_on(mesh, max_collective_bytes=most)
    with pytest.raises(UnsupportedError, match=rf"receives {most} bytes(.|\n)*1\. (.|\n)*test_execution.py(.|\n)*to avoid it"):
        matmul_on(mesh, max_collective_bytes=most - 1)
    x = op.tensor((op.dim("B"), 4), name="x")
    y = dist.replicate(dist.constrain(x, ShardSpec((0,), ("dp",)), mesh), mesh)
    with pytest.raises(UnsupportedError, match="without bound"):
        graph.compile(y, max_collective_bytes=100)
    with pytest.raises(ArgumentError, match="no tensor of the graph is sharded"):
        graph.collectives(op.tensor((2,)) + 1)


def test_the_plan_says_what_and_why():
    mesh = Mesh(["dp", "tp"], 4)
    x = dist.constrain(op.tensor((8, 1024), name="x"), ShardSpec((0,), ("dp",)), mesh)
    w = dist.tensor((1024, 1024), layout=ShardSpec(("row",), ("tp",)), mesh=mesh, name="w", init="xavier_normal")
    plan = graph.collectives(op.relu(x @ w))
    assert [(c.kind, c.axes, c.link) for c in plan] == [("all_reduce", ("tp",), "shared memory")]
    assert plan[0].bytes == 4 * 1024 * 4 and "test_execution.py" in str(plan[0].line)
    assert "ShardSpec" in plan[0].fix and str(plan).startswith("mesh dp = 2, tp = 2: 1 collective\n  1. all_reduce over tp")
    fixed = dist.tensor((1024, 1024), layout=ShardSpec(), mesh=mesh, name="w", init="xavier_normal")
    assert str(graph.collectives(op.relu(x @ fixed))) == "mesh dp = 2, tp = 2: no collectives"


def test_saved_and_loaded(tmp_path):
    mesh = Mesh(["dp", "tp"], 6, (2, 3))
    w, compiled = matmul_on(mesh)
    compiled.save(tmp_path / "w.tsr", {"who": "me"})
    loaded = graph.load(tmp_path / "w.tsr")
    assert loaded.metadata == {"who": "me"}
    np.testing.assert_array_equal(loaded.parameters["w"].value, op.parameter_of(w).value)
    again = graph.compile(loaded)
    assert str(again.collectives) == str(compiled.collectives)
    np.testing.assert_array_equal(again.run([])[0], compiled()["y"])


def test_state_moves_between_meshes(tmp_path):
    parameters = {}
    for name, mesh in (("a", Mesh(["dp", "tp"], 4, (2, 2))), ("b", Mesh(["dp", "tp"], 8, (8, 1)))):
        w, compiled = matmul_on(mesh)
        parameters[name] = op.parameter_of(w), compiled
    parameters["a"][0].value = RNG.normal(size=(12, 10)).astype(np.float32)
    parameters["a"][1].save_state(tmp_path / "state.safetensors")
    parameters["b"][1].load_state(tmp_path / "state.safetensors")
    np.testing.assert_array_equal(parameters["b"][0].value, parameters["a"][0].value)
    np.testing.assert_allclose(parameters["b"][1]()["y"], parameters["a"][1]()["y"], rtol=1e-5)
    other = dist.tensor((5, 5), layout=ShardSpec(), mesh=Mesh(["dp"], 2), name="w")
    with pytest.raises(TesseraError, match="has shape"):
        graph.compile(other + 1).load_state(tmp_path / "state.safetensors")


def test_setting_a_parameter_between_runs_reaches_every_device():
    mesh = Mesh(["dp"], 4)
    plain = op.parameter((3, 4), name="plain", init=1.0)
    placed = dist.tensor((5, 4), layout=ShardSpec((0,), ("dp",)), mesh=mesh, name="placed", init=2.0)

    @graph.training_step
    def step(x):
        graph.update(plain, plain + 1)
        graph.update(placed, placed * 2)
        rows = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        return rows @ op.concat([plain, placed], 0).T

    x = RNG.normal(size=(6, 4)).astype(np.float32)
    for value in (None, 5.0, -3.0):
        if value is not None:
            op.parameter_of(plain).value = np.full((3, 4), value, np.float32)
            op.parameter_of(placed).value = np.full((5, 4), value, np.float32)
        both = np.concatenate([op.parameter_of(plain).value, op.parameter_of(placed).value])
        np.testing.assert_allclose(step(x), x @ both.T, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(op.parameter_of(plain).value, both[:3] + 1)
        np.testing.assert_array_equal(op.parameter_of(placed).value, both[3:] * 2)


def test_calls_from_several_threads_do_not_mix():
    mesh = Mesh(["dp"], 2)
    x = op.tensor((op.dim("B", min=1, max=32), 3), name="x")
    program = graph.compile(dist.constrain(x, ShardSpec((0,), ("dp",)), mesh).sum(1))

    def work(rows: int) -> bool:
        data = np.full((rows, 3), rows, np.float32)
        return all(np.array_equal(program(data), np.full(rows, 3 * rows, np.float32)) for _ in range(5))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, [1, 7, 8, 31]))


def test_targets_and_devices_of_a_mesh_fit():
    with pytest.raises(UnsupportedError, match=r"target 'ptx': the graph is on Mesh\(dp=2, tp=2; 4 cpu.*kind='cuda'"):
        matmul_on(Mesh(["dp", "tp"], 4), target="ptx")
    with pytest.raises(UnsupportedError, match=r"target 'cpu': the graph is on Mesh\(dp=2, tp=2; 4 cuda.*kind='cpu'"):
        matmul_on(Mesh(["dp", "tp"], 4, kind="cuda"), target="cpu")


def test_inputs_that_are_made_in_shards():
    mesh = Mesh(["dp", "tp"], 4)
    layout = ShardSpec((0,), ("dp",))
    asked = []

    def part(index):
        asked.append(index)
        return X[index]

    rows = dist.from_shards(part, X.shape, layout=layout, mesh=mesh)
    assert asked == [(slice(0, 11), slice(0, 10)), (slice(11, 22), slice(0, 10))], "each part once"
    np.testing.assert_array_equal(np.asarray(rows), X)
    w = dist.tensor((10, 3), layout=ShardSpec(("col",), ("tp",)), mesh=mesh, init="he_normal")

    @graph.training_step
    def step(x):
        return dist.constrain(x, layout, mesh) @ w

    np.testing.assert_array_equal(step(rows).numpy(), step(X).numpy())
    assert step.compilations == 1
    with pytest.raises(ShapeError, match=r"the part .* has shape \(22, 10\), expected \(11, 10\)"):
        dist.from_shards(lambda index: X, X.shape, layout=layout, mesh=mesh)
    with pytest.raises(DTypeError, match="the parts are f32 and f64"):
        dist.from_shards(lambda i: X[i].astype("f4" if i[0].start == 0 else "f8"), X.shape, layout=layout, mesh=mesh)
    with pytest.raises(ArgumentError, match="give the layout as a dist.ShardSpec"):
        dist.from_shards(part, X.shape, layout=("row",), mesh=mesh)


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_that_exchange_nothing_begin_with_the_same_state(devices):
    """Nothing makes them wait for each other: the first must not change what the others have yet to copy."""
    mesh = Mesh(["dp"], devices)
    count = op.parameter((1 << 16,), name="count")

    @graph.training_step
    def step(x):
        graph.update(count, count + 1)
        return dist.replicate(x, mesh) + count

    x = np.zeros(1 << 16, np.float32)
    for run in range(20):
        np.testing.assert_array_equal(step(x), np.full(1 << 16, run, np.float32))


def test_a_part_that_lies_right_is_taken_as_it_is() -> None:
    """An axis of one device divides nothing: a layout that names it is that of whole arrays, and nothing is copied."""
    mesh = Mesh(["dp", "tp"], shape=(1, 2))
    x = dist.from_shards(lambda index: np.ones((4, 3), np.float32)[index], (4, 3), layout=ShardSpec((0,), ("dp",)), mesh=mesh)
    w = dist.tensor((3, 6), layout=ShardSpec((1,), ("tp",)), mesh=mesh, name="w", init=1.0)
    program = graph.compile({"y": dist.constrain(op.tensor((4, 3), name="x"), ShardSpec((0,), ("dp",)), mesh) @ w})
    parts = program._parts("x", x)  # type: ignore[attr-defined]
    assert all(parts[rank] is x.shards[rank] for rank in range(2))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(program(x)["y"], np.full((4, 6), 3.0))


def test_what_failed_on_a_device_is_raised_with_its_place() -> None:
    """The error of the device itself and not of those that give up because of it; the mesh is used again."""
    mesh = Mesh(["dp"], 3)
    w = dist.tensor((6,), layout=ShardSpec((0,), ("dp",)), mesh=mesh, name="w", init=1.0)
    program = graph.compile({"y": dist.replicate(w * 2, mesh)})
    program()
    devices = devices_of(mesh)

    def wait(rank: int) -> None:
        if rank == 1:
            raise DeviceError("an illegal address")
        if rank == 2:
            raise DeviceError("another device failed: an illegal address")

    with pytest.raises(DeviceError, match="^an illegal address\n  on the device dp=1"):
        devices.settle(wait)
    np.testing.assert_array_equal(program()["y"], np.full(6, 2.0))
