"""Attribute values of nodes: which there are, their text, and exact equality."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from typing import Any, cast

from tessera.errors import GraphError
from tessera.ir.dims import Expr
from tessera.ir.dtype import DType

MAX_DEPTH = 16
"""How deep lists may be nested in an attribute."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What an attribute may be called."""


def attribute_text(value: Any, depth: int = 0) -> str:
    """The text of an attribute value; GraphError for a value that has no text form."""
    if value is None:
        return "none"
    kind = cast("type[object]", type(value))
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise GraphError(f"the attribute value {value} does not fit 64 bits")
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return repr(value)  # the shortest form that reads back; always has a point, an exponent, inf or nan
    if kind is str:
        return string_text(value)
    if kind is DType:
        return value.name
    if kind is Expr:
        return f"<{value}>"
    if kind is list or kind is tuple:
        if depth >= MAX_DEPTH:
            raise GraphError(f"lists in an attribute are nested more than {MAX_DEPTH} deep")
        return "[" + ", ".join([attribute_text(v, depth + 1) for v in value]) + "]"
    raise GraphError(
        f"an attribute cannot be a {kind.__module__}.{kind.__qualname__}: {value!r}; use int, float, bool, str, None, "
        "DType, a dimension, or a list of these"
    )


def string_text(value: str) -> str:
    """A JSON string; ASCII alone when it holds what UTF-8 cannot encode."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(value)


def attributes_text(attrs: Mapping[str, Any]) -> str:
    """``{name = value, …}`` sorted by name; empty text for no attributes."""
    if not attrs:
        return ""
    return "{" + ", ".join([f"{name} = {attribute_text(attrs[name])}" for name in sorted(attrs)]) + "}"


def attribute_key(value: Any) -> Hashable:
    """A key that is equal for equal attribute values only: 1, 1.0, True, 0.0 and -0.0 all differ, NaN equals NaN."""
    kind = cast("type[object]", type(value))
    if kind is list or kind is tuple:
        return tuple([attribute_key(v) for v in value])
    return (kind, repr(value)) if kind is float else (kind, value)


def attributes_key(attrs: Mapping[str, Any]) -> Hashable:
    """``attribute_key`` of a whole attribute dictionary, whatever its order."""
    return tuple([(name, attribute_key(attrs[name])) for name in sorted(attrs)])
