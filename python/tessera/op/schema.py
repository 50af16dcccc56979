"""The signature of a custom operator: its text, the arguments of a call, and how both look in Python."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tessera.errors import ArgumentError, FormatError, TesseraError
from tessera.ir.attribute import attribute_text
from tessera.ir.dims import Expr, Symbol, sym
from tessera.ir.dtype import DType, as_dtype
from tessera.ir.parser import parse_attributes
from tessera.ir.value import Value
from tessera.op.arguments import as_dim
from tessera.op.promotion import as_tensor

REQUIRED: Any = inspect.Parameter.empty
"""The default of an argument that must be given."""

_HEAD = re.compile(
    r"\s*(?P<name>[A-Za-z_]\w*)\s*:\s*(?P<kind>tensor|bool|int|float|str|dtype|dim)(?:\((?P<dtypes>[\w|]+)\))?"
    r"(?P<many>\[\])?(?P<optional>\?)?\s*"
)
_DEFAULT = re.compile(r'=\s*((?:"(?:[^"\\]|\\.)*"|\[(?:"(?:[^"\\]|\\.)*"|[^\]"])*\]|[^,)"\[])*)')
_PYTHON = {
    "tensor": "Value", "bool": "bool", "int": "int", "float": "float", "str": "str", "dtype": "DType | str",
    "dim": "Dim",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: a tensor or an attribute (``kind`` bool, int, float, str, dtype or dim), or a list of them."""

    name: str
    kind: str
    many: bool = False
    optional: bool = False
    dtypes: tuple[str, ...] = ()
    default: Any = REQUIRED

    @property
    def is_tensor(self) -> bool:
        """Whether it is an operand, or a list of operands."""
        return self.kind == "tensor"

    def type_text(self) -> str:
        """The type as the schema writes it, e.g. ``tensor(f32|bf16)[]``."""
        dtypes = f"({'|'.join(self.dtypes)})" if self.dtypes else ""
        return f"{self.kind}{dtypes}{'[]' if self.many else ''}{'?' if self.optional else ''}"

    def annotation(self) -> str:
        """The type as Python writes it."""
        one = _PYTHON[self.kind]
        text = f"Sequence[{one}]" if self.many else one
        return f"{text} | None" if self.optional else text


@dataclass(frozen=True, slots=True)
class Schema:
    """Arguments in order and names of results."""

    arguments: tuple[Argument, ...]
    results: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> Schema:
        """The schema of ``(x: tensor(f32|bf16), axis: int = -1) -> (y)``; FormatError for another text."""
        body = text.strip()
        if not body.startswith("("):
            raise FormatError(f"schema {text!r}: expected '('")
        at = 1
        arguments: list[Argument] = []
        while not (end := re.compile(r"\s*\)\s*->\s*\(([\w\s,]*)\)\s*$").match(body, at)):
            if arguments:
                comma = re.compile(r"\s*,").match(body, at)
                if comma is None:
                    raise FormatError(f"schema {text!r}, column {at + 1}: expected ',' or ') -> (results)'")
                at = comma.end()
            head = _HEAD.match(body, at)
            if head is None:
                raise FormatError(f"schema {text!r}, column {at + 1}: expected an argument such as x: tensor")
            default: Any = REQUIRED
            at = head.end()
            if (given := _DEFAULT.match(body, at)) is not None:
                default = parse_attributes("{value = " + given.group(1).strip() + "}")["value"]
                at = given.end()
            dtypes = tuple(head["dtypes"].split("|")) if head["dtypes"] else ()
            many, optional = head["many"] is not None, head["optional"] is not None
            arguments.append(Argument(head["name"], head["kind"], many, optional, dtypes, default))
        return Schema(tuple(arguments), tuple(name.strip() for name in end.group(1).split(",")))

    def text(self) -> str:
        """The schema's one canonical text, the same as in C++."""
        parts = [
            f"{a.name}: {a.type_text()}" + ("" if a.default is REQUIRED else f" = {attribute_text(a.default)}")
            for a in self.arguments
        ]
        return f"({', '.join(parts)}) -> ({', '.join(self.results)})"

    @property
    def tensors(self) -> list[Argument]:
        """The arguments that are operands."""
        return [a for a in self.arguments if a.is_tensor]

    def signature(self) -> inspect.Signature:
        """The Python signature."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter(a.name, kind, default=a.default, annotation=a.annotation()) for a in self.arguments
        ]
        several = len(self.results) > 1
        result = f"tuple[{', '.join(['Value'] * len(self.results))}]" if several else "Value"
        return inspect.Signature(parameters, return_annotation=result)

    def bind(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Value], dict[str, Any]]:
        """Operands and attributes of a call. Raises ArgumentError naming operator and argument."""
        if len(args) > len(self.arguments):
            raise ArgumentError(f"[{op}] takes {len(self.arguments)} arguments, {len(args)} are given: {self.text()}")
        given = {a.name: value for a, value in zip(self.arguments, args)}
        for name, value in kwargs.items():
            if name in given:
                raise ArgumentError(f"[{op}] {name} is given twice")
            given[name] = value
        known = {a.name for a in self.arguments}
        if unknown := [name for name in given if name not in known]:
            raise ArgumentError(f"[{op}] there is no argument {unknown[0]!r}; the signature is {self.text()}")
        operands: list[Value] = []
        attrs: dict[str, Any] = {}
        for a in self.arguments:
            value = given.get(a.name, a.default)
            if value is REQUIRED:
                raise ArgumentError(f"[{op}] {a.name} ({a.type_text()}) is missing; the signature is {self.text()}")
            if not a.is_tensor:
                attrs[a.name] = fitted(op, a, value)
            elif a.many:
                if not isinstance(value, (list, tuple)):
                    raise ArgumentError(f"[{op}] {a.name} must be a list of tensors, got {type(value).__name__}")
                operands += [as_tensor(x) for x in cast("Sequence[Any]", value)]
            else:
                operands.append(as_tensor(value))
        return operands, attrs

    def complete(self, op: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes by name in the schema's order, checked, with defaults for those that are not given."""
        names = {a.name for a in self.arguments if not a.is_tensor}
        if unknown := [name for name in attrs if name not in names]:
            raise ArgumentError(f"[{op}] has no attribute {unknown[0]!r}; its signature is {self.text()}")
        out: dict[str, Any] = {}
        for a in self.arguments:
            if a.is_tensor:
                continue
            value = attrs.get(a.name, a.default)
            if value is REQUIRED:
                raise ArgumentError(f"[{op}] the attribute {a.name!r} ({a.type_text()}) is missing")
            out[a.name] = fitted(op, a, value)
        return out

    def call_arguments(self, operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Any]:
        """What a function with this signature is called with, for operands and complete attributes."""
        rest = list(operands)
        width = len(rest) - sum(not a.many for a in self.tensors)
        out: list[Any] = []
        for a in self.arguments:
            if not a.is_tensor:
                out.append(attrs[a.name])
            elif a.many:
                out.append([rest.pop(0) for _ in range(width)])
            else:
                out.append(rest.pop(0))
        return out

    def factors(self, text: str, count: int) -> str:
        """The factor string of a call with ``count`` operands: the term of a list stands for each of its tensors."""
        tensors, (before, arrow, after) = self.tensors, text.partition("->")
        terms = before.split(",")
        if len(terms) != len(tensors):
            return text
        width = count + 1 - len(tensors)
        return ",".join(t for t, a in zip(terms, tensors) for _ in range(width if a.many else 1)) + arrow + after

    def operand_argument(self, index: int, count: int) -> Argument:
        """The argument to which an operand belongs, when there are ``count`` operands."""
        tensors = self.tensors
        for a in tensors:
            width = count + 1 - len(tensors) if a.many else 1
            if index < width:
                return a
            index -= width
        raise ArgumentError(f"there is no operand {index}: {self.text()}")


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(cast("Any", value))


def _int(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return operator.index(value)


def _float(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError
    return float(cast("Any", value))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _dim(value: Any) -> Any:
    return sym(value) if isinstance(value, Symbol) else value if isinstance(value, Expr) else as_dim("", value)


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "bool": _bool, "int": _int, "float": _float, "str": _str, "dtype": as_dtype, "dim": _dim,
}


def fitted(op: str, argument: Argument, value: Any) -> Any:
    """An attribute's value as the schema wants it; ArgumentError when it is of another kind."""
    if value is None and argument.optional:
        return None
    convert = _CONVERT[argument.kind]
    try:
        if argument.many:
            if not isinstance(value, (list, tuple)):
                raise TypeError
            return [convert(v) for v in cast("Sequence[Any]", value)]
        return convert(value)
    except (TypeError, TesseraError):
        shown = value.name if isinstance(value, DType) else repr(cast("object", value))
        raise ArgumentError(f"[{op}] {argument.name} is {shown}; expected {argument.type_text()}") from None
