"""einsum: contractions in index notation, as a composite of transposes, matrix products and sums."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from tessera.errors import ArgumentError, ShapeError
from tessera.ir.dims import Dim, bounds, product
from tessera.ir.value import TensorType, Value
from tessera.op.accumulate import total
from tessera.op.arguments import NUMBERS, require_dtype, require_equal_dtypes, shape_text
from tessera.op.lowering import Composite
from tessera.op.matmul import to_shape
from tessera.op.opdef import Attrs, Input, OpDef, Sample, build, register
from tessera.op.promotion import TensorLike, cast_to, promote_operands

Labels = list[str]
_TYPICAL = 64  # what a symbolic size counts for when the order of contractions is chosen


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result; dimensions of an ellipsis are ``.0`` (the last), ``.1``, …."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ArgumentError(f"[einsum] {equation!r} has {len(terms)} terms for {len(ranks)} operands")
    operands = [_term(equation, term, rank, i) for i, (term, rank) in enumerate(zip(terms, ranks, strict=True))]
    widest = max((sum(c[0] == "." for c in labels) for labels in operands), default=0)
    dots = [f".{i}" for i in reversed(range(widest))]
    if arrow:
        result = _letters(equation, right.replace("...", "."), dots)
    else:
        everything = [c for labels in operands for c in labels]
        result = dots + sorted(c for c in set(everything) if c[0] != "." and everything.count(c) == 1)
    known = {c for labels in operands for c in labels}
    for c in result:
        if c not in known:
            raise ArgumentError(f"[einsum] {equation!r}: label {c!r} of the result is in no operand")
        if result.count(c) > 1:
            raise ArgumentError(f"[einsum] {equation!r}: label {c!r} is twice in the result")
    if arrow and widest and dots[0] not in result:
        raise ArgumentError(
            f"[einsum] {equation!r}: operands have dimensions under '...', so the result needs '...' too"
        )
    return operands, result


def _term(equation: str, term: str, rank: int, position: int) -> Labels:
    marked = term.replace("...", ".")
    named = len(marked) - marked.count(".")
    if named > rank or ("." not in marked and named != rank):
        raise ShapeError(
            f"[einsum] {equation!r}: term {term!r} does not fit operand {position}, which has {rank} dimensions"
        )
    return _letters(equation, marked, [f".{i}" for i in reversed(range(rank - named))])


def _letters(equation: str, marked: str, dots: Labels) -> Labels:
    labels: Labels = []
    for c in marked:
        if c == "." and marked.count(".") == 1:
            labels += dots
        elif c.isalpha() and c.isascii():
            labels.append(c)
        else:
            raise ArgumentError(
                f"[einsum] {equation!r}: unexpected {c!r}; use letters, ',', '->' and at most one '...' per term"
            )
    return labels


def _sizes(equation: str, operands: Sequence[Labels], shapes: Sequence[Sequence[Dim]]) -> dict[str, Dim]:
    """The size of each label; a size of 1 broadcasts."""
    sizes: dict[str, Dim] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for c, d in zip(labels, shape, strict=True):
            if labels.count(c) > 1 and any(o != d for other, o in zip(labels, shape, strict=True) if other == c):
                raise ShapeError(
                    f"[einsum] {equation!r}: label {c!r} is repeated over different sizes of {shape_text(shape)}"
                )
            have = sizes.setdefault(c, d)
            if have != d and have != 1 and d != 1:
                what = "an ellipsis dimension" if c[0] == "." else f"label {c!r}"
                raise ShapeError(f"[einsum] {equation!r}: {what} is {have} in one operand and {d} in another")
            if have == 1:
                sizes[c] = d
    return sizes


class _Term:
    """A value with a label per dimension, each label once."""

    def __init__(self, value: Value, labels: Labels) -> None:
        self.value, self.labels = value, labels

    def without(self, dropped: set[str]) -> _Term:
        """Summed over these labels."""
        axes = [i for i, c in enumerate(self.labels) if c in dropped]
        if not axes:
            return self
        summed = cast_to(total(self.value, axes, keepdims=False), self.value.dtype)
        return _Term(summed, [c for c in self.labels if c not in dropped])

    def diagonal(self) -> _Term:
        """Repeated labels taken along the diagonal, one pair at a time."""
        repeated = next((c for c in self.labels if self.labels.count(c) > 1), None)
        if repeated is None:
            return self
        first = self.labels.index(repeated)
        second = self.labels.index(repeated, first + 1)
        others = [i for i in range(len(self.labels)) if i not in (first, second)]
        moved = build("transpose", self.value, perm=[first, second, *others])
        n, rest = moved.shape[0], moved.shape[2:]
        # An n × n matrix, padded to n · (n + 1) elements and cut into rows of n + 1, has element (i, i) first in row i.
        flat = to_shape(moved, (n * n, *rest))
        flat = build("pad", flat, low=[0] * flat.ndim, high=[n, *[0] * len(rest)], value=_zero(flat))
        rows = to_shape(flat, (n, n + 1, *rest))
        start, stop = [0] * rows.ndim, list(rows.shape)
        stop[1] = 1
        column = build("slice", rows, start=start, stop=stop, step=[1] * rows.ndim)
        return _Term(to_shape(column, (n, *rest)), [repeated, *(self.labels[i] for i in others)]).diagonal()

    def squeezed(self, sizes: dict[str, Dim]) -> _Term:
        """Without the dimensions of size 1 that broadcast against a larger one."""
        kept = [i for i, c in enumerate(self.labels) if self.value.shape[i] == sizes[c]]
        if len(kept) == len(self.labels):
            return self
        return _Term(to_shape(self.value, [self.value.shape[i] for i in kept]), [self.labels[i] for i in kept])

    def arranged(self, labels: Labels) -> Value:
        """The value with its dimensions in the order of ``labels``, which are all of its labels."""
        perm = [self.labels.index(c) for c in labels]
        return self.value if perm == list(range(len(perm))) else build("transpose", self.value, perm=perm)


def _zero(x: Value) -> float | int:
    return 0.0 if x.dtype.is_float else 0


def _weight(labels: set[str], sizes: dict[str, Dim]) -> int:
    """An estimate of the number of elements."""
    out = 1
    for c in labels:
        low, high = bounds(sizes[c])
        out *= int(low) if low == high else max(int(low), min(_TYPICAL, int(high) if high is not None else _TYPICAL))
    return out


def _contract(a: _Term, b: _Term, needed: set[str], sizes: dict[str, Dim]) -> _Term:
    """The product of two terms, summed over the labels that nothing else needs."""
    a = a.without(set(a.labels) - set(b.labels) - needed)
    b = b.without(set(b.labels) - set(a.labels) - needed)
    shared = [c for c in a.labels if c in b.labels]
    batch, inner = [c for c in shared if c in needed], [c for c in shared if c not in needed]
    rows = [c for c in a.labels if c not in shared]
    columns = [c for c in b.labels if c not in shared]
    if not inner:
        labels = batch + rows + columns
        left = to_shape(a.arranged(batch + rows), [*(sizes[c] for c in batch + rows), *[1] * len(columns)])
        right = to_shape(
            b.arranged(batch + columns), [sizes[c] for c in batch] + [1] * len(rows) + [sizes[c] for c in columns]
        )
        return _Term(build("mul", left, right), labels)
    outer = [sizes[c] for c in batch]
    m, k, n = (product(sizes[c] for c in group) for group in (rows, inner, columns))
    left = to_shape(a.arranged(batch + rows + inner), [*outer, m, k])
    right = to_shape(b.arranged(batch + inner + columns), [*outer, k, n])
    result = build("matmul", left, right)
    return _Term(to_shape(result, [*outer, *(sizes[c] for c in rows + columns)]), batch + rows + columns)


def _cheapest(terms: Sequence[_Term], result: set[str], sizes: dict[str, Dim]) -> tuple[int, int]:
    """The pair whose product is smallest, of those the one with the least work; the first at a tie."""
    best: tuple[tuple[int, int], tuple[int, int]] | None = None
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            union = {*terms[i].labels, *terms[j].labels}
            others = [t for at, t in enumerate(terms) if at not in (i, j)]
            kept = union & result.union(*(t.labels for t in others))
            cost = (_weight(kept, sizes), _weight(union, sizes))
            if best is None or cost < best[0]:
                best = (cost, (i, j))
    assert best is not None
    return best[1]


def _body(*operands: Value, equation: str) -> Value:
    parsed, result = _parse(equation, [x.ndim for x in operands])
    sizes = _sizes(equation, parsed, [x.shape for x in operands])
    terms = [_Term(x, labels).diagonal().squeezed(sizes) for x, labels in zip(operands, parsed, strict=True)]
    while len(terms) > 1:
        i, j = _cheapest(terms, set(result), sizes)
        others = [t for at, t in enumerate(terms) if at not in (i, j)]
        needed = set(result).union(*(t.labels for t in others))
        terms = [*others[:i], _contract(terms[i], terms[j], needed, sizes), *others[i:]]
    last = terms[0].without(set(terms[0].labels) - set(result))
    return last.arranged(result)


def _infer(types: tuple[TensorType, ...], attrs: Attrs) -> TensorType:
    require_dtype("einsum", types, NUMBERS)
    dtype = require_equal_dtypes("einsum", types)
    parsed, result = _parse(attrs["equation"], [t.ndim for t in types])
    sizes = _sizes(attrs["equation"], parsed, [t.shape for t in types])
    return TensorType(dtype, tuple(sizes[c] for c in result))


def _shard(types: tuple[TensorType, ...], attrs: Attrs) -> str:
    parsed, result = _parse(attrs["equation"], [t.ndim for t in types])
    used = {c for labels in parsed for c in labels}
    free = (c for c in string.ascii_letters if c not in used)
    names = {c: c if c[0] != "." else next(free) for c in sorted(used)}
    sizes = _sizes(attrs["equation"], parsed, [t.shape for t in types])

    def text(labels: Labels, shape: Sequence[Dim]) -> str:
        # A diagonal needs its dimensions whole, each under its own letter; so does a size of 1 that broadcasts.
        factors: list[str] = []
        for i, (c, d) in enumerate(zip(labels, shape, strict=True)):
            letter = names[c] if c not in labels[:i] else next(free)
            factors.append(letter + ("!" if labels.count(c) > 1 or d != sizes[c] else ""))
        return "".join(factors)

    operands = ",".join(text(labels, t.shape) for labels, t in zip(parsed, types, strict=True))
    return f"{operands}->{text(result, [sizes[c] for c in result])}"


def _reference(*operands: np.ndarray, equation: str) -> np.ndarray:
    if operands[0].dtype.kind in "iu":
        return np.einsum(equation, *operands)
    return np.einsum(equation, *(x.astype(np.float64) for x in operands))


def _samples() -> list[Sample]:
    cases: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
        ("ij,jk->ik", ((3, 4), (4, 5))),
        ("bij,bjk", ((2, 3, 4), (2, 4, 5))),
        ("ii", ((3, 3),)),
        ("ii->i", ((3, 3),)),
        ("i,j->ij", ((3,), (4,))),
        ("...ij,...jk->...ik", ((2, 3, 4), (4, 5))),
        ("ij->ji", ((2, 3),)),
        ("ij->", ((2, 3),)),
        ("bhqd,bhkd->bhqk", ((2, 2, 3, 4), (2, 2, 5, 4))),
        ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 2))),
        ("iij,j->ij", ((2, 2, 3), (3,))),
        ("ij,jk->ik", ((0, 3), (3, 2))),
        (",i->i", ((), (3,))),
    ]
    return [Sample(tuple(Input(s, "any") for s in shapes), {"equation": text}, tolerance=2.0) for text, shapes in cases]


register(OpDef(
    name="einsum",
    infer=_infer,
    vjp=None,
    shard=_shard,
    lower=Composite(_body),
    reference=_reference,
    samples=_samples,
    dtypes=NUMBERS,
    doc="A contraction in index notation.",
))


def einsum(equation: str, *operands: TensorLike) -> Value:
    """A contraction in index notation, with the rules of ``numpy.einsum``.

    ``equation``: one term of letters per operand, separated by commas, and optionally ``->`` and the result's; without
    it the result has the labels that occur once, in alphabetical order. ``...`` stands for leading dimensions that
    broadcast; a label repeated within a term takes the diagonal; a size of 1 broadcasts. Operands are promoted to one
    dtype, which the result has. Several operands are contracted in pairs, the smallest intermediate result first.

    Raises ArgumentError for a malformed equation, ShapeError where sizes do not fit, DTypeError for bool.
    """
    if not isinstance(equation, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(f"[einsum] the first argument is the equation, a string, not {type(equation).__name__}")
    if not operands:
        raise ArgumentError(f"[einsum] {equation!r} needs operands")
    return build("einsum", *promote_operands("einsum", *operands), equation=equation.replace(" ", ""))
