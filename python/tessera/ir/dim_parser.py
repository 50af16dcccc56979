"""Reads the text of a dimension; the inverse of ``str``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn

from tessera.errors import GraphError
from tessera.ir.dims import Dim, Symbol, add, dmax, dmin, floordiv, mod, mul, sym

_TOKEN = re.compile(r"[ \t]*(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*%(),]))")
_PRODUCTS: dict[str, Callable[[Dim, Dim], Dim]] = {"*": mul, "//": floordiv, "%": mod}
_FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {"max": dmax, "min": dmin}
_MAX_DEPTH = 64
_MAX_DIGITS = 18


def parse_dim(text: str, names: Mapping[str, Symbol]) -> Dim:
    """The dimension of a text, over the symbols ``names``.

    Grammar: sum = product {("+" | "-") product}; product = unary {("*" | "//" | "%") unary};
    unary = ["-"] (integer | name | ("max" | "min") "(" sum "," sum ")" | "(" sum ")").

    Raises GraphError for a text that is malformed, too deeply nested, or names an unknown symbol.
    """
    return _Parser(text.strip(), names).parse()


class _Parser:
    def __init__(self, text: str, names: Mapping[str, Symbol]) -> None:
        self._text, self._names = text, names
        self._tokens: list[str] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self._fail(f"unexpected character at column {len(text) - len(text[at:].lstrip()) + 1}")
            self._tokens.append(match.group(match.lastindex or 0))
            at = match.end()
        self._tokens.append("")
        self._position = 0

    def parse(self) -> Dim:
        value = self._sum(0)
        self._expect("")
        return value

    def _fail(self, message: str) -> NoReturn:
        shown = repr(self._text) if len(self._text) <= 60 else f"{self._text[:40]!r}…"
        raise GraphError(f"dimension {shown}: {message}")

    @property
    def _next(self) -> str:
        return self._tokens[self._position]

    def _take(self) -> str:
        token = self._next
        self._position += 1
        return token

    def _expect(self, expected: str) -> None:
        if self._next != expected:
            self._fail(f"expected {expected or 'the end'!r} but found {self._next or 'the end'!r}")
        self._position += 1

    def _sum(self, depth: int) -> Dim:
        value = self._product(depth)
        while self._next in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            value = add(value, mul(sign, self._product(depth)))
        return value

    def _product(self, depth: int) -> Dim:
        value = self._unary(depth)
        while self._next in _PRODUCTS:
            value = _PRODUCTS[self._take()](value, self._unary(depth))
        return value

    def _unary(self, depth: int) -> Dim:
        if depth > _MAX_DEPTH:
            self._fail("nested too deeply")
        if self._next == "":
            self._fail("a number, a symbol or '(' is missing at the end")
        token = self._take()
        if token == "-":
            return mul(-1, self._unary(depth + 1))
        if token.isdecimal():
            if len(token) > _MAX_DIGITS:
                self._fail("the number is too large")
            return int(token)
        if token == "(":
            value = self._sum(depth + 1)
            self._expect(")")
            return value
        if token in _FUNCTIONS:
            return self._call(_FUNCTIONS[token], depth + 1)
        if token not in self._names:
            self._fail(f"unknown symbol {token!r}")
        return sym(self._names[token])

    def _call(self, function: Callable[[Dim, Dim], Dim], depth: int) -> Dim:
        self._expect("(")
        a = self._sum(depth)
        self._expect(",")
        b = self._sum(depth)
        self._expect(")")
        return function(a, b)
