"""Graphs that C++ built: saved in the one format, and in Python loaded, run, differentiated and compiled alike."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tessera import graph, op
from tessera.artifact import reader
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph

from tests.e2e.cmake_project import build_project, needs_cmake

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[1] / "examples" / "cpp" / "train_mlp"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def build_and_run(source: Path, folder: Path) -> str:
    flags = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    ).stdout.split()
    shutil.copy(source, folder)
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", source.name, *flags, "-o", "program"],
                   check=True, cwd=folder)
    done = subprocess.run(["./program"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpp_graphs")
    build_and_run(HERE / "cpp_graphs.cpp", folder)
    return folder


def feeds() -> dict[str, np.ndarray]:
    i = np.arange(18)
    return {"ids": (i * i % 11).reshape(3, 6), "target": (i * 3 % 11).reshape(3, 6)}


def results(folder: Path) -> dict[str, np.ndarray]:
    """What C++ computed: the constants of a graph that holds nothing else."""
    artifact = reader.load(folder / "results.tsr")
    leaves = {name: v.node.attrs["name"] for name, v in graph.load(folder / "results.tsr").outputs.items()}
    return {name: np.array(artifact.tensor(f"tessera.constant.{leaf}")) for name, leaf in leaves.items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=2e-5, atol=2e-6, err_msg=name)


def test_the_file(built):
    """Every reader takes it: Python's with all hashes, and the safetensors package."""
    artifact = reader.load(built / "net.tsr", verify=True)
    assert artifact.metadata["tessera.format"] == "1" and artifact.metadata["tessera.state"] == '["step"]'
    assert {n for n in artifact.weights()} == {"table", "w", "v", "gain", "step"}
    with safe_open(built / "net.tsr", framework="numpy") as file:
        assert set(file.metadata()) == set(artifact.metadata)
        np.testing.assert_array_equal(file.get_tensor("w"), artifact.tensor("w"))
    text = artifact.metadata["tessera.graph"]
    assert print_graph(parse_graph(text)) == text
    for composite in ("layer_norm", "scaled_dot_product_attention", "gelu", "cross_entropy", "einsum", "linear"):
        assert f"= {composite}(" in text and f"= {composite}(" not in artifact.metadata["tessera.portable"]
    assert 'cpp_graphs.cpp":' in text


def test_runs_as_in_cpp(built):
    loaded = graph.load(built / "net.tsr")
    assert_equal(loaded(**feeds()), results(built))
    assert loaded.parameters["step"].value == 1


def test_compiled_for_the_cpu(built):
    compiled = graph.compile(graph.load(built / "net.tsr"), target="cpu")
    assert_equal(compiled(**feeds()), results(built))


def test_differentiated_in_python(built):
    loaded = graph.load(built / "net.tsr")
    for name in ("table", "w", "v", "gain"):
        slope = graph.backward(loaded.outputs["loss"], wrt=loaded.parameters[name])
        np.testing.assert_allclose(
            slope(**feeds()).numpy(), results(built)[f"grad.{name}"], rtol=2e-5, atol=2e-6, err_msg=name
        )
    scores = loaded(op.tensor((1, 4), "i64", name="ids"), op.tensor((1, 4), "i64", name="target"))["scores"]
    assert scores.shape == (1, 4, 11)


@needs_cmake
def test_training_in_cpp_goes_on_in_python(tmp_path):
    program = build_project(EXAMPLE, tmp_path) / "train_mlp"
    trained = subprocess.run([str(program)], cwd=tmp_path, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    out = trained.stdout
    assert float(out.rsplit("\n", 2)[1].split("%")[0]) > 95, out
    done = subprocess.run(
        [sys.executable, str(tmp_path / "source" / "continue.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert float(first.rsplit(" ", 1)[1]) < 1e-6
    assert float(second.split("loss ")[1].split(",")[0]) < 0.1 and "target cpu" in second
