"""Libraries of operators as older releases built them, each built once in a session."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import tessera

HERE = Path(__file__).resolve().parent
HEADERS = sorted(HERE.glob("custom_op_abi_*"))
_folder = tempfile.TemporaryDirectory(prefix="tessera-frozen-")


@functools.cache
def build(headers: Path) -> str:
    """The library of a frozen version, linked with the runtime of today."""
    package = Path(tessera.__file__).parent
    target = Path(_folder.name) / f"lib{headers.name}.so"
    name = f"-DLIBRARY=frozen_{headers.name.rsplit('_', 1)[1]}"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", name, f"-I{headers}",
         HERE / "frozen_library.cpp", f"-L{package}/lib", "-ltessera", f"-Wl,-rpath,{package}/lib", "-o", target],
        check=True,
    )
    return str(target)
