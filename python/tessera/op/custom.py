"""Custom operators written in Python, for prototyping: a NumPy function, or a composite of other operators."""

from __future__ import annotations

import inspect
import os
import types as python_types
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from tessera import _core
from tessera.errors import ArgumentError, DTypeError, ShapeError
from tessera.ir.attribute import attributes_text
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Symbol
from tessera.ir.dtype import DType, as_dtype
from tessera.ir.parser import parse_type
from tessera.ir.value import Node, TensorType, Value
from tessera.op import custom_ops
from tessera.op import lowering as low
from tessera.op.custom_ops import Custom, publish
from tessera.op.factors import check_ranks, check_text, whole
from tessera.op.opdef import Attrs, NoVjp, OpDef, Sample, apply
from tessera.op.schema import REQUIRED, Argument, Schema, fitted

_KINDS: dict[Any, str] = {
    bool: "bool", int: "int", float: "float", str: "str", DType: "dtype", np.ndarray: "tensor", Value: "tensor",
}


class Gradient:
    """What a gradient function gets first: the gradients of the results, and the results themselves."""

    def __init__(self, node: Node, cotangents: Sequence[Value | None]) -> None:
        self._node, self._cotangents = node, cotangents

    def has(self, result: int = 0) -> bool:
        """Whether the gradient of a result is not zero."""
        return self._cotangents[result] is not None

    def of(self, result: int = 0) -> Value:
        """The gradient of a result."""
        found = self._cotangents[result]
        if found is not None:
            return found
        t = self._node.types[result]
        zero: Any = 0.0 if t.dtype.is_float else 0
        return apply("full", (), {"shape": list(t.shape), "value": zero, "dtype": t.dtype})[0]

    def result(self, index: int = 0) -> Value:
        """A result of the operator."""
        return self._node.results[index]


def custom(
    name: str,
    *,
    shape: Callable[..., Any] | None = None,
    gradient: Callable[..., Any] | str | None = None,
    no_gradient: str = "",
    shard: str = "",
    samples: Callable[[], list[Sample]] | Sequence[Sample] | None = None,
    results: Sequence[str] | None = None,
    dtypes: Sequence[Any] | None = None,
    version: str = "1",
    composite: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an operator ``library::name`` of a Python function; ``op.library.name`` is there from now on.

    The function's parameters are its signature: ``np.ndarray`` or no annotation for a tensor, ``bool``, ``int``,
    ``float``, ``str``, ``DType`` for an attribute, ``list[...]`` and ``... | None`` of these, defaults as they stand.
    It gets NumPy arrays and returns one, or a tuple for several ``results``; it runs inside compiled programs of this
    process, called back by the runtime. With ``composite=True`` it gets symbolic tensors and builds the operator of
    others, from which shape and gradient follow.

    ``shape``: the same arguments, tensors as ``TensorType`` (dtype and shape, sizes perhaps symbolic), to the type of
    the result or a tuple of types. ``gradient``: ``gradient(g, *arguments)`` builds the gradient of each tensor
    argument from ``g.of()`` and ``g.result()`` with operators, None for none; or the name of an operator of the
    arguments and the results' gradients. ``no_gradient``: why there is none. ``shard``: a factor string, as in
    ``op.OpDef``. ``samples``: what ``tessera op-check`` tries. ``dtypes``: those that tensors may have. ``version``:
    part of the hash by which artefacts know the operator.

    Returns the operator's function. Raises ArgumentError for a name that is taken or a signature that is none.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        if name.count("::") != 1 or not all(part.isidentifier() for part in name.split("::")):
            raise ArgumentError(f"custom: {name!r} is no name of an operator; expected library::name")
        schema = _schema(name, function, results or ("result",), [as_dtype(d).name for d in dtypes or ()])
        check_text(name, shard)
        operator = _Operator(name, schema, function, shape, shard, composite)
        vjp = _vjp(name, schema, gradient, no_gradient, composite)
        doc = inspect.getdoc(function) or ""
        library = f"{os.path.basename(function.__code__.co_filename)} (Python)"
        digest = f"{_core.hash64(chr(10).join((name, schema.text(), shard, version)).encode()):016x}"
        if name in custom_ops.CUSTOM:
            raise ArgumentError(f"custom: the operator {name} is there already, from {custom_ops.CUSTOM[name].library}")
        if not composite:
            _core.register_operator(
                name, schema.text(), doc, version, shard, library, gradient is not None, operator.infer_texts,
                operator.run,
            )
        stated = () if samples is None or callable(samples) else samples
        made = samples if callable(samples) else partial(list[Sample], stated)
        definition = OpDef(
            name, operator.infer, vjp, operator.factors, operator.lowering(),
            None if composite else operator.reference, made, custom_ops.accepted_dtypes(schema), doc,
        )
        publish(definition, Custom(name, schema, library, digest, composite))
        return custom_ops.function_of(custom_ops.CUSTOM[name], doc)

    return declare


class _Operator:
    """The functions of one operator, in the forms in which they are called."""

    def __init__(
        self, name: str, schema: Schema, function: Callable[..., Any], shape: Callable[..., Any] | None, shard: str,
        composite: bool,
    ) -> None:
        if shape is None and not composite:
            raise ArgumentError(f"{name}: give shape=, which says the type of the result for the types of the operands")
        self.name, self.schema, self.function, self.shape = name, schema, function, shape
        self.shard, self.composite = shard, composite

    def infer(self, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
        """Result types."""
        complete = self.schema.complete(self.name, attrs)
        self._check_operands(types)
        if self.shape is None:
            inputs = [Node("input", (), {"name": f"operand_{i}"}, (t,)).results[0] for i, t in enumerate(types)]
            found = tuple(v.type for v in _several(self.body(*inputs, **complete)))
        else:
            found = _several(self.shape(*self.schema.call_arguments(types, complete)))
        if len(found) != len(self.schema.results) or not all(isinstance(t, TensorType) for t in found):
            raise ShapeError(f"[{self.name}] the shape function must give {len(self.schema.results)} TensorType")
        if self.shard:
            check_ranks(self.name, self.schema.factors(self.shard, len(types)), types, found)
        return found

    def _check_operands(self, types: tuple[TensorType, ...]) -> None:
        tensors = self.schema.tensors
        single = sum(not a.many for a in tensors)
        if len(types) < single or (len(types) > single and single == len(tensors)):
            raise ArgumentError(f"[{self.name}] takes {len(tensors)} tensors, got {len(types)}: {self.schema.text()}")
        for i, t in enumerate(types):
            a = self.schema.operand_argument(i, len(types))
            if a.dtypes and t.dtype.name not in a.dtypes:
                raise DTypeError(
                    f"[{self.name}] {a.name} has type {t}; expected dtype {', '.join(a.dtypes)}: cast it first"
                )

    def body(self, *operands: Value, **attrs: Any) -> Any:
        """A composite's body."""
        return self.function(*self.schema.call_arguments(operands, self.schema.complete(self.name, attrs)))

    def factors(self, types: tuple[TensorType, ...], attrs: Attrs) -> str:
        """The factor string of a call."""
        return self.schema.factors(self.shard, len(types)) if self.shard else whole(types, self.infer(types, attrs))

    def lowering(self) -> low.Lowering:
        """How it becomes instructions."""
        return low.Composite(self.body) if self.composite else low.Custom("custom operator", lambda types, attrs: 0)

    def reference(self, *arrays: Any, **attrs: Any) -> Any:
        """The NumPy function itself."""
        return self.function(*self.schema.call_arguments(arrays, self.schema.complete(self.name, attrs)))

    def infer_texts(
        self, types: list[str], values: list[Any], symbols: list[tuple[str, int, int, int]]
    ) -> list[tuple[str, list[str]]]:
        """``infer`` as the runtime calls it."""
        known = {n: Symbol(n, low_, None if high < 0 else high, m) for n, low_, high, m in symbols}
        operands = tuple(parse_type(t, known.values()) for t in types)
        found = self.infer(operands, self._attributes([_with_dims(v, known) for v in values]))
        return [(t.dtype.name, [str(d) for d in t.shape]) for t in found]

    def _attributes(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip((a.name for a in self.schema.arguments if not a.is_tensor), values, strict=True))

    def run(self, operands: list[Any], values: list[Any], results: list[Any]) -> None:
        """The kernel as the runtime calls it. Operands are copied: the function may keep what it gets."""
        arrays = [np.array(a.numpy()) for a in operands]
        found = _several(self.reference(*arrays, **self._attributes(values)))
        if len(found) != len(results):
            raise ShapeError(f"[{self.name}] the function gives {len(found)} results, expected {len(results)}")
        for i, (value, target) in enumerate(zip(found, results, strict=True)):
            array, out = np.asarray(value), target.numpy()
            if array.shape != out.shape:
                raise ShapeError(
                    f"[{self.name}] the function gives result {i} the shape {array.shape}, the shape function gives "
                    f"{out.shape}"
                )
            if array.dtype.kind in "fV" and out.dtype.kind in "iub":
                raise DTypeError(f"[{self.name}] the function gives result {i} as {array.dtype}, expected {out.dtype}")
            out[...] = array.astype(out.dtype)


def _with_dims(value: Any, known: dict[str, Symbol]) -> Any:
    if isinstance(value, tuple):
        return parse_dim(cast("tuple[str, str]", value)[1], known)
    return [_with_dims(v, known) for v in cast("list[Any]", value)] if isinstance(value, list) else value


def _several(value: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)


def _vjp(
    name: str, schema: Schema, gradient: Callable[..., Any] | str | None, no_gradient: str, composite: bool
) -> Any:
    if isinstance(gradient, str):
        return partial(custom_ops.by_operator, gradient_op=gradient)
    if gradient is None:
        return None if composite and not no_gradient else NoVjp(no_gradient or "the operator declares none")

    def vjp(node: Node, cotangents: tuple[Value | None, ...]) -> list[Value | None]:
        arguments = schema.call_arguments(node.operands, schema.complete(name, node.attrs))
        found = gradient(Gradient(node, cotangents), *arguments)
        several = cast("Sequence[Any]", found) if isinstance(found, (tuple, list)) else (found,)
        return custom_ops.checked(node, several)

    return vjp


def _schema(name: str, function: Callable[..., Any], results: Sequence[str], dtypes: list[str]) -> Schema:
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    arguments: list[Argument] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise ArgumentError(f"{name}: {parameter.name} is no plain parameter; the runtime calls by position")
        kind, many, optional = _kind(name, parameter, hints.get(parameter.name, parameter.annotation))
        argument = Argument(parameter.name, kind, many, optional, tuple(dtypes) if kind == "tensor" else ())
        default = parameter.default
        if default is not REQUIRED:
            default = fitted(name, argument, default)
        elif any(a.default is not REQUIRED for a in arguments):
            raise ArgumentError(f"{name}: {parameter.name} has no default but follows a parameter that has one")
        arguments.append(Argument(argument.name, kind, many, optional, argument.dtypes, default))
    schema = Schema(tuple(arguments), tuple(results))
    if sum(a.is_tensor and a.many for a in arguments) > 1:
        raise ArgumentError(f"{name}: there is more than one list of tensors")
    attributes_text({a.name: a.default for a in arguments if a.default is not REQUIRED})
    return schema


def _kind(name: str, parameter: inspect.Parameter, hint: Any) -> tuple[str, bool, bool]:
    """Kind, whether a list, whether optional."""
    if hint is REQUIRED:
        hint = np.ndarray if parameter.default is REQUIRED else cast("Any", type(parameter.default))
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, python_types.UnionType):
        members = [h for h in typing.get_args(hint) if h is not type(None)]
        optional, hint = True, members[0] if len(members) == 1 else None
    if typing.get_origin(hint) in (list, tuple, Sequence):
        many, hint = True, typing.get_args(hint)[0]
    kind = "tensor" if hint is Any else _KINDS.get(hint)
    if kind is None or (optional and kind == "tensor"):
        raise ArgumentError(
            f"{name}: the parameter {parameter.name} must be a tensor (np.ndarray), bool, int, float, str or DType, "
            "a list of these, or an attribute | None"
        )
    return kind, many, optional
