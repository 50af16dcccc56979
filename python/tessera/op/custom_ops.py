"""Custom operators: what the registry of the runtime and that of Python know about each, and how both are joined."""

from __future__ import annotations

import json
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, cast

import numpy as np

from tessera import _core
from tessera.errors import ArgumentError, FormatError, GradientError, NameMissingError
from tessera.ir.attribute import attributes_text
from tessera.ir.dims import Dim, Expr, Symbol, symbols
from tessera.ir.graph import topological
from tessera.ir.parser import parse_graph, parse_type
from tessera.ir.printer import dim_text
from tessera.ir.value import INPUT, Node, TensorType, Value
from tessera.op import lowering as low
from tessera.op.arguments import FLOATS
from tessera.op.factors import check_ranks, check_text, whole
from tessera.op.opdef import REGISTRY, Attrs, Input, NoVjp, OpDef, Sample, apply, register
from tessera.op.schema import Schema

_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom operator: its signature, where it comes from, and the hash by which artefacts know it.

    ``composite``: defined in Python by a graph of other operators; the runtime never sees it. ``devices``: those it has
    kernels for, of ``cpu``, ``cuda`` and ``hip``.
    """

    name: str
    schema: Schema
    library: str
    hash: str
    composite: bool = False
    devices: tuple[str, ...] = ("cpu",)


CUSTOM: dict[str, Custom] = {}
"""All custom operators that Python knows, by name."""


def is_custom(name: str) -> bool:
    """Whether a name is that of a custom operator: ``library::name``."""
    return "::" in name


def load_library(path: Any) -> list[str]:
    """Load a shared library of C++ operators; from now on ``op.<library>.<name>`` are there. Gives their names.

    ``path``: a file; a plain name that is no file is searched for as the system's loader does. Loading a library again
    does nothing. Operators stay until the process ends. They compose, differentiate, compile and are saved like any
    other; an artefact that uses them records which library it needs.

    Raises FileAccessError when the file cannot be opened, FormatError when it is no library of operators, VersionError
    when it needs a newer Tessera, ArgumentError when one of its names is taken.
    """
    names = _core.load_library(path)
    with _lock:
        for name in names:
            if name not in CUSTOM:
                adopt(name)
    return list(names)


def adopt(name: str) -> None:
    """Give an operator that the runtime knows its definition in Python and its place in ``op``."""
    info = _core.custom_op_describe(name)
    schema, factors = Schema.parse(info["schema"]), info["shard"]
    check_text(name, factors)

    def inferred(types: tuple[TensorType, ...], attrs: Attrs) -> _Inferred:
        return _inferred(name, schema.factors(factors, len(types)) if factors else "", types, attrs)

    definition = OpDef(
        name,
        infer=lambda types, attrs: inferred(types, attrs)[0],
        vjp=_vjp(name, info),
        shard=lambda types, attrs: (
            schema.factors(factors, len(types)) if factors else whole(types, inferred(types, attrs)[0])
        ),
        lower=low.Custom("custom operator", lambda types, attrs: inferred(types, attrs)[1]),
        reference=_reference(name, schema),
        samples=lambda: samples_of(name, info["samples"]),
        dtypes=accepted_dtypes(schema),
        doc=info["doc"],
    )
    devices = tuple(info["devices"])
    publish(definition, Custom(name, schema, info["library"], f"{info['hash']:016x}", devices=devices))


def publish(definition: OpDef, custom: Custom) -> None:
    """Register a custom operator and put its function into ``op``; ArgumentError when the name is taken."""
    library, short = custom.name.split("::")
    namespace = sys.modules["tessera.op"]
    place = getattr(namespace, library, None)
    if place is not None and not isinstance(place, Library):
        raise ArgumentError(f"{custom.name}: op.{library} is there already; give the library of operators another name")
    with _lock:
        if custom.name in CUSTOM:
            raise ArgumentError(
                f"{custom.library}: the operator {custom.name} is there already, from {CUSTOM[custom.name].library}; "
                "give one of them another name"
            )
        register(definition)
        CUSTOM[custom.name] = custom
        if place is None:
            place = Library(f"tessera.op.{library}", f"Operators of the library {library}.")
            setattr(namespace, library, place)
        setattr(place, short, function_of(custom, definition.doc))


class Library(ModuleType):
    """The operators of one library: ``op.mylib``."""


def function_of(custom: Custom, doc: str) -> Callable[..., Any]:
    """The function that users call: it checks its arguments and builds a node."""
    library, short = custom.name.split("::")
    schema = custom.schema
    several: Any = None
    if len(schema.results) > 1:
        several = namedtuple(short, schema.results, rename=True)  # noqa: PYI024  # pyright: ignore[reportUntypedNamedTuple]

    def call(*args: Any, **kwargs: Any) -> Any:
        operands, attrs = schema.bind(custom.name, args, kwargs)
        results = apply(custom.name, operands, attrs)
        return results[0] if several is None else several(*results)

    call.__name__ = call.__qualname__ = short
    call.__module__ = f"tessera.op.{library}"
    call.__doc__ = f"{doc}\n\nOperator {custom.name}{schema.text()} of {custom.library}.".strip()
    call.__signature__ = schema.signature()  # type: ignore[attr-defined]
    return call


def accepted_dtypes(schema: Schema) -> tuple[str, ...]:
    """The dtypes of the operands that are tested."""
    return next((a.dtypes for a in schema.tensors if a.dtypes), FLOATS)


def samples_of(name: str, text: str) -> list[Sample]:
    """The samples that a library states, from their JSON text; FormatError when it is malformed."""
    from tessera.ir.parser import parse_attributes

    try:
        entries = cast("list[dict[str, Any]]", json.loads(text) if text else [])
        return [
            Sample(
                tuple(Input(tuple(i["shape"]), i["kind"], i["low"], i["high"]) for i in entry["inputs"]),
                parse_attributes(entry["attributes"]),
                grad=entry["gradient"],
                tolerance=entry["tolerance"],
            )
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{name}: the samples are malformed ({type(error).__name__}: {error})") from error


def _symbols(types: Sequence[TensorType], attrs: Attrs) -> dict[str, Symbol]:
    found: dict[str, Symbol] = {}
    stack: list[Any] = [*(d for t in types for d in t.shape), *attrs.values()]
    while stack:
        value = stack.pop()
        if isinstance(value, (list, tuple)):
            stack += value
        elif isinstance(value, Expr):
            found.update((s.name, s) for s in symbols(value))
    return found


def inputs_text(types: Sequence[TensorType], known: Iterable[Symbol]) -> str:
    """The text of a graph that has operands of these types as its inputs."""
    lines = ["tessera.graph 1", 'graph "call" {', *(dim_text(s) for s in known)]
    lines += [f'  %{i} = input {{name = "operand_{i}"}} : {t}' for i, t in enumerate(types)]
    return "\n".join([*lines, "}\n"])


_Inferred = tuple[tuple[TensorType, ...], Dim]
_inferences: dict[Any, _Inferred] = {}
_CACHED = 4096


def _inferred(name: str, factors: str, types: tuple[TensorType, ...], attrs: Attrs) -> _Inferred:
    """Result types and scratch bytes by the operator's shape function."""
    plain = tuple(TensorType(t.dtype, t.shape) for t in types)
    text = attributes_text(attrs)
    key = (name, plain, text)
    found = _inferences.get(key)
    if found is None:
        known = _symbols(plain, attrs)
        answer = _core.custom_op_infer(name, inputs_text(plain, known.values()), text)
        head, _, scratch = answer.partition("\n\n")
        results = tuple(parse_type(line, known.values()) for line in head.split("\n"))
        if factors:
            check_ranks(name, factors, plain, results)
        size = parse_type(f"u8[{scratch}]", known.values()).shape[0]
        if len(_inferences) >= _CACHED:
            _inferences.clear()
        found = _inferences[key] = results, size
    return found


def _reference(name: str, schema: Schema) -> Callable[..., Any]:
    """The operator's own kernel, on NumPy arrays."""

    def run(*arrays: Any, **attrs: Any) -> Any:
        from_numpy = _core.Array.from_numpy
        operands = [from_numpy(np.asarray(a, order="C")) for a in arrays]
        text = attributes_text(schema.complete(name, attrs))
        results = [np.asarray(r.numpy()) for r in _core.run_primitive(name, text, operands, 0, len(schema.results))]
        return tuple(results) if len(results) > 1 else results[0]

    return run


def _vjp(name: str, info: Mapping[str, Any]) -> Any:
    if info["gradient_op"]:
        return partial(by_operator, gradient_op=info["gradient_op"])
    if info["no_gradient"]:
        return NoVjp(info["no_gradient"])
    return partial(_by_function, name)


def _filled(node: Node, cotangents: Sequence[Value | None]) -> list[Value]:
    return [
        c if c is not None else apply("full", (), {"shape": list(r.shape), "value": 0.0 if r.dtype.is_float else 0,
                                                   "dtype": r.dtype})[0]
        for r, c in zip(node.results, cotangents, strict=True)
    ]


def by_operator(node: Node, cotangents: Sequence[Value | None], gradient_op: str) -> list[Value | None]:
    """The gradient that another operator computes."""
    if gradient_op not in REGISTRY:
        raise NameMissingError(
            f"{node.op}: its gradient is the operator {gradient_op}, which is not there; load its library too"
        )
    found = list(apply(gradient_op, [*node.operands, *_filled(node, cotangents)], node.attrs))
    wanted = sum(v.dtype.is_float for v in node.operands)
    if len(found) != wanted:
        raise GradientError(f"{node.op}: {gradient_op} has {len(found)} results for {wanted} floating-point operands")
    return checked(node, [found.pop(0) if v.dtype.is_float else None for v in node.operands])


def _by_function(name: str, node: Node, cotangents: Sequence[Value | None]) -> list[Value | None]:
    """The gradient that the library's function builds, as a graph on the node's own operands."""
    types = [v.type for v in node.operands]
    known = _symbols(types, node.attrs)
    mask = "".join("0" if c is None else "1" for c in cotangents)
    text = _core.custom_op_gradient(name, inputs_text(types, known.values()), attributes_text(node.attrs), mask)
    graph = parse_graph(text)
    given = {f"operand_{i}": v for i, v in enumerate(node.operands)}
    given |= {f"cotangent_{i}": c for i, c in enumerate(cotangents) if c is not None}
    new: dict[Value, Value] = {}
    for inner in topological(v.node for v in graph.outputs.values()):
        operands = [new[v] for v in inner.operands]
        if inner.op == INPUT:
            made: Sequence[Value] = (given[inner.attrs["name"]],)
        elif inner.op == name and _same(operands, node.operands) and inner.attrs == node.attrs:
            made = node.results  # the forward result, not computed again
        else:
            made = apply(inner.op, operands, inner.attrs)
        new.update(zip(inner.results, made, strict=True))
    found = {int(key.removeprefix("gradient_")): new[v] for key, v in graph.outputs.items()}
    return checked(node, [found.get(i) for i in range(len(node.operands))])


def _same(a: Sequence[Value], b: Sequence[Value]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def checked(node: Node, gradients: Sequence[Value | None]) -> list[Value | None]:
    """The gradients, each of its operand's type; GradientError that names the operator otherwise."""
    if len(gradients) != len(node.operands):
        raise GradientError(f"{node.op}: the gradient gives {len(gradients)} tensors for {len(node.operands)} operands")
    for i, (v, g) in enumerate(zip(node.operands, gradients, strict=True)):
        if g is not None and v.dtype.is_float and g.type != v.type:
            raise GradientError(f"{node.op}: the gradient of operand {i}, a {v.type}, is a {g.type}")
    return list(gradients)


def requirements(names: Iterable[str]) -> str:
    """The artefact's entry for the custom operators among ``names``: JSON, empty without any."""
    entries: list[dict[str, Any]] = []
    for name in sorted({n for n in names if is_custom(n)}):
        one = CUSTOM[name]
        entry: dict[str, Any] = {
            "name": name, "schema": one.schema.text(), "hash": one.hash, "library": one.library.rsplit("/", 1)[-1],
        }
        entries.append({**entry, "composite": True} if one.composite else entry)
    return json.dumps(entries) if entries else ""


def check_requirements(where: str, text: str) -> None:
    """One NameMissingError for all operators of an artefact's entry that are not there, or are others."""
    wrong: list[str] = []
    try:
        entries = [(e["name"], e["schema"], e["hash"], e["library"]) for e in json.loads(text)]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{where}: tessera.custom_ops is malformed ({type(error).__name__}: {error})") from error
    for name, schema, digest, library in entries:
        found = CUSTOM.get(name)
        if found is None:
            wrong.append(f"{name}{schema} of {library}")
        elif found.hash != digest:
            other = f"{found.schema.text()} of {found.library}"
            wrong.append(f"{name}{schema} of {library}: another one is loaded, {other}")
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise NameMissingError(
            f"{where} needs custom operators that are missing or differ:{listed}\nLoad the libraries named with "
            "tessera::load_library, in Python tessera.load_library, first"
        )
