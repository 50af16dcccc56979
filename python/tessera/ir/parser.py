"""Reads the text form of a graph; docs/decisions/0001-contracts.md has the grammar.

The text may come from an untrusted file: every name, type and attribute is checked, nesting is
bounded, and whatever is wrong is a typed error with line and column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from tessera.errors import GraphError, NameMissingError, TesseraError, VersionError
from tessera.ir.attribute import IDENTIFIER, MAX_DEPTH
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Dim, Symbol, add, mul, nonnegative, sym
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.printer import VERSION
from tessera.ir.provenance import Location
from tessera.ir.sharding import MeshShape, Sharding, Split, check_sharding, split_over
from tessera.ir.type_rule import result_types
from tessera.ir.value import INPUT, LEAVES, PARAM, Node, TensorType, Value

_SPACE = re.compile(r"[ \t\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(
    r"-?(?:inf|nan|(?P<integer>[0-9]+)(?P<rest>\.[0-9]*)?(?P<exponent>[eE][-+]?[0-9]+)?)(?![A-Za-z0-9_.])"
)
_INTEGER = re.compile(r"[0-9]{1,18}(?![0-9])")
_VALUE = re.compile(r"%[0-9]{1,9}(?![0-9])")
_OPERATOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(?:::[A-Za-z_][A-Za-z0-9_.]*)?")
_TYPE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[([^\[\]\n]*)\]")
_BRACKETS = re.compile(r"\[([^\[\]\n]*)\]")
_DIM = re.compile(r"<([^<>\n]*)>")
_TOKEN = re.compile(r'"[^"]*"?|%?[A-Za-z0-9_.]+|.')
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, **DTYPES}
_MAX_DIM_TEXT = 2000


def parse_graph(text: str, payloads: Mapping[str, Any] | None = None) -> Graph:
    """The graph of a text; the inverse of ``print_graph``.

    ``payloads`` gives the storage of parameters and the data of constants by name (None where it has no
    entry). Every stated type must be the one that the operator's type rule gives.

    Raises GraphError with line and column for a malformed text, NameMissingError for an unknown operator,
    VersionError for a text that needs a newer reader.
    """
    return _Parser(text, payloads or {}).parse()


def parse_attributes(text: str, symbols: Iterable[Symbol] = ()) -> dict[str, Any]:
    """The attributes of a text such as ``{axes = [0], size = <B>}``; empty text has none. Raises GraphError."""
    return _Parser.over(symbols).attributes(text)


def parse_type(text: str, symbols: Iterable[Symbol] = ()) -> TensorType:
    """The type of a text such as ``f32[B, 64]``. Raises GraphError."""
    return _Parser.over(symbols).type(text)


class _Line:
    """A cursor over one line."""

    __slots__ = ("text", "number", "at")

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0
        self.skip()

    def skip(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]

    def fail(self, message: str, at: int | None = None, kind: type[TesseraError] = GraphError) -> NoReturn:
        column = (self.at if at is None else at) + 1
        raise kind(f"line {self.number}, column {column}: {message}")

    def expected(self, what: str) -> NoReturn:
        match = _TOKEN.match(self.text, self.at)
        found = "the end of the line" if match is None else repr(match.group()[:40])
        self.fail(f"expected {what} but found {found}")

    def next_is(self, literal: str) -> bool:
        """Take ``literal`` when it comes next."""
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        self.skip()
        return True

    def literal(self, literal: str) -> None:
        if not self.next_is(literal):
            self.expected(repr(literal))

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = pattern.match(self.text, self.at)
        if match is None:
            self.expected(what)
        self.at = match.end()
        self.skip()
        return match

    def integer(self, what: str) -> int:
        return int(self.take(_INTEGER, what).group())

    def string(self, what: str) -> str:
        text = self.take(_STRING, what).group()
        return json.loads(text) if "\\" in text else text[1:-1]

    @property
    def done(self) -> bool:
        """Whether nothing or a comment is left."""
        return self.at >= len(self.text) or self.text[self.at] == "#"

    def end(self) -> None:
        if not self.done:
            self.expected("the end of the line")


class _Parser:
    def __init__(self, text: str, payloads: Mapping[str, Any]) -> None:
        self._lines = [line for n, t in enumerate(text.split("\n")) if not (line := _Line(t, n + 1)).done]
        self._last = text.count("\n") + 1
        self._payloads = payloads
        self._dims: dict[str, Symbol] = {}
        self._dim_texts: dict[str, Dim] = {}
        self._types: dict[str, TensorType] = {}
        self._values: dict[str, Value] = {}
        self._leaf_names: set[str] = set()
        self._inputs: list[Value] = []
        self._outputs: dict[str, Value] = {}
        self._updates: dict[Value, Value] = {}
        self._mesh: MeshShape | None = None

    @classmethod
    def over(cls, symbols: Iterable[Symbol]) -> _Parser:
        """A parser of parts of a graph that declares these symbols."""
        out = cls("", {})
        for symbol in symbols:
            out._dims[symbol.name] = symbol
            out._dim_texts[symbol.name] = sym(symbol)
        return out

    def attributes(self, text: str) -> dict[str, Any]:
        line = _Line(text, 1)
        found = self._attributes(line)
        line.end()
        return found

    def type(self, text: str) -> TensorType:
        line = _Line(text, 1)
        found = self._type(line)
        line.end()
        return found

    def parse(self) -> Graph:
        lines = iter(self._lines)
        self._version(self._next(lines, "'tessera.graph'"))
        line = self._next(lines, "'graph'")
        line.literal("graph")
        name = line.string("the graph's name, a string")
        line.literal("{")
        line.end()
        while not (line := self._next(lines, "'}'")).next_is("}"):
            self._statement(line)
            line.end()
        line.end()
        for line in lines:
            line.expected("the end of the text")
        return Graph(self._outputs, name=name, inputs=self._inputs, updates=self._updates)

    def _next(self, lines: Any, what: str) -> _Line:
        line = next(lines, None)
        if line is None:
            raise GraphError(f"line {self._last}: expected {what} but found the end of the text")
        return line

    def _version(self, line: _Line) -> None:
        line.literal("tessera.graph")
        version = line.integer("the version of the text form")
        line.end()
        if version > VERSION:
            line.fail(f"the text has version {version}; this reader knows versions up to {VERSION}", 0, VersionError)
        if version < 1:
            line.fail(f"{version} is not a version of the text form", 0)

    def _statement(self, line: _Line) -> None:
        if line.text.startswith("%", line.at):
            self._node(line)
        elif line.next_is("dim "):
            self._dim_statement(line)
        elif line.next_is("mesh "):
            self._mesh_statement(line)
        elif line.next_is("output "):
            start = line.at
            name = line.string("the output's name, a string")
            line.literal("=")
            if name in self._outputs:
                line.fail(f"the output {name!r} is given twice", start)
            self._outputs[name] = self._operand(line)
        elif line.next_is("update "):
            self._update(line)
        else:
            line.expected("'%', 'dim', 'mesh', 'output', 'update' or '}'")

    def _dim_statement(self, line: _Line) -> None:
        start = line.at
        name = line.take(IDENTIFIER, "the name of a dimension").group()
        if name in self._dims:
            line.fail(f"the dimension {name!r} is declared twice", start)
        line.literal("in")
        line.literal("[")
        low = line.integer("the least size")
        line.literal(",")
        high = None if line.next_is("inf") else line.integer("the greatest size or 'inf'")
        line.literal("]")
        line.literal("multiple_of")
        multiple_of = line.integer("a divisor")
        self._dims[name] = self._checked(line, start, lambda: Symbol(name, low, high, multiple_of))
        self._dim_texts[name] = sym(self._dims[name])

    def _mesh_statement(self, line: _Line) -> None:
        start = line.at
        if self._mesh is not None:
            line.fail("the mesh is declared twice", start)
        axes: dict[str, int] = {}
        while not axes or line.next_is(","):
            name = line.take(IDENTIFIER, "the name of a mesh axis").group()
            line.literal("=")
            size = line.integer("the size of a mesh axis")
            if name in axes or size < 1:
                wrong = "is declared twice" if name in axes else "has no device"
                line.fail(f"the mesh axis {name!r} {wrong}", start)
            axes[name] = size
        self._mesh = MeshShape(tuple(axes.items()))

    def _update(self, line: _Line) -> None:
        start = line.at
        param = self._operand(line)
        if param.node.op != PARAM:
            line.fail(f"update: the target must be a param, but it is the result of {param.node.op}", start)
        if param in self._updates:
            line.fail(f"the parameter {param.node.attrs['name']!r} is updated twice", start)
        line.literal("=")
        start = line.at
        value = self._operand(line)
        if value.type != param.type:
            line.fail(f"update: the parameter has type {param.type} but the new value has type {value.type}", start)
        self._updates[param] = value

    def _operand(self, line: _Line) -> Value:
        start = line.at
        name = line.take(_VALUE, "a value such as %0").group()
        value = self._values.get(name)
        if value is None:
            line.fail(f"{name} is used but not defined above", start)
        return value

    def _node(self, line: _Line) -> None:
        start = line.at
        results = [line.take(_VALUE, "a value such as %0").group()]
        while line.next_is(","):
            results.append(line.take(_VALUE, "a value such as %0").group())
        for i, name in enumerate(results):
            if name in self._values or name in results[:i]:
                line.fail(f"{name} is defined twice", start)
        line.literal("=")
        at_op = line.at
        op = line.take(_OPERATOR, "an operator").group()
        operands: list[Value] = []
        if line.next_is("(") and not line.next_is(")"):
            operands.append(self._operand(line))
            while not line.next_is(")"):
                line.literal(",")
                operands.append(self._operand(line))
        attrs = self._attributes(line)
        line.literal(":")
        at_type = line.at
        types = self._result_types(line)
        loc = self._location(line)
        if len(types) != len(results):
            line.fail(f"{len(results)} values are defined but {len(types)} types are given", at_type)
        payload = None
        if op in LEAVES:
            self._check_leaf(line, at_op, op, operands, attrs, types)
            payload = self._payloads.get(attrs["name"]) if op != INPUT else None
        else:
            self._check_types(line, at_op, at_type, op, operands, attrs, types)
        node = Node(op, operands, attrs, types, loc, payload)
        self._values.update(zip(results, node.results))
        if op == INPUT:
            self._inputs.append(node.results[0])

    def _check_leaf(
        self, line: _Line, at: int, op: str, operands: list[Value], attrs: dict[str, Any], types: tuple[TensorType, ...]
    ) -> None:
        wanted = {"name", "trainable"} if op == PARAM else {"name"}
        if operands or len(types) != 1 or set(attrs) != wanted:
            line.fail(f"{op} takes no operands, has one result and the attributes {', '.join(sorted(wanted))}", at)
        name = attrs["name"]
        if not isinstance(name, str) or not isinstance(attrs.get("trainable", True), bool):
            line.fail(f"{op}: name must be a string" + (" and trainable true or false" if op == PARAM else ""), at)
        if (key := f"{op} {name}") in self._leaf_names:
            line.fail(f"there are two of {op} {name!r}", at)
        self._leaf_names.add(key)

    def _check_types(
        self, line: _Line, at: int, at_type: int, op: str, operands: list[Value], attrs: dict[str, Any],
        types: tuple[TensorType, ...],
    ) -> None:
        try:
            inferred = result_types(op, tuple([v.type for v in operands]), attrs)
        except NameMissingError as error:
            line.fail(str(error), at, NameMissingError)
        except TesseraError as error:
            line.fail(str(error), at)
        except Exception as error:  # the rule met an attribute that is missing or of another kind than it expects
            line.fail(f"{op}: the operands or attributes do not fit the operator ({type(error).__name__}: {error})", at)
        if inferred != types:
            stated, right = (", ".join(str(t) for t in each) for each in (types, inferred))
            line.fail(f"{op}: the stated type is {stated} but the operator gives {right}", at_type)

    def _attributes(self, line: _Line) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        if not line.next_is("{") or line.next_is("}"):
            return attrs
        while True:
            start = line.at
            name = line.take(IDENTIFIER, "an attribute's name").group()
            if name in attrs:
                line.fail(f"the attribute {name!r} is given twice", start)
            line.literal("=")
            attrs[name] = self._attribute(line, 0)
            if line.next_is("}"):
                return attrs
            line.literal(",")

    def _attribute(self, line: _Line, depth: int) -> Any:
        start = line.at
        first = line.text[start : start + 1]
        if first == '"':
            return line.string("a string")
        if first == "[":
            return self._list(line, depth)
        if first == "<":
            return self._dim(line, line.take(_DIM, "a dimension in angle brackets").group(1), start)
        if (number := _NUMBER.match(line.text, start)) is not None:
            line.at = number.end()
            line.skip()
            return self._number(line, number, start)
        word = line.take(IDENTIFIER, "an attribute value").group()
        if word not in _WORDS:
            line.fail(f"{word!r} is neither true, false, none nor a dtype", start)
        return _WORDS[word]

    def _list(self, line: _Line, depth: int) -> list[Any]:
        if depth >= MAX_DEPTH:
            line.fail(f"lists are nested more than {MAX_DEPTH} deep")
        line.literal("[")
        items: list[Any] = []
        if line.next_is("]"):
            return items
        while True:
            items.append(self._attribute(line, depth + 1))
            if line.next_is("]"):
                return items
            line.literal(",")

    def _number(self, line: _Line, match: re.Match[str], start: int) -> int | float:
        text = match.group()
        if match["integer"] is None or match["rest"] is not None or match["exponent"] is not None:
            return float(text)
        if len(text) > 21 or not -(2**63) <= int(text) < 2**64:
            line.fail(f"the integer {text[:40]} does not fit 64 bits", start)
        return int(text)

    def _result_types(self, line: _Line) -> tuple[TensorType, ...]:
        if not line.next_is("("):
            return (self._type(line),)
        types = [self._type(line)]
        while not line.next_is(")"):
            line.literal(",")
            types.append(self._type(line))
        return tuple(types)

    def _type(self, line: _Line) -> TensorType:
        start = line.at
        match = line.take(_TYPE, "a type such as f32[2, 3]")
        found = self._types.get(match.group())
        if found is None:
            found = self._types[match.group()] = self._plain_type(line, match, start)
        return self._sharded(line, found) if line.next_is("split") else found

    def _plain_type(self, line: _Line, match: re.Match[str], start: int) -> TensorType:
        dtype, shape = match.groups()
        if dtype not in DTYPES:
            line.fail(f"unknown dtype {dtype!r}", start)
        dims: list[Dim] = []
        for text in _split(shape) if shape.strip() else ():
            d = self._dim(line, text.strip(), start)
            if isinstance(d, int) and d < 0:
                line.fail(f"the size {d} is negative", start)
            dims.append(d)
        return TensorType(DTYPES[dtype], tuple(dims))

    def _sharded(self, line: _Line, plain: TensorType) -> TensorType:
        start = line.at
        if self._mesh is None:
            line.fail("a type is sharded, but no mesh is declared above", start)
        match = line.take(_BRACKETS, "the splits of the dimensions in brackets")
        texts = [t.strip() for t in _split(match.group(1))] if match.group(1).strip() else []
        if len(texts) != plain.ndim:
            line.fail(f"{len(texts)} splits for {plain.ndim} dimensions", start)
        dims = tuple(self._split_of(line, t, d, start) for t, d in zip(texts, plain.shape))
        partial: list[tuple[str, str]] = []
        if line.next_is("partial"):
            for text in line.take(_BRACKETS, "the partial axes in brackets").group(1).split(","):
                axis, _, combine = text.strip().partition(" ")
                partial.append((axis, combine.strip()))
        sharding = Sharding(self._mesh, dims, tuple(partial))
        self._checked(line, start, lambda: check_sharding(sharding, plain.ndim))
        return TensorType(plain.dtype, plain.shape, sharding)

    def _split_of(self, line: _Line, text: str, size: Dim, start: int) -> Split | None:
        if text == "-":
            return None
        names, slash, block = text.partition("/")
        axes = tuple(names.split("*"))
        usual = self._checked(line, start, lambda: split_over(size, axes, self._mesh))  # type: ignore[arg-type]
        if not slash:
            return usual
        split = Split(axes, self._dim(line, block.strip(), start))
        most = mul(split.block, self._mesh.count(axes))  # type: ignore[union-attr]
        if not nonnegative(split.block) or not nonnegative(add(most, mul(-1, size))):
            line.fail(f"blocks of {block.strip()} over {names} do not hold {size} elements", start)
        return split

    def _dim(self, line: _Line, text: str, start: int) -> Dim:
        found = self._dim_texts.get(text)
        if found is None:
            if len(text) > _MAX_DIM_TEXT:
                line.fail("the dimension's text is too long", start)
            found = self._checked(line, start, lambda: parse_dim(text, self._dims))
            self._dim_texts[text] = found
        return found

    def _location(self, line: _Line) -> Location | None:
        if not line.next_is("at "):
            return None
        file = line.string("a file name, a string")
        line.literal(":")
        return Location(file, line.integer("a line number"))

    @staticmethod
    def _checked(line: _Line, at: int, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except TesseraError as error:
            line.fail(str(error), at)


def _split(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    if "(" not in text:
        return text.split(",")
    parts: list[str] = [""]
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts
