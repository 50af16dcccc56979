"""``tessera op-stub``: the types of a library's operators, for editors and type checkers."""

from __future__ import annotations

import os
import runpy
from collections.abc import Sequence

from tessera.errors import ArgumentError, FileAccessError
from tessera.op import custom_ops
from tessera.op.opdef import get

_HEAD = '''"""Operators of {library}, as tessera.load_library gives them: op.{namespace}."""

from collections.abc import Sequence
from typing import NamedTuple

from tessera.ir.dims import Dim
from tessera.ir.dtype import DType
from tessera.ir.value import Value
'''


def declared(path: str) -> list[str]:
    """Load a shared library, or run a Python file that declares operators; the names of its operators."""
    if not path.endswith(".py"):
        return custom_ops.load_library(path)
    if not os.path.isfile(path):
        raise FileAccessError(f"{path} does not exist")
    before = set(custom_ops.CUSTOM)
    runpy.run_path(path)
    names = [n for n in custom_ops.CUSTOM if n not in before]
    if not names:
        raise ArgumentError(f"{path} declares no operator with op.custom")
    return names


def stub(names: Sequence[str]) -> str:
    """The text of a ``.pyi`` file with one function for each operator."""
    first = custom_ops.CUSTOM[names[0]]
    parts = [_HEAD.format(library=os.path.basename(first.library), namespace=first.name.split("::")[0])]
    for name in names:
        custom = custom_ops.CUSTOM[name]
        short = name.split("::")[1]
        signature = custom.schema.signature()
        result = str(signature.return_annotation)
        if len(custom.schema.results) > 1:
            result = f"{short}_results"
            fields = "".join(f"\n    {field}: Value" for field in custom.schema.results)
            parts.append(f"class {result}(NamedTuple):{fields}\n")
        parameters = signature.parameters.values()
        arguments = ", ".join(
            f"{p.name}: {p.annotation}" + ("" if p.default is p.empty else " = ...") for p in parameters
        )
        doc = get(name).doc.replace('"""', "'''").strip().replace("\n", "\n    ")
        body = f'\n    """{doc}"""' if doc else " ..."
        parts.append(f"def {short}({arguments}) -> {result}:{body}\n")
    return "\n\n".join(parts)


def op_stub(path: str, output: str | None) -> str:
    """Write the stub to a file, or give it as text."""
    names = declared(path)
    text = stub(names)
    if output is None:
        return text.rstrip("\n")
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise FileAccessError(f"cannot write {output}: {error.strerror or error}") from error
    return f"{output}: {len(names)} operators"
