"""The devices of a mesh as this process reaches them: all of them, each a thread, or one, where each is a process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from tessera import config
from tessera._core import Communicator, LocalGroup, Runtime
from tessera.dist.mesh import Mesh
from tessera.dist.world import world
from tessera.errors import DeviceError, TesseraError
from tessera.op.parameter import Parameter

_FOLLOWS = "another device failed: "  # how the runtime's message begins where a device stops because of another


@dataclass(slots=True)
class Replicas:
    """Values of a parameter that every GPU holds whole, but of the first device, whose is the parameter's."""

    array: Any
    assigned: int
    arrays: dict[int, Any] = field(default_factory=dict)


def _on_devices(mesh: Mesh, hosts: Mapping[int, Communicator]) -> dict[int, Communicator]:
    """The ends of the mesh's devices by rank: those of the hosts, or of GPUs whose hosts meet by them."""
    if mesh.kind == "cpu":
        return dict(hosts)
    timeout = config.COLLECTIVE_TIMEOUT.integer() * 1000
    return {rank: host.on_gpu(mesh.kind, mesh.gpu_index(rank), timeout) for rank, host in hosts.items()}


class Devices:
    """Virtual CPU devices, or GPUs: ``run(f)`` calls ``f(rank)`` for every device, each on its own thread.

    One run at a time; when it fails on a device, all devices stop, and the error of the first that failed is raised.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._group = LocalGroup(list(mesh.axes), list(mesh.shape), config.COLLECTIVE_TIMEOUT.integer() * 1000)
        self.communicators = _on_devices(mesh, {r: self._group.communicator(r) for r in range(mesh.size)})
        self.replicas: WeakKeyDictionary[Parameter, Replicas] = WeakKeyDictionary()
        # The devices share the cores: one thread for each is what a mesh on one machine can use.
        self.runtimes = {r: Runtime(1) for r in range(mesh.size)}
        self._threads = ThreadPoolExecutor(mesh.size, thread_name_prefix="tessera-device")
        self._lock = threading.Lock()

    def run(self, function: Callable[[int], Any]) -> dict[int, Any]:
        """The results of ``function(rank)`` by rank, for the devices of this process."""
        with self._lock:
            futures = [self._threads.submit(self._one, function, rank) for rank in range(self.mesh.size)]
            errors = [f.exception() for f in futures]  # waits for all
            if any(errors):
                wait_quietly(self.runtimes)  # GPUs that wait for the one that failed give up
                self._group.reset()
                raise self._first(errors)
            return {rank: f.result() for rank, f in enumerate(futures)}

    def settle(self, wait: Callable[[int], Any]) -> None:
        """Call ``wait(rank)`` for every device: it waits for what that is still at, and raises what failed there."""
        with self._lock:
            futures = [self._threads.submit(self._settled, wait, rank) for rank in range(self.mesh.size)]
            errors = [f.exception() for f in futures]
            if any(isinstance(e, DeviceError) and not str(e).startswith(_FOLLOWS) for e in errors):
                self._group.reset()
        if any(errors):
            raise self._first(errors)

    def _settled(self, wait: Callable[[int], Any], rank: int) -> None:
        """A run in which a check failed ends on all devices; where a device itself has failed, the others give up."""
        try:
            wait(rank)
        except DeviceError as error:
            if not str(error).startswith(_FOLLOWS):
                self._group.fail(str(error))
            raise

    def _one(self, function: Callable[[int], Any], rank: int) -> Any:
        try:
            return function(rank)
        except BaseException as error:
            self._group.fail(str(error))
            raise

    def _first(self, errors: list[BaseException | None]) -> BaseException:
        """The error that made the others stop, with the device that it happened on."""
        found = [(rank, e) for rank, e in enumerate(errors) if e is not None]
        own = [(rank, e) for rank, e in found if not str(e).startswith(_FOLLOWS)]
        rank, error = (own or found)[0]
        return _placed(self.mesh, rank, error)


class ProcessDevice:
    """The one device of a mesh of processes that is this process; runs as ``Devices`` does, on the calling thread.

    What goes wrong within a run makes the other processes fail in the same run.
    """

    def __init__(self, mesh: Mesh) -> None:
        here = world()
        missing = [d for d in mesh.devices if d >= here.size]
        if missing:
            raise DeviceError(
                f"{mesh!r} has a device {missing[0]}, but there are {here.size} processes; start as many processes as "
                "the mesh has devices"
            )
        if not mesh.local_ranks:
            raise DeviceError(
                f"{mesh!r} has no device in this process, which is rank {here.rank}; its devices are ranks "
                f"{mesh.devices}"
            )
        self.mesh = mesh
        self.rank = mesh.local_ranks[0]
        self.communicators = _on_devices(mesh, {self.rank: here.communicator(mesh.axes, mesh.shape, mesh.devices)})
        self.replicas: WeakKeyDictionary[Parameter, Replicas] = WeakKeyDictionary()
        self.runtimes = {self.rank: Runtime(config.THREADS.integer())}
        self._lock = threading.Lock()

    def run(self, function: Callable[[int], Any]) -> dict[int, Any]:
        """The result of ``function(rank)`` for this process's device, by rank."""
        with self._lock:
            try:
                return {self.rank: function(self.rank)}
            except BaseException as error:
                world().fail(str(error))
                if not str(error).startswith(_FOLLOWS):
                    raise _placed(self.mesh, self.rank, error) from None
                raise

    def settle(self, wait: Callable[[int], Any]) -> None:
        """Call ``wait(rank)`` for this process's device, which waits for what it is still at."""
        self.run(wait)


def wait_quietly(runtimes: Mapping[int, Runtime]) -> None:
    """Wait for what devices are at; what failed is raised where an output is read."""
    for runtime in runtimes.values():
        with contextlib.suppress(TesseraError):
            runtime.wait()


def _placed(mesh: Mesh, rank: int, error: BaseException) -> BaseException:
    """The error with the device that it happened on."""
    if isinstance(error, TesseraError) and error.args:
        place = ", ".join(f"{a}={c}" for a, c in mesh.coordinates(rank).items())
        error.args = (f"{error.args[0]}\n  on the device {place}", *error.args[1:])
    return error


_devices: WeakValueDictionary[Mesh, Devices | ProcessDevice] = WeakValueDictionary()
_lock = threading.Lock()


def devices_of(mesh: Mesh) -> Devices | ProcessDevice:
    """The devices of a mesh; the same ones for every program on it. DeviceError when there are too few processes, and
    on GPUs without NCCL (RCCL) or where there is no such device.
    """
    with _lock:
        found = _devices.get(mesh)
        if found is None:
            found = _devices[mesh] = ProcessDevice(mesh) if mesh.spans_processes else Devices(mesh)
        return found



