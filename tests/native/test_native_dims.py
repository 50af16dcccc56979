"""Dimensions in C++ and in Python: the same canonical text and the same values."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tessera import _core
from tessera.artifact import writer
from tessera.errors import TesseraError
from tessera.ir.dim_parser import parse_dim
from tessera.ir.dims import Symbol, evaluate

SYMBOLS = {"B": Symbol("B", 1, 64), "T": Symbol("T", 8, None, 8), "N": Symbol("N", 0, 7)}
DECLARATIONS = """  dim B in [1, 64] multiple_of 1
  dim N in [0, 7] multiple_of 1
  dim T in [8, inf] multiple_of 8
"""
LEAVES = st.one_of(st.sampled_from(sorted(SYMBOLS)), st.integers(0, 20).map(str))


def combined(inner):
    """Expressions over smaller ones; divisors are positive, as in programs."""
    pair = st.tuples(inner, inner)
    by = st.integers(1, 16)
    return st.one_of(
        pair.map(lambda p: f"({p[0]} + {p[1]})"), pair.map(lambda p: f"({p[0]} - {p[1]})"),
        pair.map(lambda p: f"({p[0]} * {p[1]})"), pair.map(lambda p: f"max({p[0]}, {p[1]})"),
        pair.map(lambda p: f"min({p[0]}, {p[1]})"), st.tuples(inner, by).map(lambda p: f"({p[0]} // {p[1]})"),
        st.tuples(inner, by).map(lambda p: f"({p[0]} % {p[1]})"), inner.map(lambda e: f"(-{e})"),
    )


EXPRESSIONS = st.recursive(LEAVES, combined, max_leaves=8)


def graph(shape):
    inputs = "".join(f'  %{i} = input {{name = "{name}"}} : f32[{name}]\n' for i, name in enumerate(sorted(SYMBOLS)))
    last = f'  %3 = input {{name = "x"}} : f32[{shape}]\n  output "y" = %3\n'
    return f'tessera.graph 1\ngraph "main" {{\n{DECLARATIONS}{inputs}{last}}}\n'


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS)
def test_same_canonical_text(text):
    shape = str(parse_dim(text, SYMBOLS))
    assert _core.normalize_graph_text(graph(text)) == _core.normalize_graph_text(graph(shape))
    assert f"f32[{shape}]" in _core.normalize_graph_text(graph(text))


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.integers(1, 64), st.integers(0, 7), st.integers(1, 100))
def test_same_values(text, b, n, t):
    sizes = {"B": b, "N": n, "T": 8 * t}
    value = evaluate(parse_dim(text, SYMBOLS), sizes)
    assume(0 <= value < 2**40)
    try:
        metadata = {"tessera.format": "1", "tessera.portable": graph(text)}
        program = _core.Program.load_bytes(writer.to_bytes(metadata, []))
    except TesseraError:
        assume(False)  # a size that may be negative for other symbols
    assert program.requirements(sizes)["outputs"] == 4 * value
