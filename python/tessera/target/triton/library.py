"""The functions of ``functions.py`` as text: a generated module holds those that it calls, and so stands by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_HEAD = "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"


@dataclass(frozen=True, slots=True)
class _Function:
    text: str
    calls: tuple[str, ...]


@lru_cache(maxsize=1)
def _functions() -> dict[str, _Function]:
    path = Path(__file__).with_name("functions.py")
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    names = {n.name for n in nodes}
    found: dict[str, _Function] = {}
    for node in nodes:
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & names - {node.name}
        found[node.name] = _Function("\n".join(lines[start : node.end_lineno]), tuple(sorted(used)))
    return found


def function_names() -> frozenset[str]:
    """The names that the library gives to functions."""
    return frozenset(_functions())


def module_text(functions: Iterable[str], body: str) -> str:
    """The text of a module: imports, the library functions that are called, directly or not, then ``body``."""
    known = _functions()
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in order:
            for other in known[name].calls:
                add(other)
            order[name] = None

    for name in functions:
        add(name)
    return "\n\n".join([_HEAD, *(known[name].text + "\n" for name in order), body]) + "\n"
