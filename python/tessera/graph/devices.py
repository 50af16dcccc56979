"""The devices of a mesh in this process: a thread and a communicator for each, and runs on all of them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from tessera import config
from tessera._core import Communicator, LocalGroup, Runtime
from tessera.dist.mesh import Mesh
from tessera.errors import TesseraError

_FOLLOWS = "another device failed: "  # how the runtime's message begins where a device stops because of another


class Devices:
    """Virtual CPU devices: ``run(f)`` calls ``f(rank)`` for every device, each on its own thread.

    One run at a time; when it fails on a device, all devices stop, and the error of the first that failed is raised.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._group = LocalGroup(list(mesh.axes), list(mesh.shape), config.COLLECTIVE_TIMEOUT.integer() * 1000)
        self.communicators: list[Communicator] = [self._group.communicator(r) for r in range(mesh.size)]
        # The devices share the cores: one thread for each is what a mesh on one machine can use.
        self.runtimes = [Runtime(1) for _ in range(mesh.size)]
        self._threads = ThreadPoolExecutor(mesh.size, thread_name_prefix="tessera-device")
        self._lock = threading.Lock()

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        """The results of ``function(rank)`` by rank."""
        with self._lock:
            futures = [self._threads.submit(self._one, function, rank) for rank in range(self.mesh.size)]
            errors = [f.exception() for f in futures]  # waits for all
            if any(errors):
                self._group.reset()
                raise self._first(errors)
            return [f.result() for f in futures]

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
        if isinstance(error, TesseraError) and error.args:
            place = ", ".join(f"{a}={c}" for a, c in self.mesh.coordinates(rank).items())
            error.args = (f"{error.args[0]}\n  on the device {place}", *error.args[1:])
        return error


_devices: WeakValueDictionary[Mesh, Devices] = WeakValueDictionary()
_lock = threading.Lock()


def devices_of(mesh: Mesh) -> Devices:
    """The devices of a mesh; the same ones for every program on it."""
    with _lock:
        found = _devices.get(mesh)
        if found is None:
            found = _devices[mesh] = Devices(mesh)
        return found



