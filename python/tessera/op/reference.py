"""Evaluation of a graph with the operators' NumPy references: the oracle of all tests.

Operators see bf16, f16 and 8-bit floats as f32; each result is rounded once to its dtype. A composite is evaluated by
its own reference or, without one, by its body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import numpy as np

from tessera.errors import DTypeError, InternalError, NameMissingError, ShapeError
from tessera.ir.dims import Dim, Expr, symbols
from tessera.ir.dims import evaluate as evaluate_dim
from tessera.ir.dtype import DType, as_dtype
from tessera.ir.graph import Graph, topological
from tessera.ir.value import CONSTANT, INPUT, PARAM, Node, TensorType, Value
from tessera.op.arguments import shape_text
from tessera.op.lowering import Composite
from tessera.op.opdef import OpDef, get

Sizes = dict[str, int]


def evaluate(
    graph: Graph, feeds: Mapping[str, Any], state: MutableMapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The outputs of ``graph`` by name, for inputs by name.

    ``state``: parameters by name, used instead of their own storage; updates are written into it after everything was
    computed. Raises NameMissingError for an input that is not given, ShapeError and DTypeError for one that does not
    fit.
    """
    sizes: Sizes = {}
    nodes = graph.nodes()
    inputs = {v.node.attrs["name"]: v for v in graph.inputs}
    for name in feeds:
        if name not in inputs:
            raise NameMissingError(f"the graph has no input {name!r}; it has {', '.join(inputs) or 'none'}")
    arrays = {name: _fed(name, v.type, feeds) for name, v in inputs.items()}
    for name, v in inputs.items():
        bind_sizes(name, v.shape, arrays[name].shape, sizes)
    for name, v in inputs.items():
        expected = tuple(evaluate_dim(d, sizes) for d in v.shape)
        if arrays[name].shape != expected:
            raise ShapeError(
                f"input {name!r} has shape {arrays[name].shape}; expected {shape_text(v.shape)} = {expected}"
            )

    def leaf(node: Node) -> np.ndarray:
        name = node.attrs["name"]
        if node.op == INPUT:
            return arrays[name]
        if node.op == PARAM and state is not None and name in state:
            return np.asarray(state[name])
        return np.asarray(_payload_array(node))

    values = _run(nodes, leaf, sizes)
    outputs = {name: values[v] for name, v in graph.outputs.items()}
    updated = {p.node.attrs["name"]: values[v] for p, v in graph.updates.items()}
    if state is not None:
        state.update(updated)
    return outputs


def _fed(name: str, t: TensorType, feeds: Mapping[str, Any]) -> np.ndarray:
    if name not in feeds:
        raise NameMissingError(f"input {name!r} is not given")
    array = np.asarray(feeds[name])
    if array.dtype != t.dtype.numpy:
        raise DTypeError(f"input {name!r} has dtype {array.dtype}; expected {t.dtype}")
    return array


def bind_sizes(name: str, shape: Sequence[Dim], actual: Sequence[int], sizes: Sizes) -> None:
    """Learn the sizes of the symbols that stand alone in ``shape``, checked against their range."""
    if len(shape) != len(actual):
        raise ShapeError(f"input {name!r} has shape {tuple(actual)}; expected {shape_text(shape)}")
    for d, size in zip(shape, actual):
        alone = symbols(d)
        if len(alone) == 1 and isinstance(d, Expr) and str(d) == alone[0].name and alone[0].name not in sizes:
            alone[0].check(size)
            sizes[alone[0].name] = size


def _payload_array(node: Node) -> Any:
    payload = node.payload
    if payload is None:
        raise NameMissingError(f"{node.op} {node.attrs['name']!r} has no data; give it in state")
    return payload.numpy() if hasattr(payload, "numpy") and not hasattr(payload, "__array__") else payload


def _run(nodes: Sequence[Node], leaf: Callable[[Node], np.ndarray], sizes: Sizes) -> dict[Value, np.ndarray]:
    values: dict[Value, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for node in nodes:
            if node.op in (INPUT, PARAM, CONSTANT):
                values[node.results[0]] = leaf(node)
                continue
            operands = [values[v] for v in node.operands]
            attrs = {k: concrete(a, sizes) for k, a in node.attrs.items()}
            for v, array in zip(node.results, evaluate_operator(get(node.op), operands, attrs, node.types, sizes)):
                values[v] = array
    return values


def concrete(attribute: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with its symbolic dimensions evaluated."""
    if isinstance(attribute, Expr):
        return evaluate_dim(attribute, sizes)
    if isinstance(attribute, (list, tuple)):
        return [concrete(a, sizes) for a in cast("Sequence[Any]", attribute)]
    return attribute


def evaluate_operator(
    definition: OpDef,
    operands: Sequence[np.ndarray],
    attrs: Mapping[str, Any],
    types: Sequence[TensorType],
    sizes: Sizes,
) -> list[np.ndarray]:
    """The results of one operator, checked against the inferred types."""
    if definition.reference is None:
        return _evaluate_body(definition, operands, attrs)
    found = definition.reference(*(_computable(a) for a in operands), **attrs)
    results: list[np.ndarray] = []
    several = cast("tuple[Any, ...]", found if isinstance(found, tuple) else (found,))
    for array, t in zip(map(np.asarray, several), types, strict=True):
        expected = tuple(evaluate_dim(d, sizes) for d in t.shape)
        if array.shape != expected:
            raise InternalError(f"{definition.name}: the reference gives shape {array.shape}, inference {expected}")
        results.append(rounded(array, t.dtype))
    return results


def _computable(array: np.ndarray) -> np.ndarray:
    """Half precision and 8-bit floats as f32; other arrays as they are."""
    narrow = array.dtype.kind == "V" or array.dtype.itemsize < 4 and array.dtype.kind not in "iub"
    return array.astype(np.float32) if narrow else array


def rounded(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The array in ``dtype``; narrow floats are rounded from f32."""
    if array.dtype == dtype.numpy:
        return array
    if dtype.is_float and dtype.bits < 32 and array.dtype == np.float64:
        array = array.astype(np.float32)
    return array.astype(dtype.numpy)


def _evaluate_body(definition: OpDef, operands: Sequence[np.ndarray], attrs: Mapping[str, Any]) -> list[np.ndarray]:
    assert isinstance(definition.lower, Composite)
    placeholders = [
        Node(INPUT, (), {"name": f"operand_{i}"}, (TensorType(as_dtype(a.dtype), a.shape),)).results[0]
        for i, a in enumerate(operands)
    ]
    found = definition.lower.body(*placeholders, **attrs)
    results = found if isinstance(found, tuple) else (found,)
    given = {v.node: a for v, a in zip(placeholders, operands)}
    nodes = topological([*(v.node for v in placeholders), *(v.node for v in results)])
    values = _run(nodes, lambda node: given[node] if node in given else np.asarray(_payload_array(node)), {})
    return [values[v] for v in results]
