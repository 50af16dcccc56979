"""Factor strings: how the dimensions of operands and results belong together (the grammar is in ``OpDef``)."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from tessera.errors import FormatError, ShapeError
from tessera.ir.value import TensorType


def letters(count: int) -> str:
    """The first letters."""
    return string.ascii_letters[:count]


def whole_axes(rank: int, axes: Sequence[int]) -> str:
    """A letter per dimension, those of ``axes`` whole."""
    return "".join(c + ("!" if i in axes else "") for i, c in enumerate(letters(rank)))


_TENSOR = re.compile(r"(?:[A-Za-z]!?)*\*?(?:[A-Za-z]!?)*")
_COMBINE = re.compile(r";(sum|max|min|prod)")


def parts(factors: str) -> tuple[list[str], list[str], str]:
    """Operands, results and the way of combining of a factor string, as texts; ValueError when it is malformed."""
    head, semicolon, combine = factors.partition(";")
    if semicolon and _COMBINE.fullmatch(";" + combine) is None:
        raise ValueError(f"'{combine}' is none of sum, max, min, prod")
    if head.count("->") != 1:
        raise ValueError("expected operands->results")
    operands, results = (side.split(",") for side in head.replace(" ", "").split("->"))
    for tensor in (*operands, *results):
        if _TENSOR.fullmatch(tensor) is None:
            raise ValueError(f"'{tensor}' is not * or letters, each perhaps followed by !")
        names = tensor.replace("!", "").replace("*", "")
        if len(set(names)) != len(names):
            raise ValueError(f"'{tensor}' has a letter twice")
    return operands, results, combine or "sum"


def check_text(op: str, factors: str) -> None:
    """Raise FormatError when a custom operator's factor string is malformed; an empty one stands for none."""
    if not factors:
        return
    try:
        operands, results, _ = parts(factors)
        known = set("".join(operands))
        if made := [c for t in results for c in re.findall(r"[A-Za-z](?!!)", t) if c not in known]:
            raise ValueError(f"no operand has the letter '{made[0]}' of a result; mark it as whole: '{made[0]}!'")
    except ValueError as error:
        raise FormatError(f"{op}: the sharding rule {factors!r} is malformed: {error}") from None


def check_ranks(op: str, factors: str, operands: Sequence[TensorType], results: Sequence[TensorType]) -> None:
    """Raise ShapeError when a factor string does not fit the numbers and ranks of operands and results."""
    stated, given = parts(factors)[:2], (operands, results)
    for what, texts, types in zip(("operand", "result"), stated, given, strict=True):
        texts = [] if texts == [""] and not types else texts
        if len(texts) != len(types):
            raise ShapeError(
                f"[{op}] the sharding rule {factors!r} has {len(texts)} {what}s, the call has {len(types)}"
            )
        for i, (text, t) in enumerate(zip(texts, types, strict=True)):
            letters_ = len(text.replace("!", "").replace("*", ""))
            if letters_ > t.ndim or ("*" not in text and letters_ != t.ndim):
                raise ShapeError(
                    f"[{op}] the sharding rule {factors!r} gives {what} {i} {letters_} dimensions, but it is {t}"
                )


def whole(operands: Sequence[TensorType], results: Sequence[TensorType]) -> str:
    """The factor string of an operator whose dimensions cannot be split."""
    names = iter(string.ascii_letters)
    sides = [",".join("".join(next(names) + "!" for _ in t.shape) for t in types) for types in (operands, results)]
    return "->".join(sides)
