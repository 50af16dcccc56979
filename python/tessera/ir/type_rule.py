"""The type rules of operators, as this layer sees them: the operator layer fills them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tessera.errors import InternalError
from tessera.ir.value import TensorType

Rule = Callable[[str, tuple[TensorType, ...], Mapping[str, Any]], tuple[TensorType, ...]]
"""(operator, operand types, attributes) → result types; NameMissingError for an unknown operator."""

_rule: Rule | None = None


def set_type_rule(rule: Rule) -> None:
    """Register the function that gives result types; ``tessera.op.opdef`` does so when it is imported."""
    global _rule
    _rule = rule


def result_types(op: str, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> tuple[TensorType, ...]:
    """Result types of an operator; raises what its type rule raises, NameMissingError for an unknown one."""
    if _rule is None:
        raise InternalError("no operators are registered; import tessera first")
    return _rule(op, types, attrs)
