"""``make demo``: train in Python, classify in C++ with the file in between, compare bit for bit."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def tool(name: str) -> str:
    """A build tool: the one of this Python environment, else the system's."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        sys.exit(f"demo: {name} is not installed")
    return found


def build(folder: Path) -> Path:
    """Build the C++ program with CMake; the path of the executable."""
    cmake_dir = subprocess.run(
        [sys.executable, "-m", "tessera", "--cmake-dir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    cmake = tool("cmake")
    subprocess.run(
        [
            cmake,
            "-S",
            str(HERE / "cpp"),
            "-B",
            str(folder),
            *generator,
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DTessera_DIR={cmake_dir}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run([cmake, "--build", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder / "classify"


def main() -> None:
    """Train, build, classify."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/demo"), help="where the results go")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, str(HERE / "train.py"), "--folder", str(options.folder), "--epochs", str(options.epochs)],
        check=True,
    )
    program = build(options.folder / "cpp")
    sys.exit(subprocess.run([str(program), str(options.folder)]).returncode)


if __name__ == "__main__":
    main()
