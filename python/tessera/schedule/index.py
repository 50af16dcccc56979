"""Index arithmetic: axes, broadcasting, reshaping and simplification of index expressions.

An index is a tuple of dimensions expressions over axis symbols, one per tensor dimension; a dimension of size 1
is always indexed by 0, so that equal positions have equal indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.ir.dims import (
    Atom,
    Call,
    Dim,
    Expr,
    Symbol,
    add,
    bounds,
    floordiv,
    mod,
    mul,
    product,
    substitute,
    sym,
    symbols,
)

Index = tuple[Dim, ...]


class Axes:
    """The axis symbols of one schedule: one per (position, extent), so that equal spaces share their axes."""

    def __init__(self) -> None:
        self._symbols: dict[tuple[int, Dim], Expr] = {}
        self.extents: dict[Symbol, Dim] = {}

    def axis(self, position: int, extent: Dim) -> Expr:
        """The axis at this position of an iteration space, as an expression."""
        found = self._symbols.get((position, extent))
        if found is None:
            high = bounds(extent)[1]
            symbol = Symbol(f"_axis{position}_{len(self._symbols)}", 0, None if high is None else max(high - 1, 0))
            found = self._symbols[position, extent] = sym(symbol)
            self.extents[symbol] = extent
        return found

    def space(self, extents: Sequence[Dim]) -> tuple[Expr, ...]:
        """One axis per extent."""
        return tuple(self.axis(i, e) for i, e in enumerate(extents))

    def below(self, d: Dim, limit: Dim) -> bool:
        """Whether 0 <= d < limit for certain."""
        low, high = bounds(d)
        if low < 0:
            return False
        limit_low = bounds(limit)[0]
        if high is not None and high < limit_low:
            return True
        symbol = symbol_of(d)
        return symbol is not None and self.extents.get(symbol) == limit

    def divide(self, d: Dim, by: Dim) -> Dim:
        """floor(d / by), using the extents of axes."""
        whole, rest = _split(d, by)
        if self.below(rest, by):
            return whole
        digits = _remainder_by_multiple(rest, by)
        if digits is not None:  # (x % bc) // b is (x // b) % c
            return add(whole, mod(floordiv(digits.a, by), floordiv(digits.b, by)))
        return add(whole, floordiv(rest, by))

    def remainder(self, d: Dim, by: Dim) -> Dim:
        """d mod by, using the extents of axes."""
        _, rest = _split(d, by)
        if self.below(rest, by):
            return rest
        digits = _remainder_by_multiple(rest, by)
        return mod(rest if digits is None else digits.a, by)  # (x % bc) % b is x % b

    def reshape(self, index: Index, shape: Sequence[Dim], target: Sequence[Dim]) -> Index:
        """The index into ``target`` of the element that ``index`` names in ``shape`` (row-major, equal sizes)."""
        if tuple(shape) == tuple(target):
            return index
        if any(d == 0 for d in target):
            return (0,) * len(target)
        out: list[Dim] = [0] * len(target)
        for source, result in blocks(shape, target):
            if len(source) == 1 and len(result) == 1:
                out[result[0]] = index[source[0]]
                continue
            flat = ravel([index[i] for i in source], [shape[i] for i in source])
            for position in reversed(result[1:]):
                out[position] = self.remainder(flat, target[position])
                flat = self.divide(flat, target[position])
            if result:
                out[result[0]] = flat
        return tuple(out)


def _split(d: Dim, by: Dim) -> tuple[Dim, Dim]:
    """(q, r) with d = q * by + r, moving every term that ``by`` divides exactly into q."""
    if isinstance(d, int) or d == by:
        return (1, 0) if d == by else (0, d) if not isinstance(by, int) else (d // by, d % by)
    divisor = by.terms if isinstance(by, Expr) else (((), by),)
    if len(divisor) != 1:
        return 0, d
    monomial, coefficient = divisor[0]
    whole: dict[tuple, int] = {}
    rest: dict[tuple, int] = {}
    for atoms, c in d.terms:
        remaining = list(atoms)
        for atom in monomial:
            if atom not in remaining:
                break
            remaining.remove(atom)
        else:
            if c % coefficient == 0:
                whole[tuple(remaining)] = c // coefficient
                continue
        rest[atoms] = c
    return _expression(whole), _expression(rest)


def _expression(terms: dict[tuple, int]) -> Dim:
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)


def symbol_of(d: Dim) -> Symbol | None:
    """The symbol, when the expression is just one."""
    atom = atom_of(d)
    return atom if isinstance(atom, Symbol) else None


def atom_of(d: Dim) -> Atom | None:
    """The symbol or call, when the expression is just one."""
    if isinstance(d, Expr) and len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        return d.terms[0][0][0]
    return None


def ravel(index: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    """The row-major linear index."""
    flat: Dim = 0
    for i, n in zip(index, shape):
        flat = add(mul(flat, n), i)
    return recombine(flat)


def blocks(shape: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Positions of both shapes, cut into the smallest consecutive blocks of provably equal size."""
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(target):
        source, result = [], []
        left: Dim = 1
        right: Dim = 1
        while True:
            if left == right and (source or result) and not (_only_ones_follow(shape, i, target, j)):
                break
            take_left = i < len(shape) and (j >= len(target) or _extend_left(left, right, source, result))
            if take_left:
                source.append(i)
                left = mul(left, shape[i])
                i += 1
            elif j < len(target):
                result.append(j)
                right = mul(right, target[j])
                j += 1
            else:
                break
        out.append((source, result))
    return out


def _only_ones_follow(shape: Sequence[Dim], i: int, target: Sequence[Dim], j: int) -> bool:
    """Whether what is left on either side is sizes of 1 without a partner, which join the current block."""
    left, right = shape[i:], target[j:]
    return (not left and bool(right) and all(d == 1 for d in right)) or (
        not right and bool(left) and all(d == 1 for d in left)
    )


def _extend_left(left: Dim, right: Dim, source: list[int], result: list[int]) -> bool:
    """Whether the next dimension of the block comes from the left side."""
    if not source:
        return True
    if not result:
        return False
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    whole, rest = _split(right, left)
    return rest == 0 and whole != 0


def _remainder_by_multiple(d: Dim, by: Dim) -> Call | None:
    """The remainder by a multiple of a constant that an expression is; None where it is anything else."""
    atom = atom_of(d)
    if not isinstance(atom, Call) or atom.function != "mod":
        return None
    return atom if isinstance(atom.b, int) and isinstance(by, int) and atom.b % by == 0 else None


def recombine(d: Dim) -> Dim:
    """Rewrite c*b*(e // b) + c*(e % b) as c*e, and c*b*((e // b) % d) + c*(e % b) as c*(e % (b*d))."""
    while isinstance(d, Expr) and any(isinstance(a, Call) for atoms, _ in d.terms for a in atoms):
        terms = dict(d.terms)
        for atoms, c in d.terms:
            found = _partner(terms, atoms, c)
            if found is not None:
                d = found
                break
        else:
            break
    return d


def _partner(terms: dict[tuple, int], atoms: tuple, c: int) -> Dim | None:
    for at, atom in enumerate(atoms):
        if not (isinstance(atom, Call) and atom.function == "mod"):
            continue
        rest = _expression({atoms[:at] + atoms[at + 1:]: c})
        above = _quotient(atom.a, atom.b)
        remainders = (a for m in terms for a in m if isinstance(a, Call) and a.function == "mod")
        digits = dict.fromkeys(a.b for a in remainders if a.a == above)
        for high, whole in ((above, atom.a), *((mod(above, d), mod(atom.a, mul(atom.b, d))) for d in digits)):
            quotient = mul(mul(rest, atom.b), high)
            if isinstance(quotient, Expr) and all(terms.get(m) == k for m, k in quotient.terms):
                remaining = {m: k for m, k in terms.items() if m != atoms and m not in dict(quotient.terms)}
                return add(_expression(remaining), mul(rest, whole))
    return None


def _quotient(a: Dim, b: Dim) -> Dim:
    """a // b; (x // c) // b is x // (c * b)."""
    inner = atom_of(a)
    if isinstance(inner, Call) and inner.function == "floordiv":
        return floordiv(inner.a, mul(inner.b, b))
    return floordiv(a, b)


def rename(index: Index, mapping: Mapping[Symbol, Dim]) -> Index:
    """The index with axes replaced, simplified."""
    if not mapping:
        return index
    out: list[Dim] = []
    for d in index:
        if isinstance(d, int):
            out.append(d)
            continue
        symbol = symbol_of(d)
        if symbol is not None:
            out.append(mapping.get(symbol, d))
        else:
            out.append(recombine(substitute(d, mapping)))
    return tuple(out)


def fold(shape: Sequence[Dim], index: Index) -> tuple[tuple[Dim, ...], Index]:
    """Merge adjacent dimensions indexed by (e // n, e % n) into one indexed by e (the buffer is row-major)."""
    dims, entries = list(shape), [recombine(d) for d in index]
    at = len(entries) - 2
    while at >= 0:
        merged = _merge_pair(entries[at], entries[at + 1], dims[at + 1])
        if merged is not None:
            entries[at : at + 2] = [merged]
            dims[at : at + 2] = [mul(dims[at], dims[at + 1])]
        at -= 1
    return tuple(dims), tuple(entries)


def _merge_pair(outer: Dim, inner: Dim, extent: Dim) -> Dim | None:
    if not (isinstance(inner, Expr) and any(isinstance(a, Call) for atoms, _ in inner.terms for a in atoms)):
        return None
    whole = add(mul(outer, extent), inner)
    short = recombine(whole)
    return None if short == whole else short


def broadcast(shape: Sequence[Dim], result: Sequence[Dim], index: Index) -> Index:
    """The operand's index for a result index, with NumPy broadcasting."""
    if len(shape) == len(result) and tuple(shape) == tuple(result):
        return index
    offset = len(result) - len(shape)
    return tuple(0 if n == 1 else index[offset + i] for i, n in enumerate(shape))


def strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major element strides."""
    out: list[Dim] = []
    step: Dim = 1
    for n in reversed(shape):
        out.append(step)
        step = mul(step, n)
    return tuple(reversed(out))


def squeeze(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """The dimensions that are not 1."""
    return tuple(d for d in shape if d != 1)


def size(shape: Sequence[Dim]) -> Dim:
    """Number of elements."""
    return product(shape)


def uses(d: Dim, wanted: set[Symbol]) -> bool:
    """Whether an expression mentions one of the symbols."""
    return not isinstance(d, int) and any(s in wanted for s in symbols(d))
