"""Dimensions against Python integers: whatever the canonical form does, values, text and bounds must hold."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.errors import ArgumentError, GraphError, NameMissingError, ShapeError
from tessera.ir import dims
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import (
    Call,
    Dim,
    Expr,
    Symbol,
    bounds,
    ceildiv,
    evaluate,
    floordiv,
    mod,
    substitute,
    sym,
)

A = Symbol("A")
B = Symbol("B", min=1, max=64)
N = Symbol("N", min=8, max=96, multiple_of=8)
SYMBOLS = {s.name: s for s in (A, B, N)}
a, b, n = sym(A), sym(B), sym(N)

SIZES = st.fixed_dictionaries(
    {"A": st.integers(0, 10**6), "B": st.integers(1, 64), "N": st.integers(1, 12).map(lambda k: 8 * k)}
)


class Tree:
    """A random expression: as a dimension and as a function of sizes."""

    def __init__(self, dim: Dim, value, text: str) -> None:
        self.dim, self.value, self.text = dim, value, text

    def __repr__(self) -> str:
        return self.text


LEAVES = st.one_of(
    st.integers(-20, 20).map(lambda k: Tree(k, lambda _: k, f"({k})")),
    st.sampled_from(["A", "B", "N"]).map(lambda name: Tree(sym(SYMBOLS[name]), lambda s: s[name], name)),
)
BINARY = {
    "+": (dims.add, lambda x, y: x + y),
    "*": (dims.mul, lambda x, y: x * y),
    "-": (lambda x, y: dims.add(x, dims.mul(y, -1)), lambda x, y: x - y),
    "max": (dims.dmax, max),
    "min": (dims.dmin, min),
}
DIVIDE = {"//": (floordiv, lambda x, y: x // y), "%": (mod, lambda x, y: x % y)}


def _binary(op: str, x: Tree, y: Tree) -> Tree:
    build, python = {**BINARY, **DIVIDE}[op]
    text = f"{op}({x.text}, {y.text})" if op in ("max", "min") else f"({x.text} {op} {y.text})"
    return Tree(build(x.dim, y.dim), lambda s: python(x.value(s), y.value(s)), text)


def _extend(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    # A divisor is an integer other than 0 or a symbol that is never 0, so that every tree has a value.
    divisors = st.one_of(
        st.integers(-12, 12).filter(bool).map(lambda k: Tree(k, lambda _: k, f"({k})")),
        st.sampled_from(["B", "N"]).map(lambda name: Tree(sym(SYMBOLS[name]), lambda s: s[name], name)),
    )
    return st.one_of(
        st.builds(_binary, st.sampled_from(list(BINARY)), children, children),
        st.builds(_binary, st.sampled_from(list(DIVIDE)), children, divisors),
    )


TREES = st.recursive(LEAVES, _extend, max_leaves=10)


@settings(max_examples=600, deadline=None)
@given(TREES, SIZES)
def test_value_bounds_and_substitution_match_python(tree: Tree, sizes: dict[str, int]) -> None:
    expected = tree.value(sizes)
    assert evaluate(tree.dim, sizes) == expected
    assert substitute(tree.dim, {SYMBOLS[k]: v for k, v in sizes.items()}) == expected
    low, high = bounds(tree.dim)
    assert low <= expected and (high is None or expected <= high)
    if dims.nonnegative(tree.dim):
        assert expected >= 0


@settings(max_examples=400, deadline=None)
@given(TREES)
def test_text_parses_back_to_the_same_dimension(tree: Tree) -> None:
    assert parse_dim(str(tree.dim), SYMBOLS) == tree.dim
    assert parse_dim(tree.text, SYMBOLS) == tree.dim


@settings(max_examples=300, deadline=None)
@given(TREES, st.integers(1, 40), SIZES)
def test_is_multiple_is_sound(tree: Tree, divisor: int, sizes: dict[str, int]) -> None:
    if dims.is_multiple(tree.dim, divisor):
        assert tree.value(sizes) % divisor == 0


@settings(max_examples=300, deadline=None)
@given(TREES, st.integers(-12, 12).filter(bool), SIZES)
def test_division_identity(tree: Tree, divisor: int, sizes: dict[str, int]) -> None:
    q, r = floordiv(tree.dim, divisor), mod(tree.dim, divisor)
    x = tree.value(sizes)
    assert (evaluate(q, sizes), evaluate(r, sizes)) == divmod(x, divisor)
    assert evaluate(ceildiv(tree.dim, divisor), sizes) == -(-x // divisor) if divisor > 0 else True


@settings(max_examples=200, deadline=None)
@given(TREES, TREES, TREES)
def test_ring_laws_hold_on_the_canonical_form(x: Tree, y: Tree, z: Tree) -> None:
    assert dims.add(x.dim, y.dim) == dims.add(y.dim, x.dim)
    assert dims.mul(x.dim, y.dim) == dims.mul(y.dim, x.dim)
    assert dims.mul(x.dim, dims.add(y.dim, z.dim)) == dims.add(dims.mul(x.dim, y.dim), dims.mul(x.dim, z.dim))
    assert dims.add(x.dim, dims.mul(x.dim, -1)) == 0


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_hash_and_pickle(tree: Tree) -> None:
    other = pickle.loads(pickle.dumps(tree.dim))
    assert other == tree.dim and hash(other) == hash(tree.dim) and str(other) == str(tree.dim)


@pytest.mark.parametrize(
    ("d", "text"),
    [
        (b + 1, "B + 1"),
        (1 + b * 2 - 2, "2*B - 1"),
        (-b, "-B"),
        (3 - b, "-B + 3"),
        (a * b + b * a, "2*A*B"),
        (b * b - b * b + 4, "4"),
        ((a + 1) * (a - 1), "A*A - 1"),
        (4 * b // 4, "B"),
        ((4 * b + 3) // 4, "B"),
        (4 * b % 4, "0"),
        (n % 8, "0"),
        (n % 4, "0"),
        ((n + 1) % 8, "((N + 1) % 8)"),
        (b // 65, "0"),
        (b % 65, "B"),
        (a * b // b, "A"),
        (b // b, "1"),
        ((a - 1) // 2 + 1, "((A + 1) // 2)"),
        ((a + 9) % 4, "((A + 1) % 4)"),
        (ceildiv(a, 16) * 16, "16*((A + 15) // 16)"),
        ((a + b) // n, "((A + B) // N)"),
        (dims.dmax(a, 0), "A"),
        (dims.dmin(b, 64), "B"),
        (dims.dmin(b, 100) + dims.dmax(b, 7), "B + max(7, B)"),
        (dims.product([a, 2, b]), "2*A*B"),
        (dims.product([]), "1"),
    ],
)
def test_canonical_text(d: Dim, text: str) -> None:
    assert str(d) == text
    assert parse_dim(text, SYMBOLS) == d


def test_bounds_of_expressions() -> None:
    assert bounds(b * 2 + 1) == (3, 129)
    assert bounds(a) == (0, None)
    assert bounds(3 - a) == (-float("inf"), 3)
    assert bounds(b // 8) == (0, 8)
    assert bounds(a % 8) == (0, 7)
    assert bounds((b - 10) * a) == (-float("inf"), None)
    assert bounds(a * 0) == (0, 0)
    big = 10**17
    assert bounds(b * big + 1) == (big + 1, 64 * big + 1)  # exact, beyond what a double holds


def test_integers_of_other_types_and_other_values() -> None:
    assert b + np.int64(3) == b + 3 and np.int64(3) + b == b + 3
    assert b * B == b * b
    for wrong in (1.5, "x", None):
        with pytest.raises(TypeError):
            b + wrong
        with pytest.raises(TypeError):
            wrong // b


def test_symbols_in_order_of_appearance() -> None:
    assert dims.symbols(dims.dmax(b, n) * a + a) == [A, B, N]
    assert dims.symbols(7) == []


def test_same_name_with_another_range_is_another_symbol() -> None:
    other = sym(Symbol("B", 1, 65))
    assert other != b and str(other) == str(b)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Symbol("2x"), ArgumentError, "'2x' is not a usable name"),
        (lambda: Symbol("max"), ArgumentError, "not a usable name"),
        (lambda: Symbol("B\n"), ArgumentError, "not a usable name"),
        (lambda: Symbol("B", 5, 4), ArgumentError, "min=5, max=4"),
        (lambda: Symbol("B", -1), ArgumentError, "min=-1"),
        (lambda: Symbol("B", multiple_of=0), ArgumentError, "multiple_of=0"),
        (lambda: B.check(65), ShapeError, "dimension B = 65 is illegal: it must be at least 1 and at most 64"),
        (lambda: N.check(12), ShapeError, "a multiple of 8"),
        (lambda: b // 0, ShapeError, "division of the dimension B by zero"),
        (lambda: b % 0, ShapeError, "remainder of the dimension B by zero"),
        (lambda: floordiv(3, 0), ShapeError, "division of the dimension 3 by zero"),
        (lambda: evaluate(b // a, {"A": 0, "B": 3}), ShapeError, "by zero"),
        (lambda: bool(b), ShapeError, "has no truth value"),
        (lambda: int(b), ShapeError, "has no value"),
        (lambda: range(b), ShapeError, "has no value"),
        (lambda: evaluate(b + a, {"B": 3}), NameMissingError, "no size is given for the symbolic dimension 'A'"),
        (lambda: parse_dim("B +", SYMBOLS), GraphError, "is missing at the end"),
        (lambda: parse_dim("B $ 2", SYMBOLS), GraphError, "unexpected character at column 3"),
        (lambda: parse_dim("X", SYMBOLS), GraphError, "unknown symbol 'X'"),
        (lambda: parse_dim("(B", SYMBOLS), GraphError, r"expected '\)' but found 'the end'"),
        (lambda: parse_dim("max(B)", SYMBOLS), GraphError, "expected ','"),
        (lambda: parse_dim("9" * 19, SYMBOLS), GraphError, "too large"),
        (lambda: parse_dim("(" * 100 + "B", SYMBOLS), GraphError, "nested too deeply"),
        (lambda: parse_dim("A" + "*(A + B)" * 70, SYMBOLS), GraphError, "degree above 64"),
        (lambda: parse_dim("A" + " // B" * 100, SYMBOLS), GraphError, "nested too deeply"),
    ],
)
def test_errors(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_hostile_expressions_stay_small() -> None:
    many = {f"s{i}": Symbol(f"s{i}") for i in range(60)}
    wide = "(" + " + ".join(many) + ")"
    with pytest.raises(GraphError, match="more than 1024 terms"):
        parse_dim(f"{wide}*{wide}*{wide}", many)
    d: Dim = a
    with pytest.raises(GraphError, match="longer than|nested too deeply"):
        for _ in range(80):
            d = sym(Call("mod", Expr({(A,): 1, (Call("floordiv", d, 7),): 1}), d))
