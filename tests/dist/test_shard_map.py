"""Programs written for one device: against JAX, against NumPy on uneven sizes, with gradients; what is refused, and how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import ArgumentError, GradientError, NameMissingError, ShapeError, UnsupportedError

RNG = np.random.default_rng(11)
S = ShardSpec
WHOLE = S()
ROWS, COLUMNS, TILES = S((0,), ("dp",)), S((1,), ("tp",)), S((0, 1), ("dp", "tp"))
ALL_ROWS = S((0,), (("dp", "tp"),))
OVER_TP = S((0,), ("tp",))


def contracted(x, w):
    return op.tanh(dist.all_reduce(x @ w, "tp"))


def gathered(x, w):
    return x @ dist.all_gather(w, "tp") + dist.all_gather(w, "tp").sum()


def scattered(x, w):
    return dist.reduce_scatter(op.sin(x) @ w, "tp", dim=1)


def exchanged(x, w):
    return dist.all_to_all(x * x, "tp", split_dim=0, concat_dim=1) * w.sum()


def numbered(x, w):
    return x * op.cast(1 + dist.axis_index("dp") * 4 + dist.axis_index("tp"), "f64") * w[0, 0]


def permuted(x, w):
    turned = dist.collective_permute(x[:, :1], ("dp", "tp"), [(i, 7 - i) for i in range(8)])
    return dist.collective_permute(x @ w, "tp", [(0, 1), (1, 3), (3, 2)]) * turned


def both(x, w):
    return dist.all_reduce((x[:, :2] @ w) ** 2, ("dp", "tp")) / 8


CASES = {
    "contracted": (contracted, (TILES, OVER_TP), ROWS),
    "gathered": (gathered, (ALL_ROWS, OVER_TP), ALL_ROWS),
    "scattered": (scattered, (TILES, OVER_TP), TILES),
    "exchanged": (exchanged, (TILES, WHOLE), ALL_ROWS),
    "numbered": (numbered, (TILES, WHOLE), TILES),
    "permuted": (permuted, (TILES, OVER_TP), ALL_ROWS),
    "both": (both, (TILES, OVER_TP), WHOLE),
}


def with_gradients(mesh, body, given, out, x, w):
    """What the program gives, and its gradients for x and w under a loss that weighs every element differently."""
    a, b = op.tensor(x.shape, "f64", name="x"), op.tensor(w.shape, "f64", name="w")
    y = dist.shard_map(body, mesh, given, out)(a, b)
    weights = np.cos(np.arange(int(np.prod(y.shape))).reshape(y.shape))
    found = graph.backward((y * weights).sum(), [a, b])
    compiled = graph.compile({"y": y, "x": found[0], "w": found[1]})
    results = {k: np.asarray(v) for k, v in compiled(x=x, w=w).items()}
    assert compiled.traffic() == [compiled.collectives.bytes_of(r) for r in range(mesh.size)]
    return results


@pytest.fixture(scope="module")
def jax_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax")
    arrays = {"x": RNG.normal(size=(8, 8)), "w": RNG.normal(size=(8, 4))}
    np.savez(folder / "in.npz", **arrays)
    script = Path(__file__).with_name("shard_map_in_jax.py")
    subprocess.run([sys.executable, script, folder / "in.npz", folder / "out.npz"], check=True, timeout=300)
    return arrays, dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("name", CASES)
def test_as_in_jax(jax_results, name):
    arrays, want = jax_results
    got = with_gradients(Mesh(["dp", "tp"], 8, (2, 4)), *CASES[name], **arrays)
    np.testing.assert_allclose(got["y"], want[name], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got["x"], want[f"{name} x"], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got["w"], want[f"{name} w"], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(7, 5), (1, 2), (4, 1), (3, 9)])
@pytest.mark.parametrize("devices", [(2, 3), (1, 4), (3, 1)])
def test_uneven_and_empty_parts(devices, shape):
    mesh = Mesh(["dp", "tp"], devices[0] * devices[1], devices)
    x, w = RNG.normal(size=shape), RNG.normal(size=(shape[1], 6))
    g = np.cos(np.arange(shape[0] * 6).reshape(shape[0], 6))
    for body, given, out in (
        (lambda x, w: dist.all_reduce(x @ w, "tp"), (TILES, OVER_TP), ROWS),
        (lambda x, w: dist.all_gather(x, "tp", dim=1) @ w, (TILES, WHOLE), ROWS),
        (lambda x, w: dist.reduce_scatter(x @ w, "tp", dim=1), (TILES, OVER_TP), TILES),
        (lambda x, w: dist.all_to_all(x @ w, "dp", split_dim=1, concat_dim=0), (ROWS, WHOLE), S((1,), ("dp",))),
    ):
        got = with_gradients(mesh, body, given, out, x, w)
        np.testing.assert_allclose(got["y"], x @ w, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got["x"], g @ w.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got["w"], x.T @ g, rtol=1e-12, atol=1e-12)


def test_order_of_axes():
    mesh = Mesh(["dp", "tp"], 6, (2, 3))
    x = op.tensor((7, 2), name="x")
    data = RNG.normal(size=(7, 2)).astype(np.float32)
    for axes in (("dp", "tp"), ("tp", "dp")):
        def body(x, axes=axes):
            return dist.all_gather(x, axes), op.reshape(dist.axis_index(axes), [1]), x + 0

        layout = S((0,), (axes,))
        y, number, again = dist.shard_map(body, mesh, layout, (WHOLE, S((0,), (axes,)), layout))(x)
        got = graph.compile([y, number, again])(x=data)
        np.testing.assert_array_equal(got[0], data)
        np.testing.assert_array_equal(got[1], np.arange(6))
        np.testing.assert_array_equal(got[2], data)


def test_symbolic_batch():
    mesh = Mesh(["dp"], 4)
    x = op.tensor((op.dim("B", min=1, max=64), 3), name="x")

    def body(x):
        return x - dist.all_reduce(x.sum(0), "dp"), dist.all_gather(x, "dp")

    program = graph.compile(dist.shard_map(body, mesh, S((0,), ("dp",)), [S((0,), ("dp",)), WHOLE])(x))
    for rows in (1, 4, 7, 64):
        data = RNG.normal(size=(rows, 3)).astype(np.float32)
        got = program(x=data)
        np.testing.assert_allclose(got[0], data - data.sum(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got[1], data)


def make_step(mesh):
    """A step whose hidden layer is written by hand on a mesh; the parameters are used without being arguments."""
    w1 = op.parameter((5, 12), name="w1", init="xavier_normal")
    w2 = op.parameter((12, 3), name="w2", init="xavier_normal")
    b = op.parameter((3,), name="b", init=0.5)
    adam = optim.AdamW(1e-2)

    def hidden(x, w1, w2):
        return dist.all_reduce(op.gelu(x @ w1) @ w2, "tp") + b

    @graph.training_step
    def step(x):
        if mesh is None:
            y = op.gelu(x @ w1) @ w2 + b
        else:
            y = dist.shard_map(hidden, mesh, (ROWS, COLUMNS, OVER_TP), ROWS)(x, w1, w2)
        loss = (y * y).mean()
        adam.apply(graph.backward(loss))
        return loss

    return step, [op.parameter_of(v) for v in (w1, w2, b)]


def test_training_and_tensors_from_outside():
    x = RNG.normal(size=(9, 5)).astype(np.float32)
    step, want = make_step(None)
    expected = [step(x).item() for _ in range(4)]
    values = [p.value for p in want]
    for devices in ((1, 1), (2, 3), (4, 2)):
        step, found = make_step(Mesh(["dp", "tp"], devices[0] * devices[1], devices))
        np.testing.assert_allclose([step(x).item() for _ in range(4)], expected, rtol=1e-5)
        for p, value in zip(found, values, strict=True):
            np.testing.assert_allclose(p.value, value, rtol=1e-4, atol=1e-5)


def test_gradients_inside_and_of_gradients():
    mesh = Mesh(["dp"], 3)
    x = op.tensor((7,), "f64", name="x")

    def body(x):
        return graph.backward((x**4).sum(), x)

    y = dist.shard_map(body, mesh, S((0,), ("dp",)), S((0,), ("dp",)))(x)
    second = graph.backward((graph.backward((y * y).sum(), x) ** 2).sum(), x)
    data = RNG.normal(size=7)
    got = graph.compile({"y": y, "second": second})(x=data)
    np.testing.assert_allclose(got["y"], 4 * data**3, rtol=1e-12)
    np.testing.assert_allclose(got["second"], 2 * (96 * data**5) * (480 * data**4), rtol=1e-11)


def test_extrema_and_structures():
    mesh = Mesh(["dp"], 2)
    x = op.tensor((4, 3), name="x")

    def body(x):
        return {"max": dist.all_reduce(x.max(0), "dp", "max"), "share": x / dist.axis_size("dp")}

    y = dist.shard_map(body, mesh, S((0,), ("dp",)), {"max": WHOLE, "share": S((0,), ("dp",))})(x)
    data = RNG.normal(size=(4, 3)).astype(np.float32)
    got = graph.compile(y)(x=data)
    np.testing.assert_array_equal(got["max"], data.max(0))
    np.testing.assert_array_equal(got["share"], data / 2)
    with pytest.raises(GradientError, match="all_reduce. with combine='max' has no gradient; gather"):
        graph.backward(y["max"].sum(), x)


def test_the_plan_and_the_file(tmp_path):
    mesh = Mesh(["dp", "tp"], 4)
    x, w = op.tensor((8, 6), name="x"), op.tensor((6, 4), name="w")
    y = dist.shard_map(lambda x, w: dist.all_reduce(x @ w, "tp"), mesh, (TILES, OVER_TP), ROWS)(x, w)
    compiled = graph.compile({"y": y})
    assert [(c.kind, c.axes, c.cause, c.bytes) for c in compiled.collectives] == [("all_reduce", ("tp",), "shard_map", 64)]
    assert "test_shard_map.py" in str(compiled.collectives[0].line)
    assert compiled.layouts()["input x"] == "split [dp, tp]"
    compiled.save(tmp_path / "y.tsr")
    again = graph.compile(graph.load(tmp_path / "y.tsr"))
    data = [RNG.normal(size=s).astype(np.float32) for s in ((8, 6), (6, 4))]
    np.testing.assert_array_equal(again.run(data)[0], compiled.run(data)[0])
    with pytest.raises(UnsupportedError, match="max_collective_bytes is 63"):
        graph.compile({"y": y}, max_collective_bytes=63)


def mapped(body, given=TILES, out=TILES, shape=(7, 6)):
    return dist.shard_map(body, Mesh(["dp", "tp"], 6, (2, 3)), given, out)(op.tensor(shape, name="x"))


LEAKED = []


@pytest.mark.parametrize("run, error, words", [
    (lambda: dist.all_reduce(op.tensor((2,)), "dp"), ArgumentError, "dist.all_reduce: only the body of dist.shard_map"),
    (lambda: dist.axis_index("dp"), ArgumentError, "dist.axis_index: only the body"),
    (lambda: mapped(lambda x: dist.all_reduce(x, "pp")), NameMissingError, "no axis 'pp'; its axes are dp, tp"),
    (lambda: mapped(lambda x: dist.all_reduce(x, ())), ArgumentError, r"axes are \(\); name one mesh axis"),
    (lambda: mapped(lambda x: dist.all_reduce(x, ["tp", "tp"])), ArgumentError, "each once"),
    (lambda: mapped(lambda x: x.sum(), out=WHOLE), ArgumentError,
     "the result differs between the devices along dp and tp.*does not name them.*dist.all_reduce"),
    (lambda: mapped(lambda x: dist.all_reduce(x.sum(), "tp"), out=WHOLE), ArgumentError, "along dp, .*does not name it"),
    (lambda: mapped(lambda x: dist.axis_index("tp"), out=WHOLE), ArgumentError, "along tp"),
    (lambda: mapped(lambda x: dist.all_reduce(x, "dp")), ShapeError,
     "dimension 0 of the operand.*differs between the devices along dp; give all of them the same size"),
    (lambda: mapped(lambda x: dist.all_gather(x, "dp", dim=1)), ShapeError, "dist.all_gather: dimension 0"),
    (lambda: mapped(lambda x: dist.all_gather(x, "tp", dim=2)), ArgumentError, "all_gather"),
    (lambda: mapped(lambda x: dist.all_to_all(x, "tp", 1, 1)), ArgumentError, "both 1; what is cut"),
    (lambda: mapped(lambda x: x[:1]), ShapeError, "dimension 0 of the result .* 2 in all, but not in blocks of 1"),
    (lambda: mapped(lambda x: op.concat([x, x], 0)), ShapeError, "dimension 0 of the result has .* not in blocks of 7"),
    (lambda: mapped(lambda x: dist.all_gather(x, "tp", 1), out=WHOLE), ArgumentError, "differs between the devices along dp"),
    (lambda: mapped(lambda x: (x, x)), ArgumentError, "returns a tuple, out_specs is one ShardSpec"),
    (lambda: mapped(lambda x: x, out=(TILES, TILES)), ArgumentError, "2 entries, the body returns one tensor"),
    (lambda: mapped(lambda x: (x,), out=(TILES, TILES)), ArgumentError, "2 entries, the body returns 1 results"),
    (lambda: mapped(lambda x: {"a": x}, out={"b": TILES}), ArgumentError, r"for \['b'\], the body returns \['a'\]"),
    (lambda: mapped(lambda x: x, given=(TILES, TILES)), ArgumentError, "1 arguments are given, in_specs has 2"),
    (lambda: mapped(lambda x: x, given="dp"), ArgumentError, "in_specs must be dist.ShardSpec"),
    (lambda: mapped(lambda x: x, given=S((2,), ("dp",))), ArgumentError, "no dimension 2"),
    (lambda: mapped(lambda x: x, given=S((0,), ("pp",))), NameMissingError, "no axis 'pp'"),
    (lambda: mapped(lambda x: mapped(lambda y: y)), ArgumentError, "in the body of another one"),
    (lambda: mapped(lambda x: dist.replicate(x, Mesh(["dp", "tp"], 6, (2, 3)))), ArgumentError,
     r"dist.constrain: in the body(.|\n)*test_shard_map.py"),
    (lambda: dist.shard_map(3, Mesh(["dp"], 2), WHOLE, WHOLE), ArgumentError, "must be a function, not int"),
    (lambda: dist.shard_map(abs, 2, WHOLE, WHOLE), ArgumentError, "must be a dist.Mesh, not int"),
    (lambda: (mapped(lambda x: [LEAKED.append(x), x + 1][1]), graph.compile(LEAKED.pop() * 2)), ArgumentError,
     r"used outside of it at (.|\n)*test_shard_map.py(.|\n)*return it"),
])
def test_errors(run, error, words):
    with pytest.raises(error, match=words):
        run()


def test_state_is_not_changed_inside():
    mesh = Mesh(["dp"], 2)
    count = op.parameter((2,), name="count")

    @graph.training_step
    def step(x):
        def body(x):
            graph.update(count, x)
            return x

        return dist.shard_map(body, mesh, S((0,), ("dp",)), S((0,), ("dp",)))(x)

    with pytest.raises(ArgumentError, match="used outside of it"):
        step(np.ones(4, np.float32))
