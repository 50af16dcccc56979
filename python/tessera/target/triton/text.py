"""Writing the text of a Triton module."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager

_INDENT = "    "


class Writer:
    """Lines of a function body, with fresh names for its variables."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.functions: dict[str, None] = {}
        self._depth = 1
        self._taken: dict[str, int] = {}

    def line(self, text: str) -> None:
        """Append a line."""
        self.lines.append(f"{_INDENT * self._depth}{text}")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A compound statement."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def reserve(self, *names: str) -> None:
        """Keep names from being given to variables."""
        for name in names:
            self._taken.setdefault(name, 0)

    def fresh(self, name: str) -> str:
        """A variable name like ``name`` that is not in use."""
        number = self._taken.get(name)
        self._taken[name] = (number or 0) + 1
        return name if number is None else self.fresh(f"{name}_{number}")

    def assign(self, name: str, text: str) -> str:
        """A fresh variable with a value; the variable. What is a variable already needs no other."""
        if text.isidentifier():
            return text
        variable = self.fresh(name)
        self.line(f"{variable} = {text}")
        return variable

    def call(self, function: str, *arguments: str) -> str:
        """The text of a call of a function of the library, which the module will hold."""
        self.functions[function] = None
        return f"{function}({', '.join(arguments)})"


def identifier(name: str) -> str:
    """A name that Triton, PTX and linkers accept."""
    text = re.sub(r"\W+", "_", name).strip("_") or "kernel"
    return f"kernel_{text}" if text[0].isdigit() or keyword.iskeyword(text) else text
