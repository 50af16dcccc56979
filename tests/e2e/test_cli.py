"""The command line: inspect, run, doctor, flags; errors are one message and exit code 1."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tessera import graph, op
from tessera.cli import main


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    X = op.tensor((op.dim("B", min=1, max=16), 4), name="x")
    Y = op.mlp(in_dim=4, hidden=[8], out_dim=2)(X)
    path = tmp_path_factory.mktemp("cli") / "m.tsr"
    graph.compile({"logits": Y}, target=["cpu", "portable"]).save(path, {"author": "Ada"})
    return path


def command(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect(capsys, file):
    code, out, err = command(capsys, "inspect", file)
    assert code == 0 and not err
    for part in (
        "x: f32[B, 4]",
        "logits: f32[B, 2]",
        "B in [1, 16]",
        "target cpu",
        "target portable",
        "custom operators: none",
        "peak memory",
        "author: Ada",
        "f32[4, 8]",
    ):
        assert part in out


def test_inspect_json(capsys, file):
    code, out, _ = command(capsys, "inspect", file, "--json", "--graph")
    found = json.loads(out)
    assert found["inputs"] == [{"name": "x", "type": "f32[B, 4]"}]
    assert [t["target"] for t in found["targets"]] == ["cpu", "portable"]
    assert found["targets"][0]["kernels"] and found["targets"][0]["peak_memory_at"]
    assert found["graph"].startswith("tessera.graph 1")
    assert found["weight_bytes"] == sum(w["bytes"] for w in found["weights"]) > 0


def test_inspect_as_a_process(file):
    done = module("inspect", str(file))
    assert done.returncode == 0 and "logits: f32[B, 2]" in done.stdout and "custom operators: none" in done.stdout


def test_run(capsys, file, tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected = graph.load(file)(x).numpy()
    for options in ((), ("--target", "portable"), ("--no-native-code",)):
        code, out, err = command(
            capsys,
            "run",
            file,
            "--input",
            f"x={tmp_path / 'x.npy'}",
            "--output",
            f"logits={tmp_path / 'y.npy'}",
            *options,
        )
        assert code == 0 and not err and "logits: f32[3, 2]" in out
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
        assert ("portable" in out) == bool(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "x"), "expected NAME=FILE.npy"),
        ((), "input 'x' (f32[B, 4]) is missing"),
        (("--input", "z=x.npy"), "no input 'z'"),
        (("--input", "x=no.npy"), "cannot read no.npy"),
        (("--input", "x=text.npy"), "not a NumPy file"),
        (("--input", "x=wide.npy"), "x"),
        (("--input", "x=x.npy", "--input", "x=x.npy"), "given twice"),
        (("--input", "x=x.npy", "--output", "z=z.npy"), "no output 'z'"),
        (("--input", "x=x.npy", "--target", "tpu"), "tpu"),
    ],
)
def test_run_errors(capsys, file, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((3, 4), np.float32))
    np.save("wide.npy", np.zeros((3, 5), np.float32))
    Path("text.npy").write_text("not numbers")
    code, out, err = command(capsys, "run", file, *arguments)
    assert code == 1 and message in err and "Traceback" not in err and not out


def test_inspect_errors(capsys, tmp_path):
    (tmp_path / "bad.tsr").write_bytes(b"nonsense")
    for path in (tmp_path / "bad.tsr", tmp_path / "missing.tsr", tmp_path):
        code, out, err = command(capsys, "inspect", path)
        assert code == 1 and err.startswith("tessera inspect: ") and not out


def test_doctor(capsys):
    code, out, _ = command(capsys, "doctor")
    assert code == 0 and "x86-64" in out and "llvmlite" in out and "TESSERA_THREADS" in out
    assert "\n  cpu: can be compiled for; runs code on cpu: " in out and "\n  portable: " in out
    code, out, _ = command(capsys, "doctor", "--json")
    found = json.loads(out)
    assert found["packages"]["torch"]["version"] and set(found["targets"]) == {"cpu", "portable", "ptx", "hsaco"}


def module(*arguments):
    return subprocess.run([sys.executable, "-m", "tessera", *arguments], capture_output=True, text=True)


def test_flags():
    found = module("--cflags", "--libs").stdout.split()
    assert "-ltessera" in found and any(f.startswith("-I") for f in found)
    include = Path(module("--include-dir").stdout.strip())
    assert (include / "tessera" / "runtime.h").exists()
    assert (Path(module("--cmake-dir").stdout.strip()) / "TesseraConfig.cmake").exists()
    assert module("--version").stdout.strip().count(".") == 2
    assert module().returncode == 2
    assert "LLVM" not in module("doctor").stderr


def test_import_is_light():
    code = (
        "import sys, tessera; heavy = {'torch', 'jax', 'llvmlite', 'rich', 'sklearn', 'scipy'} & set(sys.modules); "
        "from tessera import op, graph, dist, optim; "
        "heavy |= {'torch', 'jax', 'llvmlite', 'rich', 'sklearn', 'scipy'} & set(sys.modules); print(heavy)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )


def test_inspect_lists_collectives(capsys, file, tmp_path):
    from tessera import dist

    mesh = dist.Mesh(["dp"], 2)
    w = dist.tensor((6, 4), layout=dist.ShardSpec(("row",), ("dp",)), mesh=mesh, name="w", init="xavier_normal")
    compiled = graph.compile({"y": op.matmul(op.tensor((3, 6), name="x"), w)})
    compiled.save(tmp_path / "sharded.tsr")
    code, out, _ = command(capsys, "inspect", "--collectives", tmp_path / "sharded.tsr")
    assert code == 0 and "mesh dp = 2 of cpu devices" in out and "to avoid it" in out and "test_cli.py:" in out
    code, out, _ = command(capsys, "inspect", "--collectives", "--json", tmp_path / "sharded.tsr")
    listed = json.loads(out)
    assert [c["kind"] for c in listed] == [c.kind for c in compiled.collectives]
    assert [c["bytes"] for c in listed] == [c.bytes for c in compiled.collectives]
    code, out, _ = command(capsys, "inspect", "--json", tmp_path / "sharded.tsr")
    assert json.loads(out)["mesh"]["state"] == {"w": "f32[6, 4] split [dp, -]"}
    assert "nothing is exchanged" in command(capsys, "inspect", "--collectives", file)[1]
    code, _, err = command(capsys, "run", tmp_path / "sharded.tsr")
    assert code == 1 and "one device's program of a mesh" in err
