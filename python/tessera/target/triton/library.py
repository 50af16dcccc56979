"""The library's functions as text: a generated module holds those that it calls, and so stands by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_HEAD = "import triton\nimport triton.language as tl\nfrom triton.language.extra import libdevice\n"
_GLUON_HEAD = """import triton.language.core as core
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.language.extra import libdevice
"""


_FILES = (
    "functions.py", "attention_functions.py", "hopper_attention_functions.py", "hopper_attention_gradient_functions.py",
)


@dataclass(frozen=True, slots=True)
class _Function:
    text: str
    calls: tuple[str, ...]


@lru_cache(maxsize=1)
def _functions() -> dict[str, _Function]:
    found: dict[str, _Function] = {}
    for file in _FILES:
        text = Path(__file__).with_name(file).read_text(encoding="utf-8")
        lines, body = text.splitlines(), ast.parse(text).body
        nodes = [n for n in body if isinstance(n, ast.FunctionDef)]
        taken = [n for n in body if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("tessera.")]
        names = {n.name for n in nodes} | {a.name for n in taken for a in n.names}  # from other files of the library
        for node in nodes:
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & names - {node.name}
            found[node.name] = _Function("\n".join(lines[start : node.end_lineno]), tuple(sorted(used)))
    return found


def function_names() -> frozenset[str]:
    """The names that the library gives to functions."""
    return frozenset(_functions())


def module_text(functions: Iterable[str], body: str, gluon: bool = False) -> str:
    """The text of a module: imports, the library functions that are called, directly or not, then ``body``.

    ``gluon``: in that language; the functions of the library mean the same in it.
    """
    known = _functions()
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in order:
            for other in known[name].calls:
                add(other)
            order[name] = None

    for name in functions:
        add(name)
    text = "\n\n".join([_GLUON_HEAD if gluon else _HEAD, *(known[name].text + "\n" for name in order), body]) + "\n"
    return in_gluon(text) if gluon else text


def in_gluon(text: str) -> str:
    """Text in Triton as Gluon, for what means the same in both."""
    for words, other in (("@triton.jit", "@gluon.jit"), ("tl.PropagateNan", "core.PropagateNan"),
                         ("tl.debug_barrier", "tl.thread_barrier")):
        text = text.replace(words, other)
    return text
