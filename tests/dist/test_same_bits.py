"""deterministic="mesh": the same bits on every mesh, in every fusion, for every number of rows beside."""

from __future__ import annotations

import numpy as np
import pytest
import tessera
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.dist.blocks import in_blocks
from tessera.errors import ArgumentError, UnsupportedError
from tessera.ir.graph import Graph
from tessera.op.reference import evaluate
from tessera.transform.pipeline import to_primitives

RNG = np.random.default_rng(3)
SAME = graph.Schedule(deterministic="mesh")
S = ShardSpec
ROWS, COLUMNS = S((0,), ("dp",)), S((1,), ("tp",))
ONE, TWO, FOUR, SQUARE, EIGHT = (1, 1), (2, 1), (4, 1), (2, 2), (8, 1)
MESHES = (ONE, TWO, FOUR, SQUARE, EIGHT, (3, 1), (1, 8), (2, 3))


def mesh_of(shape):
    return Mesh(["dp", "tp"], shape[0] * shape[1], shape)


def place(mesh, layouts):
    """Makes parameters that lie as ``layouts`` say by name."""

    def make(name, shape, init="xavier_normal", dtype="f32"):
        return dist.tensor(shape, dtype, layout=layouts.get(name, S()), mesh=mesh, name=name, init=init)

    return make


MLP = {
    "data": {},
    "fully sharded": {"w1": ROWS, "b": ROWS, "w2": ROWS, "scale": ROWS},
    "both": {"w1": S((0, 1), ("dp", "tp")), "b": S((0,), ("tp",)), "w2": S((0, 1), ("tp", "dp"))},
}
X = RNG.normal(size=(32, 24)).astype(np.float32)
LABELS = RNG.integers(0, 16, 32)


def mlp(mesh, layouts):
    """Dropout, a norm over a split dimension, clipping by global norm, AdamW."""
    make = place(mesh, layouts)
    w1, b, w2 = make("w1", (24, 40)), make("b", (40,), 0.1), make("w2", (40, 16))
    scale = make("scale", (40,), 1.0)
    adam = optim.AdamW(1e-2)

    def step(x, labels):
        x = dist.constrain(x, ROWS, mesh)
        h = op.random.dropout(op.gelu(x @ w1 + b), 0.3)
        h = h * op.rsqrt((h * h).mean(1, keepdims=True) + 1e-5) * scale
        loss = op.cross_entropy(h @ w2, labels)
        adam.apply(optim.clip_by_global_norm(graph.backward(loss), 0.5))
        return loss

    return step, (w1, b, w2, scale), (X, LABELS)


TRANSFORMER = {
    "qkv": COLUMNS, "out": S((0,), ("tp",)), "up": S((0, 1), ("dp", "tp")), "down": S((0,), ("tp",)), "table": ROWS,
}
TOKENS = RNG.integers(0, 20, (8, 6))


def transformer(mesh, layouts):
    """An embedding, causal attention, layer norms, a bf16 product; 20 words and 6 places do not divide."""
    make = place(mesh, layouts)
    table = make("table", (20, 16), "normal")
    qkv, out = make("qkv", (16, 48)), make("out", (16, 16))
    up, down = make("up", (16, 32), dtype="bf16"), make("down", (32, 16))
    sgd = optim.SGD(0.1, momentum=0.9)

    def step(tokens):
        tokens = dist.constrain(tokens, ROWS, mesh)
        x = op.take(table, tokens, 0)
        q, k, v = op.split(op.transpose(op.reshape(op.layer_norm(x) @ qkv, [8, 6, 6, 8]), [0, 2, 1, 3]), 3, 1)
        y = op.scaled_dot_product_attention(q, k, v, causal=True)
        x = x + op.reshape(op.transpose(y, [0, 2, 1, 3]), [8, 6, 16]) @ out
        x = x + op.cast(op.gelu(op.cast(x, "bf16") @ up), "f32") @ down
        loss = op.cross_entropy(x[:, :-1] @ table.T, tokens[:, 1:])
        sgd.apply(graph.backward(loss))
        return loss

    return step, (table, qkv, out, up, down), (TOKENS,)


def bits(model, shape, layouts, target):
    """Losses and parameters of a run, as bytes, and the program."""
    tessera.manual_seed(7)
    step, parameters, data = model(mesh_of(shape), layouts)
    compiled = graph.compile(step, *data, schedule=SAME, target=target)
    losses = [np.asarray(compiled(*data)) for _ in range(4)]
    assert losses[-1] < losses[0]
    return [x.tobytes() for x in (*losses, *(op.parameter_of(p).value for p in parameters))], compiled


@pytest.mark.parametrize("model, layouts, target", [
    pytest.param(mlp, MLP["fully sharded"], "cpu", id="fully sharded"),
    pytest.param(mlp, MLP["both"], "cpu", id="both"),
    pytest.param(mlp, MLP["both"], "portable", id="portable"),
    pytest.param(transformer, TRANSFORMER, "cpu", id="transformer"),
])
def test_training_is_the_same_on_every_mesh(model, layouts, target):
    want, _ = bits(model, ONE, layouts, target)
    for shape in MESHES[1:]:
        got, compiled = bits(model, shape, layouts, target)
        assert got == want, shape
        sums = [c for c in compiled.collectives if c.kind in ("all_reduce", "reduce_scatter") and c.tensor[0] != "i"]
        assert not sums, "devices hold parts of a sum"


def test_layouts_do_not_matter_either():
    assert bits(mlp, FOUR, MLP["data"], "cpu")[0] == bits(mlp, SQUARE, MLP["both"], "cpu")[0]


PIECES = {
    "product": lambda x, w: x @ w, "gradient": lambda x, w: op.gelu(x @ w) @ w.T, "softmax": lambda x, w: op.softmax(x, 1),
    "norm": lambda x, w: op.layer_norm(x), "functions": lambda x, w: (op.erf(x) * op.tanh(x) - x * 1.3).sum(1),
    "more": lambda x, w: (op.exp(-x * x) + op.sin(x) * op.log(op.abs(x) + 1)).prod(1), "vector": lambda x, w: x @ w[:, :1],
    "variance": lambda x, w: op.sqrt(x.var(1)), "extremum": lambda x, w: x - x.max(1, keepdims=True),
}


@pytest.mark.parametrize("name", PIECES)
def test_rows_are_the_same_bits_whatever_is_beside_them(name):
    """Number of rows, constant or symbolic, and fusion decide on other kernels: few rows, tails, scalars, vectors."""
    body = PIECES[name]
    w = RNG.normal(size=(1200, 9)).astype(np.float32)
    x = RNG.normal(size=(40, 1200)).astype(np.float32)
    want = np.asarray(graph.compile({"y": body(op.constant(x), op.constant(w))}, schedule=SAME)()["y"])
    batch = op.tensor((op.dim("B", min=1, max=64), 1200), name="x")
    symbolic = graph.compile({"y": body(batch, op.constant(w))}, schedule=SAME)
    plain = graph.Schedule(deterministic="mesh", fusion=False)
    for rows in (1, 2, 5, 13, 31):
        example = op.tensor((rows, 1200), name="x")
        found = graph.compile({"y": body(example, op.constant(w))}, schedule=plain if rows == 5 else SAME)
        for program in (found, symbolic):
            assert np.asarray(program(x=x[:rows])["y"]).tobytes() == want[:rows].tobytes(), rows


@pytest.mark.parametrize("shape, axes, keepdims", [
    ((16, 8), (0,), False), ((16, 8), (1,), True), ((16, 8), (0, 1), False), ((8, 3, 24), (0, 2), True), ((5, 8), (0,), False),
    ((5, 8), (0, 1), True), ((8,), (0,), False), ((0, 8), (0, 1), False), ((2, 16, 0), (1,), False), ((4, 8, 8, 3), (1, 2, 3), False),
])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "i32"])
def test_sums_in_blocks_are_sums(shape, axes, keepdims, dtype):
    x = op.tensor(shape, dtype, name="x")
    data = RNG.integers(-4, 5, shape).astype(x.dtype.numpy)
    before = to_primitives(Graph({"y": x.sum(axes, keepdims=keepdims)}, inputs=[x]))
    after = in_blocks(before)
    assert [v.type for v in after.outputs.values()] == [v.type for v in before.outputs.values()]
    np.testing.assert_array_equal(evaluate(after, {"x": data})["y"], evaluate(before, {"x": data})["y"])


@pytest.mark.parametrize("a, b", [((4, 16), (16, 3)), ((2, 1, 4, 8), (5, 8, 3)), ((4, 7), (7, 3)), ((4, 0), (0, 3)), ((0, 8), (8, 3))])
def test_products_in_blocks_are_products(a, b):
    x, w = op.tensor(a, name="x"), op.tensor(b, name="w")
    feeds = {"x": RNG.integers(-4, 5, a).astype(np.float32), "w": RNG.integers(-4, 5, b).astype(np.float32)}
    after = in_blocks(to_primitives(Graph({"y": x @ w}, inputs=[x, w])))
    np.testing.assert_array_equal(evaluate(after, feeds)["y"], feeds["x"] @ feeds["w"])


def test_what_is_refused():
    mesh = mesh_of(TWO)
    x = op.tensor((8, 4), name="x")
    y = dist.shard_map(lambda x: dist.all_reduce(x.sum(0), "dp"), mesh, ROWS, S())(x)
    with pytest.raises(UnsupportedError, match=r"'mesh': the body of dist.shard_map is written for(.|\n)*test_same_bits.py"):
        graph.compile(y, schedule=SAME)
    with pytest.raises(UnsupportedError, match="is for the targets 'cpu' and 'portable', not 'ptx'; use True"):
        graph.compile(x + 1, schedule=SAME, target="ptx")
    with pytest.raises(ArgumentError, match="deterministic = 'always': use True, False or 'mesh'"):
        graph.Schedule(deterministic="always")


def test_saved_and_loaded(tmp_path):
    w = dist.tensor((16, 8), layout=ROWS, mesh=mesh_of(FOUR), name="w", init="xavier_normal")
    compiled = graph.compile({"y": w.T @ w}, schedule=SAME)
    compiled.save(tmp_path / "w.tsr")
    again = graph.compile(graph.load(tmp_path / "w.tsr"), schedule=SAME)
    assert np.asarray(again.run([])[0]).tobytes() == np.asarray(compiled()["y"]).tobytes()


def test_a_symbolic_batch_over_devices():
    weights = RNG.normal(size=(24, 8)).astype(np.float32)
    data = [RNG.normal(size=(rows, 24)).astype(np.float32) for rows in (1, 7, 16, 64)]
    want: list[dict[str, bytes]] = []
    for devices in (1, 2, 3, 8):
        mesh = Mesh(["dp"], devices)
        x = dist.constrain(op.tensor((op.dim("B", min=1, max=64), 24), name="x"), ROWS, mesh)
        w = dist.tensor((24, 8), layout=ROWS, mesh=mesh, name="w", init=weights)
        y = x @ w
        loss = (y * y).mean()
        outputs = {"loss": loss, "gradient": graph.backward(loss, w), "softmax": op.softmax(y, 0)}
        program = graph.compile(outputs, schedule=SAME)
        got = [{k: np.asarray(v).tobytes() for k, v in program(x=d).items()} for d in data]
        want = want or got
        assert got == want, devices
