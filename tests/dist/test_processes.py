"""Meshes of processes, by MPI and by TCP: the same bits as in one process, and errors that reach everybody."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tessera
from tessera.dist.world import _connect, _meeting_point, _slurm_meeting_point, first_host
from tessera.errors import ArgumentError, DeviceError

HERE = Path(__file__).resolve().parent
PROCESSES = HERE / "processes"
BIN = Path(sys.prefix) / "bin"
MPIEXEC = BIN / "mpiexec"
LIBRARY = Path(sys.prefix) / "lib" / "libmpi_abi.so.1"
needs_mpi = pytest.mark.skipif(not MPIEXEC.exists(), reason="needs mpich from PyPI: pip install 'mpich>=5,<6'")
LAUNCHERS = [pytest.param("mpi", marks=needs_mpi), "tcp"]


def free_port() -> int:
    """A port whose next is free as well."""
    while True:
        with socket.socket() as s, socket.socket() as t:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            try:
                t.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def environment(**more: str) -> dict[str, str]:
    package = str(Path(tessera.__file__).resolve().parents[1])
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH", "")) if p)
    # Unbuffered, a line and its end are two writes, and lines of processes mix.
    return {**os.environ, "PYTHONPATH": path, "TESSERA_THREADS": "1", "PYTHONUNBUFFERED": "", **more}


def launch(by: str, count: int, *command: str, seconds: float = 100) -> list[subprocess.CompletedProcess[str]]:
    """The processes of a job: one result of all of them under mpiexec, one of each under TCP."""
    if by == "mpi":
        # MPICH's mpiexec ends all when it sees one die by a signal, or close its connection: by SIGUSR1, and at once. The
        # shell hides the first and lets processes ignore the second, as other launchers leave them alone.
        hidden = ["/bin/sh", "-c", 'trap "" USR1; "$0" "$@"; exit $(($? > 128 ? 0 : $?))']
        whole = [str(MPIEXEC), "-disable-auto-cleanup", "-n", str(count), *hidden, sys.executable, *command]
        return [subprocess.run(whole, env=environment(), capture_output=True, text=True, timeout=seconds)]
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(RANK=str(r), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for r in range(count)
    ]
    found = []
    for process in started:
        out, err = process.communicate(timeout=seconds)
        found.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return found


def succeed(results: list[subprocess.CompletedProcess[str]]) -> str:
    for done in results:
        assert done.returncode == 0, done.stdout + done.stderr
    return "".join(done.stdout for done in results)


@pytest.mark.parametrize(("by", "count"), [
    pytest.param("mpi", 2, marks=needs_mpi), pytest.param("mpi", 4, marks=needs_mpi), ("tcp", 3),
])
def test_collectives_are_those_of_one_process(by, count):
    out = succeed(launch(by, count, str(PROCESSES / "collectives.py")))
    found = re.findall(rf"rank (\d) of {count} by {by}: (\d+) collectives", out)
    assert sorted(r for r, _ in found) == [str(r) for r in range(count)]
    assert all(int(n) > 100 for _, n in found)


@needs_mpi
def test_training_is_that_of_one_process(tmp_path):
    """Bit for bit, on the same mesh: losses, parameters, outputs in shards, saved state, bytes as predicted."""
    script = str(PROCESSES / "training.py")
    alone = subprocess.run([sys.executable, script, str(tmp_path / "alone")], env=environment(), capture_output=True,
                           text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    succeed(launch("mpi", 4, script, str(tmp_path / "together")))
    expected = np.load(tmp_path / "alone" / "0.npz")
    state = (tmp_path / "alone" / "state.safetensors").read_bytes()
    assert (tmp_path / "together" / "state.safetensors").read_bytes() == state
    for rank in range(4):
        found = np.load(tmp_path / "together" / f"{rank}.npz")
        assert set(found) == set(expected) - {"losses_of_one_device"}
        for name in found:
            if name != "traffic":
                assert found[name].tobytes() == expected[name].tobytes(), (rank, name)
        assert found["traffic"].tolist() == [expected["traffic"][rank]]
    np.testing.assert_allclose(expected["losses"], expected["losses_of_one_device"], rtol=2e-5)


@needs_mpi
def test_the_example_under_mpiexec():
    """The same lines from one process as from four, so the same losses to the last digit shown."""
    example = str(HERE.parents[1] / "examples" / "sharded_training.py")
    alone = subprocess.run([sys.executable, example, "2"], env=environment(), capture_output=True, text=True, check=True)
    assert succeed(launch("mpi", 4, example, "2")) == alone.stdout
    assert "step 1: loss" in alone.stdout


def guide(folder: Path, devices: int) -> tuple[str, str]:
    """The guide's program for so many devices, as a file, and what it prints by itself."""
    page = (HERE.parents[1] / "docs" / "guide" / "cluster.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    train = folder / "train.py"
    train.write_text(block.replace("devices=4", f"devices={devices}"))
    alone = subprocess.run([sys.executable, str(train)], env=environment(), capture_output=True, text=True, check=True)
    assert alone.stdout.count("loss") == 3
    return str(train), alone.stdout


@needs_mpi
def test_the_program_of_the_guide_under_mpiexec(tmp_path):
    train, expected = guide(tmp_path, 4)
    assert succeed(launch("mpi", 4, train)) == expected


def test_the_program_of_the_guide_under_torchrun(tmp_path):
    train, expected = guide(tmp_path, 2)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), train]
    done = subprocess.run([sys.executable, *torchrun], env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_program_of_the_guide_with_the_variables_of_slurm(tmp_path):
    train, expected = guide(tmp_path, 2)
    step = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    started = [
        subprocess.Popen([sys.executable, train], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env=environment(**step, SLURM_PROCID=str(rank)))
        for rank in range(2)
    ]
    found = [process.communicate(timeout=100) for process in started]
    assert [process.returncode for process in started] == [0, 0], found
    assert [out for out, _ in found] == [expected, ""]


def errors(by: str, what: str, folder: Path) -> dict[int, Mapping[str, object]]:
    """What each of four processes by MPI, or of two by TCP, has to say."""
    count = 4 if by == "mpi" else 2
    ended = launch(by, count, str(PROCESSES / "faults.py"), what, str(folder), seconds=90)
    found = {int(p.stem): json.loads(p.read_text()) for p in folder.glob("*.json")}
    assert set(found) >= set(range(count)) - {1}, [done.stdout + done.stderr for done in ended]
    return found


def message(found: Mapping[str, object]) -> str:
    return str(found["error"])


@pytest.mark.parametrize("by", LAUNCHERS)
def test_a_killed_process_makes_the_others_fail(by, tmp_path):
    found = errors(by, "kill", tmp_path)
    assert 1 not in found
    for error in found.values():
        assert message(error).startswith("DeviceError: ")
        assert re.search(r"nothing has come from rank 1|rank 1 is gone", message(error))
        assert float(str(error["seconds"])) < 8  # within the timeout of 4 s, and what they did besides
    assert any(re.search(r"(all_reduce|all_gather|reduce_scatter|all_to_all) at .*faults.py:\d+", message(e))
               or "before state is changed" in message(e) for e in found.values())


@pytest.mark.parametrize("by", LAUNCHERS)
def test_a_hung_process_makes_the_others_fail(by, tmp_path):
    found = errors(by, "hang", tmp_path)
    assert 1 not in found
    for error in found.values():
        assert "for 4.0 s nothing has come from rank" in message(error)
        assert 3.9 < float(str(error["seconds"])) < 8.5


@pytest.mark.parametrize("by", LAUNCHERS)
def test_different_artefacts_are_refused_at_once(by, tmp_path):
    found = errors(by, "artefact", tmp_path)
    assert 1 in found
    # Two processes have the same collectives (the axis that exchanges more has one device), and another graph.
    first = r"collective \d+, \w+ over \w+ of f32\[.*\], \d+ bytes, at .*faults.py:\d+" if by == "mpi" else (
        "the section tessera.graph with hash [0-9a-f]{16}"
    )
    for error in found.values():
        assert re.search(
            f"the processes have different programs: rank 0 has {first}, rank 1 has {first}; run the same artefact on all",
            message(error),
        ), message(error)
        assert float(str(error["seconds"])) < 2


@needs_mpi
def test_different_initial_values_are_refused(tmp_path):
    found = errors("mpi", "values", tmp_path)
    assert [message(found[r]) for r in range(4)] == [
        "DeviceError: parameter 'table' has other values on rank 1 than on rank 0; give all processes the same initial "
        "values (tessera.manual_seed, or the same array)"
    ] * 4


@pytest.mark.parametrize("by", LAUNCHERS)
def test_an_error_on_one_process_ends_the_run_on_all(by, tmp_path):
    found = errors(by, "index", tmp_path)
    assert 1 in found
    assert message(found[1]).startswith("IndexRangeError: ")
    assert "on the device dp=0, tp=1" in message(found[1])
    for rank in set(found) - {1}:
        assert message(found[rank]).startswith("DeviceError: another device failed: rank 1: ")
        assert "and again: another device failed: rank 1" in message(found[rank])


@pytest.mark.parametrize("by", LAUNCHERS)
def test_an_exception_outside_of_runs_reaches_the_others(by, tmp_path):
    found = errors(by, "exception", tmp_path)
    assert 1 not in found
    for error in found.values():
        assert message(error) == (
            "DeviceError: another device failed: rank 1: RuntimeError: the data of this process are broken"
        )


@pytest.mark.parametrize("by", LAUNCHERS)
def test_a_process_that_just_ends_is_missed(by, tmp_path):
    found = errors(by, "exit", tmp_path)
    assert 1 not in found
    for error in found.values():
        assert "rank 1 has ended its run without taking part" in message(error)


@needs_mpi
@pytest.mark.parametrize("form", ["object", "number"])
def test_a_communicator_that_the_caller_hands_in(form):
    out = succeed(launch("mpi", 2, str(PROCESSES / "handed_in.py"), str(LIBRARY), form))
    assert sorted(out.splitlines()) == ["rank 0 was 1", "rank 1 was 0"]


def test_without_a_launcher_there_is_one_process():
    found = _connect(None, 1000, {})
    assert (found.rank, found.size, found.transport) == (0, 1, "none")
    assert found.all_gather(b"x") == [b"x"]
    assert _connect(None, 1000, {"PMI_RANK": "0", "PMI_SIZE": "1"}).size == 1
    assert _connect(None, 1000, {"RANK": "0", "WORLD_SIZE": "1"}).size == 1
    assert _connect(None, 1000, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}).size == 1, "a batch script, no step"


@pytest.mark.parametrize(("variables", "text"), [
    ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not; set it to the host of rank 0"),
    ({"RANK": "x", "WORLD_SIZE": "2"}, "the variable RANK is 'x', expected a number"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 of 2 processes"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h"}, "the variable MASTER_PORT is ''"),
    ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "65535"}, "use at most 65534"),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, "Slurm's variables name no hosts"),
])
def test_variables_that_make_no_sense(variables, text):
    with pytest.raises(ArgumentError, match=re.escape(text)):
        _connect(None, 1000, variables)


def test_where_processes_of_slurm_meet():
    variables = {"SLURM_STEP_NODELIST": "node[003-007,9],login1", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "3"}
    assert _slurm_meeting_point(variables) == ("node003", 20207)
    assert [first_host(h) for h in ("a", "a,b", "a[1,3]", "rack2-[07-9]x[1-2]", "n[5]-ib,m")] == [
        "a", "a", "a1", "rack2-07x", "n5-ib",
    ]


def test_a_rendezvous_of_ones_own(monkeypatch):
    monkeypatch.setenv("TESSERA_RENDEZVOUS", "[::1]:99")
    assert _meeting_point({}) == ("::1", 99)
    monkeypatch.setenv("TESSERA_RENDEZVOUS", "host")
    with pytest.raises(ArgumentError, match="give it as host:port"):
        _meeting_point({})


def test_nobody_at_the_meeting_point():
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with pytest.raises(DeviceError, match=r"rank 1 does not find rank 0: nobody listens at 127.0.0.1 port \d+"):
        _connect(None, 300, variables)
    variables["RANK"] = "0"
    with pytest.raises(DeviceError, match="rank 0 waits for others that have not connected: 1"):
        _connect(None, 300, variables)
    with pytest.raises(ArgumentError, match="is no MPI communicator"):
        _connect("comm", 300, {})


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setenv("TESSERA_MPI_LIBRARY", "/nowhere/libmpi_abi.so")
    code = "from tessera import dist; dist.init()"
    done = subprocess.run([sys.executable, "-c", code], env=environment(PMI_RANK="0", PMI_SIZE="2"), capture_output=True,
                          text=True, check=False)
    assert "DeviceError: the MPI library cannot be loaded: /nowhere/libmpi_abi.so" in done.stderr


@needs_mpi
def test_an_mpiexec_of_another_mpi():
    """The variables say two processes, the library knows of one."""
    code = "from tessera import dist; dist.init()"
    variables = environment(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert "the launcher has started 2 processes, but the MPI library finds 1: it is not the launcher's" in done.stderr
