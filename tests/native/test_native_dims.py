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


@st.composite
def expressions(draw, depth=3):
    """The text of an expression; divisors are positive integers, as in programs."""
    kind = draw(st.sampled_from(["leaf", "+", "-", "*", "max", "min", "//", "%", "neg"])) if depth else "leaf"
    if kind == "leaf":
        return draw(st.one_of(st.sampled_from(sorted(SYMBOLS)), st.integers(0, 20).map(str)))
    a = draw(expressions(depth - 1))
    if kind == "neg":
        return f"(-{a})"
    b = str(draw(st.integers(1, 16))) if kind in {"//", "%"} else draw(expressions(depth - 1))
    return f"{kind}({a}, {b})" if kind in {"max", "min"} else f"({a} {kind} {b})"


def graph(shape):
    inputs = "".join(f'  %{i} = input {{name = "{name}"}} : f32[{name}]\n' for i, name in enumerate(sorted(SYMBOLS)))
    last = f'  %3 = input {{name = "x"}} : f32[{shape}]\n  output "y" = %3\n'
    return f'tessera.graph 1\ngraph "main" {{\n{DECLARATIONS}{inputs}{last}}}\n'


@settings(max_examples=500, deadline=None)
@given(expressions())
def test_same_canonical_text(text):
    canonical = parse_dim(text, SYMBOLS)
    expected = str(canonical) if isinstance(canonical, int) else f"<{canonical}>"
    source = graph("1").replace('{name = "x"}', f'{{name = "x", size = <{text}>}}')
    assert f"size = {expected}}}" in _core.normalize_graph_text(source)


@settings(max_examples=300, deadline=None)
@given(expressions(), st.integers(1, 64), st.integers(0, 7), st.integers(1, 100))
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
