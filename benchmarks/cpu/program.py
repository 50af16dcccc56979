"""Builds the C++ benchmark program against the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).parent / "cpp" / "bench.cpp"
BUILD = Path(__file__).parents[2] / "build" / "bench"


def _flags(*options: str) -> list[str]:
    done = subprocess.run([sys.executable, "-m", "tessera", *options], check=True, capture_output=True, text=True)
    return done.stdout.split()


def build_program() -> Path:
    """The path of the program, built with ``c++ -O2`` unless it is newer than its source and the library's headers."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / f"bench-{sysconfig.get_python_version()}"
    headers = Path(*_flags("--include-dir")).rglob("*.h")
    newest = max(file.stat().st_mtime for file in (SOURCE, *headers))
    if not program.exists() or program.stat().st_mtime < newest:
        compiler, libraries = os.environ.get("CXX", "c++"), _flags("--libs")
        flags = ["-O2", "-std=c++17", *_flags("--cflags")]
        subprocess.run([compiler, *flags, str(SOURCE), *libraries, "-o", str(program)], check=True)
    return program
