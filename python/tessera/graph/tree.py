"""Nested Python structures of arrays: what a step takes and returns.

A tree is a dict, list, tuple, named tuple or dataclass instance, nested at will; everything else is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Path = tuple["str | int", ...]
_PLAIN_LEAVES = frozenset({np.ndarray, bool, int, float, str, type(None)})  # known without looking


class Identity(tuple[Any, ...]):
    """A leaf that no container holds: what distinguishes it from one with equal keys, its ``identity``."""

    __slots__ = ()


def _is_dataclass(tree: object) -> bool:
    return dataclasses.is_dataclass(tree) and not isinstance(tree, type)


def children(tree: Any) -> list[tuple[str | int, Any]] | None:
    """The (key, child) pairs of a container in order, or None for a leaf.

    A dict class may set ``path_prefix``, which goes in front of its keys, and ``identity``, a tuple that is one more
    leaf for ``leaves``.
    """
    if isinstance(tree, dict):
        prefix = getattr(tree, "path_prefix", "")
        return [(key if isinstance(key, int) else f"{prefix}{key}", child) for key, child in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(getattr(tree, "_fields"), tree, strict=True))  # noqa: B009
    if isinstance(tree, (list, tuple)):
        return list(enumerate(tree))
    if _is_dataclass(tree):
        return [(f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree)]
    return None


def leaves(tree: Any) -> list[tuple[Path, Any]]:
    """All leaves with their paths, in order."""
    found: list[tuple[Path, Any]] = []
    _collect(tree, (), found)
    return found


def _collect(tree: Any, path: Path, found: list[tuple[Path, Any]]) -> None:
    below = None if type(tree) in _PLAIN_LEAVES else children(tree)
    if below is None:
        found.append((path, tree))
        return
    for key, child in below:
        _collect(child, (*path, key), found)
    if type(tree) is not dict and hasattr(tree, "identity"):
        found.append(((*path, "identity"), Identity(tree.identity)))


def rebuild(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with every leaf replaced by ``function(leaf)``."""
    if isinstance(tree, dict):
        new = {key: rebuild(child, function) for key, child in tree.items()}
        if type(tree) is dict:
            return new
        copy = tree.__class__.__new__(tree.__class__)
        copy.update(new)
        copy.__dict__.update(getattr(tree, "__dict__", {}))
        return copy
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(rebuild(child, function) for child in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(rebuild(child, function) for child in tree)
    if _is_dataclass(tree):
        return dataclasses.replace(
            tree, **{f.name: rebuild(getattr(tree, f.name), function) for f in dataclasses.fields(tree) if f.init}
        )
    return function(tree)


def names(paths: Sequence[Path], default: str) -> list[str]:
    """A distinct name for each path: its keys joined by dots.

    Positions in lists and tuples are left out where the names stay distinct without them, so that the loss in
    ``return grads, {"loss": loss}`` is called ``loss``. A leaf without any key is called ``default``.
    """
    short = [".".join(key for key in path if isinstance(key, str)) or default for path in paths]
    full = [
        ".".join((default, *map(str, path)) if not path or isinstance(path[0], int) else map(str, path))
        for path in paths
    ]
    counts: dict[str, int] = {}
    for name in short:
        counts[name] = counts.get(name, 0) + 1
    return [s if counts[s] == 1 else f for s, f in zip(short, full, strict=True)]
