"""Checkpoints of what steps change: written in the background, shard by shard, and read on any mesh."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tessera import config
from tessera.artifact import checkpoint as files
from tessera.artifact import layout, writer
from tessera.artifact.checkpoint import Manifest, Ranges, Reading, Stored
from tessera.dist.mesh import Mesh
from tessera.dist.placement import Placement, shard_ranges
from tessera.dist.world import world
from tessera.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    FileAccessError,
    NameMissingError,
    ShapeError,
    TesseraError,
)
from tessera.ir.sharding import Sharding
from tessera.ir.value import Value
from tessera.op.modules import Module
from tessera.op.parameter import Parameter, parameter_of

_PATIENCE = 1.0  # seconds between two signs of life while others wait
_GRACE = 5.0  # seconds for the files of other processes once the program has ended or failed
_POLL = 0.02  # seconds between two looks for the files of other processes


class Processes(Protocol):
    """The processes of a job, of which this is number ``rank`` of ``size``."""

    rank: int
    size: int

    def all_gather(self, data: bytes) -> list[bytes]:
        """What every process gives, by rank."""
        ...


class Checkpoint:
    """Checkpoints in a folder: ``save`` writes one in the background, ``restore`` reads one, on any mesh.

    ``keep``: how many are kept, those that were saved last; None for all. Each is a folder ``step-<n>`` of safetensors
    files, one for each process with the shards that it holds (replicas are written once), and ``manifest.json``, which
    is put in place when all else is on the disk: a process that dies at any time leaves the last complete checkpoint as
    it was, and what it has left of an unfinished one is removed by the next ``save``. One job writes to a folder.

    What is saved, ``state``: a compiled graph, a step that has run, a loaded graph, an optimizer, a module, parameters,
    or a list or dict of these. A compiled step holds all that it changes (parameters, the optimizer's state, the random
    state), so a run that goes on from a checkpoint goes on bit for bit on the same mesh.

    When ``dist.init`` has connected several processes, all of them call ``save``, ``wait`` and ``restore``, with the
    same state and step, and see the same folder. ``processes``: others than those of ``dist.init`` that do so.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int | None = None, processes: Processes | None = None
    ) -> None:
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ArgumentError(f"Checkpoint: keep is {keep!r}; give how many to keep, at least 1, or None for all")
        self._folder = files.Folder(folder)
        self._keep = keep
        self._processes: Processes = processes or world()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._patience: float | None = None
        self._read = 0

    @property
    def folder(self) -> Path:
        """Where the checkpoints are."""
        return self._folder.path

    @property
    def bytes_read(self) -> int:
        """How many bytes of tensors the last ``restore`` has read in this process."""
        return self._read

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in the order in which they were saved."""
        return [m.step for m in self._folder.manifests()]

    def save(self, state: Any, step: int) -> None:
        """Write the present state as the checkpoint of a step; returns once it is copied, before it is written.

        Waits for the checkpoint before it. One of the same step is replaced when the new one is complete. Raises
        ArgumentError for a state without parameters and a step that is no count, FileAccessError when the folder cannot
        be written, and what the writing of the checkpoint before has raised.
        """
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
            raise ArgumentError(f"Checkpoint.save: step is {step!r}; give the number of steps done, at least 0")
        self.wait()
        self._patience = None
        parameters = parameters_in(state)
        shares = _shares(parameters, self._processes.size)
        token, number = self._begin(int(step), list(parameters.values()), shares)
        names = [f"shards-{process}.{token}.safetensors" for process in range(self._processes.size)]
        sections = [
            writer.section(files.piece_name(s.name, s.ranges, parameters[s.name].shape), s.copy(parameters[s.name]))
            for s in shares if s.process == self._processes.rank
        ]
        pieces: dict[str, list[tuple[str, Ranges]]] = {name: [] for name in parameters}
        for share in shares:
            pieces[share.name].append((names[share.process], share.ranges))
        stored = {name: Stored(p.dtype, p.shape, tuple(pieces[name])) for name, p in parameters.items()}
        self._thread = threading.Thread(
            target=self._write, args=(Manifest(int(step), number, stored), names, sections), name="tessera-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the last ``save`` is complete and on the disk; raises what its writing has raised."""
        if self._thread is None:
            return
        while self._is_writing(self._thread):
            pass
        error, self._thread, self._error = self._error, None, None
        self._agree("the checkpoint before is not complete", error)

    def restore(self, state: Any, step: int | None = None, *, strict: bool = True, verify: bool = False) -> int:
        """Read a checkpoint, by default the last one, into the parameters of ``state``; gives its step.

        It may have been written on another mesh, or on none; each process reads only the bytes that its devices hold.
        Nothing changes unless everything fits. ``strict=False`` ignores what the checkpoint holds beyond ``state``.
        Hashes of pieces that a process reads in full are checked; ``verify`` also reads the others in full for that.

        Raises NameMissingError when there is no (such) complete checkpoint or names differ, ShapeError or DTypeError
        for a tensor that is another there, FileAccessError for a file that is missing, FormatError for one that is
        truncated or corrupted, VersionError for one of a newer Tessera.
        """
        self.wait()
        parameters = parameters_in(state)
        targets = {name: _targets(p, self._processes) for name, p in parameters.items()}
        chosen = self._latest() if step is None else step
        folder = self._folder.of(chosen)
        reading: Reading | None = None
        error: TesseraError | None = None
        try:
            manifest = self._folder.manifest(chosen)
            _compare(str(folder), manifest.tensors, parameters, strict)
            reading = Reading(folder, manifest, verify)
            for name, wanted in targets.items():
                reading.check(name, [t.ranges for t in wanted])
        except TesseraError as found:
            error = found
        steps = self._agree("restore", error, str(chosen))
        if len(set(steps)) > 1:
            raise ArgumentError(f"Checkpoint: the processes restore different steps: {', '.join(steps)}; give one")
        assert reading is not None
        for name, parameter in parameters.items():
            for target in targets[name]:
                _fill(parameter, target, reading)
        self._read = reading.bytes
        return chosen

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the last ``save``; after an exception not for other processes, which may have failed as well."""
        if kind is None:
            self.wait()
        elif self._thread is not None:
            self._patience = _GRACE
            self._thread.join()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, keep={self._keep})"

    # --- what the processes have to agree on ---

    def _is_writing(self, thread: threading.Thread) -> bool:
        """Whether a process still writes, after a while: a long wait for one is no sign that it is dead."""
        thread.join(_PATIENCE)
        try:
            found = self._processes.all_gather(b"writing" if thread.is_alive() else b"")
        except BaseException:
            self._patience = 0.0  # one is gone, and its file does not come any more
            raise
        return b"writing" in found

    def _latest(self) -> int:
        """The last complete step that the first process sees."""
        error: TesseraError | None = None
        found = ""
        if self._processes.rank == 0:
            try:
                found = str(self._folder.latest())
            except TesseraError as missing:
                error = missing
        return int(self._agree("restore", error, found)[0])

    def _begin(self, step: int, tensors: Sequence[Parameter], shares: Sequence[_Share]) -> tuple[str, int]:
        """The token of this checkpoint's files and its number, which the first process makes, after it has cleaned."""
        error: TesseraError | None = None
        first = ["", 0]
        if self._processes.rank == 0:
            try:
                first = [os.urandom(6).hex(), self._folder.begin(step, self._keep)]
            except TesseraError as found:
                error = found
        plan = writer.digest(repr((tensors, shares)).encode())
        gathered = self._agree("save", error, json.dumps({"step": step, "plan": plan, "first": first}))
        told = [json.loads(text) for text in gathered]
        for process, other in enumerate(told):
            if (other["step"], other["plan"]) != (told[0]["step"], told[0]["plan"]):
                raise ArgumentError(
                    f"Checkpoint.save: process {process} saves step {other['step']}, process 0 step {told[0]['step']}, "
                    "or other tensors; all processes must save the same state at the same step"
                )
        token, number = told[0]["first"]
        return token, number

    def _agree(self, what: str, error: BaseException | None, text: str = "") -> list[str]:
        """What each process has to say; when one has failed, all raise."""
        told = {"text": text, "error": None if error is None else f"{type(error).__name__}: {error}"}
        gathered = [json.loads(data) for data in self._processes.all_gather(json.dumps(told).encode())]
        if error is not None:
            raise error
        for process, other in enumerate(gathered):
            if other["error"] is not None:
                raise DeviceError(f"Checkpoint: {what}: process {process} failed: {other['error']}")
        return [other["text"] for other in gathered]

    # --- the background thread ---

    def _write(self, manifest: Manifest, names: Sequence[str], sections: list[writer.Section]) -> None:
        folder = self._folder.of(manifest.step)
        own = folder / names[self._processes.rank]
        try:
            if sections:
                writer.save(own, {layout.FORMAT: "1", "tessera.content": "shards"}, sections)
            if self._processes.rank == 0:
                self._await(folder, {p: name for p, name in enumerate(names) if name in manifest.files})
                self._folder.commit(manifest, self._keep)
        except BaseException as error:  # noqa: BLE001  raised by the next call
            self._error = error
            with suppress(OSError):
                own.with_name(own.name + ".failed").touch()

    def _await(self, folder: Path, names: Mapping[int, str]) -> None:
        """Wait until the files of all processes, given by their numbers, are in place."""
        begin = time.monotonic()
        for process, name in names.items():
            while not (folder / name).exists():
                if (folder / f"{name}.failed").exists():
                    raise FileAccessError(f"{folder}: process {process} could not write its part of the checkpoint")
                limit = self._patience
                if limit is None:
                    runs = threading.main_thread().is_alive()
                    limit = config.COLLECTIVE_TIMEOUT.integer() if runs else _GRACE
                if time.monotonic() - begin > limit:
                    raise FileAccessError(
                        f"{folder}: {name} of process {process} has not appeared within {limit} s "
                        f"({config.COLLECTIVE_TIMEOUT.name}); is the process alive, and the folder the same for all?"
                    )
                time.sleep(_POLL)


# --- which parameters ---


def parameters_in(state: Any) -> dict[str, Parameter]:
    """The parameters of what ``Checkpoint`` saves, by name; ArgumentError when there is none, or two of one name."""
    found: dict[str, Parameter] = {}
    for parameter in _walk(state):
        if found.setdefault(parameter.name, parameter) is not parameter:
            raise ArgumentError(f"Checkpoint: two parameters are called {parameter.name!r}; give each its own name")
    if not found:
        raise ArgumentError(
            f"Checkpoint: {state!r} has no parameters; a step has none before it has run: give graph.compile(step, …)"
        )
    return dict(sorted(found.items()))


def _walk(state: Any) -> Iterator[Parameter]:
    if isinstance(state, Parameter):
        yield state
    elif isinstance(state, Value):
        yield parameter_of(state)
    elif isinstance(state, Module):
        yield from state.parameters()
    elif isinstance(state, Mapping):
        for one in state.values():
            yield from _walk(one)
    elif isinstance(state, (list, tuple, set, frozenset)):
        for one in state:
            yield from _walk(one)
    else:
        held = getattr(state, "parameters", None)  # of a step or a compiled or loaded graph
        held = getattr(state, "state", None) if held is None else held  # of an optimizer
        if not isinstance(held, Mapping):
            raise ArgumentError(
                f"Checkpoint: {type(state).__name__} has no parameters; give a compiled graph, a step, an optimizer, a "
                "module, parameters, or a list of these"
            )
        yield from held.values()


# --- who writes what ---


@dataclass(frozen=True, slots=True)
class _Share:
    """A part of a parameter that one process writes; ``rank``: the device that it lies on, None for a whole one."""

    name: str
    ranges: Ranges
    process: int
    rank: int | None

    def copy(self, parameter: Parameter) -> np.ndarray:
        """The present value of the part."""
        if self.rank is None:
            return parameter.value
        return np.array(_placement(parameter).shard(parameter, self.rank), order="C")


def _placement(parameter: Parameter) -> Placement:
    assert isinstance(parameter.placement, Placement)
    return parameter.placement


def _process_of(mesh: Mesh, rank: int, count: int) -> int:
    """The process that holds device number ``rank`` of a mesh: with several, each is a device."""
    return 0 if count == 1 else mesh.devices[rank]


@lru_cache(maxsize=4096)
def _regions(sharding: Sharding, shape: tuple[int, ...]) -> Mapping[Ranges, Sequence[int]]:
    """The distinct parts, but for empty ones, in which a tensor lies, and the devices that hold each."""
    found: dict[Ranges, list[int]] = {}
    for rank in range(sharding.mesh.count(sharding.mesh.names)):
        ranges = shard_ranges(sharding, shape, rank)
        if files.volume(ranges) or ranges == files.whole(shape):
            found.setdefault(ranges, []).append(rank)
    return found


def _shares(parameters: Mapping[str, Parameter], count: int) -> list[_Share]:
    """Every part of every parameter once, by the process, of those that hold it, that has the least to write so far."""
    load = [0] * count
    found: list[_Share] = []
    for name, parameter in parameters.items():
        if parameter.placement is None:
            holders: dict[Ranges, dict[int, int | None]] = {files.whole(parameter.shape): dict.fromkeys(range(count))}
        else:
            placement = _placement(parameter)
            holders = {
                ranges: {_process_of(placement.mesh, rank, count): rank for rank in reversed(ranks)}
                for ranges, ranks in _regions(placement.sharding, parameter.shape).items()
            }
        for ranges, by_process in holders.items():
            process = min(by_process, key=lambda p: (load[p], p))
            load[process] += files.volume(ranges) * parameter.dtype.itemsize
            found.append(_Share(name, ranges, process, by_process[process]))
    return found


# --- who reads what ---


@dataclass(frozen=True, slots=True)
class _Target:
    """A part of a parameter that this process holds, on the devices ``ranks``; on none for one in one piece."""

    ranges: Ranges
    ranks: tuple[int, ...]


def _targets(parameter: Parameter, processes: Processes) -> list[_Target]:
    if parameter.placement is None:
        return [_Target(files.whole(parameter.shape), ())]
    placement = _placement(parameter)
    own = {
        ranges: tuple(r for r in ranks if _process_of(placement.mesh, r, processes.size) == processes.rank)
        for ranges, ranks in _regions(placement.sharding, parameter.shape).items()
    }
    return [_Target(ranges, ranks) for ranges, ranks in own.items() if ranks]


def _fill(parameter: Parameter, target: _Target, reading: Reading) -> None:
    if not target.ranks:
        value = np.empty(parameter.shape, parameter.dtype.numpy)
        reading.read(parameter.name, target.ranges, value)
        parameter.value = value
        return
    placement = _placement(parameter)
    first = placement.overwritten(parameter, target.ranks[0])
    reading.read(parameter.name, target.ranges, first)
    for rank in target.ranks[1:]:
        placement.overwritten(parameter, rank)[...] = first


def _compare(where: str, stored: Mapping[str, Stored], parameters: Mapping[str, Parameter], strict: bool) -> None:
    """Whether names, shapes and dtypes agree."""
    missing = [name for name in parameters if name not in stored]
    more = [name for name in stored if name not in parameters]
    if missing or (more and strict):
        lists = [f"it lacks {_listed(missing)}"] * bool(missing) + [f"it has {_listed(more)} besides"] * bool(more)
        fix = "give the parameters the names that they had" if missing else "strict=False reads what is asked for"
        raise NameMissingError(f"{where}: the checkpoint has other names than the state: {'; '.join(lists)}; {fix}")
    for name, parameter in parameters.items():
        there = stored[name]
        if there.shape != parameter.shape:
            raise ShapeError(
                f"{where}: tensor {name!r} has shape {there.shape}, the parameter {parameter.shape}; build the model "
                "with the sizes that it had"
            )
        if there.dtype != parameter.dtype:
            raise DTypeError(
                f"{where}: tensor {name!r} is {there.dtype}, the parameter {parameter.dtype}; build the model with the "
                "dtype that it had"
            )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
