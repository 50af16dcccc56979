"""The Triton compiler: an optional package, found when it is first needed."""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tessera.errors import UnsupportedError

VERSION = "3.6.0"
"""The version of Triton that generated code is written and tested for."""


def check_toolchain(target: str) -> None:
    """Raise UnsupportedError, with the fix, unless the Triton that compiles for ``target`` is installed."""
    fix = "pip install 'tessera[gpu]'"
    try:
        found = version("triton")
    except PackageNotFoundError:
        raise UnsupportedError(
            f'compile: target "{target}" needs the package triton {VERSION}, which is not installed; {fix}'
        ) from None
    if found.split("+")[0] != VERSION:
        raise UnsupportedError(
            f'compile: target "{target}" needs the package triton {VERSION}, and {found} is installed; {fix}'
        )


@lru_cache(maxsize=1)
def triton() -> Any:
    """The package, imported; it carries its own assembler and linker and needs neither a GPU nor a driver."""
    return importlib.import_module("triton")
