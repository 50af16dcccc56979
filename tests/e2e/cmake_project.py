"""Building an example's CMake project as a user does: a copy outside the repository finds the installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


CMAKE, NINJA = _tool("cmake"), _tool("ninja")
needs_cmake = pytest.mark.skipif(CMAKE is None or shutil.which("g++") is None, reason="needs cmake and g++")


def build_project(example: Path, folder: Path, build_type: str = "Release") -> Path:
    """Copy the example to ``folder``/source and build it, without a warning, in the folder that is returned."""
    shutil.copytree(example, folder / "source")
    package = subprocess.run(
        [sys.executable, "-m", "tessera", "--cmake-dir"], check=True, capture_output=True, text=True, cwd=folder
    ).stdout.strip()
    configure = [str(CMAKE), "-S", "source", "-B", "build", f"-DTessera_DIR={package}",
                 f"-DCMAKE_BUILD_TYPE={build_type}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"]
    if NINJA:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={NINJA}"]
    for command in (configure, [str(CMAKE), "--build", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return folder / "build"
