"""Compiling programs in processes of their own: Triton's front end holds Python's global lock most of the time."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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


def _run(jobs: list[Job]) -> list[Binary | None]:
    """The work of one process."""
    nothing: list[Binary | None] = [None] * len(jobs)
    if not jobs:
        return nothing
    command = [sys.executable, "-c", _START, json.dumps([p for p in sys.path if isinstance(p, str)])]
    try:
        done = subprocess.run(command, input=pickle.dumps(jobs), capture_output=True, check=False)
        return pickle.loads(done.stdout) if done.returncode == 0 else nothing
    except (OSError, pickle.UnpicklingError, EOFError):
        return nothing


def main() -> None:
    """A process: jobs come on standard input, results go to standard output."""
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
