"""Building libraries of operators for the tests, once in a session."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "cpp" / "custom"
_folder = tempfile.TemporaryDirectory(prefix="tessera-operators-")


@functools.cache
def flags() -> list[str]:
    """Flags of the compiler for programs that use the package."""
    done = subprocess.run(
        [sys.executable, "-m", "tessera", "--cflags", "--libs"], check=True, capture_output=True, text=True
    )
    return done.stdout.split()


@functools.cache
def library(source: str, *options: str) -> str:
    """The path of the library that a source file makes."""
    path = Path(source) if Path(source).is_absolute() else SOURCES / source
    target = Path(_folder.name) / f"lib{path.stem}{abs(hash(options)) if options else ''}.so"
    compiler = ["g++", "-std=c++17"] if path.suffix == ".cpp" else ["gcc", "-std=c11"]
    subprocess.run(
        [*compiler, "-O1", "-shared", "-fPIC", "-fvisibility=hidden", *options, str(path), *flags(), "-o", str(target)],
        check=True,
    )
    return str(target)
