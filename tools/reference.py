"""Writes docs/reference.md, the list of every public name, from the docstrings: ``make docs``.

``--check`` writes nothing and exits with 1 when the page is stale.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from tessera.config import VARIABLES
from tessera.ir.value import Value
from tessera.op.modules import Module
from tessera.op.opdef import REGISTRY, NoVjp

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
NAMESPACES = (
    "tessera", "tessera.op", "tessera.op.random", "tessera.op.initializer", "tessera.graph", "tessera.optim",
    "tessera.dist", "tessera.errors",
)
FORMS = {
    "tessera.op.opdef": "Defining operators",
    "tessera.op.promotion": "Constants and conversion",
    "tessera.op.pointwise_unary": "Pointwise functions of one tensor",
    "tessera.op.pointwise_binary": "Pointwise functions of several tensors",
    "tessera.op.reduce": "Reductions",
    "tessera.op.creation": "Creation",
    "tessera.op.shape": "Shape",
    "tessera.op.slicing": "Parts and order",
    "tessera.op.joining": "Joining and padding",
    "tessera.op.triangle": "Triangles",
    "tessera.op.index": "Indexing",
    "tessera.op.tensor": "Inputs and symbolic sizes",
    "tessera.op.matmul": "Matrix products",
    "tessera.op.grouped_matmul": "Products of groups of rows",
    "tessera.op.einsum": "Contractions",
    "tessera.op.activation": "Activations",
    "tessera.op.softmax": "Softmax",
    "tessera.op.normalization": "Normalization",
    "tessera.op.attention": "Attention",
    "tessera.op.cross_entropy": "Cross entropy",
    "tessera.op.loss": "Losses",
    "tessera.op.random": "Random numbers",
    "tessera.op.parameter": "Parameters",
    "tessera.op.modules": "Modules",
    "tessera.op.custom": "Custom operators",
    "tessera.ir.value": "Types",
}
"""Headings of the operator families, in the order of the page."""

Named = list[tuple[str, Any]]
OBJECTS: Named = [("Value", Value), ("Module", Module)]
"""Classes that users meet without naming them."""


def public(namespace: str) -> Named:
    """(name, object) of every public class and function of a namespace, in the order in which it states them."""
    module = importlib.import_module(namespace)
    names = getattr(module, "__all__", None)
    if names is not None:
        found = [(name, getattr(module, name)) for name in names]
    else:
        # `op` re-exports its families; other modules without `__all__` publish what they define.
        mine = [(k, v) for k, v in vars(module).items() if not k.startswith("_")]
        found = [(k, v) for k, v in mine if namespace == "tessera.op" or _home(v) == namespace]
    return [(k, v) for k, v in found if callable(v) and not isinstance(v, ModuleType) and not k.startswith("_")]


def _home(thing: Any) -> str:
    return getattr(thing, "__module__", "") or ""


def members(thing: type) -> Iterator[tuple[str, str]]:
    """(call, text) of the public methods and properties that a class itself states, sorted by name.

    Members of native code whose documentation is their signature alone are left out.
    """
    for name, member in sorted(vars(thing).items()):
        if name.startswith("_") or not _is_member(member):
            continue
        text = (inspect.getdoc(member) or "").partition("\n\n")[0]
        if not text.startswith(f"{name}("):
            function = getattr(member, "__func__", member)
            bound = not isinstance(member, staticmethod)
            yield name + (signature(function, bound) if inspect.isroutine(function) else ""), " ".join(text.split())


def _is_member(member: Any) -> bool:
    if inspect.ismemberdescriptor(member):  # a slot: an attribute, which the class describes
        return False
    described = isinstance(member, (property, cached_property, classmethod, staticmethod))
    return described or inspect.isroutine(member) or inspect.isdatadescriptor(member)


def signature(thing: Callable[..., Any], bound: bool = False) -> str:
    """Arguments with their defaults, without the first one of a ``bound`` method; types are in the text."""
    try:
        found = inspect.signature(thing)
    except (ValueError, TypeError):
        return "(…)"
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(inspect.Signature(bare[1:] if bound else bare))


def entry(name: str, thing: Any, first: dict[int, str]) -> str:
    """The text of one function or class; ``first``: under which name each object is described, by its id."""
    if first[id(thing)] != name:
        return f"#### `{name}`\n\nThe same as `{first[id(thing)]}`."
    lines = [f"#### `{name}{'' if is_error(thing) else signature(thing)}`", inspect.getdoc(thing) or ""]
    definition = REGISTRY.get(name.removeprefix("op.")) if name.startswith("op.") else None
    if definition is not None and not inspect.isclass(thing):
        gradient = f"No gradient: {definition.vjp.reason}." if isinstance(definition.vjp, NoVjp) else ""
        lines.append(f"Computed in {', '.join(definition.dtypes)}. {gradient}".strip())
    if inspect.isclass(thing):
        lines.append("\n".join(f"- `{call}`: {text}" for call, text in members(thing)))
    return "\n\n".join(line for line in lines if line)


def is_error(thing: Any) -> bool:
    """Whether this is an exception class, whose arguments are of no interest."""
    return inspect.isclass(thing) and issubclass(thing, BaseException)


def families() -> Iterator[tuple[str, Named]]:
    """(module, names) of each operator family."""
    listed = public("tessera.op")
    for module in FORMS:
        yield module, [(k, v) for k, v in listed if _home(v) == module]
    rest = [(k, v) for k, v in listed if _home(v) not in FORMS]
    if rest:
        raise SystemExit(f"tools/reference.py: no heading in FORMS for {sorted({_home(v) for _, v in rest})}")


def _short(namespace: str) -> str:
    return namespace.removeprefix("tessera.")


def page() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Every public name, from its docstring (`make docs` writes this page). Where a *TensorLike* is asked for, a "
        "symbolic tensor, a number, or an array of NumPy, PyTorch or JAX will do. Errors are the classes of "
        "`tessera.errors`; each names the operator, the argument, and what is expected.",
    ]
    listed = [(f"{_short(n)}.{k}", v) for n in NAMESPACES for k, v in public(n)]
    first = {id(v): k for k, v in OBJECTS}
    for own in (True, False):  # under its own name where it has several
        for name, thing in listed:
            if own == name.endswith(f".{getattr(thing, '__name__', '')}"):
                first.setdefault(id(thing), name)
    for namespace in NAMESPACES:
        parts += [f"## {namespace}", inspect.getdoc(importlib.import_module(namespace)) or ""]
        if namespace == "tessera.op":
            for module, names in families():
                parts += [f"### {FORMS[module]}", inspect.getdoc(importlib.import_module(module)) or ""]
                parts += [entry(f"op.{k}", v, first) for k, v in names]
        else:
            parts += [entry(f"{_short(namespace)}.{k}", v, first) for k, v in public(namespace)]
        if namespace == "tessera.op":
            parts += ["### Tensors and modules", "What the functions of ``op`` take and give."]
            parts += [entry(k, v, first) for k, v in OBJECTS]
    rows = [f"| `{v.name}` | {v.default or 'empty'} | {v.doc} |" for v in VARIABLES]
    parts += ["## Environment variables", "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])]
    return "\n\n".join(p.strip() for p in parts if p.strip()) + "\n"


def main() -> int:
    """Write, or with ``--check`` compare, the page."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
