"""What ``Value`` can do beyond operators: be called on other inputs, be evaluated, show its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from tessera.errors import ArgumentError
from tessera.graph.compile import compile_graph
from tessera.graph.compiled import Compiled
from tessera.graph.pipeline import Options
from tessera.graph.signature import NamedSignature
from tessera.graph.substitute import substitute
from tessera.graph.trace import array_type, is_array, targets_of
from tessera.interop.array import converted
from tessera.ir.graph import Graph, topological
from tessera.ir.value import INPUT, Node, TensorType, Value, attach
from tessera.op import as_tensor
from tessera.op.parameter import Parameter

if TYPE_CHECKING:
    from tessera._core import Array


class _Entry:
    """What calls of one tensor need: names and types of its inputs, and the programs compiled so far.

    It must not hold the tensor's own node, or the node would never be freed.
    """

    __slots__ = ("signature", "types", "programs")

    def __init__(self, value: Value) -> None:
        leaves = inputs_of(value)
        self.signature = NamedSignature("graph", [leaf.node.attrs["name"] for leaf in leaves], value)
        self.types = [leaf.type for leaf in leaves]
        self.programs: dict[Any, Compiled] = {}


_entries: WeakKeyDictionary[Node, dict[int, _Entry]] = WeakKeyDictionary()


def _entry(value: Value) -> _Entry:
    entries = _entries.get(value.node)
    if entries is None:
        entries = _entries[value.node] = {}
    if value.index not in entries:
        entries[value.index] = _Entry(value)
    return entries[value.index]


def graph_of(value: Value) -> Graph:
    """The graph that computes this tensor, with one output called ``output``."""
    return Graph({"output": value})


def inputs_of(value: Value) -> list[Value]:
    """The input leaves that the tensor depends on, in the order in which arguments are given."""
    return [n.results[0] for n in topological([value.node]) if n.op == INPUT]


def call(value: Value, *args: Any, **kwargs: Any) -> Any:
    """Apply the graph to other inputs, by position (order of ``value.graph.inputs``), by name or as one dict.

    With symbolic tensors the result is symbolic: the same operations, with the same parameters, on those inputs;
    random operations draw numbers of their own.
    With concrete arrays (NumPy, PyTorch, JAX, ``tessera.Array``) it is evaluated; each set of shapes compiles once.
    Where one of them lies on a GPU it is compiled for that GPU and evaluated there, else on the CPU.
    Inputs that are not given stay as they are when the others are symbolic.

    A graph declared for constant sizes accepts other ones if its operators do. Numbers that Python computed from
    a constant size are part of the graph and stay as they are: declare sizes that vary with ``op.dim``.
    Raises ShapeError, DTypeError, NameMissingError or ArgumentError naming the input.
    """
    entry = _entry(value)
    if any(isinstance(x, (Value, Parameter)) for x in (*args, *kwargs.values())) or _nested_symbols(args):
        return _substituted(value, entry, args, kwargs)
    signature = entry.signature
    given = args if not kwargs and signature.positional(args) else signature.bind(args, kwargs)
    arrays = [x if is_array(x) else _concrete(x, i, entry) for i, x in enumerate(given)]
    types = [array_type(x) for x in arrays]
    fits = all(_accepts(declared, t) for declared, t in zip(entry.types, types, strict=True))
    targets = targets_of(arrays)
    key = None if fits else tuple((t.dtype.name, t.shape) for t in types)
    compiled = entry.programs.get((targets, key))
    if compiled is None:
        compiled = entry.programs[targets, key] = _compile(value, None if fits else types, Options(targets))
    return compiled.call(arrays)


def _nested_symbols(args: tuple[Any, ...]) -> bool:
    """Whether the only argument is a mapping that holds symbolic tensors."""
    return (
        len(args) == 1
        and isinstance(args[0], Mapping)
        and any(isinstance(x, (Value, Parameter)) for x in args[0].values())
    )


def _substituted(value: Value, entry: _Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Value:
    """The tensor on other inputs, some of them symbolic; inputs that are not given stay."""
    if not kwargs and len(args) == 1 and isinstance(args[0], Mapping):
        args, kwargs = (), args[0]
    leaves = inputs_of(value)
    rest = {name: leaf for name, leaf in list(zip(entry.signature.inputs, leaves, strict=True))[len(args) :]}
    given = [*args, *(kwargs.get(name, leaf) for name, leaf in rest.items())]
    extra = {name: x for name, x in kwargs.items() if name not in rest}
    bound = entry.signature.bind(tuple(given), extra)
    mapping = {
        leaf: _symbolic(x, i, entry) for i, (leaf, x) in enumerate(zip(leaves, bound, strict=True)) if x is not leaf
    }
    return substitute([value], mapping, redraw=True)[0] if mapping else value


def _symbolic(x: Any, position: int, entry: _Entry) -> Value:
    """An argument among symbolic ones: tensors as they are, concrete arrays as constants."""
    if isinstance(x, Value):
        return x
    return x.leaf() if isinstance(x, Parameter) else as_tensor(x if is_array(x) else _concrete(x, position, entry))


def _concrete(x: Any, position: int, entry: _Entry) -> np.ndarray:
    """Python numbers and lists as an array of the declared dtype."""
    if isinstance(x, (bool, int, float, list, tuple)):
        return converted(x, entry.types[position].dtype, f"input {entry.signature.inputs[position]!r}")
    raise ArgumentError(f"graph: input {entry.signature.inputs[position]!r} must be an array, not {type(x).__name__}")


def _accepts(declared: TensorType, t: TensorType) -> bool:
    """Whether the program compiled for the declaration is the one to run (it checks symbolic sizes itself)."""
    if declared.dtype != t.dtype or len(declared.shape) != len(t.shape):
        return False
    return all(not isinstance(d, int) or d == n for d, n in zip(declared.shape, t.shape, strict=True))


def _compile(value: Value, types: list[TensorType] | None, options: Options) -> Compiled:
    """The tensor's program: for its declared inputs, or for those of other sizes."""
    leaves = inputs_of(value)
    signature = NamedSignature("graph", [leaf.node.attrs["name"] for leaf in leaves], value)
    if types is None:
        return compile_graph(Graph({"output": value}, inputs=leaves), signature, options)
    new = [
        Node(INPUT, (), leaf.node.attrs, (_wanted(leaf, t),), leaf.node.loc).results[0]
        for leaf, t in zip(leaves, types, strict=True)
    ]
    output = substitute([value], dict(zip(leaves, new, strict=True)))[0]
    return compile_graph(Graph({"output": output}, inputs=new), signature, options)


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
