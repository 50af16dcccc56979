"""Files that older builds wrote still load and run."""

from pathlib import Path

import numpy as np
import pytest
import tessera
from safetensors.numpy import load_file
from tessera import graph
from tessera._core import Program, default_runtime
from tessera.artifact import reader
from tessera.artifact.history import HISTORY
from tessera.interop.array import as_array

from tests.compat.frozen import build

HERE = Path(__file__).resolve().parent
GOLDEN = sorted(p.stem for p in (HERE / "golden").glob("*.tsr"))


@pytest.fixture(scope="module", autouse=True)
def operators() -> None:
    """Those that ``custom.tsr`` needs."""
    tessera.load_library(build(HERE / "custom_op_abi_1"))


def test_every_version_has_a_golden_file():
    assert sorted(p.name for p in HERE.glob("*.tsr")) == [f"format_{version}.tsr" for version in sorted(HISTORY)]


def test_golden_files_are_small_and_whole():
    assert {"levels", "portable", "training", "narrow", "targets", "from_cpp", "custom"} <= set(GOLDEN)
    for name in GOLDEN:
        assert (HERE / "golden" / f"{name}.tsr").stat().st_size < 150_000
        reader.load(HERE / "golden" / f"{name}.tsr", verify=True)


def targets(path: Path) -> list[str]:
    metadata = reader.load(path, verify=False).metadata
    found = ["cpu"] if any(name.startswith("tessera.plan.cpu.") for name in metadata) else []
    return found + (["portable"] if "tessera.portable" in metadata else [])


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_runs(name):
    expected = load_file(HERE / "golden" / f"{name}.safetensors")
    path = HERE / "golden" / f"{name}.tsr"
    assert targets(path)
    for target in targets(path):
        program = Program.load_file(path, target=target)
        names = [output for output, _, _ in program.outputs()]
        for run in range(2):
            given = [as_array(expected[f"{run}/in/{one}"]) for one, _, _ in program.inputs()]
            found = dict(zip(names, program.run(default_runtime(), given, None), strict=True))
            for output in names:
                np.testing.assert_allclose(
                    found[output].numpy(), expected[f"{run}/out/{output}"], rtol=1e-5, atol=1e-6, err_msg=target
                )
        state = {key.removeprefix("state/"): value for key, value in expected.items() if key.startswith("state/")}
        for one, value in state.items():
            np.testing.assert_allclose(program.state_array(one).numpy(), value, rtol=1e-4, atol=1e-6, err_msg=one)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_compiles_again(name):
    expected = load_file(HERE / "golden" / f"{name}.safetensors")
    again = graph.compile(graph.load(HERE / "golden" / f"{name}.tsr"))
    given = {key.removeprefix("0/in/"): value for key, value in expected.items() if key.startswith("0/in/")}
    found = again(**given)
    for key, value in expected.items():
        if key.startswith("0/out/"):
            output = found[key.removeprefix("0/out/")] if isinstance(found, dict) else found
            np.testing.assert_allclose(output.numpy(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", HISTORY)
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_golden_file_runs(version, target):
    expected = np.load(HERE / f"format_{version}.npz")
    program = Program.load_file(str(HERE / f"format_{version}.tsr"), target=target)
    names = [name for name, _, _ in program.outputs()]
    for run in range(2):
        given = [as_array(expected[f"{name}.{run}"]) for name, _, _ in program.inputs()]
        found = dict(zip(names, program.run(default_runtime(), given, None), strict=True))
        for name in names:
            np.testing.assert_allclose(found[name].numpy(), expected[f"{name}.{run}"], rtol=1e-5, atol=1e-6)
    for name, _, _ in program.state():
        np.testing.assert_allclose(program.state_array(name).numpy(), expected[f"state {name}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("version", HISTORY)
def test_golden_file_compiles_again(version):
    expected = np.load(HERE / f"format_{version}.npz")
    loaded = graph.load(HERE / f"format_{version}.tsr")
    assert reader.load(HERE / f"format_{version}.tsr").user_metadata() == {"made": "golden file"}
    again = graph.compile(loaded)
    found = again(expected["x.0"], expected["labels.0"])
    np.testing.assert_allclose(found["loss"].numpy(), expected["loss.0"], rtol=1e-5)
