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
    """The path of the program, built with ``c++ -O2`` unless it is newer than its source and the library."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / f"bench-{sysconfig.get_python_version()}"
    libraries = _flags("--libs")
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = os.environ.get("CXX", "c++")
        flags = ["-O2", "-std=c++17", *_flags("--cflags")]
        subprocess.run([compiler, *flags, str(SOURCE), *libraries, "-o", str(program)], check=True)
    return program
