"""Compiling programs in processes of their own: Triton's front end holds Python's global lock most of the time."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tessera.errors import CompileError
from tessera.target.triton.build import compile_program
from tessera.target.triton.launch import Binary, Program

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tessera.target.triton.worker import main; main()"
)

Job = tuple[Program, str, "int | str", int]
"""A program, and for what: backend, architecture, threads of a warp."""


def compile_in_processes(jobs: Sequence[Job], processes: int) -> list[Binary | None]:
    """Compile programs in so many processes; None for what a process failed at, so that it is tried again here."""
    order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i][0].source))  # the longest first, dealt out evenly
    shares = [order[i::processes] for i in range(processes)]
    found: list[Binary | None] = [None] * len(jobs)
    with ThreadPoolExecutor(processes) as pool:
        for share, done in zip(shares, pool.map(_run, [[jobs[i] for i in share] for share in shares])):
            for i, binary in zip(share, done):
                found[i] = binary
    return found


_waiting: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


@contextmanager
def started(processes: int) -> Iterator[None]:
    """Start processes that compile what comes later: while a program is scheduled, they import the compiler."""
    try:
        for _ in range(processes):
            one = _start()
            with _lock:
                _waiting.append(one)
    except OSError:
        pass  # those that are missing are started when they are needed, or fail then
    try:
        yield
    finally:
        with _lock:
            left = _waiting[:]
            _waiting.clear()
        for one in left:
            one.kill()
            one.communicate()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _START, json.dumps([p for p in sys.path if isinstance(p, str)])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _run(jobs: list[Job]) -> list[Binary | None]:
    """The work of one process."""
    nothing: list[Binary | None] = [None] * len(jobs)
    if not jobs:
        return nothing
    try:
        with _lock:
            one = _waiting.pop(0) if _waiting else None
        one = one or _start()
        out, _ = one.communicate(pickle.dumps(jobs))
        return pickle.loads(out) if one.returncode == 0 else nothing
    except (OSError, pickle.UnpicklingError, EOFError):
        return nothing


def main() -> None:
    """A process: jobs come on standard input, results go to standard output."""
    import triton.compiler.compiler  # type: ignore[import-not-found]  # noqa: F401 - while there is no job yet
    from triton._C import libtriton  # type: ignore[import-not-found]  # noqa: F401

    out = sys.stdout.buffer
    sys.stdout = sys.stderr
    found: list[Binary | None] = []
    for program, backend, architecture, warp in pickle.load(sys.stdin.buffer):
        try:
            found.append(compile_program(program, backend, architecture, warp))
        except CompileError:
            found.append(None)  # the process that asked finds the message again
    out.write(pickle.dumps(found))
    out.flush()
