"""Graph text read and printed in C++: identical to the Python printer's; text that is not a graph is refused."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera import op
from tessera.errors import GraphError, TesseraError, VersionError
from tessera.ir.attribute import attribute_text
from tessera.ir.dims import Symbol, ceildiv, dmax, dmin, sym
from tessera.ir.dtype import DTYPES
from tessera.ir.graph import Graph
from tessera.ir.parser import parse_graph
from tessera.ir.printer import print_graph
from tessera.ir.provenance import Location
from tessera.ir.value import Node, TensorType
from tessera.op.opdef import REGISTRY
from tessera.transform.decompose import decompose

from tests.ops import portable
from tests.ops.harness import cases, joined, operators


def agree(graph: Graph) -> str:
    text = print_graph(graph)
    assert portable.normalize(text) == text
    return text


@pytest.mark.parametrize("name", operators())
def test_every_operator(name: str) -> None:
    for dtype in REGISTRY[name].dtypes:
        graph, _ = joined(cases(REGISTRY[name], dtype))
        agree(graph)
        agree(decompose(graph))


def symbolic_graph() -> Graph:
    b, n = sym(Symbol("B", 1, 4096, 8)), sym(Symbol("N", 0))
    x = op.tensor((b, n, 3), "f32", name="x")
    y = op.reshape(x, (b * n * 3,)) * 2.0
    shape = (ceildiv(n, 2), dmax(b, n), dmin(b * n, 7) + 1, (b + 3 * n) % 5, 2 * b - 1)
    z = op.full(shape, 0.1)
    i = op.take(y, op.constant([0, 1]), axis=0)
    return Graph({"y": y, "z": z, "i": i})


def test_symbolic_dimensions() -> None:
    assert "dim B in [1, 4096] multiple_of 8" in agree(symbolic_graph())


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(),
    st.sampled_from(list(DTYPES.values())), st.characters(),
    st.sampled_from(["\ud800", "é\udc80", "\U0001f600\n\x7f\x00\"\\/", "\x1f\u2028"]),
)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=10)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.text(max_size=6))
def test_any_attributes(attrs: dict, name: str) -> None:
    types = (TensorType(DTYPES["f32"], ()), TensorType(DTYPES["i8"], (2,)))
    node = Node("custom.op_2", (), attrs, types, Location(name, 3))
    agree(Graph({name: node.results[1], name + "2": node.results[0]}, name=name))


@settings(max_examples=500, deadline=None)
@given(st.floats())
def test_floats_have_the_shortest_form(value: float) -> None:
    text = f"tessera.graph 1\ngraph \"m\" {{\n  %0 = full {{value = {attribute_text(value)}}} : f32[]\n}}\n"
    assert portable.normalize(text) == text


def test_dimension_expressions() -> None:
    b, n = sym(Symbol("B", 1, 64)), sym(Symbol("N", 2))
    generator = random.Random(3)
    pool = [b, n, 1, 2, 3]
    for _ in range(300):
        x, y = generator.choice(pool), generator.choice(pool)
        kind = generator.randrange(7)
        made = (
            x + y if kind == 0 else x * y if kind == 1 else x - y if kind == 2 else dmax(x, y) if kind == 3
            else dmin(x, y) if kind == 4 else (x + 7) // 3 if kind == 5 else (x + 5) % 4
        )
        if len(str(made)) < 200:
            pool.append(made)
    attrs = {"d": [d for d in pool if not isinstance(d, int)]}
    leaf = op.tensor((b, n), "f32", name="x")
    agree(Graph({"y": Node("shapes", (leaf,), attrs, (leaf.type,)).results[0]}))


def test_updates_and_leaves() -> None:
    t = TensorType(DTYPES["f32"], (2, 3))
    w = Node("param", (), {"name": "w", "trainable": True}, (t,)).results[0]
    c = Node("constant", (), {"name": "c"}, (t,)).results[0]
    x = Node("input", (), {"name": "unused"}, (t,)).results[0]
    agree(Graph({"out": w}, inputs=[x], updates={w: op.add(w, c)}))


def test_comments_blank_lines_and_spaces() -> None:
    text = """
      # a graph
      tessera.graph 1   # version
      graph "m" {

        dim B in [ 1 , inf ] multiple_of 2
        %7 = input {name="x"}:f32[ B , 2*B+1 ]  # the only input
        %9=neg( %7 ){}: f32[B,2*B + 1] at "a.py" : 3
        output "y"=%9
      }
    """
    expected = (
        'tessera.graph 1\ngraph "m" {\n  dim B in [1, inf] multiple_of 2\n  %0 = input {name = "x"} : f32[B, 2*B + 1]\n'
        '  %1 = neg(%0) : f32[B, 2*B + 1] at "a.py":3\n  output "y" = %1\n}\n'
    )
    assert portable.normalize(text) == expected
    assert print_graph(parse_graph(text)) == expected


HEAD = 'tessera.graph 1\ngraph "m" {\n'
BAD: list[tuple[str, str]] = [
    ("", "line 1, column 1: expected 'tessera.graph' but found the end of the text"),
    ("tessera.graph x", "expected the format version but found 'x'"),
    ("tessera.graph 0", "the format version must be at least 1"),
    ("tessera.graph 99999999999999999999", "does not fit in 64 bits"),
    ("tessera.graph 1\ngraph m {}", "line 2, column 7: expected '\"' but found 'm'"),
    (HEAD, "expected a statement (dim, mesh, %value, output, update) or '}' but found the end of the text"),
    (HEAD + "} x", "text after the end of the graph"),
    (HEAD + "  bogus\n}", "line 3, column 3: unknown statement 'bogus'"),
    (HEAD + "  dim B in [1, 0] multiple_of 1\n}", "the range of the dimension 'B' is empty or negative"),
    (HEAD + "  dim B in [1, 2] multiple_of 1\n  dim B in [1, 2] multiple_of 1\n}", "'B' is declared twice"),
    (HEAD + "  dim max in [1, 2] multiple_of 1\n}", "'max' is not a usable name"),
    (HEAD + "  %0 = neg(%1) : f32[]\n}", "line 3, column 12: the value %1 is not defined before this use"),
    (HEAD + "  %0 = full : f32[]\n  %0 = full : f32[]\n}", "line 4, column 3: the value %0 is defined twice"),
    (HEAD + "  %0 = full : f33[]\n}", "unknown dtype 'f33'"),
    (HEAD + "  %0 = full : f32[-1]\n}", "a size is negative"),
    (HEAD + "  %0 = full : f32[B]\n}", "unknown symbol"),
    (HEAD + "  %0 = full : f32[2,]\n}", "expected a dimension but found ']'"),
    (HEAD + "  %0 = full : (f32[], f32[])\n}", "1 results but 2 types"),
    (HEAD + "  %0 = full {a = 1, a = 2} : f32[]\n}", "the attribute 'a' is given twice"),
    (HEAD + "  %0 = full {a = maybe} : f32[]\n}", "unknown word 'maybe'"),
    (HEAD + "  %0 = full {a = 1e} : f32[]\n}", "not a number: 1e"),
    (HEAD + "  %0 = full {a = 99999999999999999999} : f32[]\n}", "not a 64-bit integer"),
    (HEAD + "  %0 = full {a = \"\\q\"} : f32[]\n}", "unknown escape in a string"),
    (HEAD + "  %0 = full {a = \"\\u12\"} : f32[]\n}", "expected four hexadecimal digits"),
    (HEAD + "  %0 = full {a = \"\n\"} : f32[]\n}", "a control character in a string"),
    (HEAD + "  %0 = full {a = \"", "the string does not end"),
    (HEAD + "  %0 = full {a = " + "[" * 40 + "]" * 40 + "} : f32[]\n}", "lists are nested too deeply"),
    (HEAD + "  %0 = full {a = <" + "(" * 90 + "1" + ")" * 90 + ">} : f32[]\n}", "nested too deeply"),
    (HEAD + "  %0 = full : f32[" + "1, " * 70 + "1]\n}", "a shape has more than 64 dimensions"),
    (HEAD + "  %0 = full : f32[" + "1+" * 5000 + "1]\n}", "a dimension is longer than 4096 characters"),
    (HEAD + "  %0 = full : f32[]\n  update %0 = %0\n}", "only a param can be updated"),
    (HEAD + "  %0 = full : f32[]\n  output \"a\" = %0\n  output \"a\" = %0\n}", "the output 'a' is given twice"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=re.escape(message)):
        portable.normalize(text)


def test_long_names_are_cut_between_characters() -> None:
    name = "a" + "é" * 60
    with pytest.raises(GraphError, match=r"the output 'aé+\.\.\.' is given twice"):
        portable.normalize(HEAD + f'  %0 = full : f32[]\n  output "{name}" = %0\n  output "{name}" = %0\n}}')


def test_newer_version() -> None:
    with pytest.raises(VersionError, match="format version 2; this reader knows up to 1: update Tessera"):
        portable.normalize("tessera.graph 2\n")


def test_mutated_text_is_read_or_refused() -> None:
    """Never a crash, and what is read prints to text that reads back the same."""
    generator = random.Random(11)
    seeds = [print_graph(symbolic_graph()), print_graph(decompose(joined(cases(REGISTRY["layer_norm"], "f32"))[0]))]
    pieces = [*"[]{}(),<>\"-B%#é\x00", "%0", "\\u", "inf", "nan", "1e999", "//", "9" * 30]
    read = 0
    for _ in range(3000):
        text = generator.choice(seeds)
        for _ in range(generator.randint(1, 4)):
            at, size = generator.randrange(len(text)), generator.randint(0, 8)
            text = text[:at] + (generator.choice(pieces) if generator.random() < 0.7 else "") + text[at + size :]
        try:
            once = portable.normalize(text)
        except TesseraError:
            continue
        read += 1
        assert portable.normalize(once) == once
    assert read > 50

