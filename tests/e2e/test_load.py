"""Saving and loading: the graph comes back whole; damaged files are refused."""

import warnings

import numpy as np
import pytest
import safetensors
import tessera
from tessera import graph, op, optim
from tessera._core import Program, Runtime
from tessera.artifact import layout, reader
from tessera.errors import FileAccessError, FormatError, NameMissingError, ShapeError, TesseraError, VersionError
from tessera.interop.array import as_array

rng = np.random.default_rng(11)


@pytest.fixture(scope="module")
def model():
    X = op.tensor((op.dim("B", min=1, max=64), 6), name="x")
    Y = op.mlp(in_dim=6, hidden=[8], out_dim=3)(X)
    table = op.constant(rng.standard_normal((3, 3)).astype(np.float32))
    return Y @ table


def x(rows=5):
    return rng.standard_normal((rows, 6)).astype(np.float32)


@pytest.mark.parametrize("target", ["cpu", "portable", ["cpu", "portable"]], ids=str)
def test_load_runs_the_same_numbers(model, tmp_path, target):
    compiled = graph.compile({"y": model}, target=target)
    compiled.save(tmp_path / "m.tsr", {"author": "Ada"})
    loaded = graph.load(tmp_path / "m.tsr")
    given = x()
    assert loaded(given).numpy().tobytes() == compiled(given)["y"].numpy().tobytes()
    assert loaded(x=given).numpy().tobytes() == compiled(given)["y"].numpy().tobytes()
    assert loaded.metadata == {"author": "Ada"}
    assert list(loaded.inputs) == ["x"] and list(loaded.outputs) == ["y"]
    assert "x: f32[B, 6]" in repr(loaded)
    assert str(loaded.graph) == compiled.text


def test_loaded_graph_is_differentiable_compilable_and_saved_again(model, tmp_path):
    graph.compile({"y": model}).save(tmp_path / "m.tsr", {"k": "v"})
    loaded = graph.load(tmp_path / "m.tsr")
    given = x()
    loss = op.mean(loaded.outputs["y"] ** 2)
    grads = graph.backward(loss)
    original = graph.backward(op.mean(model**2))
    assert list(grads) == list(original) == [n for n in loaded.parameters]
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient(given).numpy(), original[name](given).numpy(), rtol=1e-5, atol=1e-6)
    again = graph.compile(loaded)
    np.testing.assert_array_equal(again(given).numpy(), loaded(given).numpy())
    loaded.save(tmp_path / "again.tsr")
    third = graph.load(tmp_path / "again.tsr")
    np.testing.assert_array_equal(third(given).numpy(), loaded(given).numpy())
    assert third.metadata == {"k": "v"}


def test_loaded_graph_composes_with_others(model, tmp_path):
    graph.compile({"y": model}).save(tmp_path / "m.tsr")
    loaded = graph.load(tmp_path / "m.tsr")
    z = op.tensor((7, 6), name="z")
    given = x(7)
    np.testing.assert_allclose(
        (loaded(z * 2.0) + 1.0)(given).numpy(), model(2 * given).numpy() + 1, rtol=1e-4, atol=1e-5
    )


def test_state_that_no_result_depends_on(tmp_path):
    used, unused = op.parameter((2, 2), name="used", init="ones"), op.parameter((2, 2), name="unused", init="ones")
    given = np.ones((2, 2), np.float32)
    for target in ("cpu", "portable"):
        y = op.concat([used, unused], 0)[:2] + op.tensor((2, 2), name="x")
        compiled = graph.compile(y, target=target)
        assert compiled(given).tolist() == [[2, 2], [2, 2]]
        compiled.save(tmp_path / "m.tsr")
        loaded = graph.load(tmp_path / "m.tsr")
        assert loaded(given).tolist() == [[2, 2], [2, 2]] and set(loaded.parameters) == {"used", "unused"}


def test_weights_belong_to_the_loaded_graph(model, tmp_path):
    graph.compile({"y": model}).save(tmp_path / "m.tsr")
    loaded = graph.load(tmp_path / "m.tsr")
    given = x()
    before = model(given).numpy()
    for parameter in loaded.parameters.values():
        parameter.value = np.zeros(parameter.shape, np.float32)
    assert not loaded(given).numpy().any()
    np.testing.assert_array_equal(model(given).numpy(), before)


def test_without_native_code(model, tmp_path):
    graph.compile({"y": model}).save(tmp_path / "m.tsr")
    loaded = graph.load(tmp_path / "m.tsr", allow_native_code=False)
    given = x()
    np.testing.assert_allclose(loaded(given).numpy(), model(given).numpy(), rtol=1e-5, atol=1e-6)


def test_safetensors_reads_the_weights(model, tmp_path):
    graph.compile({"y": model}).save(tmp_path / "m.tsr")
    with safetensors.safe_open(tmp_path / "m.tsr", framework="np") as file:
        names = [n for n in file.keys() if layout.is_weight(n)]  # noqa: SIM118
        for name, parameter in graph.load(tmp_path / "m.tsr").parameters.items():
            assert name in names
            np.testing.assert_array_equal(file.get_tensor(name), parameter.value)
        assert file.metadata()["tessera.format"] == "1"


def test_several_levels(model, tmp_path):
    compiled = graph.compile({"y": model}, level=["x86-64-v2", "x86-64-v3"])
    compiled.save(tmp_path / "m.tsr")
    found = reader.load(tmp_path / "m.tsr")
    assert set(found.plans()) == {("cpu", "x86-64-v2"), ("cpu", "x86-64-v3")}
    given = x()
    np.testing.assert_allclose(
        graph.load(tmp_path / "m.tsr")(given).numpy(), model(given).numpy(), rtol=1e-5, atol=1e-6
    )


def training_file(path):
    X = op.tensor((op.dim("B", min=1, max=64), 6), name="x")
    Y = op.mlp(in_dim=6, hidden=[8], out_dim=3)(X)
    optimizer = optim.Adam(0.01)

    @graph.training_step
    def step(batch):
        loss = op.cross_entropy(op.dropout(Y(batch["x"]), 0.2), batch["labels"])
        optimizer.apply(graph.backward(loss))
        return {"loss": loss}

    N = op.dim("N", min=1, max=64)
    compiled = graph.compile(step, {"x": op.tensor((N, 6)), "labels": op.tensor((N,), "i64")})
    compiled.save(path)
    return compiled


def test_training_goes_on_from_a_file(tmp_path):
    compiled = training_file(tmp_path / "t.tsr")
    batches = [{"x": x(8), "labels": rng.integers(0, 3, 8)} for _ in range(6)]
    state = {name: p.value for name, p in compiled.parameters.items()}
    for batch in batches:
        compiled(batch)
    expected = {name: p.value.tobytes() for name, p in compiled.parameters.items()}
    for name, p in compiled.parameters.items():
        p.value = state[name]

    loaded = graph.load(tmp_path / "t.tsr")
    for batch in batches[:3]:
        loaded(batch["x"], batch["labels"])
    loaded.save(tmp_path / "middle.tsr")
    resumed = graph.load(tmp_path / "middle.tsr")
    for batch in batches[3:]:
        resumed(**batch)
    assert {name: p.value.tobytes() for name, p in resumed.parameters.items()} == expected


def test_results_do_not_depend_on_the_number_of_threads(tmp_path):
    training_file(tmp_path / "t.tsr")
    batches = [(x(rows), rng.integers(0, 3, rows)) for rows in (64, 1, 17, 40)]
    found = []
    for threads in (1, 2, 5):
        program, runtime = Program.load_file(str(tmp_path / "t.tsr")), Runtime(threads)
        for given in batches:
            program.run(runtime, [as_array(a) for a in given])
        found.append([program.state_array(name).numpy().tobytes() for name, _, _ in program.state()])
    assert found[0] == found[1] == found[2]


def test_state_files(tmp_path):
    compiled = training_file(tmp_path / "t.tsr")
    compiled(batch := {"x": x(8), "labels": rng.integers(0, 3, 8)})
    compiled.save_state(tmp_path / "s.safetensors")
    expected = {name: p.value.tobytes() for name, p in compiled.parameters.items()}
    compiled(batch)
    assert {name: p.value.tobytes() for name, p in compiled.parameters.items()} != expected
    compiled.load_state(tmp_path / "s.safetensors")
    assert {name: p.value.tobytes() for name, p in compiled.parameters.items()} == expected
    other = graph.compile(op.tensor((2,), name="x") + op.parameter((2,), name="other.state", init="ones"))
    with pytest.raises(TesseraError, match="other.state"):
        other.load_state(tmp_path / "s.safetensors")


def test_state_is_listed(tmp_path):
    training_file(tmp_path / "t.tsr")
    state = reader.load(tmp_path / "t.tsr").metadata[layout.STATE]
    assert "tessera.rng" in state and ".m." in state and ".step" in state


# --- bad files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(model, tmp_path):
    graph.compile({"y": model}, target=["cpu", "portable"]).save(tmp_path / "m.tsr")
    return tmp_path / "m.tsr"


def both_loaders(path):
    """What the Python reader and the runtime's own one do with a file."""
    return (lambda: graph.load(path), lambda: Program.load_file(str(path)))


@pytest.mark.parametrize("keep", [0, 5, 8, 64, 1000, -1, -70])
def test_truncated(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    for load in both_loaders(file):
        with pytest.raises(FormatError):
            load()


def test_newer(file):
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"tessera.format":"1"', b'"tessera.format":"2"'))
    for load in both_loaders(file):
        with pytest.raises(VersionError, match="2"):
            load()


def test_corrupted(file):
    data = bytearray(file.read_bytes())
    names = reader.load(file)
    weight = names.weights()[0]
    data[names.entries[weight].start] ^= 0xFF
    file.write_bytes(data)
    for load in both_loaders(file):
        with pytest.raises(FormatError, match=weight):
            load()


def test_missing_file(tmp_path):
    for load in both_loaders(tmp_path / "no.tsr"):
        with pytest.raises(FileAccessError, match="no.tsr"):
            load()


def rewrite(path, change_metadata, drop=()):
    from tessera.artifact import writer

    found = reader.load(path)
    metadata = {k: v for k, v in found.metadata.items() if k != layout.HASHES}
    change_metadata(metadata)
    sections = [
        writer.section(n, found.tensor(n)) for n in found.entries if not n.startswith(layout.PAD) and n not in drop
    ]
    writer.save(path, metadata, sections)


def test_unknown_operator(file):
    rewrite(file, lambda m: m.update({layout.GRAPH: m[layout.GRAPH].replace("matmul(", "my.product(")}))
    with pytest.raises(TesseraError, match="my.product"):
        graph.load(file)


def test_missing_weight(file):
    name = reader.load(file).weights()[0]
    rewrite(file, lambda m: None, drop=(name,))
    with pytest.raises(TesseraError, match=name):
        graph.load(file)


def test_no_graph(file):
    rewrite(file, lambda m: m.pop(layout.GRAPH))
    with pytest.raises(FormatError, match="holds no graph"):
        graph.load(file)


def test_random_damage_never_crashes(file, tmp_path):
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    accepted = 0
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(0, min(len(damaged), 20000))] = random.integers(0, 256)
        path = tmp_path / f"d{number}.tsr"
        path.write_bytes(damaged)
        for load in both_loaders(path):
            try:
                load()
                accepted += 1
            except TesseraError:
                pass
        path.unlink()
    assert accepted < 150


def test_bad_inputs_of_a_loaded_graph(file):
    loaded = graph.load(file)
    with pytest.raises(NameMissingError, match="no input 'z'"):
        loaded(z=x())
    with pytest.raises(ShapeError, match="x"):
        loaded(x()[:, :5])
    with pytest.raises(TesseraError, match="B"):
        loaded(x(65))


def test_saving_does_not_warn(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph.compile(model).save(tmp_path / "m.tsr")
        tessera.load(tmp_path / "m.tsr")(x())


def test_save_errors(model, tmp_path):
    compiled = graph.compile(model)
    with pytest.raises(FileAccessError):
        compiled.save(tmp_path / "no" / "m.tsr")
    with pytest.raises(TesseraError, match="must be text"):
        compiled.save(tmp_path / "m.tsr", {"number": 3})
