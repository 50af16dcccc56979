"""Every operator states everything: nothing is missing without a reason."""

from __future__ import annotations

import re

import pytest
from tessera import op
from tessera.errors import ArgumentError, NameMissingError
from tessera.ir.dtype import DTYPES
from tessera.op.lowering import Portable
from tessera.op.opdef import REGISTRY, NoVjp, OpDef

from tests.ops.harness import cases, operators

_TERM = re.compile(r"(\*|[A-Za-z]!?)*")


def factors(definition: OpDef, types: tuple, attrs: dict) -> str:
    """The factor string for these operands."""
    return definition.shard if isinstance(definition.shard, str) else definition.shard(types, attrs)


@pytest.mark.parametrize("name", operators())
def test_definition_is_complete(name: str) -> None:
    definition = REGISTRY[name]
    assert definition.doc.strip(), "doc"
    assert definition.dtypes and set(definition.dtypes) <= set(DTYPES)
    assert definition.lower is not None
    assert definition.shard is not None
    assert definition.samples(), "samples"
    if not definition.is_composite:
        assert definition.infer is not None
        assert definition.reference is not None
        assert definition.vjp is not None
    if isinstance(definition.vjp, NoVjp):
        assert definition.vjp.reason.strip()
    if isinstance(definition.lower, Portable):
        assert definition.lower.reason.strip()


@pytest.mark.parametrize("name", operators())
def test_factor_string_fits_the_operands(name: str) -> None:
    definition = REGISTRY[name]
    for case in cases(definition, definition.dtypes[0]):
        types = tuple(v.type for v in case.leaves)
        text = factors(definition, types, case.sample.attrs)
        sides, _, combine = text.partition(";")
        assert combine in ("", "max", "min", "prod"), text
        before, arrow, after = sides.partition("->")
        assert arrow == "->", text
        terms = before.split(",") if types else []
        results = after.split(",")
        assert len(terms) == len(types) and len(results) == len(case.results), text
        for term, t in zip([*terms, *results], [*types, *(v.type for v in case.results)]):
            assert _TERM.fullmatch(term), text
            named = term.replace("!", "").replace("*", "")
            for letter in set(named):  # a letter may be repeated (a diagonal) where it is whole
                assert term.count(letter) == 1 or term.count(letter) == term.count(letter + "!"), text
            if "*" in term:
                assert len(named) <= t.ndim, text
            else:
                assert len(named) == t.ndim, (text, t)


def test_public_functions_have_docstrings() -> None:
    missing = [n for n in vars(op) if not n.startswith("_") and callable(getattr(op, n)) and not getattr(op, n).__doc__]
    assert not missing


def test_unknown_operator() -> None:
    with pytest.raises(NameMissingError, match="unknown operator 'no_such'"):
        op.get("no_such")


def test_operator_is_registered_once() -> None:
    with pytest.raises(NameMissingError, match="'add' is already registered"):
        op.register(REGISTRY["add"])


def test_error_names_the_line_of_the_user() -> None:
    with pytest.raises(ArgumentError, match=r"\[transpose\](.|\n)*at .*test_registry.py:\d+"):
        op.build("transpose", op.tensor((2, 3)), perm=[0, 0])
