"""What ``Value`` can do beyond operators: be called on other inputs, be evaluated, show its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from tessera.errors import ArgumentError, NameMissingError
from tessera.graph.compile import compile_graph
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options
from tessera.graph.signature import NamedSignature
from tessera.graph.substitute import substitute
from tessera.graph.trace import array_type, is_array
from tessera.ir.graph import Graph, topological
from tessera.ir.value import INPUT, Node, TensorType, Value, attach
from tessera.op.parameter import Parameter

if TYPE_CHECKING:
    from tessera._core import Array

_programs: WeakKeyDictionary[Node, dict[Any, Compiled]] = WeakKeyDictionary()


def graph_of(value: Value) -> Graph:
    """The graph that computes this tensor, with one output called ``output``."""
    return Graph({"output": value})


def inputs_of(value: Value) -> list[Value]:
    """The input leaves that the tensor depends on, in the order in which arguments are given."""
    return [n.results[0] for n in topological([value.node]) if n.op == INPUT]


def call(value: Value, *args: Any, **kwargs: Any) -> Any:
    """Apply the graph to other inputs, by position (order of ``value.graph.inputs``), by name or as one dict.

    With symbolic tensors the result is symbolic: the same operations, with the same parameters, on those inputs.
    With concrete arrays (NumPy, PyTorch, JAX, ``tessera.Array``) it is evaluated; each set of shapes compiles once.
    Inputs that are not given stay as they are when the others are symbolic.

    A graph declared for constant sizes accepts other ones if its operators do. Numbers that Python computed from
    a constant size are part of the graph and stay as they are: declare sizes that vary with ``op.dim``.
    Raises ShapeError, DTypeError, NameMissingError or ArgumentError naming the input.
    """
    leaves = inputs_of(value)
    signature = NamedSignature("graph", [leaf.node.attrs["name"] for leaf in leaves], value)
    given = _bind(signature, leaves, args, kwargs)
    if any(isinstance(x, (Value, Parameter)) for x in given.values()):
        mapping = {leaf: _symbolic(x, leaf) for leaf, x in given.items()}
        return substitute([value], mapping)[0]
    if len(given) < len(leaves):
        missing = next(leaf for leaf in leaves if leaf not in given)
        raise NameMissingError(f"graph: input {missing.node.attrs['name']!r} is missing")
    return _evaluate(value, leaves, [_concrete(given[leaf], leaf) for leaf in leaves])


def _bind(
    signature: NamedSignature, leaves: list[Value], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[Value, Any]:
    """Arguments by input leaf. When some are symbolic, leaves may be left out."""
    if not kwargs and len(args) == 1 and isinstance(args[0], Mapping):
        args, kwargs = (), args[0]
    if any(isinstance(x, (Value, Parameter)) for x in (*args, *kwargs.values())):
        rest = {leaf.node.attrs["name"]: leaf for leaf in leaves[len(args) :]}
        given = [*args, *(kwargs.get(name, leaf) for name, leaf in rest.items())]
        extra = {name: x for name, x in kwargs.items() if name not in rest}
        bound = signature.bind(tuple(given), extra)
        return {leaf: x for leaf, x in zip(leaves, bound, strict=True) if x is not leaf}
    return dict(zip(leaves, signature.bind(args, kwargs), strict=True))


def _symbolic(x: Any, leaf: Value) -> Value:
    """An argument among symbolic ones: tensors as they are, concrete arrays as constants."""
    if isinstance(x, Value):
        return x
    if isinstance(x, Parameter):
        return x.leaf()
    from tessera.op import as_tensor

    return as_tensor(_concrete(x, leaf))


def _concrete(x: Any, leaf: Value) -> Any:
    """A concrete argument; Python numbers and lists take the declared dtype."""
    if is_array(x):
        return x
    if isinstance(x, (bool, int, float, list, tuple)):
        return np.asarray(x).astype(leaf.dtype.numpy)
    raise ArgumentError(f"graph: input {leaf.node.attrs['name']!r} must be an array, not {type(x).__name__}")


def _evaluate(value: Value, leaves: list[Value], arrays: list[Any]) -> Array:
    """Run the tensor's program for these arrays' types."""
    types = [array_type(x) for x in arrays]
    if all(_accepts(leaf, t) for leaf, t in zip(leaves, types, strict=True)):
        key: Any = (value.index,)
    else:
        key = (value.index, tuple((t.dtype.name, t.shape) for t in types))
    programs = _programs.setdefault(value.node, {})
    compiled = programs.get(key)
    if compiled is None:
        compiled = programs[key] = _compile(value, leaves, types if len(key) > 1 else None)
    return compiled(*arrays)


def _accepts(leaf: Value, t: TensorType) -> bool:
    """Whether the program compiled for the declaration is the one to run (it checks symbolic sizes itself)."""
    if leaf.dtype != t.dtype or leaf.ndim != t.ndim:
        return False
    return all(not isinstance(d, int) or d == n for d, n in zip(leaf.shape, t.shape, strict=True))


def _compile(value: Value, leaves: list[Value], types: list[TensorType] | None) -> Compiled:
    names = [leaf.node.attrs["name"] for leaf in leaves]
    if types is None:
        graph = Graph({"output": value}, inputs=leaves)
    else:
        new = [
            Node(INPUT, (), leaf.node.attrs, (_wanted(leaf, t),), leaf.node.loc).results[0]
            for leaf, t in zip(leaves, types, strict=True)
        ]
        graph = Graph({"output": substitute([value], dict(zip(leaves, new, strict=True)))[0]}, inputs=new)
    return compile_graph(graph, NamedSignature("graph", names, value), Options())


def _wanted(leaf: Value, t: TensorType) -> TensorType:
    """The input's type for a concrete array: symbolic where declared so, the array's sizes elsewhere."""
    if leaf.ndim != t.ndim:
        return t
    return TensorType(t.dtype, tuple(n if isinstance(d, int) else d for d, n in zip(leaf.shape, t.shape, strict=True)))


def evaluate(value: Value, *args: Any, **kwargs: Any) -> Array:
    """The concrete value of the tensor: an Array. Inputs, if it depends on any, are given as in a call."""
    return call(value, *args, **kwargs)


def to_numpy(value: Value, *args: Any, **kwargs: Any) -> np.ndarray:
    """The concrete value of the tensor as a NumPy array."""
    from tessera.interop.array import to_numpy as convert

    return convert(evaluate(value, *args, **kwargs))


def array_protocol(value: Value, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """NumPy conversion of a tensor without inputs."""
    if inputs_of(value):
        names = ", ".join(repr(leaf.node.attrs["name"]) for leaf in inputs_of(value))
        raise ArgumentError(f"a symbolic tensor that depends on the inputs {names} has no value; call it: Y(x)")
    found = to_numpy(value)
    return found if dtype is None else found.astype(dtype, copy=False)


def attach_to_value() -> None:
    """Give ``Value`` its graph, calling and evaluation."""
    attach("graph", property(graph_of))
    attach("__call__", call)
    attach("eval", evaluate)
    attach("numpy", to_numpy)
    attach("__array__", array_protocol)
