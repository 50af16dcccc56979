"""Run a Python function on symbolic stand-ins for its arrays: the function becomes a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.graph import tree
from tessera.graph.sharded_array import ShardedArray
from tessera.graph.state import recording
from tessera.interop.array import Array, as_array, as_dtype_or_raise
from tessera.ir.dims import Dim, Symbol, sym
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.provenance import user_location
from tessera.ir.value import INPUT, Node, TensorType, Value
from tessera.op.parameter import Parameter
from tessera.op.random import operation_ids


def is_array(leaf: Any) -> bool:
    """Whether a leaf of an argument is a concrete tensor: NumPy, DLPack, ``__array__``."""
    if isinstance(leaf, (Array, np.ndarray, np.generic)):
        return True
    if isinstance(leaf, (Value, str, bytes, int, float)):
        return False
    return hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array__")


def array_type(leaf: Any) -> TensorType:
    """The tensor type of a concrete array. Raises DTypeError for an element type that Tessera does not have."""
    if isinstance(leaf, (np.ndarray, ShardedArray)):
        return TensorType(as_dtype_or_raise(leaf.dtype), leaf.shape)
    array = as_array(leaf)
    return TensorType(DTYPES[array.dtype], tuple(array.shape))


_TARGETS = {"cuda": "ptx", "rocm": "hsaco"}
_KINDS = {2: "cuda", 10: "rocm"}
"""Of DLPack."""


def targets_of(arrays: Iterable[Any]) -> tuple[str, ...]:
    """The target for the GPU on which one of the arrays lies; none when all are in host memory."""
    for array in arrays:
        if isinstance(array, Array):
            kind = array.device.partition(":")[0]
        elif isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
            continue
        else:
            kind = _KINDS.get(int(array.__dlpack_device__()[0]), "cpu")
        if kind in _TARGETS:
            return (_TARGETS[kind],)
    return ()


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced function: its graph, the arguments it was traced with, and the structure of its result.

    ``arguments`` is the tree of (args, kwargs) with a Value for every tensor; ``result`` the returned tree with
    a Value for every tensor.
    """

    graph: Graph
    arguments: Any
    result: Any


def argument_names(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the parameters that positional arguments bind to, then those of the keywords."""
    try:
        parameters = inspect.signature(function).parameters.values()
        inspect.signature(function).bind(*args, **kwargs)
    except ValueError:  # no signature (built-in)
        return [f"argument.{i}" for i in range(len(args))] + list(kwargs)
    except TypeError as error:
        raise ArgumentError(f"{getattr(function, '__name__', 'function')}: {error}") from None
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and len(names) < len(args):
            names.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(len(args) - len(names))]
    return names + list(kwargs)


def input_names(arguments: Sequence[str], paths: Sequence[tree.Path]) -> list[str]:
    """Names of the input leaves; ``paths`` start with the number of the argument.

    A leaf is called by its keys inside its argument (``input`` in ``batch["input"]``), an argument that is a
    tensor itself by the argument's name; where two would be equal, the argument's name goes in front of both.
    """
    inner = [".".join(map(str, path[1:])) or arguments[int(path[0])] for path in paths]
    full = [".".join((arguments[int(path[0])], *map(str, path[1:]))) for path in paths]
    return [short if inner.count(short) == 1 else long for short, long in zip(inner, full, strict=True)]


def _stand_in(leaf: Any, name: str, batch: Symbol | None, batch_size: Dim | None) -> Value:
    """The input leaf for one tensor of an argument: a Value's own type, or that of a concrete array."""
    if isinstance(leaf, Value):
        if leaf.node.op != INPUT:
            raise ArgumentError(
                f"input {name!r}: an example must be a concrete array or a plain op.tensor, not {leaf!r}"
            )
        kind = leaf.type
    else:
        kind = array_type(leaf)
        if batch is not None and kind.shape and kind.shape[0] == batch_size:
            kind = TensorType(kind.dtype, (sym(batch), *kind.shape[1:]))
    return Node(INPUT, (), {"name": name}, (kind,), user_location()).results[0]


def trace(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, batch: Symbol | None = None
) -> Traced:
    """Call ``function`` with symbolic tensors in the place of the arrays of its arguments.

    Arrays and ``op.tensor`` values are inputs; every other leaf is passed as it is. With ``batch`` the leading
    dimension of all arrays that have as many rows as the first one becomes that symbol.
    """
    arguments = [*args, *kwargs.values()]
    flat = tree.leaves(arguments)
    tensors = [(path, leaf) for path, leaf in flat if isinstance(leaf, Value) or is_array(leaf)]
    names = input_names(argument_names(function, args, kwargs), [path for path, _ in tensors])
    rows = next(
        (t.shape[0] for _, leaf in tensors if not isinstance(leaf, Value) and (t := array_type(leaf)).ndim), None
    )
    inputs = [_stand_in(leaf, name, batch, rows) for (_, leaf), name in zip(tensors, names, strict=True)]
    remaining = iter(inputs)
    symbolic = tree.rebuild(
        arguments, lambda leaf: next(remaining) if isinstance(leaf, Value) or is_array(leaf) else leaf
    )
    with recording() as updates, operation_ids():
        result = function(*symbolic[: len(args)], **dict(zip(kwargs, symbolic[len(args) :], strict=True)))
    result = tree.rebuild(result, lambda leaf: leaf.leaf() if isinstance(leaf, Parameter) else leaf)
    leaves = tree.leaves(result)
    for path, leaf in leaves:
        if isinstance(leaf, (Set, Iterator)):
            where = f" at {'.'.join(map(str, path))}" if path else ""
            raise ArgumentError(
                f"{getattr(function, '__name__', 'function')} returns a {type(leaf).__name__}{where}; "
                "return tensors in dicts, lists, tuples or dataclasses"
            )
    found = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Value)]
    outputs = dict(zip(tree.names([path for path, _ in found], "output"), (v for _, v in found), strict=False))
    if len(outputs) != len(found):
        raise ArgumentError("the step returns two tensors under the same name; use other keys")
    graph = Graph(outputs, inputs=inputs, updates=updates, name=getattr(function, "__name__", "main"))
    own = set(inputs)
    for leaf in graph.inputs:
        if leaf not in own:
            raise ShapeError(
                f"{graph.name}: the result depends on the input {leaf.node.attrs['name']!r}, which is no argument of "
                "the function; call the graph on an argument, as in Y(x)"
            )
    return Traced(graph, symbolic, result)
