"""Writes docs/operators.md, every operator in Python and in C++ side by side: ``make docs``.

``--check`` writes nothing and exits with 1 when the page is stale or the languages differ: an operator that one of them
lacks, other parameters, another order, other defaults. The C++ side is read from the headers.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from tessera import op
from tessera.ir.dtype import DType
from tessera.op.embedding import look_up
from tessera.op.matmul import apply_linear
from tessera.op.normalization import apply_layer_norm, apply_rms_norm

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
HEADERS = ROOT / "runtime" / "include" / "tessera" / "ops"

FUNCTION_FORMS = {
    "linear": apply_linear, "embedding": look_up, "layer_norm": apply_layer_norm, "rms_norm": apply_rms_norm,
}
"""Operators that are modules too: the functions on tensors, which C++ has."""

PYTHON_ONLY = {
    "as_tensor": "C++ takes numbers and tensors where an operand is wanted",
    "build": "for defining operators in Python",
    "constant": "a tensor that exists is a constant of the graph that is traced from it",
    "custom": "C++ declares operators with `TESSERA_OPERATOR` of `tessera/custom_op.h`",
    "get": "the registry of definitions",
    "mlp": "modules are Python's",
    "no_vjp": "for defining operators in Python",
    "parameter_of": "C++ keeps the tensor that it gave to `op::parameter`",
    "register": "the registry of definitions",
}
CPP_ONLY = {
    "input": "`op.tensor` with the name first",
    "random_uniform": "the primitive, whose key and id are given",
    "slice": "Python's `x[start:stop:step]`",
}
OTHER_SIGNATURE = {
    "parameter": "C++ gives the first value as a tensor, Python a shape and an initializer",
    "tensor": "Python makes up a name of its own",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name and its default (None: it has none), in one form for both languages."""

    name: str
    default: str | None
    variadic: bool = False

    def __str__(self) -> str:
        return f"{'*' if self.variadic else ''}{self.name}" + ("" if self.default is None else f"={self.default}")


Signature = tuple[Parameter, ...]


def python_functions() -> dict[str, FunctionType]:
    """The functions of ``tessera.op``, in the order in which it states them."""
    found = {n: v for n, v in vars(op).items() if isinstance(v, FunctionType) and not n.startswith("_")}
    return {**found, **{n: f for n, f in FUNCTION_FORMS.items() if n in found}}


def python_default(value: Any) -> str | None:
    """A default in the common form."""
    if value is inspect.Parameter.empty:
        return None
    if isinstance(value, DType):
        return value.name
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool) or value is None:
        return str(value)
    return number(str(value))


def python_signature(function: FunctionType) -> Signature:
    """The parameters of a Python function."""
    variadic = inspect.Parameter.VAR_POSITIONAL
    return tuple(
        Parameter(p.name, python_default(p.default), p.kind is variadic)
        for p in inspect.signature(function).parameters.values()
    )


def number(text: str) -> str:
    """A number in one form: integers without a point."""
    value = float(text)
    return str(int(value)) if value.is_integer() else repr(value)


# --- C++ headers ---


def without_comments(text: str) -> str:
    """The text without ``//`` comments and preprocessor lines; strings of these headers hold no ``//``."""
    return "\n".join(line.split("//")[0] for line in text.splitlines() if not line.startswith("#"))


def without_details(text: str) -> str:
    """The text without the blocks of ``namespace detail``."""
    while (start := text.find("namespace detail {")) >= 0:
        text = text[:start] + text[closing(text, text.index("{", start)) + 1 :]
    return text


def closing(text: str, at: int) -> int:
    """The place of the bracket that closes the one at ``at``."""
    pairs = {"(": ")", "{": "}"}
    opened, closed, depth = text[at], pairs[text[at]], 0
    for i in range(at, len(text)):
        depth += (text[i] == opened) - (text[i] == closed)
        if depth == 0:
            return i
    raise ValueError(f"an unclosed {opened} in a header")


def split(text: str) -> list[str]:
    """Parts between commas that stand outside brackets of any kind."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "(<{[") - (c in ")>}]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


CPP_DEFAULTS = {"std::nullopt": "None", "true": "True", "false": "False"}


def cpp_default(text: str) -> str:
    """A default in the common form."""
    text = text.strip()
    if text in CPP_DEFAULTS:
        return CPP_DEFAULTS[text]
    if text.startswith("DType::"):
        return text.removeprefix("DType::").lower()
    return text if text.startswith('"') or text == "{}" else number(text)


def cpp_parameter(text: str) -> Parameter:
    """A parameter from its declaration."""
    declaration, assigned, default = text.partition(" = ")
    name = re.search(r"(\w+)$", declaration)
    if name is None:
        raise ValueError(f"not a parameter: {text}")
    return Parameter(name[1], cpp_default(default) if assigned else None)


FUNCTION = re.compile(r"^inline (Tensor|std::vector<Tensor>|Dim) (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class CppFunction:
    """A function of ``tessera::op``: its declaration and its parameters."""

    declaration: str
    signature: Signature


def read_header(text: str) -> Iterator[tuple[str, CppFunction]]:
    """The functions that a header defines."""
    body = without_details(without_comments(text))
    for match in FUNCTION.finditer(body):
        end = closing(body, match.end() - 1)
        parameters = re.sub(r"\s+", " ", body[match.end() : end])
        signature = tuple(cpp_parameter(p) for p in split(parameters))
        yield match[2], CppFunction(f"{match[1]} {match[2]}({parameters})", signature)


def cpp_functions() -> dict[str, CppFunction]:
    """The functions of ``tessera::op`` by name."""
    found: dict[str, CppFunction] = {}
    for header in sorted(HEADERS.glob("*.h")):
        text = header.read_text()
        if "namespace op {" not in text:
            continue
        inside = text[text.index("namespace op {") :]
        for name, function in read_header(inside[: inside.index("} // namespace op\n")]):
            if name in found:
                raise ValueError(f"op::{name} is declared twice")
            found[name] = function
    return found


# --- comparison and page ---


def difference(python: Signature, cpp: Signature) -> str | None:
    """What differs between two signatures; None when they agree."""
    if [p.name for p in python] != [p.name for p in cpp]:
        return f"parameters {', '.join(map(str, python))} in Python, {', '.join(map(str, cpp))} in C++"
    for a, b in zip(python, cpp, strict=True):
        if a.default != b.default and not (a.variadic and b.default in (None, "None")):
            return f"{a.name} is {a.default} by default in Python, {b.default} in C++"
    return None


def differences(python: dict[str, Signature], cpp: dict[str, Signature]) -> list[str]:
    """Everything in which the languages differ without a stated reason."""
    out = [f"{n}: not in C++" for n in python if n not in cpp and n not in PYTHON_ONLY]
    out += [f"{n}: not in Python" for n in cpp if n not in python and n not in CPP_ONLY]
    for name in python:
        if name in cpp and name not in OTHER_SIGNATURE and (found := difference(python[name], cpp[name])):
            out.append(f"{name}: {found}")
    return out


def all_differences() -> list[str]:
    """``differences`` of the two as they are."""
    python = {n: python_signature(f) for n, f in python_functions().items()}
    return differences(python, {n: f.signature for n, f in cpp_functions().items()})


def short(declaration: str) -> str:
    """A C++ declaration without what every one of them has."""
    return declaration.replace("const ", "").replace(" &", " ").replace("std::", "")


def page() -> str:
    """The text of docs/operators.md."""
    python, cpp = python_functions(), cpp_functions()
    lines = [
        "# Operators in both languages", "",
        "Written by `make docs`; a test fails when the languages differ. Descriptions, dtypes and errors of each",
        "operator are in the [reference](reference.md). In C++ `op::` functions take `Operand` (a tensor or a number),",
        "`Shape`, `Axes` (a number, a list, or `std::nullopt`: all) and `Operands` (a list); `const` and `&` are left",
        "out here.", "",
        "| Python `op.` | C++ `op::` |", "|---|---|",
    ]
    for name, function in python.items():
        if name in cpp:
            own = f"{name}({', '.join(map(str, python_signature(function)))})"
            lines.append(f"| `{own}` | `{short(cpp[name].declaration)}` |")
    lines += ["", "Other signatures, for a reason: " + reasons(OTHER_SIGNATURE), ""]
    lines += ["In Python only: " + reasons(PYTHON_ONLY), "", "In C++ only: " + reasons(CPP_ONLY), ""]
    return "\n".join(lines)


def reasons(table: dict[str, str]) -> str:
    """Names with their reasons."""
    return "; ".join(f"`{name}` ({reason})" for name, reason in sorted(table.items())) + "."


def main() -> int:
    """Write the page, or check it."""
    found = all_differences()
    for line in found:
        print(line, file=sys.stderr)
    if "--check" in sys.argv[1:]:
        return int(bool(found) or PAGE.read_text() != page())
    PAGE.write_text(page())
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
