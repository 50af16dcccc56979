"""Factor strings: how the dimensions of operands and results belong together (the grammar is in ``OpDef``)."""

from __future__ import annotations

import string
from collections.abc import Sequence


def letters(count: int) -> str:
    """The first letters."""
    return string.ascii_letters[:count]


def whole_axes(rank: int, axes: Sequence[int]) -> str:
    """A letter per dimension, those of ``axes`` whole."""
    return "".join(c + ("!" if i in axes else "") for i, c in enumerate(letters(rank)))
