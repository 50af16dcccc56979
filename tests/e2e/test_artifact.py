"""The .tsr file: readable by safetensors, aligned, hashed, atomic; damaged files are refused."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.artifact import history, layout, reader, writer
from tessera.errors import ArgumentError, FileAccessError, FormatError, NameMissingError, VersionError

META = {layout.FORMAT: "1", layout.PRODUCER: "test", layout.GRAPH: "tessera.graph 1\n"}


def arrays():
    rng = np.random.default_rng(0)
    return {
        "w": rng.standard_normal((3, 5)).astype(np.float32),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 4), np.int32),
        "flags": np.array([True, False, True]),
        "half": rng.standard_normal(7).astype(np.float16),
        "small": np.arange(-3, 4, dtype=np.int8),
        "bytes": np.arange(9, dtype=np.uint8),
        "short": np.arange(5, dtype=np.int16),
        "long": np.arange(5, dtype=np.int64),
        "brain": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
    }


def save(path, tensors=None, metadata=META):
    writer.save(path, metadata, [writer.section(k, v) for k, v in (tensors or arrays()).items()])


def test_round_trip_and_alignment(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    found = reader.load(path)
    assert found.weights() == list(arrays())
    for name, array in arrays().items():
        read = found.tensor(name)
        assert read.dtype == array.dtype and read.shape == array.shape
        assert read.tobytes() == array.tobytes()
        assert found.entries[name].start % 64 == 0
    assert found.metadata[layout.GRAPH] == META[layout.GRAPH]


def test_safetensors_reads_it(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()[layout.FORMAT] == "1"
        assert {k for k in file.keys() if layout.is_weight(k)} == set(arrays())  # noqa: SIM118
        for name, array in arrays().items():
            assert tuple(file.get_tensor(name).shape) == array.shape
        assert file.get_tensor("w").numpy().tobytes() == arrays()["w"].tobytes()


def test_non_contiguous_arrays_are_stored_row_major(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    save(tmp_path / "a.tsr", {"t": base.T[::2]})
    assert np.array_equal(reader.load(tmp_path / "a.tsr").tensor("t"), base.T[::2])


def test_user_metadata_and_missing_tensor(tmp_path):
    save(tmp_path / "a.tsr", metadata={**META, "user.author": "Ada"})
    found = reader.load(tmp_path / "a.tsr")
    assert found.user_metadata() == {"author": "Ada"}
    with pytest.raises(NameMissingError, match="no tensor 'nothing'"):
        found.tensor("nothing")


@pytest.mark.parametrize("keep", [0, 4, 7, 8, 100, -1])
def test_truncated(tmp_path, keep):
    path = tmp_path / "a.tsr"
    save(path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(FormatError):
        reader.load(path)


def test_extra_bytes(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FormatError, match="belong to nothing"):
        reader.load(path)


def test_corrupted_weight_is_named(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    data = bytearray(path.read_bytes())
    data[reader.load(path).entries["half"].start] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="'half' does not match its hash"):
        reader.load(path)
    reader.load(path, verify=False)


def test_corrupted_metadata_is_named(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    path.write_bytes(path.read_bytes().replace(b"tessera.graph 1", b"tessera.graph 2"))
    with pytest.raises(FormatError, match="'tessera.graph' does not match"):
        reader.load(path)


def test_newer_version(tmp_path):
    save(tmp_path / "a.tsr", metadata={**META, layout.FORMAT: "2"})
    with pytest.raises(VersionError, match="format version 2, this build of Tessera reads versions up to 1"):
        reader.load(tmp_path / "a.tsr")


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "1.5", "9" * 30])
def test_bad_version(text):
    with pytest.raises(FormatError):
        history.check_version(text, "file")


def test_every_version_has_a_history():
    assert sorted(history.HISTORY) == list(range(1, history.FORMAT_VERSION + 1))


def test_plain_safetensors_is_no_artefact(tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(FormatError, match="no Tessera artefact"):
        reader.load(tmp_path / "w.safetensors")


def header_file(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 16, "claims"),
        (header_file(b"[1, 2]"), "not a JSON object"),
        (header_file(b"{"), "not valid JSON"),
        (header_file(b"\xff\xfe"), "UTF-8"),
        (header_file(b"[" * 100000), "not valid JSON"),
        (header_file({"__metadata__": {"a": 1}}), "map names to text"),
        (
            header_file({"__metadata__": META, "w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
            "malformed",
        ),
        (
            header_file({"__metadata__": META, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
            "needs 8 bytes",
        ),
        (
            header_file({"__metadata__": META, "w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
            "non-negative",
        ),
        (
            header_file(
                {"__metadata__": META, "w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"
            ),
            "gap or overlap",
        ),
        (
            header_file({"__metadata__": META, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12"),
            "truncated",
        ),
        (
            header_file({"__metadata__": META, "w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}),
            "needs",
        ),
        (header_file({"__metadata__": META, "w": []}), "malformed"),
    ],
)
def test_hostile_headers(tmp_path, content, message):
    path = tmp_path / "a.tsr"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        reader.load(path, verify=False)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_damage_is_an_error_or_harmless(data):
    whole = writer.to_bytes(META, [writer.section(k, v) for k, v in arrays().items()])
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        found = reader.parse("file", memoryview(bytes(damaged)))
        found.verify()
    except (FormatError, NameMissingError):
        return
    for name in found.entries:
        found.tensor(name)


def test_save_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "a.tsr"
    save(path)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileAccessError, match="No space left"):
        save(path, {"w": np.ones(100, np.float32)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.tsr"]


def test_save_follows_symbolic_links(tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "current.tsr").symlink_to("versions/one.tsr")  # to a file that is not there yet
    for _ in range(2):
        save(tmp_path / "current.tsr")
        assert os.readlink(tmp_path / "current.tsr") == "versions/one.tsr"
        assert os.listdir(tmp_path / "versions") == ["one.tsr"]
        reader.load(tmp_path / "versions/one.tsr")
    (tmp_path / "a.tsr").symlink_to("b.tsr")
    (tmp_path / "b.tsr").symlink_to("a.tsr")
    with pytest.raises(FileAccessError, match="circle"):
        save(tmp_path / "a.tsr")


def test_a_section_without_a_hash_is_refused(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    artifact = reader.load(path)
    hashes = json.loads(artifact.metadata[layout.HASHES])
    name = next(name for name in hashes if name in artifact.entries)
    artifact.metadata[layout.HASHES] = json.dumps({k: v for k, v in hashes.items() if k != name})
    with pytest.raises(FormatError, match=f"'{name}' has no hash"):
        artifact.verify()
    del artifact.metadata[layout.HASHES]
    with pytest.raises(FormatError, match="'tessera.hashes' is missing"):
        artifact.verify()


@pytest.mark.parametrize("place", ["tensor", "entry"])
def test_a_hash_mismatch_names_the_section(tmp_path, place):
    path = tmp_path / "a.tsr"
    save(path, metadata={**META, "tessera.state": "[]"})
    artifact = reader.load(path)
    name = next(iter(artifact.entries))
    data = bytearray(path.read_bytes())
    if place == "tensor":
        data[artifact.entries[name].start] ^= 1
    else:
        name = "tessera.state"
        at = data.index(b'"tessera.state":"[]"') + len('"tessera.state":"')
        data[at : at + 2] = b"{}"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=f"'{name}' does not match its hash"):
        reader.load(path)
    reader.load(path, verify=False)


def test_a_file_larger_than_four_gibibytes(tmp_path):
    """Sparse: mapped and read at its end, by a process that uses little memory."""
    script = """
import resource, struct, sys
from tessera._core import Array, Program, default_runtime
from tessera.artifact import reader
import numpy as np
path, rows = sys.argv[1], (5 << 30) // 4096
text = ('tessera.graph 1\\ngraph "main" {\\n  %0 = input {name = "row"} : i64[1]\\n'
        f'  %1 = param {{name = "table", trainable = false}} : f32[{rows}, 1024]\\n'
        '  %2 = take(%1, %0) {axis = 0} : f32[1, 1024]\\n  output "y" = %2\\n}\\n')
import json
header = json.dumps({"__metadata__": {"tessera.format": "1", "tessera.graph": text, "tessera.portable": text},
    "table": {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [0, rows * 4096]}}).encode()
header += b" " * (-(len(header) + 8) % 64)
with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header)
    file.seek(8 + len(header) + (rows - 1) * 4096)
    file.write(np.full(1024, 2.5, np.float32).tobytes())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
artifact = reader.load(path, verify=False)
assert artifact.tensor("table")[-1, -1] == 2.5 and artifact.tensor("table")[0, 0] == 0
program = Program.load_file(path, verify=False)
(y,) = program.run(default_runtime(), [Array.from_numpy(np.array([rows - 1]))], None)
assert np.from_dlpack(y)[0, 7] == 2.5
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
"""
    path = tmp_path / "large.tsr"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(FileAccessError, match="cannot write"):
        save(tmp_path / "no" / "a.tsr")


def test_load_a_missing_file(tmp_path):
    with pytest.raises(FileAccessError, match="cannot read"):
        reader.load(tmp_path / "no.tsr")


def test_permissions_of_the_replaced_file_stay(tmp_path):
    path = tmp_path / "a.tsr"
    save(path)
    path.chmod(0o640)
    save(path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_names(tmp_path):
    with pytest.raises(ArgumentError, match="reserved"):
        save(tmp_path / "a.tsr", {"tessera.x": np.zeros(1, np.float32)})
    twice = [writer.section("w", np.zeros(1, np.float32))] * 2
    with pytest.raises(ArgumentError, match="two tensors of one artefact are called 'w'"):
        writer.save(tmp_path / "a.tsr", META, twice)


def test_large_weights_are_not_copied():
    big = np.zeros(1 << 20, np.float32)
    assert writer.section("w", big).data.obj is not None
    assert np.shares_memory(np.frombuffer(writer.section("w", big).data, np.uint8), big)


def test_header_limit(monkeypatch):
    monkeypatch.setattr(layout, "MAX_HEADER", 200)
    with pytest.raises(FormatError, match="safetensors readers accept 200"):
        writer.to_bytes({layout.GRAPH: "x" * 300}, [])
