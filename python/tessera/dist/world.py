"""The processes of a job: who takes part, and how this process finds the others."""

from __future__ import annotations

import atexit
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tessera import _core, config
from tessera.errors import ArgumentError, DeviceError

_MPI_NAMES = ("libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi_abi.so")
# (rank, number of processes) as the launchers of MPI set them: MPICH and Slurm's PMI-2, PMIx, Open MPI.
_MPI_VARIABLES = (("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMIX_RANK", None))


class World:
    """All processes of a job, each of which holds one device of a mesh; of one process when there is no launcher.

    ``rank``: this process's number, ``size``: how many there are, ``transport``: ``"mpi"``, ``"tcp"`` or ``"none"``.
    """

    def __init__(self, core: _core.World | None, transport: str) -> None:
        self._core = core
        self.transport = transport
        self.rank: int = 0 if core is None else core.rank
        self.size: int = 1 if core is None else core.size

    def barrier(self) -> None:
        """Returns when all processes have called it. Raises DeviceError when one fails or does not come in time."""
        self.all_gather(b"")

    def all_gather(self, data: bytes, ranks: Sequence[int] | None = None) -> list[bytes]:
        """What every process gives, by rank. ``ranks``: some processes only, which all call this with the same list.

        Raises DeviceError when a process fails or does not come in time.
        """
        if self._core is None:
            return [bytes(data)]
        return self._core.all_gather(data, None if ranks is None else list(ranks))

    def fail(self, message: str) -> None:
        """Make the other processes fail where they wait for this one, with this message; nobody can go on after it."""
        if self._core is not None:
            self._core.fail(message)

    def communicator(self, axes: Sequence[str], shape: Sequence[int], ranks: Sequence[int]) -> _core.Communicator:
        """This process's end of a mesh; ``ranks``: the process of each device, row-major."""
        assert self._core is not None
        return self._core.communicator(list(axes), list(shape), list(ranks))

    def close(self) -> None:
        """The end of this process's part, at the latest when Python ends; waits until the others have come to theirs."""
        if self._core is not None:
            self._core.close()

    def __repr__(self) -> str:
        return f"World(rank {self.rank} of {self.size}, {self.transport})"


_alone = World(None, "none")
_world: World | None = None
_lock = threading.Lock()


def world() -> World:
    """The processes that ``dist.init`` has connected; before it, this process alone."""
    return _world or _alone


def init(communicator: Any = None, *, timeout: float | None = None) -> World:
    """Connect the processes that a launcher has started, and give this one's place among them.

    To be called once, before tensors are made; further calls give the same world. Without a launcher, or with one
    process, meshes are of virtual devices in this process, so that the same program runs either way. Otherwise device
    ``i`` of a mesh is process ``i``, and what the program does with a mesh, all processes must do.

    Recognised: ``mpiexec`` of MPICH and Open MPI and Slurm's PMI (connected by MPI, whose library must have the standard
    ABI: ``mpich>=5``); the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of ``torchrun``, and those of Slurm's
    ``srun`` (connected by TCP). ``communicator``: connect the processes of this MPI communicator instead, an ``mpi4py``
    communicator or the handle of one (an ``MPI_Comm`` of the standard ABI, as a number). ``timeout``: seconds that a
    process waits for another before it takes it for dead; TESSERA_COLLECTIVE_TIMEOUT by default.

    When a process ends with an exception, or dies, the others fail where they wait for it. Raises ArgumentError for
    variables that make no sense, and DeviceError when the processes cannot be connected.
    """
    global _world
    with _lock:
        if _world is not None:
            if communicator is not None:
                raise ArgumentError("dist.init: the processes are connected already; give the communicator to the first call")
            return _world
        seconds = config.COLLECTIVE_TIMEOUT.integer() if timeout is None else timeout
        if not seconds > 0:
            raise ArgumentError(f"dist.init: timeout is {seconds!r}; give seconds above 0")
        made = _connect(communicator, max(1, round(seconds * 1000)), config.launcher_variables())
        if made.size > 1:
            _leave_together(made)
        _world = made
        return made


def _connect(communicator: Any, timeout_ms: int, variables: Mapping[str, str]) -> World:
    if communicator is not None:
        return World(_core.World.mpi(_library(given=False), _handle(communicator), timeout_ms), "mpi")
    for rank_name, size_name in _MPI_VARIABLES:
        if rank_name in variables:
            return _by_mpi(timeout_ms, None if size_name is None else _number(variables, size_name))
    if "RANK" in variables and "WORLD_SIZE" in variables:
        rank, size = _number(variables, "RANK"), _number(variables, "WORLD_SIZE")
        return _by_tcp(rank, size, lambda: _meeting_point(variables), timeout_ms)
    if "SLURM_PROCID" in variables and "SLURM_STEP_ID" in variables:
        name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
        rank, size = _number(variables, "SLURM_PROCID"), _number(variables, name)
        return _by_tcp(rank, size, lambda: _slurm_meeting_point(variables), timeout_ms)
    return _alone


def _by_mpi(timeout_ms: int, expected: int | None) -> World:
    if expected == 1:
        return _alone
    made = World(_core.World.mpi(_library(given=True), 0, timeout_ms), "mpi")
    if expected is not None and made.size != expected:
        made.close()
        raise DeviceError(
            f"dist.init: the launcher has started {expected} processes, but the MPI library finds {made.size}: it is not "
            "the launcher's. Use the mpiexec of the same MPI (that of the mpich package lies beside python), or name its "
            f"library in {config.MPI_LIBRARY.name}"
        )
    return made


def _library(given: bool) -> str | None:
    """The MPI library's file; None: the one that is loaded, or that the dynamic loader finds."""
    if config.MPI_LIBRARY.text():
        return config.MPI_LIBRARY.text()
    if not given:
        return None
    folder = Path(sys.prefix) / "lib"  # where the mpich package puts it
    return next((str(folder / name) for name in _MPI_NAMES if (folder / name).exists()), None)


def _handle(communicator: Any) -> int:
    handle = getattr(communicator, "handle", communicator)
    if isinstance(handle, bool) or not isinstance(handle, int) or handle <= 0:
        raise ArgumentError(
            f"dist.init: {communicator!r} is no MPI communicator; give one of mpi4py, or the handle of one as a number"
        )
    return handle


def _by_tcp(rank: int, size: int, meet: Callable[[], tuple[str, int]], timeout_ms: int) -> World:
    if size < 1 or not 0 <= rank < size:
        raise ArgumentError(f"dist.init: the launcher's variables say rank {rank} of {size} processes")
    if size == 1:
        return _alone
    host, port = meet()
    return World(_core.World.tcp(rank, size, host, port, timeout_ms), "tcp")


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ArgumentError(f"dist.init: the variable {name} is {text!r}, expected a number; the launcher sets it")
    return int(text)


def _meeting_point(variables: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of rank 0; torchrun itself listens at MASTER_PORT, so it is the next."""
    if config.RENDEZVOUS.text():
        return _host_and_port(config.RENDEZVOUS.text())
    if "MASTER_ADDR" not in variables:
        raise ArgumentError(
            "dist.init: RANK and WORLD_SIZE are set, but MASTER_ADDR is not; set it to the host of rank 0, and MASTER_PORT "
            f"(or {config.RENDEZVOUS.name} to host:port)"
        )
    port = _number(variables, "MASTER_PORT")
    if port > 65534:
        raise ArgumentError(f"dist.init: MASTER_PORT is {port}; the port after it must exist: use at most 65534")
    return variables["MASTER_ADDR"], port + 1


def _slurm_meeting_point(variables: Mapping[str, str]) -> tuple[str, int]:
    """The first host of the step, and a port that follows from the job and the step."""
    if config.RENDEZVOUS.text():
        return _host_and_port(config.RENDEZVOUS.text())
    hosts = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    if not hosts:
        raise ArgumentError(
            f"dist.init: Slurm's variables name no hosts (SLURM_STEP_NODELIST); set {config.RENDEZVOUS.name} to host:port of "
            "rank 0"
        )
    job = _number(variables, "SLURM_JOB_ID") if "SLURM_JOB_ID" in variables else 0
    return first_host(hosts), 20000 + (job * 17 + _number(variables, "SLURM_STEP_ID")) % 20000


def first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts: ``"node[003-007,9],login"`` begins with ``node003``."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]*)[^\]]*\]([^,\[]*))?", hosts)
    assert match is not None
    return "".join(part or "" for part in match.groups())


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ArgumentError(f"dist.init: {config.RENDEZVOUS.name} is {text!r}; give it as host:port")
    return host.strip("[]"), int(port)


def _leave_together(made: World) -> None:
    """At the end wait for the others; an exception that ends this process ends the others' runs."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        made.fail(f"{kind.__name__}: {error}")
        previous(kind, error, trace)

    sys.excepthook = hook
    atexit.register(made.close)
