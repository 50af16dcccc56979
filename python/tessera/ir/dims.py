"""Dimensions: integers and integer expressions over symbols, in a canonical form.

A dimension is an ``int`` or an ``Expr``. An ``Expr`` is a polynomial with integer coefficients over
atoms; an atom is a ``Symbol`` or one of the functions floordiv, mod, max, min applied to
dimensions. Two expressions that are equal as polynomials compare equal and print alike. The same
class serves the index expressions of Tile IR, whose symbols are loop axes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Union

from tessera.errors import ArgumentError, GraphError, NameMissingError, ShapeError


class Symbol:
    """A named size or loop axis with the range [min, max] (max None: unbounded) and a divisor."""

    __slots__ = ("name", "min", "max", "multiple_of")

    def __init__(self, name: str, min: int = 0, max: int | None = None, multiple_of: int = 1) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in _FUNCTIONS:
            raise ArgumentError(f"dim: {name!r} is not a usable name; use letters, digits and _")
        if min < 0 or multiple_of < 1 or (max is not None and max < min):
            raise ArgumentError(
                f"dim {name}: min={min}, max={max}, multiple_of={multiple_of} is not a range of sizes"
            )
        self.name, self.min, self.max, self.multiple_of = name, min, max, multiple_of

    def _key(self) -> tuple:
        return (self.name, self.min, -1 if self.max is None else self.max, self.multiple_of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbol) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return self.name

    def check(self, size: int) -> None:
        """Raise ShapeError unless ``size`` is legal for this symbol."""
        if size < self.min or (self.max is not None and size > self.max) or size % self.multiple_of:
            upper = "" if self.max is None else f" and at most {self.max}"
            multiple = f", a multiple of {self.multiple_of}" if self.multiple_of > 1 else ""
            raise ShapeError(f"dimension {self.name} = {size} is illegal: it must be at least {self.min}{upper}{multiple}")


class Call:
    """An atom ``function(a, b)`` with function one of floordiv, mod, max, min."""

    __slots__ = ("function", "a", "b", "_hash")

    def __init__(self, function: str, a: Dim, b: Dim) -> None:
        self.function, self.a, self.b = function, a, b
        self._hash = hash((function, a, b))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and (self.function, self.a, self.b) == (other.function, other.a, other.b)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        if self.function in ("max", "min"):
            return f"{self.function}({self.a}, {self.b})"
        sign = "//" if self.function == "floordiv" else "%"
        return f"({_operand(self.a)} {sign} {_operand(self.b)})"


Atom = Union[Symbol, Call]
Monomial = tuple  # atoms, sorted by text; () is the constant term


class Expr:
    """A polynomial over atoms; build it with the operators ``+ - * // %`` from symbols and integers."""

    __slots__ = ("terms", "_hash")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(
            sorted(((m, c) for m, c in terms.items() if c), key=lambda t: (-len(t[0]), str(t[0])))
        )
        self._hash = hash(self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return mul(self, -1)

    def __sub__(self, other: Dim) -> Dim:
        return add(self, mul(other, -1))

    def __rsub__(self, other: Dim) -> Dim:
        return add(other, mul(self, -1))

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __bool__(self) -> bool:
        raise ShapeError(f"the symbolic dimension {self} has no truth value while a graph is built")

    def __int__(self) -> int:
        raise ShapeError(f"the symbolic dimension {self} has no value while a graph is built")

    __index__ = __int__

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, c in self.terms:
            factors = [_atom_text(a) for a in monomial]
            if abs(c) != 1 or not factors:
                factors.insert(0, str(abs(c)))
            text = "*".join(factors)
            if not parts:
                parts.append(text if c > 0 else "-" + text)
            else:
                parts.append((" + " if c > 0 else " - ") + text)
        return "".join(parts)

    __repr__ = __str__


Dim = Union[int, Expr]
"""A dimension: an ``int`` or an ``Expr``."""


def _atom_text(atom: Atom) -> str:
    return str(atom)


def _operand(d: Dim) -> str:
    return str(d) if isinstance(d, int) or (len(d.terms) == 1 and len(d.terms[0][0]) == 1 and d.terms[0][1] == 1) else f"({d})"


def sym(symbol: Atom) -> Expr:
    """The expression that is just this symbol or atom."""
    return Expr({(symbol,): 1})


def _terms(d: Dim) -> dict[Monomial, int]:
    if isinstance(d, Expr):
        return dict(d.terms)
    return {(): int(d)} if d else {}


def _make(terms: dict[Monomial, int]) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    out = _terms(a)
    for m, c in _terms(b).items():
        out[m] = out.get(m, 0) + c
    return _make(out)


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    out: dict[Monomial, int] = {}
    for ma, ca in _terms(a).items():
        for mb, cb in _terms(b).items():
            m = tuple(sorted(ma + mb, key=str))
            out[m] = out.get(m, 0) + ca * cb
    return _make(out)


def _divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """a / b when b is a single term that divides every term of a, else None."""
    bt = _terms(b)
    if len(bt) != 1:
        return None
    (mb, cb), = bt.items()
    out: dict[Monomial, int] = {}
    for m, c in _terms(a).items():
        rest = list(m)
        for atom in mb:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % cb:
            return None
        out[tuple(rest)] = c // cb
    return _make(out)


def is_multiple(a: Dim, b: int) -> bool:
    """Whether ``a`` is certainly divisible by the integer ``b``."""
    for m, c in _terms(a).items():
        factor = abs(c)
        for atom in m:
            if isinstance(atom, Symbol):
                factor *= atom.multiple_of
        if factor % b:
            return False
    return True


def floordiv(a: Dim, b: Dim) -> Dim:
    """floor(a / b)."""
    if b == 0:
        raise ShapeError(f"division of the dimension {a} by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    exact = _divide_exactly(a, b)
    if exact is not None:
        return exact
    low, high = bounds(a)
    blow, _ = bounds(b)
    if low >= 0 and high is not None and high < blow:
        return 0
    if isinstance(b, int):  # split off the terms that b divides: (b*q + r) // b = q + r // b
        whole = {m: c // b for m, c in _terms(a).items() if c % b == 0}
        rest = {m: c for m, c in _terms(a).items() if c % b}
        if whole and rest:
            return add(_make(whole), floordiv(_make(rest), b))
    return sym(Call("floordiv", a, b))


def mod(a: Dim, b: Dim) -> Dim:
    """a - b * floor(a / b)."""
    if b == 0:
        raise ShapeError(f"remainder of the dimension {a} by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if a == b or _divide_exactly(a, b) is not None:
        return 0
    if isinstance(b, int) and is_multiple(a, b):
        return 0
    low, high = bounds(a)
    blow, _ = bounds(b)
    if low >= 0 and high is not None and high < blow:
        return a
    if isinstance(b, int):
        rest = _make({m: c for m, c in _terms(a).items() if c % b})
        if rest != a:
            return mod(rest, b)
    return sym(Call("mod", a, b))


def dmax(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions."""
    return _extremum("max", a, b)


def dmin(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions."""
    return _extremum("min", a, b)


def _extremum(function: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if function == "max" else min(a, b)
    low, high = bounds(add(a, mul(b, -1)))  # the range of a - b
    if low >= 0:
        return a if function == "max" else b
    if high is not None and high <= 0:
        return b if function == "max" else a
    if str(b) < str(a):
        a, b = b, a
    return sym(Call(function, a, b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """ceil(a / b)."""
    return floordiv(add(a, add(b, -1)), b)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions; 1 for none."""
    out: Dim = 1
    for d in dims:
        out = mul(out, d)
    return out


_INFINITY = math.inf


def _atom_bounds(atom: Atom) -> tuple[float, float]:
    if isinstance(atom, Symbol):
        return atom.min, _INFINITY if atom.max is None else atom.max
    (al, ah), (bl, bh) = _float_bounds(atom.a), _float_bounds(atom.b)
    if atom.function == "max":
        return max(al, bl), max(ah, bh)
    if atom.function == "min":
        return min(al, bl), min(ah, bh)
    if bl <= 0:
        return -_INFINITY, _INFINITY
    if atom.function == "mod":
        return 0, min(bh - 1, ah) if al >= 0 else bh - 1
    low = al // bh if al >= 0 and bh != _INFINITY else (0 if al >= 0 else al // bl if al != -_INFINITY else al)
    high = ah if ah == _INFINITY else (ah // bl if ah >= 0 else (ah // bh if bh != _INFINITY else -1))
    return low, high


def _float_bounds(d: Dim) -> tuple[float, float]:
    low = high = 0.0
    for m, c in _terms(d).items():
        ml, mh = 1.0, 1.0
        for atom in m:
            al, ah = _atom_bounds(atom)
            corners = [0.0 if x == 0 or y == 0 else x * y for x in (ml, mh) for y in (al, ah)]
            ml, mh = min(corners), max(corners)
        corners = (c * ml if ml else 0.0, c * mh if mh else 0.0)
        low, high = low + min(corners), high + max(corners)
    return low, high


def bounds(d: Dim) -> tuple[float, float | None]:
    """(lowest, highest) value over all legal symbols; highest None when unbounded, lowest may be ``-inf``."""
    if isinstance(d, int):
        return d, d
    low, high = _float_bounds(d)
    return (low if low == -_INFINITY else int(low)), (None if high == _INFINITY else int(high))


def nonnegative(d: Dim) -> bool:
    """Whether ``d`` is certainly at least 0 for all legal symbols; False when that cannot be proved.

    Besides interval bounds it uses ``min(a, b) <= a``, ``min(a, b) <= b`` and the like for a ``min`` or ``max``
    that stands alone in a term: where it lowers the value both cases must hold, where it raises it one is enough.
    """
    if bounds(d)[0] >= 0:
        return True
    for m, c in _terms(d).items():
        if len(m) == 1 and isinstance(m[0], Call) and m[0].function in _FUNCTIONS:
            rest = add(d, mul(-c, sym(m[0])))
            cases = [nonnegative(add(rest, mul(c, side))) for side in (m[0].a, m[0].b)]
            return any(cases) if (c < 0) == (m[0].function == "min") else all(cases)
    return False


def symbols(d: Dim) -> list[Symbol]:
    """The symbols in an expression, each once, in order of appearance."""
    found: dict[Symbol, None] = {}
    stack: list[object] = [d]
    while stack:
        x = stack.pop()
        if isinstance(x, Symbol):
            found[x] = None
        elif isinstance(x, Call):
            stack += [x.b, x.a]
        elif isinstance(x, Expr):
            for m, _ in reversed(x.terms):
                stack += reversed(m)
    return list(found)


_EVALUATE: dict[str, Callable[[Dim, Dim], Dim]] = {"floordiv": floordiv, "mod": mod, "max": dmax, "min": dmin}
_FUNCTIONS = frozenset({"max", "min"})


def substitute(d: Dim, values: Mapping[Symbol, Dim]) -> Dim:
    """The expression with symbols replaced; simplified."""
    if isinstance(d, int):
        return d
    out: Dim = 0
    for m, c in d.terms:
        term: Dim = c
        for atom in m:
            if isinstance(atom, Symbol):
                term = mul(term, values.get(atom, sym(atom)))
            else:
                term = mul(term, _EVALUATE[atom.function](substitute(atom.a, values), substitute(atom.b, values)))
        out = add(out, term)
    return out


def evaluate(d: Dim, sizes: Mapping[str, int]) -> int:
    """The value of a dimension for sizes by symbol name."""
    if isinstance(d, int):
        return d
    missing = [s.name for s in symbols(d) if s.name not in sizes]
    if missing:
        raise NameMissingError(f"no size is given for the symbolic dimension {missing[0]!r}")
    value = substitute(d, {s: sizes[s.name] for s in symbols(d)})
    assert isinstance(value, int)
    return value


_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*%(),]))")


def parse_dim(text: str, names: Mapping[str, Symbol]) -> Dim:
    """Parse the text of a dimension; the inverse of ``str``.

    Grammar: sum = product {("+" | "-") product}; product = unary {("*" | "//" | "%") unary};
    unary = ["-"] (integer | name | ("max" | "min") "(" sum "," sum ")" | "(" sum ")").
    """
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise GraphError(f"dimension {text!r}: unexpected character at column {at + 1}")
        tokens.append(match.group(match.lastindex or 0))
        at = match.end()
    tokens.append("")
    position = 0

    def take(expected: str | None = None) -> str:
        nonlocal position
        token = tokens[position]
        if expected is not None and token != expected:
            raise GraphError(f"dimension {text!r}: expected {expected!r} but found {token or 'the end'!r}")
        position += 1
        return token

    def parse_sum(depth: int) -> Dim:
        value = parse_product(depth)
        while tokens[position] in ("+", "-"):
            sign = 1 if take() == "+" else -1
            value = add(value, mul(sign, parse_product(depth)))
        return value

    def parse_product(depth: int) -> Dim:
        value = parse_unary(depth)
        while tokens[position] in ("*", "//", "%"):
            operation = take()
            value = {"*": mul, "//": floordiv, "%": mod}[operation](value, parse_unary(depth))
        return value

    def parse_unary(depth: int) -> Dim:
        if depth > 64:
            raise GraphError(f"dimension {text[:40]!r}…: nested too deeply")
        token = take()
        if token == "-":
            return mul(-1, parse_unary(depth + 1))
        if token.isdigit():
            if len(token) > 18:
                raise GraphError(f"dimension {text[:40]!r}: the number is too large")
            return int(token)
        if token == "(":
            value = parse_sum(depth + 1)
            take(")")
            return value
        if token in _FUNCTIONS:
            take("(")
            a = parse_sum(depth + 1)
            take(",")
            b = parse_sum(depth + 1)
            take(")")
            return _extremum(token, a, b)
        if token in names:
            return sym(names[token])
        raise GraphError(f"dimension {text!r}: unknown symbol {token or 'at the end'!r}")

    value = parse_sum(0)
    take("")
    return value
