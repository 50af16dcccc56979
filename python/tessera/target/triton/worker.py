"""Compiling programs in processes of their own: Triton's front end holds Python's global lock most of the time."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

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
    left = sorted(range(len(jobs)), key=lambda i: _effort(jobs[i][0]))  # the longest first, to whoever is free
    found: list[Binary | None] = [None] * len(jobs)

    def serve(_: int) -> None:
        with suppress(OSError, EOFError, pickle.UnpicklingError), _process() as one:
            assert one.stdin is not None and one.stdout is not None
            while True:
                try:
                    number = left.pop()  # atomic
                except IndexError:
                    break
                pickle.dump(jobs[number], one.stdin)
                one.stdin.flush()
                found[number] = pickle.load(one.stdout)

    with ThreadPoolExecutor(processes) as pool:
        for _ in pool.map(serve, range(processes)):
            pass
    return found


def _effort(program: Program) -> int:
    """How long a program takes to compile, compared with others."""
    return len(program.source) * (3 if program.gluon else 1)


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


@contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that was started before, or a new one; it ends when nothing more comes."""
    with _lock:
        one = _waiting.pop(0) if _waiting else None
    one = one or _start()
    try:
        yield one
    finally:
        with suppress(OSError):
            one.communicate()


def main() -> None:
    """A process: jobs come on standard input one by one, and each result goes to standard output."""
    import triton.compiler.compiler  # type: ignore[import-not-found]  # noqa: F401 - while there is no job yet
    from triton._C import libtriton  # type: ignore[import-not-found]  # noqa: F401

    out = sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        try:
            program, backend, architecture, warp = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            found = compile_program(program, backend, architecture, warp)
        except CompileError:
            found = None  # the process that asked finds the message again
        pickle.dump(found, out)
        out.flush()
