"""Every public name has a docstring and stands in docs/reference.md, which is what its docstrings say."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _tool()


@pytest.mark.parametrize("namespace", REFERENCE.NAMESPACES)
def test_every_public_name_has_a_docstring(namespace: str) -> None:
    found = REFERENCE.public(namespace)
    assert found
    missing = [name for name, thing in found if not (getattr(thing, "__doc__", None) or "").strip()]
    for name, thing in found:
        if inspect.isclass(thing):
            missing += [f"{name}.{call}" for call, text in REFERENCE.members(thing) if not text]
    assert not missing, f"without a docstring in {namespace}: {', '.join(missing)}"


@pytest.mark.parametrize("name, thing", REFERENCE.OBJECTS)
def test_every_method_of_what_users_hold_has_a_docstring(name: str, thing: type) -> None:
    assert not [f"{name}.{call}" for call, text in REFERENCE.members(thing) if not text]


@pytest.mark.parametrize("namespace", REFERENCE.NAMESPACES)
def test_every_public_name_is_listed(namespace: str) -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    short = namespace.removeprefix("tessera.")
    absent = [k for k, _ in REFERENCE.public(namespace) if f"#### `{short}.{k}" not in text]
    assert not absent, f"not in docs/reference.md (run make docs): {', '.join(absent)}"


def test_the_page_is_not_stale() -> None:
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == REFERENCE.page(), "run make docs"
