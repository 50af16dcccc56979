"""The C++ example of a program on a mesh: one process per device, the weights in shards, results as in Python."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp" / "sharded"
MPIEXEC = Path(sys.prefix) / "bin" / "mpiexec"
LIBRARY = Path(sys.prefix) / "lib" / "libmpi_abi.so.1"
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(not MPIEXEC.exists(), reason="needs mpich from PyPI: pip install 'mpich>=5,<6'"),
]


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    prefix = subprocess.run(
        [sys.executable, "-m", "tessera", "--cmake-dir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    flags = [f"-DTessera_DIR={prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    for command in (["-S", str(EXAMPLE), "-B", "build", *generator, *flags], ["--build", "build"]):
        done = subprocess.run([tool("cmake"), *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for devices in (2, 4):
        out = subprocess.run([sys.executable, str(EXAMPLE / "export.py"), f"{devices}.tsr", str(devices)], cwd=folder,
                             capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        (folder / f"{devices}.txt").write_text(out.stdout)
    return folder / "build" / "sharded"


def run(program: Path, count: int, file: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIEXEC), "-n", str(count), str(program), file, str(LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, cwd=program.parents[1], timeout=60)


@pytest.mark.parametrize("devices", [2, 4])
def test_runs_as_in_python(program, devices):
    done = run(program, devices, f"{devices}.tsr")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = (program.parents[1] / f"{devices}.txt").read_text().split("scores of row 0:")[1].split()
    found = re.search(r"^scores\[10,7\]: (.*)$", done.stdout, re.MULTILINE)
    assert found and found.group(1).split() == expected
    assert len(re.findall(r"^rank \d received [1-9]\d* bytes in 3 runs$", done.stdout, re.MULTILINE)) == devices
    holds = set(re.findall(r"^rank (\d) holds w1\[24,25\] from \[0,(\d+)\] of \[24,50\]$", done.stdout, re.MULTILINE))
    assert holds == {(str(rank), str(25 * (rank % 2))) for rank in range(devices)}


def test_too_few_processes(program):
    done = run(program, 2, "4.tsr")
    assert done.returncode != 0
    assert "the mesh has a device on rank 2, but there are 2 processes; start as many as the mesh has" in done.stderr


def test_a_file_of_one_device(program, tmp_path):
    code = "from tessera import graph, op; x = op.tensor((2, 3)); graph.compile({'y': x + 1}).save('one.tsr')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    done = run(program, 2, str(tmp_path / "one.tsr"))
    assert done.returncode != 0
    assert "the file holds a program of one device, of no mesh; load it without a communicator" in done.stderr
