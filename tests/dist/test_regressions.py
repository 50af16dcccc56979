"""The classes of silent errors that sharding systems are known for, each against NumPy, on real devices."""

from __future__ import annotations

import numpy as np
import pytest
from tessera import dist, graph, op, optim
from tessera.dist import Mesh, ShardSpec
from tessera.errors import TesseraError

RNG = np.random.default_rng(11)


def rows(mesh: Mesh, *axes: str) -> ShardSpec:
    return ShardSpec((0,), (axes if len(axes) > 1 else axes[0],))


@pytest.mark.parametrize("shape", [(5, 3), (7, 2), (1, 4), (3, 4, 2), (0, 3)])
def test_uneven_gather_of_flattened_dimensions(shape):
    mesh = Mesh(["dp"], 4)
    data = RNG.normal(size=shape).astype(np.float32)
    x = dist.constrain(op.tensor(shape, name="x"), rows(mesh, "dp"), mesh)
    flat = op.reshape(x, (-1,)) if 0 not in shape else op.flatten(x)
    program = graph.compile({
        "flat": dist.replicate(flat, mesh),
        "back": op.reshape(flat * 2, shape),
        "twice": op.reshape(op.reshape(flat, (*shape[:-1], shape[-1])), (shape[0], int(np.prod(shape[1:])))),
    })
    got = program(x=data)
    np.testing.assert_array_equal(got["flat"], data.ravel())
    np.testing.assert_array_equal(got["back"], data * 2)
    np.testing.assert_array_equal(got["twice"], data.reshape(shape[0], int(np.prod(shape[1:]))))


def test_views_across_a_sharded_dimension():
    mesh = Mesh(["dp", "tp"], 6, (2, 3))
    data = RNG.normal(size=(7, 5)).astype(np.float32)
    x = dist.constrain(op.tensor((7, 5), name="x"), ShardSpec((0, 1), ("tp", "dp")), mesh)
    views = {
        "slice": x[1:6, 2:], "step": x[::2], "flip": op.flip(x, 0), "row": x[3], "transposed": x.T,
        "padded": op.pad(x, ((2, 1), (0, 0))), "joined": op.concat([x, x[2:4]], 0), "merged": op.reshape(x, (35,)),
        "unlike": op.reshape(x, (5, 7)), "rolled": op.concat([x[2:], x[:2]], 0), "wide": op.broadcast_to(x, (2, 7, 5)),
    }
    expected = {
        "slice": data[1:6, 2:], "step": data[::2], "flip": data[::-1], "row": data[3], "transposed": data.T,
        "padded": np.pad(data, ((2, 1), (0, 0))), "joined": np.concatenate([data, data[2:4]]), "merged": data.ravel(),
        "unlike": data.reshape(5, 7), "rolled": np.roll(data, -2, 0), "wide": np.broadcast_to(data, (2, 7, 5)),
    }
    got = graph.compile(views)(x=data)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_partial_plus_scalar_is_added_once():
    mesh = Mesh(["tp"], 4)
    a, b = RNG.normal(size=(6, 10)).astype(np.float32), RNG.normal(size=(10, 5)).astype(np.float32)
    x = dist.constrain(op.tensor((6, 10), name="x"), ShardSpec((1,), ("tp",)), mesh)
    w = dist.constrain(op.tensor((10, 5), name="w"), ShardSpec((0,), ("tp",)), mesh)
    y = x @ w
    program = graph.compile({
        "scalar": y + 1.0, "bias": y + op.ones((5,)), "twice": y + y, "negative": 3.0 - y, "scaled": y * 2.0 + 0.5,
        "relu": op.relu(y), "square": y * y, "both": (y + 1.0) * (y - y.sum()), "zero": y + op.zeros((6, 5)),
        "maximum": op.maximum(y, 0.25), "cast": op.cast(op.cast(y, "f64") + 1, "f32"), "quotient": 1.0 / (y * y + 1.0),
    })
    m = a.astype(np.float64) @ b
    expected = {
        "scalar": m + 1, "bias": m + 1, "twice": 2 * m, "negative": 3 - m, "scaled": 2 * m + 0.5, "relu": np.maximum(m, 0),
        "square": m * m, "both": (m + 1) * (m - m.sum()), "zero": m, "maximum": np.maximum(m, 0.25), "cast": m + 1,
        "quotient": 1 / (m * m + 1),
    }
    got = program(x=a, w=b)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=2e-5, err_msg=name)


def test_no_number_of_one_mesh_is_used_on_another():
    """Counts in means, sizes and blocks belong to the program of their mesh; one function serves several meshes."""

    @graph.training_step
    def step(x, mesh):
        z = dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        return {"mean": z.mean(), "index": op.iota((x.shape[0],), 0, "i64") + op.cast(z.sum(1) * 0, "i64"),
                "std": op.std(z, 0)}

    data = RNG.normal(size=(10, 3)).astype(np.float32)
    for count in (2, 4, 1, 3, 2):
        got = step(data, Mesh(["dp"], count))
        np.testing.assert_allclose(got["mean"], data.mean(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["std"], data.std(0), rtol=1e-5)
        np.testing.assert_array_equal(got["index"], np.arange(10))
    assert step.compilations == 4


def test_clipping_counts_every_shard_once():
    """The global norm is that of whole gradients, whether shards are split, replicated or of both kinds."""
    data = RNG.normal(size=(9, 6)).astype(np.float32)
    norms = []
    for mesh in (None, Mesh(["dp", "tp"], 4, (2, 2)), Mesh(["dp", "tp"], 6, (3, 2))):
        def make(name, shape, layout, mesh=mesh):
            if mesh is None:
                return op.parameter(shape, name=name, init="xavier_normal" if len(shape) > 1 else 0.5)
            return dist.tensor(shape, layout=layout, mesh=mesh, name=name,
                               init="xavier_normal" if len(shape) > 1 else 0.5)

        w = make("clip.w", (6, 5), ShardSpec((1,), ("tp",)))
        v = make("clip.v", (5, 3), ShardSpec((0, 1), ("dp", "tp")))
        b = make("clip.b", (3,), ShardSpec())

        def step(x, w=w, v=v, b=b, mesh=mesh):
            x = x if mesh is None else dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
            loss = (op.tanh(x @ w) @ v + b).sum() ** 2
            clipped = optim.clip_by_global_norm(graph.backward(loss), 1.0)
            total = op.zeros(())
            for g in clipped.values():
                total = total + (g * g).sum()
            return {"norm": op.sqrt(total), **{n: g for n, g in clipped.items()}}

        norms.append(graph.compile(step, data)(data))
    assert np.asarray(norms[0]["norm"]) == pytest.approx(1.0, rel=1e-4)
    for other in norms[1:]:
        for name, value in norms[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_random_numbers_do_not_depend_on_the_mesh():
    found = []
    for count in (1, 2, 4, 8):
        mesh = Mesh(["dp"], count)
        x = dist.constrain(op.tensor((11, 6), name="x"), ShardSpec((0,), ("dp",)), mesh)
        key = op.random.key(5)
        y = op.random.dropout(x, 0.5, key=key) if count == 1 else op.build("dropout", x, key, **found[0][1])
        found.append((graph.compile({"y": y})(x=np.ones((11, 6), np.float32))["y"], y.node.attrs))
    for value, _ in found[1:]:
        np.testing.assert_array_equal(value, found[0][0])
    assert 10 < np.count_nonzero(np.asarray(found[0][0])) < 56


def test_vocabulary_parallel_embedding_and_cross_entropy():
    mesh = Mesh(["dp", "tp"], 6, (2, 3))
    table = RNG.normal(size=(17, 8)).astype(np.float32)
    tokens = RNG.integers(0, 17, (5, 4))
    layout = ShardSpec((0,), ("tp",))
    w = dist.tensor((17, 8), layout=layout, mesh=mesh, name="vocabulary", init=table)

    def loss(tokens, labels):
        hidden = op.take(w, dist.constrain(tokens, ShardSpec((0,), ("dp",)), mesh), 0)
        total = op.cross_entropy(op.reshape(hidden @ w.T, (20, 17)), op.reshape(labels, (20,)))
        return {"loss": total, "grad": graph.backward(total, w)}

    def plain(tokens, labels):
        p = op.parameter((17, 8), name="plain", init=table)
        total = op.cross_entropy(op.reshape(op.take(p, tokens, 0) @ p.T, (20, 17)), op.reshape(labels, (20,)))
        return {"loss": total, "grad": graph.backward(total, p)}

    labels = RNG.integers(0, 17, (5, 4))
    got, want = graph.compile(loss, tokens, labels)(tokens, labels), graph.compile(plain, tokens, labels)(tokens, labels)
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-5)
    np.testing.assert_allclose(got["grad"], want["grad"], rtol=1e-4, atol=1e-6)


def test_what_is_added_to_is_counted_once():
    """Indices split over devices that add to something that is not zero, also when it was partial before."""
    mesh = Mesh(["dp"], 3)
    data, index = RNG.normal(size=(6, 4)).astype(np.float32), np.array([0, 3, 3, 1, 0, 2, 3])
    updates = RNG.normal(size=(7, 4)).astype(np.float32)
    x = dist.constrain(op.tensor((6, 4), name="x"), rows(mesh, "dp"), mesh)
    places = dist.constrain(op.tensor((7,), "i64", name="index"), rows(mesh, "dp"), mesh)
    more = dist.constrain(op.tensor((7, 4), name="updates"), rows(mesh, "dp"), mesh)
    gram = x.T @ x  # partial over dp
    top = op.max(x, 0, keepdims=True) + op.zeros((4, 4))
    got = graph.compile({
        "sum": op.index_add(gram, places, more, 0), "max": op.index_add(top, places, more, 0),
        "zero": op.index_add(op.zeros((4, 4)), places, more, 0),
    })(x=data, index=index, updates=updates)
    added = np.zeros((4, 4), np.float32)
    np.add.at(added, index, updates)
    np.testing.assert_allclose(got["zero"], added, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["sum"], data.T @ data + added, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["max"], data.max(0) + added, rtol=1e-5, atol=1e-6)


def test_a_mesh_of_the_wrong_size_is_an_error_not_a_number():
    with pytest.raises(TesseraError):
        dist.tensor((4, 4), layout=ShardSpec((0,), ("dp",)), mesh=Mesh(["tp"], 2))


def test_a_scalar_parameter_on_a_mesh():
    mesh = Mesh(["dp"], 2)
    scale = dist.tensor((), layout=ShardSpec(), mesh=mesh, name="scale", init=3.0)
    x = dist.constrain(op.tensor((3,), name="x"), rows(mesh, "dp"), mesh)
    program = graph.compile({"y": x * scale})
    np.testing.assert_array_equal(program(x=np.ones(3, np.float32))["y"], np.full(3, 3, np.float32))
    op.parameter_of(scale).value = 5
    np.testing.assert_array_equal(program(x=np.ones(3, np.float32))["y"], np.full(3, 5, np.float32))


def test_zeros_and_subnormals_of_bf16_are_combined_as_they_are():
    """Zeros came back negative and subnormals as huge numbers from exchanges of bf16."""
    values = np.array([0, 1, 0x80, 0x8001, 0x7F, 0x8000] * 2, np.uint16).view(np.dtype(op.tensor((1,), "bf16").dtype.numpy))
    x = dist.constrain(op.tensor((12,), "bf16", name="x"), ShardSpec((0,), ("dp",)), Mesh(["dp"], 2))
    parts = op.reshape(x, (2, 6))
    found = graph.compile({"max": op.max(parts, axis=0), "sum": op.sum(parts[:, :2], axis=0)})(x=values)
    np.testing.assert_array_equal(np.asarray(found["max"]).view(np.uint16), values[:6].view(np.uint16))
    expected = (values[:2].astype(np.float32) * 2).astype(values.dtype)
    np.testing.assert_array_equal(np.asarray(found["sum"]).view(np.uint16), expected.view(np.uint16))
