"""Integer expressions (``Dim``) over axes and sizes as Triton text, in 32 bits where that is certainly enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tessera.ir.dims import Atom, Dim, Expr, Symbol, bounds, symbols
from tessera.target.triton.text import Writer

_LARGEST = 2**31 - 1


def fits(d: Dim, slack: int = 0) -> bool:
    """Whether a value in this expression's range, and ``slack`` more, is certainly an i32."""
    low, high = bounds(d)
    return low >= -_LARGEST and high is not None and high + slack <= _LARGEST


@dataclass(frozen=True, slots=True)
class AxisValue:
    """What stands for a symbol: a scalar or a tensor that varies over the block dimensions ``dims``.

    ``wide``: it is an i64. ``mask``: text that is true inside the axis, or None when every lane is inside.
    """

    text: str
    dims: frozenset[int] = frozenset()
    wide: bool = False
    mask: str | None = None


class Expressions:
    """Writes expressions; ``values`` says what stands for each symbol."""

    def __init__(self, writer: Writer, values: Mapping[Symbol, AxisValue]) -> None:
        self.writer, self.values = writer, values

    def dims(self, d: Dim) -> frozenset[int]:
        """The block dimensions that an expression varies over."""
        found: frozenset[int] = frozenset()
        return found if isinstance(d, int) else found.union(*(self.values[s].dims for s in symbols(d)))

    def text(self, d: Dim, wide: bool | None = None) -> str:
        """An expression, in i64 if ``wide`` (None: if 32 bits are not certainly enough)."""
        if isinstance(d, int):
            return str(d)
        wide = not self.is_small(d) if wide is None else wide
        return self._sum(d.terms, lambda a: self._atom(a, wide))

    def is_small(self, d: Dim) -> bool:
        """Whether the expression and all that it is made of are certainly i32, outside the axes' ranges too."""
        return fits(d) and all(not self.values[s].wide for s in symbols(d)) and isinstance(d, Expr) and all(
            fits(part) for part in _parts(d)
        )

    def pointer(self, base: str, d: Dim, extra: Iterable[str] = ()) -> str:
        """``base`` plus an offset: what is the same for all lanes first, each part as narrow as it can be."""
        if isinstance(d, int):
            return " + ".join([base, *([str(d)] if d else []), *extra])
        uniform = Expr({m: c for m, c in d.terms if not self.dims(Expr({m: 1}) if m else 1)} or {(): 0})
        varying = Expr({m: c for m, c in d.terms if m and self.dims(Expr({m: 1}))} or {(): 0})
        parts = [base]
        if uniform.terms:
            parts.append(_grouped(self.text(uniform)))
        if varying.terms:
            parts.append(_grouped(self.text(varying)))
        return " + ".join([*parts, *extra])

    def _sum(self, terms: Iterable[tuple[tuple[Atom, ...], int]], atom: Callable[[Atom], str]) -> str:
        text = ""
        for monomial, c in terms:
            factors = [atom(a) for a in monomial]
            if abs(c) != 1 or not factors:
                factors.append(str(abs(c)))
            product = " * ".join(factors)
            text += (f" - {product}" if c < 0 else f" + {product}") if text else f"-{product}" if c < 0 else product
        return text or "0"

    def _atom(self, atom: Atom, wide: bool) -> str:
        if isinstance(atom, Symbol):
            value = self.values[atom]
            return f"{value.text}.to(tl.int64)" if wide and not value.wide else value.text
        a, b = (f"({self.text(d, wide)})" if isinstance(d, Expr) else str(d) for d in (atom.a, atom.b))
        if atom.function in ("max", "min"):
            return f"tl.{atom.function}imum({a}, {b})"
        if bounds(atom.a)[0] < 0 or bounds(atom.b)[0] < 1:
            name = {"floordiv": "floor_divide_integer", "mod": "floor_modulo_integer"}[atom.function]
            kind = "tl.int64" if wide else "tl.int32"
            a, b = (x if isinstance(d, Expr) else f"tl.full((), {d}, {kind})" for x, d in ((a, atom.a), (b, atom.b)))
            return self.writer.call(name, a, b)
        return f"({a} {'//' if atom.function == 'floordiv' else '%'} {b})"


def _grouped(text: str) -> str:
    """A sum in parentheses, so that it is formed before it is added to a pointer."""
    return f"({text})" if " + " in text or " - " in text or text.startswith("-") else text


def _parts(d: Expr) -> list[Dim]:
    """The terms of an expression and the operands of its calls, with theirs."""
    found: list[Dim] = []
    for monomial, c in d.terms:
        found.append(Expr({monomial: c}) if monomial else c)
        for atom in monomial:
            if not isinstance(atom, Symbol):
                for operand in (atom.a, atom.b):
                    found += [operand, *(_parts(operand) if isinstance(operand, Expr) else [])]
    return found
