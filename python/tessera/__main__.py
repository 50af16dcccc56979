"""``python -m tessera``: where the headers and the library are; other arguments go to the ``tessera`` command."""

from __future__ import annotations

import argparse
import os
import sys

from tessera import __version__
from tessera.cli import main as command

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def include_dir() -> str:
    """The folder that holds ``tessera/runtime.h``."""
    return os.path.join(_PACKAGE, "include")


def library_dir() -> str:
    """The folder that holds ``libtessera.so``."""
    return os.path.join(_PACKAGE, "lib")


def cmake_dir() -> str:
    """The folder for CMake's ``Tessera_DIR``."""
    return os.path.join(library_dir(), "cmake", "Tessera")


def main() -> int:
    """Print what the flags ask for, on one line."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        return command(sys.argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m tessera",
        description="Compiler and linker flags of Tessera.",
        epilog="Commands: inspect, run, doctor.",
    )
    parser.add_argument("--cflags", action="store_true", help="flags to compile a C++ program")
    parser.add_argument("--libs", action="store_true", help="flags to link it, with the run-time path")
    parser.add_argument("--include-dir", action="store_true", help="folder of the headers")
    parser.add_argument("--cmake-dir", action="store_true", help="folder for Tessera_DIR")
    parser.add_argument("--version", action="store_true", help="version of Tessera")
    options = parser.parse_args()
    parts: list[str] = []
    if options.cflags:
        parts += ["-std=c++17", f"-I{include_dir()}"]
    if options.libs:
        parts += [f"-L{library_dir()}", f"-Wl,-rpath,{library_dir()}", "-ltessera"]
    if options.include_dir:
        parts.append(include_dir())
    if options.cmake_dir:
        parts.append(cmake_dir())
    if options.version:
        parts.append(__version__)
    if not parts:
        parser.print_help()
        return 2
    print(" ".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
