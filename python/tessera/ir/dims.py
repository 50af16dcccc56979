"""Dimensions: integers and integer expressions over symbols, in a canonical form.

A dimension is an ``int`` or an ``Expr``. An ``Expr`` is a polynomial with integer coefficients over
atoms; an atom is a ``Symbol`` or one of the functions floordiv, mod, max, min applied to
dimensions. Two expressions that are equal as polynomials compare equal and print alike. The same
class serves the index expressions of Tile IR, whose symbols are loop axes.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Union

from tessera.errors import ArgumentError, GraphError, NameMissingError, ShapeError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTIONS = frozenset({"max", "min"})

# Limits on expressions, the same as the C++ reader's: far above what programs need, low enough that a hostile text
# costs little.
_MAX_TERMS = 1024
_MAX_DEPTH = 64
_MAX_TEXT = 65536


class Symbol:
    """A named size or loop axis with the range [min, max] (max None: unbounded) and a divisor."""

    __slots__ = ("name", "min", "max", "multiple_of", "_hash")

    def __init__(self, name: str, min: int = 0, max: int | None = None, multiple_of: int = 1) -> None:
        if not _NAME.fullmatch(name) or name in _FUNCTIONS:
            raise ArgumentError(f"dim: {name!r} is not a usable name; use letters, digits and _")
        if min < 0 or multiple_of < 1 or (max is not None and max < min):
            raise ArgumentError(
                f"dim {name}: min={min}, max={max}, multiple_of={multiple_of} is not a range of sizes"
            )
        self.name, self.min, self.max, self.multiple_of = name, min, max, multiple_of
        self._hash = hash((name, min, max, multiple_of))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Symbol) and (self.name, self.min, self.max, self.multiple_of) == (
            other.name, other.min, other.max, other.multiple_of,
        )

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Symbol, (self.name, self.min, self.max, self.multiple_of)

    def __repr__(self) -> str:
        return self.name

    def check(self, size: int) -> None:
        """Raise ShapeError unless ``size`` is legal for this symbol."""
        if size < self.min or (self.max is not None and size > self.max) or size % self.multiple_of:
            upper = "" if self.max is None else f" and at most {self.max}"
            multiple = f", a multiple of {self.multiple_of}" if self.multiple_of > 1 else ""
            limits = f"at least {self.min}{upper}{multiple}"
            raise ShapeError(f"dimension {self.name} = {size} is illegal: it must be {limits}")


class Call:
    """An atom ``function(a, b)`` with function one of floordiv, mod, max, min."""

    __slots__ = ("function", "a", "b", "depth", "_hash", "_text")

    def __init__(self, function: str, a: Dim, b: Dim) -> None:
        self.function, self.a, self.b = function, a, b
        self.depth = max(_depth(a), _depth(b)) + 1
        if self.depth > _MAX_DEPTH:
            raise GraphError("a dimension is nested too deeply")
        if function in _FUNCTIONS:
            self._text = f"{function}({a}, {b})"
        else:
            self._text = f"({_operand(a)} {'//' if function == 'floordiv' else '%'} {_operand(b)})"
        if len(self._text) > _MAX_TEXT:
            raise GraphError(f"a dimension's text is longer than {_MAX_TEXT} bytes")
        self._hash = hash((function, a, b))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Call)
            and self._hash == other._hash
            and self.function == other.function
            and self.a == other.a
            and self.b == other.b
        )

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.function, self.a, self.b)

    def __repr__(self) -> str:
        return self._text


Atom = Union[Symbol, Call]
Monomial = tuple[Atom, ...]  # sorted by text; () is the constant term
_Bound = Union[int, None]  # an exact integer or, where there is none, None
_Range = tuple[_Bound, _Bound]


class Expr:
    """A polynomial over atoms; build it with the operators ``+ - * // %`` from symbols and integers.

    ``terms`` are (monomial, coefficient) pairs, higher degrees first, then by text.
    """

    __slots__ = ("terms", "cached_bounds", "cached_symbols", "_hash", "_text")
    __array_ufunc__ = None  # NumPy scalars leave their arithmetic with a dimension to this class

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        found = [(m, c) for m, c in terms.items() if c]
        if len(found) > 1:
            found.sort(key=_order)
            if len(found) > _MAX_TERMS:
                raise GraphError(f"a dimension with more than {_MAX_TERMS} terms")
        self._set(tuple(found))

    @classmethod
    def ordered(cls, terms: tuple[tuple[Monomial, int], ...]) -> Expr:
        """The expression of terms that are in order and not zero."""
        out = cls.__new__(cls)
        out._set(terms)
        return out

    def _set(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None
        self.cached_bounds: _Range | None = None
        self.cached_symbols: tuple[Symbol, ...] | None = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Expr) and self._hash == other._hash and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Expr, (dict(self.terms),)

    def __add__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else add(self, d)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return mul(self, -1)

    def __sub__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else add(self, mul(d, -1))

    def __rsub__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else add(d, mul(self, -1))

    def __mul__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else mul(self, d)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else floordiv(self, d)

    def __rfloordiv__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else floordiv(d, self)

    def __mod__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else mod(self, d)

    def __rmod__(self, other: Any) -> Dim:
        return NotImplemented if (d := _as_dim(other)) is None else mod(d, self)

    def __bool__(self) -> bool:
        raise ShapeError(f"the symbolic dimension {self} has no truth value while a graph is built")

    def __int__(self) -> int:
        raise ShapeError(f"the symbolic dimension {self} has no value while a graph is built")

    __index__ = __int__

    def __str__(self) -> str:
        if self._text is None:
            self._text = _text(self.terms)
        return self._text

    __repr__ = __str__


Dim = Union[int, Expr]
"""A dimension: an ``int`` or an ``Expr``."""


def _as_dim(value: Any) -> Dim | None:
    """An operand of ``+ - * // %``: a dimension or an integer of any type; None for anything else."""
    if isinstance(value, (int, Expr)):
        return value
    if isinstance(value, Symbol):
        return sym(value)
    try:
        return operator.index(value)
    except TypeError:
        return None


def _order(term: tuple[Monomial, int]) -> tuple[int, str]:
    m = term[0]
    texts = [str(a) for a in m]
    # The comma after a single atom orders it as C++ does (monomial_key in dims.cpp).
    return -len(m), texts[0] + ",)" if len(m) == 1 else ", ".join(texts) + ")"


def _text(terms: tuple[tuple[Monomial, int], ...]) -> str:
    parts: list[str] = []
    for monomial, c in terms:
        factors = [str(a) for a in monomial]
        if abs(c) != 1 or not factors:
            factors.insert(0, str(abs(c)))
        text = "*".join(factors)
        if not parts:
            parts.append(text if c > 0 else "-" + text)
        else:
            parts.append((" + " if c > 0 else " - ") + text)
    return "".join(parts)


def _operand(d: Dim) -> str:
    """The text of an operand of ``//`` or ``%``, in parentheses unless it is a number or an atom."""
    bare = isinstance(d, int) or (len(d.terms) == 1 and len(d.terms[0][0]) == 1 and d.terms[0][1] == 1)
    return str(d) if bare else f"({d})"


def _depth(d: Dim) -> int:
    """How deep calls are nested."""
    if isinstance(d, int):
        return 0
    return max((a.depth for m, _ in d.terms for a in m if isinstance(a, Call)), default=0)


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
    if isinstance(a, int):
        if isinstance(b, int):
            return a + b
        a, b = b, a
    if isinstance(b, int):
        return _add_constant(a, b)
    out = dict(a.terms)
    for m, c in b.terms:
        out[m] = out.get(m, 0) + c
    return _make(out)


def _add_constant(a: Expr, b: int) -> Dim:
    if not b:
        return a
    last, c = a.terms[-1]
    if last != ():
        return Expr.ordered((*a.terms, ((), b)))
    return Expr.ordered(a.terms[:-1] if c + b == 0 else (*a.terms[:-1], ((), c + b)))


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    if isinstance(a, int):
        if isinstance(b, int):
            return a * b
        a, b = b, a
    if isinstance(b, int):
        return a if b == 1 else Expr.ordered(tuple([(m, c * b) for m, c in a.terms])) if b else 0
    if len(a.terms) * len(b.terms) > 64 * _MAX_TERMS:
        raise GraphError(f"a dimension with more than {_MAX_TERMS} terms")
    out: dict[Monomial, int] = {}
    for ma, ca in a.terms:
        for mb, cb in b.terms:
            m = ma + mb
            if len(m) > _MAX_DEPTH:
                raise GraphError(f"a dimension of a degree above {_MAX_DEPTH}")
            if ma and mb:
                m = tuple(sorted(m, key=str))
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


def _split(a: Expr, b: int) -> tuple[Dim, Dim]:
    """(q, r) with a = q * b + r: terms that b divides go to q, of the constant what leaves 0 <= r < b (b > 0)."""
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for m, c in a.terms:
        if not m:
            whole[m], rest[m] = divmod(c, b)
        elif c % b:
            rest[m] = c
        else:
            whole[m] = c // b
    return _make(whole), _make(rest)


def floordiv(a: Dim, b: Dim) -> Dim:
    """floor(a / b)."""
    if isinstance(a, int) and isinstance(b, int) and b:
        return a // b
    return _floordiv(a, b)


@lru_cache(maxsize=1 << 16)
def _floordiv(a: Dim, b: Dim) -> Dim:
    if b == 0:
        raise ShapeError(f"division of the dimension {a} by zero")
    if a == b:
        return 1
    exact = _divide_exactly(a, b)
    if exact is not None:
        return exact
    low, high = bounds(a)
    if low >= 0 and high is not None and high < bounds(b)[0]:
        return 0
    if isinstance(b, int) and isinstance(a, Expr):  # (b*q + r) // b = q + r // b
        whole, rest = _split(a, b)
        if whole != 0:
            return add(whole, floordiv(rest, b))
    return sym(Call("floordiv", a, b))


def mod(a: Dim, b: Dim) -> Dim:
    """a - b * floor(a / b)."""
    if isinstance(a, int) and isinstance(b, int) and b:
        return a % b
    return _mod(a, b)


@lru_cache(maxsize=1 << 16)
def _mod(a: Dim, b: Dim) -> Dim:
    if b == 0:
        raise ShapeError(f"remainder of the dimension {a} by zero")
    if a == b or _divide_exactly(a, b) is not None:
        return 0
    if isinstance(b, int) and is_multiple(a, b):
        return 0
    low, high = bounds(a)
    if low >= 0 and high is not None and high < bounds(b)[0]:
        return a
    if isinstance(b, int) and isinstance(a, Expr):
        whole, rest = _split(a, b)
        if whole != 0:
            return mod(rest, b)
    return sym(Call("mod", a, b))


def dmax(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions."""
    return _extremum("max", a, b)


def dmin(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions."""
    return _extremum("min", a, b)


@lru_cache(maxsize=1 << 16)
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


def _atom_bounds(atom: Atom) -> _Range:
    if isinstance(atom, Symbol):
        return atom.min, atom.max
    (al, ah), (bl, bh) = _range(atom.a), _range(atom.b)
    if atom.function == "max":
        low = bl if al is None else al if bl is None else max(al, bl)
        return low, None if ah is None or bh is None else max(ah, bh)
    if atom.function == "min":
        high = bh if ah is None else ah if bh is None else min(ah, bh)
        return None if al is None or bl is None else min(al, bl), high
    if bl is None or bl <= 0:
        return None, None
    if atom.function == "mod":
        limit = None if bh is None else bh - 1
        if al is None or al < 0 or ah is None:
            return 0, limit
        return 0, ah if limit is None else min(ah, limit)
    low = None if al is None else al // bl if al < 0 else 0 if bh is None else al // bh
    high = None if ah is None else ah // bl if ah >= 0 else -1 if bh is None else ah // bh
    return low, high


def _product_range(a: _Range, b: _Range) -> _Range:
    """The range of x * y for x and y in two ranges."""
    (al, ah), (bl, bh) = a, b
    if al is not None and bl is not None and al >= 0 and bl >= 0:  # the common case
        if ah == 0 or bh == 0:
            return 0, 0
        return al * bl, None if ah is None or bh is None else ah * bh
    if (al, ah) == (0, 0) or (bl, bh) == (0, 0):
        return 0, 0
    below = (
        (al is None and _positive(bh)) or (bl is None and _positive(ah))
        or (ah is None and _negative(bl)) or (bh is None and _negative(al))
    )
    above = (
        (ah is None and _positive(bh)) or (bh is None and _positive(ah))
        or (al is None and _negative(bl)) or (bl is None and _negative(al))
    )
    # Where an end is finite it is the product of two finite ends.
    corners = [x * y for x in (al, ah) if x is not None for y in (bl, bh) if y is not None]
    return None if below else min(corners), None if above else max(corners)


def _positive(high: _Bound) -> bool:
    return high is None or high > 0


def _negative(low: _Bound) -> bool:
    return low is None or low < 0


def _range(d: Dim) -> _Range:
    if isinstance(d, int):
        return d, d
    if d.cached_bounds is None:
        low: _Bound = 0
        high: _Bound = 0
        for m, c in d.terms:
            r: _Range = (c, c)
            for atom in m:
                r = _product_range(r, _atom_bounds(atom))
            low = None if low is None or r[0] is None else low + r[0]
            high = None if high is None or r[1] is None else high + r[1]
        d.cached_bounds = (low, high)
    return d.cached_bounds


def bounds(d: Dim) -> tuple[float, int | None]:
    """(lowest, highest) value over all legal symbols; highest None when unbounded, lowest may be ``-inf``."""
    low, high = _range(d)
    return (-math.inf if low is None else low), high


def nonnegative(d: Dim) -> bool:
    """Whether ``d`` is certainly at least 0 for all legal symbols; False when that cannot be proved.

    Besides interval bounds it uses, for an atom that stands alone in a term: ``min(a, b) <= a``, ``min(a, b) <= b``
    and the like (where it lowers the value one bound is enough, where it raises it both must hold; ``max`` the
    other way round), and ``a - b < b * (a // b) <= a`` for an integer b > 0.
    """
    return _nonnegative(d, [256])


def _nonnegative(d: Dim, steps: list[int]) -> bool:
    """``steps[0]`` more expressions may be looked at: a bound on the work that a hostile text can cause."""
    steps[0] -= 1
    if steps[0] < 0:
        return False
    if bounds(d)[0] >= 0:
        return True
    calls = [(m[0], c) for m, c in _terms(d).items() if len(m) == 1 and isinstance(m[0], Call)]
    # Where both must hold first: either may need another bound of the rest.
    for one_is_enough in (False, True):
        for call, c in calls:
            if call.function in _FUNCTIONS and ((c < 0) == (call.function == "min")) == one_is_enough:
                rest = add(d, mul(-c, sym(call)))
                first = _nonnegative(add(rest, mul(c, call.a)), steps)
                return first if first == one_is_enough else _nonnegative(add(rest, mul(c, call.b)), steps)
    for call, c in calls:
        if call.function == "floordiv" and isinstance(call.b, int) and call.b > 0:
            rest = add(d, mul(-c, sym(call)))
            least = call.a if c < 0 else add(call.a, 1 - call.b)
            return _nonnegative(add(mul(rest, call.b), mul(least, c)), steps)
    return False


def symbols(d: Dim) -> list[Symbol]:
    """The symbols in an expression, each once, in order of appearance."""
    if isinstance(d, int):
        return []
    if d.cached_symbols is None:
        d.cached_symbols = tuple(_symbols(d))
    return list(d.cached_symbols)


def _symbols(d: Expr) -> dict[Symbol, None]:
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
    return found


_EVALUATE: dict[str, Callable[[Dim, Dim], Dim]] = {"floordiv": floordiv, "mod": mod, "max": dmax, "min": dmin}


def substitute(d: Dim, values: Mapping[Symbol, Dim]) -> Dim:
    """The expression with symbols replaced; simplified."""
    if isinstance(d, int) or not any(s in values for s in symbols(d)):
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
    out = 0
    for m, c in d.terms:
        for atom in m:
            c *= _evaluate_atom(atom, sizes)
        out += c
    return out


def _evaluate_atom(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Symbol):
        try:
            return sizes[atom.name]
        except KeyError:
            raise NameMissingError(f"no size is given for the symbolic dimension {atom.name!r}") from None
    a, b = evaluate(atom.a, sizes), evaluate(atom.b, sizes)
    if atom.function == "max":
        return max(a, b)
    if atom.function == "min":
        return min(a, b)
    if b == 0:
        raise ShapeError(f"division of a dimension by zero in {atom}")
    return a // b if atom.function == "floordiv" else a % b
