"""Constant folding of expressions over ``full`` and ``iota``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.ir.dims import Dim, Expr, evaluate
from tessera.ir.graph import Graph, keep, rebuild
from tessera.ir.provenance import location
from tessera.ir.value import Node, TensorType, Value
from tessera.op import opdef
from tessera.op.lowering import View
from tessera.op.reference import evaluate_operator, rounded
from tessera.transform.rewrite import is_pointwise, number

MAX_ELEMENTS = 1024
"""Larger expressions are not evaluated."""


def fold_constants(graph: Graph) -> Graph:
    """Replace pointwise functions and views of constants by a ``full`` where every element is the same number.

    The operators' NumPy references compute the elements, exactly in the dtype. A pointwise function of
    ``full`` tensors folds for any shape, symbolic too; one that goes back to ``iota`` is evaluated up to
    1024 elements. A result of differing elements stays as it is written: it costs less to compute inside a
    kernel than to load, and the text of the graph keeps it.
    """
    arrays: dict[Value, np.ndarray | None] = {}

    def visit(node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...]:
        results = keep(node, operands)
        if len(results) != 1 or node.op == "full":
            return results
        value = results[0]
        scalar = _scalar(value)
        if scalar is None:
            array = _array(value, arrays)
            scalar = array if array is not None and _uniform(array) else None
        if scalar is None or scalar.size == 0:
            return results
        attrs = {"shape": list(value.shape), "value": scalar.item(0), "dtype": value.dtype}
        with location(node.loc):
            return opdef.apply("full", (), attrs)

    return rebuild(graph, visit)


def _scalar(value: Value) -> np.ndarray | None:
    """The one element of a pointwise function of ``full`` tensors."""
    node = value.node
    if not node.operands or not is_pointwise(node):
        return None
    numbers = [number(v) for v in node.operands]
    if any(n is None for n in numbers):
        return None
    return _evaluated(node, [_element(n, v) for n, v in zip(numbers, node.operands)], ())


def _element(n: Any, value: Value) -> np.ndarray:
    with np.errstate(all="ignore"):
        return rounded(np.asarray(n), value.dtype)


def _array(value: Value, arrays: dict[Value, np.ndarray | None]) -> np.ndarray | None:
    """The elements of a small constant expression; operands were seen before, so ``arrays`` has them."""
    if value not in arrays:
        arrays[value] = _array_of(value, arrays)
    return arrays[value]


def _array_of(value: Value, arrays: dict[Value, np.ndarray | None]) -> np.ndarray | None:
    node = value.node
    size = value.size
    if not isinstance(size, int) or not 0 < size <= MAX_ELEMENTS:
        return None
    if node.op == "full":
        n = number(value)
        return None if n is None else np.broadcast_to(_element(n, value), [evaluate(d, {}) for d in value.shape])
    if node.op == "iota":
        return _evaluated(node, [])
    definition = opdef.REGISTRY.get(node.op)
    if definition is None or not node.operands or not (is_pointwise(node) or isinstance(definition.lower, View)):
        return None
    operands: list[np.ndarray] = []
    for v in node.operands:
        array = arrays[v] if v in arrays else (_array(v, arrays) if v.node.op in ("full", "iota") else None)
        if array is None:
            return None
        operands.append(array)
    return _evaluated(node, operands)


def _evaluated(node: Node, operands: list[np.ndarray], shape: tuple[Dim, ...] | None = None) -> np.ndarray | None:
    """The reference's result for operands of these shapes; None where sizes are symbolic or there is no reference."""
    definition = opdef.get(node.op)
    if definition.reference is None or any(isinstance(a, Expr) for v in node.attrs.values() for a in _items(v)):
        return None
    types = (TensorType(node.types[0].dtype, node.types[0].shape if shape is None else shape),)
    with np.errstate(all="ignore"):
        return evaluate_operator(definition, operands, node.attrs, types, {})[0]


def _items(attribute: Any) -> Sequence[Any]:
    return attribute if isinstance(attribute, (list, tuple)) else (attribute,)  # pyright: ignore[reportUnknownVariableType]


def _uniform(array: np.ndarray) -> bool:
    """Whether all elements have the same bits."""
    data, size = array.tobytes(), array.itemsize
    return data == data[:size] * array.size
