"""Symbolic tensors and dimensions: where a graph begins."""

from __future__ import annotations

from typing import Any

from tessera.errors import ArgumentError
from tessera.ir.dims import Expr, Symbol, sym
from tessera.ir.dtype import DType, as_dtype, f32
from tessera.ir.provenance import user_location
from tessera.ir.value import INPUT, Node, TensorType, Value
from tessera.op.arguments import as_shape
from tessera.op.parameter import unique_name


def tensor(shape: Any, dtype: DType | str | type = f32, name: str | None = None) -> Value:
    """An input of a graph: a symbolic tensor without elements.

    ``shape``: sizes that are ints, symbolic dimensions (``op.dim``) or names of symbolic dimensions with at least one
    element, e.g. ``("B", 64)``. ``dtype``: any Tessera, NumPy or PyTorch dtype or its name. ``name``: how callers pass
    it; by default ``input``, ``input_1``, …

    Raises ShapeError for a size that is negative or no integer, DTypeError for an unknown dtype, ArgumentError for an
    empty name.
    """
    if name is not None and (not isinstance(name, str) or not name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"[tensor] name must be a string with at least one character, got {name!r}")
    sizes = as_shape("tensor", shape)
    kind = as_dtype(dtype)
    node = Node(INPUT, (), {"name": name or unique_name("input")}, (TensorType(kind, sizes),), user_location())
    return node.results[0]


def dim(name: str, min: int = 1, max: int | None = None, multiple_of: int = 1) -> Expr:
    """A symbolic dimension: a size that is known only when the graph runs.

    It is at least ``min``, at most ``max`` (None: unbounded) and a multiple of ``multiple_of``; other sizes are
    refused before anything runs. ``+ - * // %`` give further dimensions. Two dimensions of one name are the same; they
    must have the same range. ArgumentError when name or range make no sense.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"[dim] name must be a string, got {name!r}")
    for argument, value in (("min", min), ("max", max), ("multiple_of", multiple_of)):
        if not isinstance(value, int) and not (argument == "max" and value is None):
            raise ArgumentError(f"[dim] {argument} must be an int, got {value!r}")
    return sym(Symbol(name, min, max, multiple_of))
