"""Files that older builds wrote still load and run."""

from pathlib import Path

import numpy as np
import pytest
from tessera import graph
from tessera._core import Program, default_runtime
from tessera.artifact import reader
from tessera.artifact.history import HISTORY
from tessera.interop.array import as_array

HERE = Path(__file__).resolve().parent


def test_every_version_has_a_golden_file():
    assert sorted(p.name for p in HERE.glob("*.tsr")) == [f"format_{version}.tsr" for version in sorted(HISTORY)]


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
