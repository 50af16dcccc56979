"""Graphs for tests from the statements of their text form."""

from __future__ import annotations

import textwrap

import tessera.op  # noqa: F401  registers the operators
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph


def graph_of(body: str, unused: str = "") -> Graph:
    """The graph with these statements; inputs ``x y z``: f32[4, 8], ``i``: i64[4, 8], ``c``: bool[4, 8] are given.

    Those that the statements or ``unused`` name become inputs. A graph without an ``output`` or ``update`` statement
    has its last value as the output "y".
    """
    lines = [line.strip() for line in textwrap.dedent(body).strip().split("\n")]
    given = [line for line in _GIVEN if line[1] in unused or any(line[:2] in other for other in lines)]
    named = {line.split(" =")[0]: f"%{100 + k}" for k, line in enumerate(_GIVEN)}
    text = "\n".join(["tessera.graph 1", 'graph "main" {', *given, *lines])
    for name, number in named.items():
        text = text.replace(name, number)
    if "output" not in text and "update" not in text:
        last = [line for line in lines if line.startswith("%")][-1].split(" =")[0]
        text += f'\noutput "y" = {named.get(last, last)}'
    return parse_graph(text + "\n}\n")


_GIVEN = [
    '%x = input {name = "x"} : f32[4, 8]',
    '%y = input {name = "y"} : f32[4, 8]',
    '%z = input {name = "z"} : f32[4, 8]',
    '%i = input {name = "i"} : i64[4, 8]',
    '%c = input {name = "c"} : bool[4, 8]',
]
