"""Checkpoints: written on one mesh and read on another, by several processes, by writers that are killed; errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tessera
from safetensors.numpy import load_file
from tessera import dist, graph, op, optim
from tessera.artifact import writer
from tessera.dist import Mesh, ShardSpec
from tessera.dist.placement import shard_ranges
from tessera.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    FileAccessError,
    FormatError,
    NameMissingError,
    ShapeError,
    TesseraError,
    VersionError,
)
from tessera.op.parameter import Parameter

from tests.dist.test_processes import LAUNCHERS, launch, succeed

SHAPES = [(1,), (2,), (4,), (8,), (2, 2), (2, 4), (3,), (1, 3)]
DTYPES = ["f32", "f64", "bf16", "i64", "bool"]


class Job:
    """Processes that are threads here; each sees only what it is given."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=20)
        self._data = [b""] * size

    def run(self, function: Any) -> list[Any]:
        """``function(process)`` on every process; the results by rank."""
        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(function, [Process(self, rank) for rank in range(self.size)]))

    def gather(self, rank: int, data: bytes) -> list[bytes]:
        self._data[rank] = data
        self._barrier.wait()
        found = list(self._data)
        self._barrier.wait()
        return found


class Process:
    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.rank, self.size = job, rank, job.size

    def all_gather(self, data: bytes) -> list[bytes]:
        return self.job.gather(self.rank, data)


def random_values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).integers(-100, 100, shape)
    return made.astype(Parameter("any", (), dtype, trainable=False).dtype.numpy)


def make(name: str, shape: tuple[int, ...], dtype: str, place: tuple[Mesh, ShardSpec] | None) -> Parameter:
    if place is None:
        return Parameter(name, shape, dtype, trainable=False)
    mesh, spec = place
    return op.parameter_of(dist.tensor(shape, dtype, layout=spec, mesh=mesh, name=name, trainable=False))


@st.composite
def places(draw: st.DrawFn, rank: int, mesh: Mesh | None) -> tuple[Mesh, ShardSpec] | None:
    """A layout on the mesh; None without one, and sometimes with one."""
    if mesh is None or draw(st.booleans()) and draw(st.booleans()):
        return None
    axes = draw(st.permutations(mesh.axes))[: draw(st.integers(0, len(mesh.axes)))] if rank else []
    return mesh, ShardSpec(tuple(draw(st.integers(0, rank - 1)) for _ in axes), tuple(axes))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[tuple[tuple[int, ...], str]], list[Any], list[Any]]:
    tensors = draw(st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=3).map(tuple), st.sampled_from(DTYPES)), min_size=1, max_size=3,
    ))
    meshes = [
        None if shape is None else Mesh(["x", "y"][: len(shape)], shape=list(shape))
        for shape in (draw(st.sampled_from([None, *SHAPES])) for _ in range(2))
    ]
    found = [[draw(places(len(shape), mesh)) for shape, _ in tensors] for mesh in meshes]
    return tensors, found[0], found[1]


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(cases())
def test_any_mesh_reads_what_any_mesh_has_written(tmp_path_factory: pytest.TempPathFactory, case: Any) -> None:
    tensors, before, after = case
    folder = tmp_path_factory.mktemp("checkpoint")
    written = [make(f"t{i}", *t, p) for i, (t, p) in enumerate(zip(tensors, before, strict=True))]
    values = [random_values(*t, seed=i) for i, t in enumerate(tensors)]
    for parameter, value in zip(written, values, strict=True):
        parameter.value = value
    with graph.Checkpoint(folder) as checkpoint:
        checkpoint.save(written, 3)
    read = [make(f"t{i}", *t, p) for i, (t, p) in enumerate(zip(tensors, after, strict=True))]
    checkpoint = graph.Checkpoint(folder)
    assert checkpoint.restore(read) == 3
    for parameter, value in zip(read, values, strict=True):
        assert parameter.value.dtype == value.dtype
        np.testing.assert_array_equal(parameter.value, value)
    # Every element is read once, however many devices hold it.
    assert checkpoint.bytes_read == sum(v.nbytes for v in values)


@pytest.mark.parametrize("before, after", [((4,), (2,)), ((2, 2), (8,)), ((2,), (2, 2)), ((8,), (3,))])
def test_each_process_writes_its_share_and_reads_its_bytes(
    tmp_path: Path, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    spec = ShardSpec((0,), ("x",))
    shapes = {"split": (30, 7), "replicas": (9, 8), "plain": (11, 5)}

    def model(shape: tuple[int, ...]) -> tuple[Mesh, dict[str, Parameter]]:
        mesh = Mesh(["x", "y"][: len(shape)], shape=list(shape))
        where = {"split": (mesh, spec), "replicas": (mesh, ShardSpec()), "plain": None}
        return mesh, {name: make(name, s, "f32", where[name]) for name, s in shapes.items()}

    mesh, written = model(before)
    for i, parameter in enumerate(written.values()):
        parameter.value = random_values(parameter.shape, "f32", i)

    def write(process: Process) -> None:
        with graph.Checkpoint(tmp_path, processes=process) as checkpoint:
            checkpoint.save(written, 1)

    Job(mesh.size).run(write)
    sizes = [
        sum(v.nbytes for name, v in load_file(f).items() if not name.startswith("tessera.pad."))
        for f in _files(tmp_path)
    ]
    assert sum(sizes) == sum(p.value.nbytes for p in written.values())
    # No process writes more than the largest part above an even share; who has nothing to write has no file.
    assert all(sizes) and max(sizes) <= sum(sizes) / mesh.size + max(420, 288)

    mesh, read = model(after)

    def fetch(process: Process) -> int:
        checkpoint = graph.Checkpoint(tmp_path, processes=process)
        assert checkpoint.restore(read) == 1
        return checkpoint.bytes_read

    found = Job(mesh.size).run(fetch)
    rows = [
        stop - start for start, stop in
        (shard_ranges(spec.sharding((30, 7), mesh), (30, 7), rank)[0] for rank in range(mesh.size))
    ]
    assert found == [4 * (7 * n + 9 * 8 + 11 * 5) for n in rows]
    for name, parameter in read.items():
        np.testing.assert_array_equal(parameter.value, written[name].value)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def trained(shape: tuple[int, ...] | None) -> tuple[Any, Any]:
    """A compiled step with dropout and AdamW, on a mesh or on one device, and what runs it for step n."""
    tessera.manual_seed(4)
    mesh = None if shape is None else Mesh(["dp", "tp"], shape=list(shape))
    if mesh is None:
        w: Any = op.parameter((5, 7), name="w", init="xavier_normal")
    else:
        w = dist.tensor((5, 7), layout=ShardSpec((0, 1), ("dp", "tp")), mesh=mesh, name="w", init="xavier_normal")
    b = op.parameter((7,), name="b")
    adam = optim.AdamW(optim.cosine(1e-1, steps=9))
    adam.name = "adam"  # as in a process of its own
    adam.step.name = "adam.step"
    adam.step.leaf().node.attrs["name"] = "adam.step"

    @graph.training_step
    def step(x: Any, labels: Any) -> Any:
        x = x if mesh is None else dist.constrain(x, ShardSpec((0,), ("dp",)), mesh)
        loss = op.cross_entropy(op.dropout(x, 0.3) @ w + b, labels)
        adam.apply(graph.backward(loss))
        return loss

    compiled = graph.compile(step, op.tensor((6, 5)), op.tensor((6,), dtype="i64"))

    def run(n: int) -> float:
        data = np.random.default_rng(n)
        return compiled(data.random((6, 5), np.float32), data.integers(0, 7, 6)).item()

    return compiled, run


@pytest.mark.parametrize("before, after", [((2, 2), (2, 2)), (None, None), ((2, 2), (1, 4)), ((4, 1), None), (None, (1, 3))])
def test_a_resumed_run_goes_on(tmp_path: Path, before: Any, after: Any) -> None:
    compiled, run = trained(before)
    checkpoint = graph.Checkpoint(tmp_path / "new", keep=1)
    for n in range(3):
        run(n)
        checkpoint.save(compiled, n + 1)  # the next step runs while this one is written
    expected = [run(n) for n in range(3, 6)]
    last = {name: p.value for name, p in compiled.parameters.items()}
    checkpoint.wait()
    assert checkpoint.steps() == [3]

    compiled, run = trained(after)
    assert graph.Checkpoint(tmp_path / "new").restore(compiled) == 3
    losses = [run(n) for n in range(3, 6)]
    values = {name: p.value for name, p in compiled.parameters.items()}
    assert values.keys() == last.keys() and "tessera.rng" in values
    if before == after:
        assert losses == expected
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for name, value in values.items():
        if before == after:
            np.testing.assert_array_equal(value, last[name], err_msg=name)
        np.testing.assert_allclose(value, last[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("arguments", [("lines",), ("training", "1")])
def test_a_writer_may_be_killed_at_any_time(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    program = Path(__file__).parent / "killed_writers.py"
    command = [sys.executable, str(program), arguments[0], str(tmp_path), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("by", LAUNCHERS[:1])
def test_processes_go_on_from_a_checkpoint(by: str, tmp_path: Path) -> None:
    script, folder = str(Path(__file__).parent / "processes" / "checkpoint.py"), tmp_path / "checkpoints"

    def job(what: str, by: str, count: int) -> tuple[Any, list[Any]]:
        done = launch(by, count, script, what, str(folder), str(tmp_path))
        files = [tmp_path / f"{what}{rank}of{count}.json" for rank in range(count)]
        return done, [json.loads(f.read_text()) for f in files if f.exists()]

    # The job trains, then a process dies while it writes the next one: the other says so, the last complete one stands.
    done, trained = job("train", "tcp", 2)
    assert trained[0]["steps"] == [3] and trained[0]["error"].startswith("DeviceError"), trained
    assert done[1].returncode == -9
    done, resumed = job("resume", by, 2)
    succeed(done)
    for before, after in zip(trained, resumed, strict=True):
        assert after["losses"] == before["losses"][3:] and after["w"] == before["w"]
    state = 4 * 3 * 5 * 2 + 8 + 16  # same and b with their moments, the optimizer's step, the random state
    assert [r["bytes"] for r in resumed] == [state + 4 * 3 * 5 * rows for rows in (4, 3)]
    # On three processes, the last of which holds a single row.
    done, three = job("resume", "tcp", 3)
    succeed(done)
    assert [r["bytes"] for r in three] == [state + 4 * 3 * 5 * rows for rows in (3, 3, 1)]
    for result in three:
        np.testing.assert_allclose(result["w"], trained[0]["w"], rtol=1e-4, atol=1e-5)


# --- what is kept ---


def parameter(value: float = 0.0, name: str = "w", shape: tuple[int, ...] = (4, 3)) -> Parameter:
    return Parameter(name, shape, init=value)


def rows_over(devices: int, value: float) -> Parameter:
    mesh = Mesh(["x"], devices)
    return op.parameter_of(dist.tensor((4, 3), layout=ShardSpec((0,), ("x",)), mesh=mesh, name="w", init=value))


def test_the_last_ones_are_kept_in_the_order_of_saving(tmp_path: Path) -> None:
    w = parameter()
    checkpoint = graph.Checkpoint(tmp_path, keep=2)
    for step in (10, 20, 30):
        w.value = np.full(w.shape, step, np.float32)
        checkpoint.save(w, step)
    checkpoint.wait()
    assert checkpoint.steps() == [20, 30]
    # Training goes on from an older one: what was saved last is what restore reads, and a step may be saved again.
    assert checkpoint.restore(w, 20) == 20 and w.value[0, 0] == 20
    for value, step in ((7, 25), (8, 30), (9, 30)):
        w.value = np.full(w.shape, value, np.float32)
        checkpoint.save(w, step)
    checkpoint.wait()
    assert checkpoint.steps() == [25, 30]
    assert checkpoint.restore(w) == 30 and w.value[0, 0] == 9
    assert len(_files(tmp_path)) == 2


def test_what_others_have_put_there_stays(tmp_path: Path) -> None:
    with graph.Checkpoint(tmp_path, keep=1) as checkpoint:
        checkpoint.save(parameter(), 1)
    (tmp_path / "step-7").write_text("no folder")
    notes = [tmp_path / "notes.txt", tmp_path / "step-1" / "notes.txt", tmp_path / "step-x" / "manifest.json"]
    for note in notes:
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
    with graph.Checkpoint(tmp_path, keep=1) as checkpoint:
        checkpoint.save(parameter(), 2)
    assert all(note.read_text() == "mine" for note in notes) and checkpoint.steps() == [2]


def test_what_can_be_saved(tmp_path: Path) -> None:
    tessera.manual_seed(0)
    layer = op.linear(in_dim=3, out_dim=2, dtype="f32", name="layer")
    other = op.parameter((2,), name="other")
    adam = optim.AdamW(1e-2)

    @graph.training_step
    def step(x: Any) -> Any:
        loss = op.mean(layer(x) * other)
        adam.apply(graph.backward(loss))
        return loss

    with pytest.raises(ArgumentError, match=r"training step step.*before it has run.*graph.compile"):
        graph.Checkpoint(tmp_path).save(step, 0)
    step(np.ones((4, 3), np.float32))
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save([layer, {"more": (other,)}, adam], 1)
    assert checkpoint.restore(step) == 1  # the same parameters
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(step, 2)
    before = layer.parameters()[0].value
    layer.parameters()[0].reset()
    layer.parameters()[0].value = before + 1
    assert checkpoint.restore(layer, strict=False) == 2
    np.testing.assert_array_equal(layer.parameters()[0].value, before)


def test_the_file_of_one_device_is_read_by_load_state_and_by_safetensors(tmp_path: Path) -> None:
    compiled, run = trained(None)
    run(0)
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(compiled, 1)
    expected = {name: p.value for name, p in compiled.parameters.items()}
    run(1)
    (file,) = _files(tmp_path)
    found = load_file(file)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    compiled.load_state(file)
    for name, value in expected.items():
        np.testing.assert_array_equal(compiled.parameters[name].value, value)


def test_a_loaded_graph_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    compiled, run = trained(None)
    compiled.save(tmp_path / "step.tsr")
    run(0)
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(compiled, 1)
    expected = run(1)
    loaded = graph.load(tmp_path / "step.tsr")
    assert checkpoint.restore(loaded) == 1
    data = np.random.default_rng(1)
    got = loaded(data.random((6, 5), np.float32), data.integers(0, 7, 6))
    assert got.item() == expected


def test_saving_copies_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, go = parameter(1.0), threading.Event()
    save = writer.save
    monkeypatch.setattr(writer, "save", lambda *args: (go.wait(20), save(*args)))
    checkpoint = graph.Checkpoint(tmp_path)
    checkpoint.save(w, 1)
    w.value = np.full(w.shape, 2, np.float32)
    assert checkpoint.steps() == []
    go.set()
    checkpoint.wait()
    assert checkpoint.restore(w) == 1 and w.value[0, 0] == 1


# --- errors ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the checkpoint of step 5, in two shards."""
    w = rows_over(2, 1.0)
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save([w, parameter(2.0, "b", (3,))], 5)
    return tmp_path


def fails(folder: Path, error: type[Exception], text: str, state: Any = None, **options: Any) -> None:
    """Restoring raises the error, and nothing has changed."""
    state = [parameter(9.0), parameter(9.0, "b", (3,))] if state is None else state
    with pytest.raises(error, match=text):
        graph.Checkpoint(folder).restore(state, **options)
    assert all((p.value == 9).all() for p in state)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "step-5" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def pieces(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "step-5" / "manifest.json").read_text())["tensors"]


def test_no_checkpoint(tmp_path: Path, saved: Path) -> None:
    fails(tmp_path / "none", NameMissingError, r"none: there is no complete checkpoint; save one, or give another folder")
    fails(saved, NameMissingError, r"no complete checkpoint of step 4; complete are: 5", step=4)
    os.unlink(saved / "step-5" / "manifest.json")
    fails(saved, NameMissingError, r"there is no complete checkpoint \(1 unfinished, left by a writer that ended early\)")
    assert graph.Checkpoint(saved).steps() == []


def test_missing_file(saved: Path) -> None:
    os.unlink(_files(saved)[0])
    fails(saved, FileAccessError, r"shards-0\.\w+\.safetensors: the file is missing; .*restore an older checkpoint")


def test_truncated_file(saved: Path) -> None:
    file = _files(saved)[0]
    data = file.read_bytes()
    for size in (len(data) - 1, 100, 4, 0):
        file.write_bytes(data[:size])
        fails(saved, FormatError, r"shards-0.*(truncated|too few)")


def test_corrupted_file(saved: Path) -> None:
    file = _files(saved)[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # in the last piece, rows 2 and 3 of w
    file.write_bytes(data)
    fails(saved, FormatError, r"content of 'w\[2:4, 0:3\]' does not match its hash.*restore an older checkpoint")
    # Half of a piece cannot be compared with the hash of the piece, unless all of it is read.
    state = [rows_over(4, 9.0), parameter(9.0, "b", (3,))]

    def fetch(process: Process) -> str:
        try:
            graph.Checkpoint(saved, processes=process).restore(state, verify=True)
        except (FormatError, DeviceError) as error:
            return f"{type(error).__name__}: {error}"
        return "read"

    found = Job(4).run(fetch)
    assert [text.split(":")[0] for text in found] == ["DeviceError", "DeviceError", "FormatError", "FormatError"]
    assert "process 2 failed: FormatError" in found[0]
    assert all((p.value == 9).all() for p in state)


def test_missing_tensor(saved: Path) -> None:
    tensors = pieces(saved)
    tensors["w"]["pieces"][0].update(shape=[1, 3])
    tensors["w"]["pieces"].append({**tensors["w"]["pieces"][0], "offsets": [1, 0]})
    edit(saved, tensors=tensors)
    fails(saved, FormatError, r"shards-0.*no tensor 'w\[0:1, 0:3\]', but the manifest lists it; restore an older")


def test_a_tensor_that_is_not_what_the_manifest_says(saved: Path) -> None:
    file = _files(saved)[0]
    data = {"b": np.zeros(3, np.float32), "w[0:2, 0:3]": np.zeros((2, 3)), "w[2:4, 0:3]": np.zeros((2, 3), np.float32)}
    writer.save(file, {"tessera.format": "1"}, [writer.section(name, value) for name, value in data.items()])
    fails(saved, FormatError, r"tensor 'w\[0:2, 0:3\]' is f64\[2, 3\], the manifest says f32\[2, 3\]")
    data["w[0:2, 0:3]"] = np.zeros((3, 2), np.float32)
    writer.save(file, {"tessera.format": "1"}, [writer.section(name, value) for name, value in data.items()])
    fails(saved, FormatError, r"tensor 'w\[0:2, 0:3\]' is f32\[3, 2\], the manifest says f32\[2, 3\]")


def test_wrong_shape_and_dtype(saved: Path) -> None:
    b = parameter(9.0, "b", (3,))
    fails(saved, ShapeError, r"step-5: tensor 'w' has shape \(4, 3\), the parameter \(3, 4\)", [parameter(9.0, "w", (3, 4)), b])
    w = Parameter("w", (4, 3), "f64", init=9.0)
    fails(saved, DTypeError, r"step-5: tensor 'w' is f32, the parameter f64; build the model with the dtype", [w, b])


def test_other_names(saved: Path) -> None:
    fails(saved, NameMissingError, r"other names than the state: it has 'b' besides; strict=False", [parameter(9.0)])
    others = [parameter(9.0, "v"), parameter(9.0, "b", (3,))]
    fails(saved, NameMissingError, r"it lacks 'v'; it has 'w' besides; give the parameters the names", others)
    fails(saved, NameMissingError, r"it lacks 'v'", others, strict=False)


@pytest.mark.parametrize("change, error, text", [
    ({"version": 2}, VersionError, r"format version 2, this build of Tessera reads versions up to 1; install a newer"),
    ({"version": "1"}, FormatError, r"'version' is '1', expected a version number"),
    ({"kind": "other"}, FormatError, r"no manifest of a Tessera checkpoint"),
    ({"tensors": []}, FormatError, r"the manifest is malformed"),
    ({"step": -1}, FormatError, r"malformed \(ValueError: -1 is not a size\)"),
])
def test_manifests_that_are_wrong(saved: Path, change: dict[str, Any], error: type[Exception], text: str) -> None:
    edit(saved, **change)
    fails(saved, error, text)


def test_a_renamed_folder_is_not_taken_for_another_step(saved: Path) -> None:
    os.rename(saved / "step-5", saved / "step-6")
    fails(saved, FormatError, r"step-6/manifest.json: it is the checkpoint of step 5; call its folder step-5")
    with pytest.raises(FormatError, match="call its folder step-5"):
        graph.Checkpoint(saved, keep=1).save(parameter(), 7)
    assert (saved / "step-6" / "manifest.json").exists()


NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=4,
)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.data())
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-manifest"
    if not folder.exists():
        with graph.Checkpoint(folder) as checkpoint:
            checkpoint.save(rows_over(2, 1.0), 5)
    file = folder / "step-5" / "manifest.json"
    text = file.read_text()
    whole = node = json.loads(text)
    while True:  # walk down, and put something else in the place of one node
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.integers(0, 3)) == 0:
            break
        node = node[key]
    node[key] = data.draw(NODES)
    file.write_text(json.dumps(whole))
    w = parameter(9.0)
    try:
        graph.Checkpoint(folder).restore(w)
        assert (w.value == 1).all()
    except TesseraError:
        assert (w.value == 9).all()
    finally:
        file.write_text(text)


def test_manifests_that_are_no_json(saved: Path) -> None:
    (saved / "step-5" / "manifest.json").write_text("{")
    fails(saved, FormatError, r"manifest.json: not valid JSON .*remove this checkpoint")
    (saved / "step-5" / "manifest.json").write_bytes(b"\xff")
    fails(saved, FormatError, r"manifest.json: the manifest is not UTF-8; remove this checkpoint")


@pytest.mark.parametrize("change, text", [
    ({"offsets": [1, 0]}, r"the pieces of 'w' do not make up 'w'"),  # a gap and an overlap
    ({"offsets": [3, 0]}, r"does not lie in a tensor of shape \[4, 3\]"),
    ({"file": "../x"}, r"'../x' is not the name of a file"),
    ({"shape": [2]}, r"malformed"),
    ({"shape": [1, 3]}, r"the pieces of 'w' do not make up 'w'"),
])
def test_pieces_that_are_wrong(saved: Path, change: dict[str, Any], text: str) -> None:
    tensors = pieces(saved)
    tensors["w"]["pieces"][0].update(change)
    edit(saved, tensors=tensors)
    fails(saved, FormatError, text)


def test_arguments(tmp_path: Path) -> None:
    for keep in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match=r"keep is .*at least 1, or None for all"):
            graph.Checkpoint(tmp_path, keep=keep)  # type: ignore[arg-type]
    checkpoint = graph.Checkpoint(tmp_path)
    for step in (-1, 1.5, True, "1"):
        with pytest.raises(ArgumentError, match=r"save: step is .*number of steps done"):
            checkpoint.save(parameter(), step)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"int has no parameters; give a compiled graph, a step, an optimizer"):
        checkpoint.save(3, 1)
    with pytest.raises(ArgumentError, match=r"two parameters are called 'w'"):
        checkpoint.save([parameter(), parameter()], 1)
    with pytest.raises(ArgumentError, match=r"\[\] has no parameters"):
        checkpoint.save([], 1)
    assert "keep=None" in repr(checkpoint) and str(tmp_path) in repr(checkpoint) and checkpoint.folder == tmp_path


def test_processes_that_restore_different_steps(tmp_path: Path) -> None:
    w = parameter(9.0)
    with graph.Checkpoint(tmp_path) as checkpoint:
        checkpoint.save(parameter(1.0), 1)
        checkpoint.save(parameter(2.0), 2)

    def fetch(process: Process) -> str:
        with pytest.raises(ArgumentError) as caught:
            graph.Checkpoint(tmp_path, processes=process).restore(w, process.rank + 1)
        return str(caught.value)

    for text in Job(2).run(fetch):
        assert "the processes restore different steps: 1, 2; give one" in text
    assert (w.value == 9).all()


def test_verify_reads_pieces_in_full(saved: Path) -> None:
    state = [rows_over(4, 9.0), parameter(9.0, "b", (3,))]

    def fetch(process: Process) -> int:
        checkpoint = graph.Checkpoint(saved, processes=process)
        checkpoint.restore(state, verify=True)
        return checkpoint.bytes_read

    assert Job(4).run(fetch) == [4 * (3 + 3 + 6)] * 4  # b, a row of w, and for its hash the piece of two rows
    np.testing.assert_array_equal(state[0].value, np.ones((4, 3)))


def test_waiting_for_a_slow_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, save, order = rows_over(2, 1.0), writer.save, []
    monkeypatch.setattr("tessera.graph.checkpoint._PATIENCE", 0.01)

    def slow(path: Path, *args: Any) -> None:
        if path.name.startswith("shards-1."):
            threading.Event().wait(0.3)
            order.append("written")
        save(path, *args)

    def write(process: Process) -> None:
        checkpoint = graph.Checkpoint(tmp_path, processes=process)
        checkpoint.save(w, 1)
        checkpoint.wait()
        order.append("complete")
        assert checkpoint.steps() == [1]

    monkeypatch.setattr(writer, "save", slow)
    Job(2).run(write)
    assert order == ["written", "complete", "complete"]


def test_an_exception_does_not_wait_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, save = rows_over(2, 1.0), writer.save
    monkeypatch.setattr("tessera.graph.checkpoint._GRACE", 0.05)
    monkeypatch.setattr(
        writer, "save", lambda path, *args: None if path.name.startswith("shards-1.") else save(path, *args)
    )

    def write(process: Process) -> None:
        with pytest.raises(KeyError), graph.Checkpoint(tmp_path, processes=process) as checkpoint:
            checkpoint.save(w, 1)
            raise KeyError("the user's own")

    Job(2).run(write)
    assert graph.Checkpoint(tmp_path).steps() == []


def test_the_writers_error_comes_with_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise FileAccessError("cannot write x: no space left on device")

    monkeypatch.setattr(writer, "save", broken)
    checkpoint = graph.Checkpoint(tmp_path)
    for call in (checkpoint.wait, lambda: checkpoint.save(parameter(), 2), lambda: checkpoint.restore(parameter())):
        checkpoint.save(parameter(), 1)
        with pytest.raises(FileAccessError, match="no space left"):
            call()
    monkeypatch.undo()
    checkpoint.save(parameter(), 2)  # once it was told, it is over
    checkpoint.wait()
    assert checkpoint.steps() == [2] and len(list(tmp_path.rglob("*.failed"))) == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match=r"cannot (read|write) .*file"):
        graph.Checkpoint(tmp_path / "file").save(parameter(), 1)


def test_when_one_process_cannot_write_all_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = rows_over(2, 1.0)
    save = writer.save

    def broken(path: Path, *args: Any) -> None:
        if path.name.startswith("shards-1."):
            raise FileAccessError("cannot write x: no space left on device")
        save(path, *args)

    def write(process: Process) -> str:
        checkpoint = graph.Checkpoint(tmp_path, processes=process)
        checkpoint.save(w, 1)
        try:
            checkpoint.wait()
        except FileAccessError as error:
            return str(error)
        return "written"

    monkeypatch.setattr(writer, "save", broken)
    first, second = Job(2).run(write)
    assert "process 1 could not write its part" in first and "no space left" in second
    assert graph.Checkpoint(tmp_path).steps() == []


def test_a_process_that_does_not_write_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = rows_over(2, 1.0)
    save = writer.save
    monkeypatch.setattr(
        writer, "save", lambda path, *args: None if path.name.startswith("shards-1.") else save(path, *args)
    )
    monkeypatch.setenv("TESSERA_COLLECTIVE_TIMEOUT", "0")

    def write(process: Process) -> str:
        checkpoint = graph.Checkpoint(tmp_path, processes=process)
        checkpoint.save(w, 1)
        with pytest.raises((FileAccessError, DeviceError)) as caught:
            checkpoint.wait()
        return str(caught.value)

    first, second = Job(2).run(write)
    assert "of process 1 has not appeared within 0 s (TESSERA_COLLECTIVE_TIMEOUT)" in first
    assert "process 0 failed: FileAccessError" in second


def test_processes_that_save_different_things(tmp_path: Path) -> None:
    def write(process: Process) -> str:
        with pytest.raises(ArgumentError) as caught:
            graph.Checkpoint(tmp_path, processes=process).save(parameter(), process.rank)
        return str(caught.value)

    for text in Job(2).run(write):
        assert "process 1 saves step 1, process 0 step 0, or other tensors; all processes must save the same" in text
