"""Rules of the source that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "tessera"
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}
SOURCES = (".py", ".pyi", ".cpp", ".h", ".c", ".md", ".txt", ".toml", ".cmake")


def _sources() -> list[Path]:
    folders = ("python", "runtime", "tests", "examples", "benchmarks", "tools", "docs", "cmake")
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES and p.is_file()]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tracked = {ROOT / line for line in listed.stdout.splitlines()}
    return [p for p in found if p in tracked] if tracked else found


def test_only_config_reads_the_environment() -> None:
    readers: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.name if isinstance(node, ast.alias) else ""
            if name in ENVIRONMENT:
                readers.append(path.relative_to(PACKAGE).as_posix())
    assert set(readers) == {"config.py"}


def test_the_runtime_reads_only_documented_variables() -> None:
    from tessera.config import VARIABLES

    read: set[str] = set()
    for path in (ROOT / "runtime").rglob("*"):
        if path.suffix in (".cpp", ".h"):
            read |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text(encoding="utf-8")))
    assert {name for name in read if name.startswith("TESSERA_")} <= {v.name for v in VARIABLES}


def test_no_file_is_called_utils() -> None:
    assert not [p for p in _sources() if re.search(r"util|helper|misc|common", p.stem)]


@pytest.mark.parametrize("mark", ["TO" + "DO", "FIX" + "ME"])
def test_nothing_is_left_to_do(mark: str) -> None:
    found = [p.relative_to(ROOT).as_posix() for p in _sources() if mark in p.read_text(encoding="utf-8")]
    assert not found
