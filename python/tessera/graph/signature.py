"""How Python arguments become a program's inputs, and its outputs a Python result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.errors import ArgumentError, NameMissingError
from tessera.graph import tree
from tessera.graph.trace import Traced, is_array
from tessera.ir.value import Value


class NamedSignature:
    """Inputs by position or name; the result is one array, or a dict or tuple of them."""

    def __init__(self, what: str, inputs: Sequence[str], structure: Any) -> None:
        self.what = what
        self.inputs = list(inputs)
        self._single = isinstance(structure, Value)
        self._structure = None if self._single else structure  # a tensor would keep its own program alive
        flat = type(structure) is dict and all(isinstance(leaf, Value) for leaf in structure.values())
        self._keys = list(structure) if flat else None

    def positional(self, args: tuple[Any, ...]) -> bool:
        """Whether the arguments are already the inputs in order."""
        return len(args) == len(self.inputs) and not (len(args) == 1 and isinstance(args[0], Mapping))

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arguments in input order. Raises ArgumentError or NameMissingError naming what is wrong."""
        if not kwargs:
            if len(args) == 1 and isinstance(args[0], Mapping):
                args, kwargs = (), args[0]
            elif len(args) == len(self.inputs):
                return list(args)
        if len(args) > len(self.inputs):
            raise ArgumentError(f"{self.what}: {len(args)} arguments for {len(self.inputs)} inputs ({self._names()})")
        given = dict(zip(self.inputs, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.inputs:
                raise NameMissingError(f"{self.what}: there is no input {name!r}; the inputs are {self._names()}")
            if name in given:
                raise ArgumentError(f"{self.what}: input {name!r} is given twice, by position and by name")
            given[name] = value
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise NameMissingError(f"{self.what}: input {missing[0]!r} is missing; the inputs are {self._names()}")
        return [given[name] for name in self.inputs]

    def result(self, outputs: list[Any]) -> Any:
        """The outputs in the structure of what was compiled."""
        if self._single:
            return outputs[0]
        if self._keys is not None:
            return dict(zip(self._keys, outputs, strict=True))
        remaining = iter(outputs)
        return tree.rebuild(self._structure, lambda leaf: next(remaining) if isinstance(leaf, Value) else leaf)

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self.inputs) or "none"


class TreeSignature:
    """The arguments and the result of a traced function, nested as they were when it was traced."""

    def __init__(self, traced: Traced) -> None:
        self.what = traced.graph.name
        self._paths = tree.leaves(traced.arguments)
        self._keys = {path for path, _ in self._paths}
        self._flat = all(len(path) == 1 and isinstance(leaf, Value) for path, leaf in self._paths)
        self._result = traced.result
        self.inputs = [leaf.node.attrs["name"] for _, leaf in self._paths if isinstance(leaf, Value)]

    def positional(self, args: tuple[Any, ...]) -> bool:
        """Whether the arguments are already the inputs in order: tensors that are not nested."""
        return self._flat and len(args) == len(self.inputs) and all(map(is_array, args))

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arrays of the arguments, in input order."""
        given = dict(tree.leaves([*args, *kwargs.values()]))
        if given.keys() != self._keys:
            raise self._difference(set(given))
        arrays: list[Any] = []
        for path, want in self._paths:
            leaf = given[path]
            if isinstance(want, Value):
                if not is_array(leaf) and not isinstance(leaf, (bool, int, float)):
                    raise ArgumentError(
                        f"{self.what}: argument {_path_text(path)} must be an array, not {type(leaf).__name__}"
                    )
                arrays.append(leaf)
            elif leaf is not want and (is_array(leaf) or leaf != want):
                raise ArgumentError(
                    f"{self.what}: it was compiled for {_path_text(path)} = {want!r}, not {leaf!r}; "
                    "compile it for that value"
                )
        return arrays

    def _difference(self, given: set[tree.Path]) -> Exception:
        missing = sorted(map(_path_text, self._keys - given))
        extra = sorted(map(_path_text, given - self._keys))
        parts = ([f"missing {', '.join(missing)}"] if missing else []) + (
            [f"unexpected {', '.join(extra)}"] if extra else []
        )
        return NameMissingError(f"{self.what}: the arguments differ from those it was compiled for: {'; '.join(parts)}")

    def result(self, outputs: list[Any]) -> Any:
        """The outputs in the structure that the function returned."""
        remaining = iter(outputs)
        return tree.rebuild(self._result, lambda leaf: next(remaining) if isinstance(leaf, Value) else leaf)


def _path_text(path: tree.Path) -> str:
    if not path:
        return "the argument"
    return f"argument {path[0]}" + "".join(f"[{key!r}]" for key in path[1:])


Signature = NamedSignature | TreeSignature

__all__ = ["NamedSignature", "Signature", "TreeSignature"]
